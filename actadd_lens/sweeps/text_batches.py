"""A text sweep's work in pieces: rows that decode together; the pieces are the same for any workers."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from actadd_lens.models import Backend
from actadd_lens.sweeps.batches import is_out_of_memory
from actadd_lens.sweeps.grid import Grid, PlacedGrid
from actadd_lens.sweeps.passes import Conditions, Row
from actadd_lens.writing.decoding import Cell, DecodeSettings, continuation_texts, decode_cells

Texts = list[tuple[str, ...]]
"""For each vector of an item, its samples."""

UNSTEERED = -1
"""Used in place of a pair if nothing is added."""


class TextBatch(NamedTuple):
    """Rows that decode together.

    Attributes:
        pairs: Indices of the pairs whose vectors are computed together.
        members: The rows; each gives one text per sample.
    """

    pairs: tuple[int, ...]
    members: tuple[Row, ...]

    @property
    def rows(self) -> int:
        """How many of them are steered."""
        return sum(row.item.pair != UNSTEERED for row in self.members)


@dataclass(frozen=True, eq=False)
class TextRecipe:
    """What a worker needs to know of a text sweep.

    Attributes:
        grid: The axes.
        tokens: Token ids of each prompt.
        rows: Number of rows of each pair's vectors.
        settings: How texts are decoded.
    """

    grid: Grid
    tokens: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...]
    settings: DecodeSettings

    def desk(self, backend: Backend) -> "TextDesk":
        """The sweep on a model."""
        return TextDesk(PlacedGrid(self.grid, backend.model, backend, self.tokens, self.rows), self.settings)


class TextDesk:
    """A text sweep on one model; vectors are kept while batches share them.

    Args:
        placed: The grid on the model.
        settings: How texts are decoded.
    """

    def __init__(self, placed: PlacedGrid, settings: DecodeSettings) -> None:
        self._placed = placed
        self._settings = settings
        self._vectors: tuple[tuple[int, ...], Conditions] = ((), {})
        self._fits: int | None = None

    def parts(
        self, batch: TextBatch, tick: Callable[[int], Any]
    ) -> Generator[list[tuple[Row, tuple[str, ...]]], None, None]:
        """Each row with its texts; in halves if there is not enough memory."""
        if batch.rows and self._vectors[0] != batch.pairs:
            self._vectors = ((), {})  # to free memory before the next ones are made
            self._vectors = (batch.pairs, self._placed.vectors(batch.pairs))
        is_too_large = self._fits is not None and len(batch.members) > self._fits
        texts = None if is_too_large else self._decode([self._cell(row) for row in batch.members])
        if texts is None:
            half = len(batch.members) // 2
            self._fits = self._fits if is_too_large else half
            for some in (batch.members[:half], batch.members[half:]):
                yield from self.parts(batch._replace(members=some), tick)
            return
        yield [*zip(batch.members, texts, strict=True)]
        tick(batch.rows * self._settings.n)

    def _cell(self, row: Row) -> Cell:
        item, grid = row.item, self._placed.grid
        if item.pair == UNSTEERED:
            return Cell(self._placed.tokens[item.prompt], ())
        vector = self._vectors[1][item.pair, item.layer][row.condition].times(grid.coefficients[item.coefficient])
        placed = vector.at(position=grid.positions[item.position])
        return Cell(self._placed.tokens[item.prompt], (placed,), item.prompt)

    def _decode(self, cells: Sequence[Cell]) -> Texts | None:
        """The texts of each cell; None if there is not enough memory, so that a smaller batch is needed."""
        try:
            written = decode_cells(
                self._placed.backend, cells, self._settings, batch_size=len(cells) * self._settings.n
            )
        except Exception as error:
            if len(cells) == 1 or not is_out_of_memory(error):
                raise
            return None
        return list(continuation_texts(tuple(written)))
