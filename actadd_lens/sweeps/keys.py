"""The keys under which a sweep's results are stored: everything that a value depends on, and nothing else.

A cell keeps its key when other cells, prompts or metrics are added, so a larger grid reuses values of a smaller one.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from actadd_lens.identity.digests import digest
from actadd_lens.identity.model_state import model_key
from actadd_lens.measuring.metrics import Metric
from actadd_lens.measuring.nulls import null_texts
from actadd_lens.prompts.pairs import PromptPair
from actadd_lens.sweeps.grid import PlacedGrid, Source
from actadd_lens.vectors.vector import SteeringVector


class SweepKeys:
    """Keys of one sweep.

    Args:
        placed: The grid on its model.
        values: What is computed in each cell, one entry for each key of a cell: metrics, or decoding settings.

    Raises:
        SettingError: A metric or a hook on the model cannot be distinguished from another.
    """

    def __init__(self, placed: PlacedGrid, values: Sequence[Any]) -> None:
        grid = placed.grid
        self._grid = grid
        self._rows = placed.rows
        self._model = model_key(placed.backend)
        self._pairs = [_source_key(placed, source) for source in grid.pairs]
        self._prompts = [digest(tokens) for tokens in placed.tokens]
        self._values = [_value_key(value) for value in values]
        self._nulls = [digest(_nulls_key(placed, source)) for source in grid.pairs]

    def item(self, pair: int, layer: int, coefficient: int, position: int, prompt: int, is_null: bool) -> list[bytes]:
        """Keys of a cell on one prompt, for its own vector or for all of its nulls; one for each value."""
        grid = self._grid
        number, scale, place = grid.layers[layer], grid.coefficients[coefficient], grid.positions[position]
        cell = f"{number} {scale!r} {place!r}".encode()
        return self._keys(self._pairs[pair], cell, self._prompts[prompt], self._nulls[pair] if is_null else b"own")

    def unsteered(self, pair: int, position: int, prompt: int) -> list[bytes]:
        """Keys of unsteered values; which tokens are left out depends only on the number of rows and the position."""
        place = f"{self._rows[pair]} {self._grid.positions[position]!r}".encode()
        return self._keys(b"unsteered", place, self._prompts[prompt])

    def plain(self, prompt: int) -> list[bytes]:
        """Keys of the unsteered texts."""
        return self._keys(b"plain", self._prompts[prompt])

    def _keys(self, *parts: bytes) -> list[bytes]:
        shared = b"|".join((self._model, *(hashlib.sha256(part).digest() for part in parts)))
        return [hashlib.sha256(shared + value).digest()[:16] for value in self._values]


def _source_key(placed: PlacedGrid, source: Source) -> bytes:
    if isinstance(source, PromptPair):
        tokens = source.tokens(placed.model)
        return digest(("pair", tokens.positive, tokens.negative))
    if isinstance(source, SteeringVector):
        return digest(("vector", source.activations, source.coefficient, source.provenance.read_layer, source.layer))
    return digest(("intervention", type(source).__qualname__, source))


def _nulls_key(placed: PlacedGrid, source: Source) -> tuple[Any, ...]:
    """What the nulls of a pair depend on; since 0.2, massive rows are treated separately."""
    grid = placed.grid
    told = (grid.nulls, grid.null_kind, grid.seed, _null_texts(), "massive rows known")
    told_of = source if isinstance(source, PromptPair) else source.provenance
    is_unpaired = told_of.positive is not None and told_of.negative is None
    return (*told, "unpaired") if is_unpaired else told


def _value_key(value: Any) -> bytes:
    if not isinstance(value, Metric):
        return digest(value)
    return digest((value.name, value.reads, value.bind), named=value.is_named)


@cache
def _null_texts() -> bytes:
    """A hash of the texts from which the phrases of unrelated pairs are taken."""
    return digest(null_texts())
