"""Passes of a bridge that begin at a layer: blocks below it are skipped, and the last of them returns a kept stream.

The Hugging Face model runs its own loop, with its own masks and positions; a skipped block returns its input. Whether a
model's logits are the same in this way is tested once for each layer, because in some architectures later blocks use
other results of earlier ones than the stream.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.errors import ModelError
from actadd_lens.models.protocol import Backend, InThisThread

Form = Callable[[Tensor], Any]
"""Converts a stream to the form in which a block returns it."""

_TURNS = threading.RLock()
"""Held during a pass with skipped blocks: only one such pass at a time, over all threads."""

_KNOWN: "WeakKeyDictionary[Any, dict[tuple[int, ...], tuple[Form, ...] | None]]" = WeakKeyDictionary()
"""For each model and the blocks below a layer, by their ids, the forms of these blocks; None if a pass cannot begin
there.
"""


def entrances(backend: Backend, layers: Iterable[int]) -> list[tuple[int, torch.nn.Module, bool]]:
    """For each layer, the module that its stream enters, and whether others have hooks there, which may change it."""
    found = []
    for layer in set(layers):
        name = backend.hook_name(layer)
        module = backend.model.blocks[layer] if layer < backend.n_layers else backend.hook_point(name)
        found.append((layer, module, bool(backend.hooks_at(name) or module._forward_pre_hooks)))
    return found


class LeavePass(Exception):  # noqa: N818  (it ends a pass and is not an error, so it is not named one)
    """Ends a pass whose rest is not needed."""


@contextmanager
def streams_kept(
    points: Sequence[tuple[int, torch.nn.Module, bool]], *, leave: bool = False
) -> Iterator[dict[int, Float[Tensor, "batch pos d_model"]]]:
    """Keeps the inputs of some modules in this thread, before hooks of others there, which act again from a start.

    Args:
        points: For each layer, its module, and whether to copy the stream because a hook may change it in place.
        leave: Whether to end the pass at the first of them, with LeavePass.
    """
    found: dict[int, Tensor] = {}

    def keeper(layer: int, copy: bool) -> Callable[..., None]:
        def keep(module: Any, args: tuple[Any, ...]) -> None:
            found[layer] = args[0].clone() if copy else args[0]
            if leave:
                raise LeavePass

        return keep

    with ExitStack() as stack:
        for layer, module, copy in points:
            hook = InThisThread(keeper(layer, copy))
            stack.callback(module.register_forward_pre_hook(hook, prepend=True).remove)
        yield found


@contextmanager
def skipped(blocks: Sequence[Any], forms: Sequence[Form], stream: Float[Tensor, "batch pos d_model"]) -> Iterator[None]:
    """Passes of this thread skip some blocks, and the last of them returns a stream that was kept.

    Raises:
        ModelError: The pass did not go through the blocks, as that of a compiled model may not.
    """
    thread, met = threading.get_ident(), [0]

    def in_place_of(block: Any, form: Form, kept: Tensor | None) -> Callable[..., Any]:
        own = block.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return own(*args, **kwargs)
            met[0] += 1
            return form(args[0] if kept is None else kept)

        return forward

    with _TURNS, ExitStack() as stack:
        for number, (block, form) in enumerate(zip(blocks, forms, strict=True), start=1):
            stack.callback(_restore, block, block.__dict__.get("forward"))
            block.__dict__["forward"] = in_place_of(block, form, stream if number == len(blocks) else None)
        yield
    if met[0] != len(blocks):
        raise ModelError(
            f"A pass that should have skipped {len(blocks)} blocks skipped {met[0]}: the model may be compiled. "
            "Use the uncompiled model."
        )


def known_forms(
    model: Any,
    layers: Sequence[int],
    tokens: Int[Tensor, "batch pos"],
    logits: Callable[[Tensor], Tensor],
    points: Sequence[tuple[int, torch.nn.Module, bool]],
) -> dict[int, tuple[Form, ...] | None]:
    """For each layer, how the blocks below it return their stream; None if a pass cannot skip them.

    Args:
        model: The bridge.
        layers: The layers, from 1 on.
        tokens: A prompt for the test.
        logits: Runs a whole pass.
        points: As in `streams_kept`, for the layers.
    """
    known, blocks = _KNOWN.setdefault(model, {}), list(model.blocks)
    keys = {layer: tuple(map(id, blocks[:layer])) for layer in layers}
    missing = [layer for layer in layers if keys[layer] not in known]
    if missing:
        found = _tried(blocks, missing, tokens[:1], logits, points)
        known.update({keys[layer]: forms for layer, forms in found.items()})
    return {layer: known[keys[layer]] for layer in layers}


@torch.no_grad()
def _tried(
    blocks: Sequence[Any],
    layers: Sequence[int],
    tokens: Tensor,
    logits: Callable[[Tensor], Tensor],
    points: Sequence[tuple[int, torch.nn.Module, bool]],
) -> dict[int, tuple[Form, ...] | None]:
    forms: dict[int, Form | None] = {}
    with ExitStack() as stack:
        for number, block in enumerate(blocks[: max(layers)]):
            stack.callback(block.register_forward_hook(InThisThread(_form_keeper(forms, number))).remove)
        kept = stack.enter_context(streams_kept(points))
        whole = logits(tokens)
    found: dict[int, tuple[Form, ...] | None] = {}
    for layer in layers:
        below = [forms.get(number) for number in range(layer)]
        usable = tuple(form for form in below if form is not None)
        found[layer] = usable if len(usable) == layer and layer in kept else None
        if found[layer] is not None and not _same(blocks[:layer], usable, kept[layer], tokens, logits, whole):
            found[layer] = None
    return found


def _same(
    blocks: Sequence[Any], forms: Sequence[Form], stream: Tensor, tokens: Tensor, logits: Any, whole: Tensor
) -> bool:
    """Whether a pass that skips some blocks gives the logits of a whole pass, up to rounding."""
    try:
        with skipped(blocks, forms, stream):
            again = logits(tokens)
    except Exception:  # whatever an architecture's code needs from the skipped blocks, the pass cannot begin there
        return False
    return again.shape == whole.shape and bool((again - whole).abs().max() <= 1e-4 * whole.abs().max())


def _form_keeper(forms: dict[int, Form | None], number: int) -> Callable[..., None]:
    def keep(module: Any, args: Any, output: Any) -> None:
        forms[number] = _form(output)

    return keep


def _form(output: Any) -> Form | None:
    """How a block returns its stream: alone, or followed by others, such as attention patterns, which are left out.

    If a model needs the others, its logits differ in the test.
    """
    if isinstance(output, Tensor):
        return lambda stream: stream
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        rest = [None] * (len(output) - 1)
        return lambda stream: (stream, *rest)
    return None


def _restore(block: Any, own: Any) -> None:
    if own is None:
        block.__dict__.pop("forward", None)
    else:
        block.__dict__["forward"] = own
