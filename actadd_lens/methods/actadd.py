"""Prompt pairs to steering vectors: many pairs and layers in one batched pass that stops at the highest layer."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import check_run, many
from actadd_lens.errors import LayerError, PromptError, VectorError
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.pairs import PairTokens, PromptPair, as_pair
from actadd_lens.steering.clean import unsteered
from actadd_lens.steering.massive import massive, ordinary_norms, outweighed, warn_of_rows
from actadd_lens.steering.steer import SteeringWarning
from actadd_lens.vectors.provenance import Provenance
from actadd_lens.vectors.vector import SteeringVector

_LARGEST_REMAINDER = 1e-2
"""A row that causality makes zero may differ by rounding; beyond this share of the stream, something is wrong."""


@dataclass(frozen=True, eq=False)
class SteeringVectors:
    """Steering vectors of several pairs at several layers.

    `vectors[pair, layer]` is one vector, by the pair's index and the layer's number; `vectors[pair]` gives all layers
    of a pair; iteration goes through all vectors, pair by pair.

    Attributes:
        pairs: The prompt pairs.
        layers: The layers, in the order given.
        table: One row of vectors per pair.
    """

    pairs: tuple[PromptPair, ...]
    layers: tuple[int, ...]
    table: tuple[tuple[SteeringVector, ...], ...]

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        if not isinstance(key, tuple):
            return self.table[key]
        pair, layer = key
        if layer not in self.layers:
            raise LayerError(
                f"Layer {layer} was not computed: these vectors have layers {', '.join(map(str, self.layers))}."
            )
        return self.table[pair][self.layers.index(layer)]

    def __iter__(self) -> Iterator[SteeringVector]:
        return (vector for row in self.table for vector in row)

    def __len__(self) -> int:
        return len(self.pairs) * len(self.layers)

    def at_layer(self, layer: int) -> list[SteeringVector]:
        """All pairs' vectors at one layer."""
        return [self[pair, layer] for pair in range(len(self.pairs))]


def compute_steering_vector(
    model: LensModel, pair: PromptPair | tuple[str, str | None], *, layer: int
) -> SteeringVector:
    """The steering vector of one prompt pair: h_A = h+ - h- at `resid_pre` of a layer (Algorithm 1 of the paper).

    Args:
        model: The model to read; if it is being steered, the unsteered model is read.
        pair: A `PromptPair`, or (positive, negative).
        layer: The block at whose input the rows are read, and added unless `at_layer` changes it.

    Returns:
        One row per token, BOS counted. Rows before the first differing token are exactly zero.

    Raises:
        PromptError: The pair cannot be tokenised or padded.
        LayerError: The model has no such layer.

    Warns:
        SteeringWarning: Both prompts are the same.
        MassiveActivationWarning: A row is massive; see `actadd_lens.steering.massive`.
    """
    found = read_vectors(model, [pair], layers=[layer])
    _notice(backend_of(model), found)
    return found.table[0][0]


def compute_steering_vectors(
    model: LensModel,
    pairs: Sequence[PromptPair | tuple[str, str | None]],
    *,
    layers: Iterable[int],
    batch_size: int = 256,
) -> SteeringVectors:
    """Steering vectors of many pairs at many layers, in one pass per `batch_size` rows.

    Args:
        model: The model to read.
        pairs: Prompt pairs, or (positive, negative) tuples.
        layers: Layers to read at; the pass stops at the highest.
        batch_size: Maximum number of prompts per pass; a pair takes two.

    Raises:
        PromptError: A pair cannot be tokenised or padded, or there is none.
        LayerError: A layer does not exist, or there is none.

    Warns:
        SteeringWarning: Both prompts of a pair are the same.
        MassiveActivationWarning: Rows are massive; see `actadd_lens.steering.massive`.
    """
    found = read_vectors(model, pairs, layers=layers, batch_size=batch_size)
    _notice(backend_of(model), found)
    return found


def read_vectors(
    model: LensModel,
    pairs: Sequence[PromptPair | tuple[str, str | None]],
    *,
    layers: Iterable[int],
    batch_size: int = 256,
) -> SteeringVectors:
    """The same as `compute_steering_vectors` without the warning, for tools that handle massive rows themselves."""
    check_run(batch_size=batch_size)
    backend = backend_of(model)
    if isinstance(pairs, PromptPair) or (isinstance(pairs, tuple) and any(isinstance(text, str) for text in pairs)):
        raise PromptError(f"{pairs!r} is one prompt pair: pass a list of them, or use compute_steering_vector.")
    asked = many(layers)
    if len(asked) == 1 and asked[0] is layers:
        raise LayerError(f"layers is {layers!r}: pass a list, such as [{layers!r}], or use compute_steering_vector.")
    checked_pairs = [as_pair(pair) for pair in many(pairs)]
    checked_layers = [backend.check_layer(layer) for layer in asked]
    if not checked_pairs:
        raise PromptError("No prompt pair was given: pass at least one.")
    if not checked_layers:
        raise LayerError("No layer was given: pass at least one.")
    tokens = [pair.tokens(model) for pair in checked_pairs]
    provenance = Provenance.of_model(backend, source="prompt pair")
    found = differences(backend, tokens, checked_layers, batch_size=batch_size)
    table = [
        tuple(
            SteeringVector(difference, layer, provenance=provenance.of_pair(pair, pair_tokens, layer))
            for layer, difference in zip(checked_layers, rows, strict=True)
        )
        for pair, pair_tokens, rows in zip(checked_pairs, tokens, found, strict=True)
    ]
    return SteeringVectors(tuple(checked_pairs), tuple(checked_layers), tuple(table))


