"""What simulation says of intervals and p-values, on the tables of docs/statistics.md."""

import pytest

from benchmarks.coverage import ERRORS, KINDS, SIZES, coverage, error_rate

TRIALS = 200
"""A tenth of those of the tables."""

INTERVALS = 500
"""Intervals are simulated quickly; with fewer, some cell of the table strays by chance."""


@pytest.mark.parametrize("kind", ["normal", "exponential", "hits 20% → 20%", "hits 1% → 1%"])
def test_intervals_of_a_few_runs_cover_and_are_never_empty(kind: str) -> None:
    found = coverage(kind, 16, 4, 150)
    assert found["empty"] == 0
    assert found["covered"] >= 0.95 - 3.5 * (0.95 * 0.05 / 150) ** 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", KINDS)
def test_every_interval_covers_or_warns(kind: str) -> None:
    for size in SIZES:
        found = coverage(kind, *size, INTERVALS)
        noise = 3 * (0.93 * 0.07 / INTERVALS) ** 0.5
        assert found["empty"] == 0
        if found["covered"] < 0.93 - noise:
            assert kind == "lognormal"
            assert found["warned"] > 0.9
        if found["covered"] > 0.97 + noise:
            assert kind.startswith("hits")


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ERRORS)
def test_every_p_value_errs_as_often_as_it_says(name: str) -> None:
    found = error_rate(name, TRIALS)
    noise = 3 * (0.05 * 0.95 / found["runs"]) ** 0.5
    assert 0.035 - noise <= found["at most 0.05"]
    assert found["at most 0.05"] <= (0.085 if "exponential" in name else 0.065 + noise)


def test_errors_are_drawn_anew_from_fixed_seeds() -> None:
    assert error_rate("best cell", 5) == error_rate("best cell", 5)
