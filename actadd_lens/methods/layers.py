"""Layer numbers: here they are those of `resid_pre`; papers count the outputs of blocks, which are one lower."""

from collections.abc import Iterable
from typing import Any

from actadd_lens.checks import many
from actadd_lens.errors import LayerError
from actadd_lens.models import Backend


def one_layer(backend: Backend, layer: Any, paper_layer: Any) -> tuple[int, tuple[str, ...]]:
    """Our layer, and the translation for the provenance where a paper's was given.

    Args:
        backend: The model.
        layer: In this package's count: the stream that enters this block; `n_layers` is the stream after the last.
        paper_layer: A paper's l, the output of block l, which is our l + 1.

    Raises:
        LayerError: Both or neither were given, or the model has no such layer.
    """
    layers, steps = several_layers(
        backend, None if layer is None else [layer], None if paper_layer is None else [paper_layer]
    )
    return layers[0], steps


def several_layers(backend: Backend, layers: Any, paper_layers: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Our layers, and the translation for the provenance where a paper's were given.

    Raises:
        LayerError: Both or neither were given, there is none, one stands twice, or the model has no such layer.
    """
    if (layers is None) == (paper_layers is None):
        raise LayerError("Give layer= (ours: the stream that enters a block) or paper_layer= (the output of one).")
    if layers is not None:
        return _checked(backend, many(layers)), ()
    theirs = [_block(backend, layer) for layer in many(paper_layers)]
    ours = _checked(backend, [layer + 1 for layer in theirs])
    told = ", ".join(f"{their} = resid_pre of {our}" for their, our in zip(theirs, ours, strict=True))
    return ours, (f"paper's layer {told}",)


def _checked(backend: Backend, layers: Iterable[Any]) -> tuple[int, ...]:
    found = tuple(backend.check_layer(layer) for layer in layers)
    if not found:
        raise LayerError("No layer was given: pass at least one.")
    if len(set(found)) < len(found):
        raise LayerError(f"A layer occurs twice in {list(found)}: give each once.")
    return found


def _block(backend: Backend, paper_layer: Any) -> int:
    """A paper's layer, which is a block; it has no stream beside."""
    return backend.check_layer(paper_layer, site="mlp_out")