def _notice(backend: Backend, found: SteeringVectors) -> None:
    """Warn of pairs of identical prompts, and, once, of massive rows.

    Only if one coordinate outweighs a row does the model read anything more, to compare the row's norm with.
    """
    for pair in found.pairs:
        if pair.positive == pair.negative:
            warnings.warn(
                f"Both prompts of {pair.label} are the same: its vector is zero.", SteeringWarning, stacklevel=3
            )
    suspects = [vector for vector in found if bool(outweighed(vector.activations).any())]
    if not suspects:
        return
    ordinary = ordinary_norms(backend, [vector.layer for vector in suspects])
    rows = [
        (vector.label, item)
        for vector in suspects
        for item in massive(
            vector.activations, ordinary[vector.layer], layer=vector.layer,
            texts=backend.token_strings(vector.provenance.positive_tokens or ()),
        )
    ]  # fmt: skip
    warn_of_rows(rows, stacklevel=3)


def differences(
    backend: Backend, tokens: Sequence[PairTokens], layers: Sequence[int], *, batch_size: int = 256
) -> Iterator[list[Float[Tensor, "pos d_model"]]]:
    """For each pair of token rows, h+ - h- at each layer: the contents of a steering vector, from token ids.

    Args:
        backend: The model.
        tokens: Padded rows of token ids.
        layers: Layers to read at.
        batch_size: Maximum number of rows per pass; a pair takes two.

    Raises:
        VectorError: Rows that causality makes equal differ.
    """
    step = max(1, batch_size // 2)
    for first in range(0, len(tokens), step):
        yield from _differences(backend, tokens[first : first + step], layers)


def _differences(
    backend: Backend, tokens: Sequence[PairTokens], layers: Sequence[int]
) -> Iterator[list[Float[Tensor, "pos d_model"]]]:
    """One pass of pairs.

    Rows are padded on the right to the longest pair of the batch, which by causality changes nothing before.
    """
    rows = [row for pair in tokens for row in (pair.positive, pair.negative) if row is not None]
    longest = max(map(len, rows))
    batch = torch.tensor([[*row, *row[-1:] * (longest - len(row))] for row in rows], device=backend.device)
    with torch.no_grad(), unsteered(backend):
        streams = backend.residuals(batch, sorted(set(layers)))
    row = 0
    for pair in tokens:
        length = len(pair.positive)
        plus = {layer: stream[row, :length].float() for layer, stream in streams.items()}
        row += 1
        if pair.negative is None:
            yield [plus[layer].clone() for layer in layers]
            continue
        minus = {layer: stream[row, :length].float() for layer, stream in streams.items()}
        row += 1
        yield [_difference(plus[layer], minus[layer], pair.shared_prefix, layer) for layer in layers]


def _difference(
    plus: Float[Tensor, "pos d_model"], minus: Float[Tensor, "pos d_model"], shared: int, layer: int
) -> Float[Tensor, "pos d_model"]:
    """The difference, with the rows of the shared prefix set to the exact zero that causality makes them."""
    difference = plus - minus
    remainder, size = difference[:shared].norm(), plus[:shared].norm()
    if remainder > _LARGEST_REMAINDER * size:
        raise VectorError(
            f"At layer {layer} the rows of the pair's shared beginning differ by {float(remainder / size):.2g} of the "
            "stream, though a causal model cannot tell them apart there: is a hook changing one row of the batch, "
            "or is the model not causal?"
        )
    difference[:shared] = 0.0
    return difference


def actadd(
    model: LensModel,
    pair: PromptPair | tuple[str, str | None],
    *,
    layer: int | None = None,
    paper_layer: int | None = None,
) -> SteeringVector:
    """Activation addition (arXiv 2308.10248), called like the other methods: `compute_steering_vector`.

    Read: the rows of one prompt pair at `resid_pre`. Lands: row by row on the prompt's first tokens. Does: x + c v.

    Args:
        model: The model to read.
        pair: A `PromptPair`, or (positive, negative).
        layer: The block at whose input the rows are read and added.
        paper_layer: The same number: this paper counts the inputs of blocks, as this package does; other papers count
            outputs.

    Raises:
        PromptError: The pair cannot be tokenised or padded.
        LayerError: Both layers or neither were given, or the model has no such layer.
    """
    if (layer is None) == (paper_layer is None):
        raise LayerError("Give layer= or paper_layer=, which are the same number for activation addition.")
    return compute_steering_vector(model, pair, layer=paper_layer if layer is None else layer)  # type: ignore[arg-type]  # one of them is given
