"""The grid of a sweep: its axes, checked before anything runs, and the vectors in its cells."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from actadd_lens.checks import is_whole, many, require
from actadd_lens.errors import CoefficientError, LayerError, PositionError, PromptError, SettingError, VectorError
from actadd_lens.measuring.nulls import NullKind, check_null_kind, null_table
from actadd_lens.methods.actadd import compute_steering_vectors
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair, as_pair
from actadd_lens.prompts.positions import Position, check_position, reach_of
from actadd_lens.prompts.texts import as_texts, encode_prompts
from actadd_lens.steering.clean import prompts_of
from actadd_lens.steering.landings import Prompts
from actadd_lens.vectors.interventions import Intervention
from actadd_lens.vectors.vector import check_coefficient, check_interventions

Source = PromptPair | Intervention
"""What the cells of a sweep come from: a prompt pair, read at each layer; or a vector or other intervention, which is
moved to each layer.
"""

_VECTOR_BYTES = 2**28
"""Maximum memory, in bytes, for the vectors and nulls that are kept at once."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The axes of a sweep.

    Attributes:
        pairs: Prompt pairs, or vectors that are added at every layer.
        layers: Injection layers.
        coefficients: Injection coefficients; they multiply a vector's own.
        positions: Prompt tokens that receive row 0.
        prompts: The prompts.
        nulls: Null vectors for each pair's vector.
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
        """Each pair as a short label."""
        return tuple(pair.label for pair in self.pairs)

    def vector(self, model: LensModel, pair: int, layer: int, coefficient: float, position: Position) -> Intervention:
        """The vector of one cell, with its coefficient and position."""
        return source_vectors(model, [self.pairs[pair]], [layer])[0][0].times(coefficient).at(position=position)

    def __str__(self) -> str:
        axes = ("pair", "layer", "coefficient", "position")
        told = [f"{count} {name}{'s' * (count > 1)}" for count, name in zip(self.shape, axes, strict=True)]
        return " × ".join(told)


