"""The grid of a sweep: its axes, checked before anything runs, and the vectors in its cells."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import is_whole, many, require
from actadd_lens.errors import CoefficientError, LayerError, PositionError, PromptError, SettingError, VectorError
from actadd_lens.measuring.nulls import NullKind, check_null_kind, null_table
from actadd_lens.methods.actadd import compute_steering_vectors
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair, as_pair
from actadd_lens.prompts.positions import Position, check_position, start_of
from actadd_lens.prompts.texts import as_texts, encode_prompts
from actadd_lens.vectors.vector import SteeringVector, check_coefficient, check_vectors

Source = PromptPair | SteeringVector
"""What the vectors of a sweep come from: a prompt pair, read at each layer; or a vector, added at each layer."""

_VECTOR_BYTES = 2**28
"""Most memory for the vectors and nulls that are held at once."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The axes of a sweep.

    Attributes:
        pairs: Prompt pairs, or vectors that are added at every layer.
        layers: Injection layers.
        coefficients: Injection coefficients; they multiply a vector's own.
        positions: Prompt tokens that receive row 0.
        prompts: The prompts.
        nulls: Null vectors beside each pair's own.
        null_kind: Their kind.
        seed: Their seed.
    """

    pairs: tuple[Source, ...]
    layers: tuple[int, ...]
    coefficients: tuple[float, ...]
    positions: tuple[Position, ...]
    prompts: tuple[str, ...]
    nulls: int = 0
    null_kind: NullKind = "unrelated_pairs"
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of pairs, layers, coefficients and positions."""
        return len(self.pairs), len(self.layers), len(self.coefficients), len(self.positions)

    @property
    def cells(self) -> int:
        """Number of cells."""
        pairs, layers, coefficients, positions = self.shape
        return pairs * layers * coefficients * positions

    @property
    def labels(self) -> tuple[str, ...]:
        """Each pair in a few characters."""
        return tuple(pair.label for pair in self.pairs)

    def vector(self, model: LensModel, pair: int, layer: int, coefficient: float, position: Position) -> SteeringVector:
        """The vector of one cell, with its coefficient and position."""
        return (coefficient * source_vectors(model, [self.pairs[pair]], [layer])[0][0]).at(position=position)

    def __str__(self) -> str:
        axes = ("pair", "layer", "coefficient", "position")
        told = [f"{count} {name}{'s' * (count > 1)}" for count, name in zip(self.shape, axes, strict=True)]
        return " × ".join(told)


