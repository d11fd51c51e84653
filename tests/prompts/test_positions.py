"""Pure arithmetic, against brute force over every small case."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import actadd_lens as al
from actadd_lens.prompts.positions import check_position, overlap, start_of


@settings(max_examples=300)
@given(start=st.integers(0, 9), rows=st.integers(1, 6), past=st.integers(0, 12), seen=st.integers(1, 9))
def test_overlap_pairs_each_row_with_its_column(start: int, rows: int, past: int, seen: int) -> None:
    columns, taken = overlap(start, rows, past=past, seen=seen)
    found = list(zip(range(seen)[columns], range(rows)[taken], strict=True))
    expected = [(column - past, column - start) for column in range(30)
                if past <= column < past + seen and start <= column < start + rows]  # fmt: skip
    assert found == expected


@settings(max_examples=100)
@given(start=st.integers(0, 9), rows=st.integers(1, 6), cuts=st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_each_row_lands_exactly_once_however_the_tokens_are_cut_into_passes(
    start: int, rows: int, cuts: list[int]
) -> None:
    landed, past = [], 0
    for seen in cuts:
        columns, taken = overlap(start, rows, past=past, seen=seen)
        landed += [(past + column, row) for column, row in zip(range(seen)[columns], range(rows)[taken], strict=True)]
        past += seen
    assert landed == [(start + row, row) for row in range(rows) if start + row < past]


@settings(max_examples=200)
@given(length=st.integers(1, 12), rows=st.integers(1, 12), position=st.sampled_from(["front", "mid", "back", 0, 1, 5]))
def test_a_start_is_the_authors_formula_or_an_error(length: int, rows: int, position: Any) -> None:
    wanted = {"front": 0, "mid": length // 2 - rows // 2, "back": length - rows}.get(position, position)
    if wanted >= 0 and wanted + rows <= length:
        assert start_of(position, length=length, rows=rows) == wanted
    else:
        with pytest.raises(al.PositionError, match=f"{rows} rows at position .* prompt of {length} tokens"):
            start_of(position, length=length, rows=rows)


def test_numpy_integers_are_positions() -> None:
    assert check_position(np.int64(3), rows=2) == 3
    assert type(check_position(np.int64(3), rows=2)) is int