@dataclass(frozen=True, eq=False)
class PlacedGrid:
    """A grid on a model: prompts as tokens, and every vector checked to fit onto every prompt.

    Attributes:
        grid: The axes.
        model: The model.
        backend: The same, behind the common interface.
        tokens: Token ids of each prompt.
        rows: Number of rows of each pair's vectors.
    """

    grid: Grid
    model: LensModel
    backend: Backend
    tokens: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...]

    def pair_chunks(self) -> list[range]:
        """Pairs whose vectors and nulls are kept at once, so that memory does not grow with their number."""
        grid = self.grid
        size = 4 * self.backend.d_model * len(grid.layers) * (1 + grid.nulls) * max(self.rows)
        step = max(1, _VECTOR_BYTES // size)
        return [range(first, min(first + step, len(self.rows))) for first in range(0, len(self.rows), step)]

    def by_length(self) -> list[int]:
        """Prompts from the shortest to the longest, so that a batch contains little padding."""
        return sorted(range(len(self.tokens)), key=lambda index: len(self.tokens[index]))

    def vectors(self, pairs: Iterable[int]) -> dict[tuple[int, int], tuple[Intervention, ...]]:
        """For each pair and layer, by their indices, its vector and its nulls; all pairs and layers in one pass."""
        grid, chosen = self.grid, list(pairs)
        table = source_vectors(self.model, [grid.pairs[pair] for pair in chosen], grid.layers)
        places = [(pair, layer) for pair in chosen for layer in range(len(grid.layers))]
        found = [vector for row in table for vector in row]
        if not grid.nulls:
            return {place: (vector,) for place, vector in zip(places, found, strict=True)}
        made_from = [item.vector for item in found]
        nulls = null_table(self.model, made_from, kind=grid.null_kind, n=grid.nulls, seed=grid.seed)
        return {
            place: (item, *(item.with_vector(null) for null in drawn))
            for place, item, drawn in zip(places, found, nulls, strict=True)
        }


def source_vectors(
    model: LensModel, sources: Sequence[Source], layers: Sequence[int]
) -> list[tuple[Intervention, ...]]:
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
    """The grid, completely checked.

    Raises:
        PromptError: A prompt or pair cannot be used.
        LayerError: A layer does not exist, or there is none.
        CoefficientError: A coefficient is not a number.
        PositionError: A vector does not fit onto a prompt at a position.
        VectorError: A vector does not match the model.
        SettingError: Another setting is out of range, or an axis has a value twice.
    """
    backend = backend_of(model)
    texts = as_texts(prompts)
    for name, value in (("nulls", nulls), ("seed", seed)):
        require(is_whole(value), name, value, "an integer from 0")
    check_null_kind(null_kind)
    positions_given = many(positions)
    grid = Grid(
        pairs=_sources(backend, pairs),
        layers=_axis("layers", [backend.check_layer(layer) for layer in many(layers)], LayerError),
        coefficients=_axis("coefficients", [check_coefficient(item) for item in many(coefficients)], CoefficientError),
        positions=(),
        prompts=texts,
        nulls=int(nulls),
        null_kind=null_kind,
        seed=int(seed),
    )
    tokens = tuple(encode_prompts(backend, texts, prepend_bos=prepend_bos, room=room))
    rows = tuple(
        len(source.tokens(model).positive) if isinstance(source, PromptPair) else source.rows for source in grid.pairs
    )
    positions = tuple(check_position(position, rows=1) for position in positions_given)
    grid = dataclasses.replace(grid, positions=_axis("positions", list(positions), PositionError))
    known = prompts_of(backend, tokens)
    for source, count in zip(grid.pairs, rows, strict=True):
        _check_source(source, grid, count)
        for position in grid.positions:
            _check_fit(backend, position, count, known)
    return PlacedGrid(grid, model, backend, tokens, rows)


def _axis(name: str, values: list[Any], error: type[Exception]) -> tuple[Any, ...]:
    if not values:
        raise error(f"There are no {name}: give at least one.")
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise SettingError(f"{name} contains {twice[0]!r} twice: give each value once.")
    return tuple(values)


def _sources(backend: Backend, pairs: Any) -> tuple[Source, ...]:
    """One pair or vector or several; a tuple of two texts is one pair."""
    is_texts = isinstance(pairs, tuple) and len(pairs) == 2 and isinstance(pairs[0], str)
    if is_texts or isinstance(pairs, PromptPair | Intervention):
        pairs = [pairs]
    found = tuple(item if isinstance(item, Intervention) else as_pair(item) for item in many(pairs))
    if not found:
        raise PromptError("No prompt pair was given: pass at least one.")
    vectors = [item for item in found if isinstance(item, Intervention)]
    if vectors:
        check_interventions(backend, vectors)
    placed = next((vector for vector in vectors if vector.position is not None), None)
    if placed is not None:
        raise VectorError(
            f"The vector {placed.label} has a position of its own, {placed.position!r}, but a sweep has its "
            f"own: take it away with .at(position=None), and use positions=[{placed.position!r}]."
        )
    return found


def _check_source(source: Source, grid: Grid, rows: int) -> None:
    """Check positions, and that an intervention has a coefficient and, if needed, null vectors."""
    for position in grid.positions:
        check_position(position, rows=rows)
    if isinstance(source, PromptPair):
        return
    for coefficient in grid.coefficients:
        source.times(coefficient)
    if grid.nulls and source.vector is None:
        raise SettingError(
            f"{source.label} is not made from a steering vector, so it has no null vectors: use nulls=0."
        )


def _check_fit(backend: Backend, position: Position, rows: int, prompts: Prompts) -> None:
    """Check that a position exists in every prompt."""
    for row in range(len(prompts.first)):
        facts = prompts.facts(row, backend)
        reach_of(position, rows=rows, prompt=facts)