@dataclass(frozen=True, eq=False)
class PlacedGrid:
    """A grid on a model: prompts as tokens, and every vector known to fit onto every prompt.

    Attributes:
        grid: The axes.
        model: The model.
        backend: The same, behind the common interface.
        tokens: Token ids of each prompt.
        rows: Rows of each pair's vectors.
    """

    grid: Grid
    model: LensModel
    backend: Backend
    tokens: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...]

    def pair_chunks(self) -> list[range]:
        """Pairs whose vectors and nulls are held together, so that memory does not grow with their number."""
        grid = self.grid
        size = 4 * self.backend.d_model * len(grid.layers) * (1 + grid.nulls) * max(self.rows)
        step = max(1, _VECTOR_BYTES // size)
        return [range(first, min(first + step, len(self.rows))) for first in range(0, len(self.rows), step)]

    def by_length(self) -> list[int]:
        """Prompts from the shortest to the longest, so that a batch holds little padding."""
        return sorted(range(len(self.tokens)), key=lambda index: len(self.tokens[index]))

    def vectors(self, pairs: Iterable[int]) -> dict[tuple[int, int], tuple[SteeringVector, ...]]:
        """For each pair and layer, by their places, its vector and then its nulls; all pairs and layers in one pass."""
        grid, chosen = self.grid, list(pairs)
        table = source_vectors(self.model, [grid.pairs[pair] for pair in chosen], grid.layers)
        places = [(pair, layer) for pair in chosen for layer in range(len(grid.layers))]
        found = [vector for row in table for vector in row]
        if not grid.nulls:
            return {place: (vector,) for place, vector in zip(places, found, strict=True)}
        nulls = null_table(self.model, found, kind=grid.null_kind, n=grid.nulls, seed=grid.seed)
        return {place: (vector, *drawn) for place, vector, drawn in zip(places, found, nulls, strict=True)}

    def injections(self, pairs: Iterable[int]) -> dict[tuple[int, int], Float[Tensor, "arms pos d_model"]]:
        """The injections of `vectors`, stacked."""
        found = self.vectors(pairs)
        return {place: torch.stack([vector.injection for vector in arms]) for place, arms in found.items()}


def source_vectors(
    model: LensModel, sources: Sequence[Source], layers: Sequence[int]
) -> list[tuple[SteeringVector, ...]]:
    """For each pair or vector, its vector at each layer."""
    pairs = [source for source in sources if isinstance(source, PromptPair)]
    table = iter(compute_steering_vectors(model, pairs, layers=layers).table if pairs else ())
    return [
        next(table)
        if isinstance(source, PromptPair)
        else tuple(source if layer == source.layer else source.at_layer(layer) for layer in layers)
        for source in sources
    ]


def place_grid(
    model: LensModel,
    pairs: Any,
    *,
    layers: Iterable[int] | int,
    coefficients: Iterable[float] | float,
    positions: Iterable[Position] | Position,
    prompts: str | Sequence[str],
    nulls: int,
    null_kind: NullKind,
    seed: int,
    prepend_bos: bool,
    room: int = 0,
) -> PlacedGrid:
    """The grid, once all of it is known to be sound.

    Raises:
        PromptError: A prompt or pair cannot be used.
        LayerError: A layer does not exist, or there is none.
        CoefficientError: A coefficient is no number.
        PositionError: A vector does not fit onto a prompt at a position.
        VectorError: A vector does not go with the model.
        SettingError: Another setting is out of its range, or an axis holds a value twice.
    """
    backend = backend_of(model)
    texts = as_texts(prompts)
    for name, value in (("nulls", nulls), ("seed", seed)):
        require(is_whole(value), name, value, "an integer from 0")
    check_null_kind(null_kind)
    grid = Grid(
        pairs=_sources(backend, pairs),
        layers=_axis("layers", [backend.check_layer(layer) for layer in many(layers)], LayerError),
        coefficients=_axis("coefficients", [check_coefficient(item) for item in many(coefficients)], CoefficientError),
        positions=_axis("positions", [check_position(item, rows=1) for item in many(positions)], PositionError),
        prompts=texts,
        nulls=int(nulls),
        null_kind=null_kind,
        seed=int(seed),
    )
    tokens = tuple(encode_prompts(backend, texts, prepend_bos=prepend_bos, room=room))
    rows = tuple(
        len(source.tokens(model).positive) if isinstance(source, PromptPair) else source.rows for source in grid.pairs
    )
    for count in sorted(set(rows)):
        _check_fit(grid.positions, count, tokens)
    positions = tuple(check_position(position, rows=1) for position in grid.positions)
    return PlacedGrid(dataclasses.replace(grid, positions=positions), model, backend, tokens, rows)


def _axis(name: str, values: list[Any], error: type[Exception]) -> tuple[Any, ...]:
    if not values:
        raise error(f"There are no {name}: give at least one.")
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise SettingError(f"{name} holds {twice[0]!r} twice: give each once.")
    return tuple(values)


def _sources(backend: Backend, pairs: Any) -> tuple[Source, ...]:
    """One pair or vector or several; a tuple of two texts is one pair."""
    is_texts = isinstance(pairs, tuple) and len(pairs) == 2 and isinstance(pairs[0], str)
    if is_texts or isinstance(pairs, PromptPair | SteeringVector):
        pairs = [pairs]
    found = tuple(item if isinstance(item, SteeringVector) else as_pair(item) for item in many(pairs))
    if not found:
        raise PromptError("No prompt pair was given: pass at least one.")
    vectors = [item for item in found if isinstance(item, SteeringVector)]
    if vectors:
        check_vectors(backend, vectors)
    placed = next((vector for vector in vectors if vector.position is not None), None)
    if placed is not None:
        raise VectorError(
            f"The vector {placed.label} has a position of its own, {placed.position!r}, but a sweep goes through "
            "positions: leave it to positions=."
        )
    return found


def _check_fit(positions: Sequence[Position], rows: int, prompts: Sequence[Sequence[int]]) -> None:
    for position in positions:
        checked = check_position(position, rows=rows)
        for length in sorted({len(prompt) for prompt in prompts}):
            if checked != "all":
                start_of(checked, length=length, rows=rows)
