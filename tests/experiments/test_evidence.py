"""Estimates, verdicts and findings, against arithmetic by hand."""

import json
import math

import numpy as np
import pytest

from actadd_lens.errors import SettingError
from actadd_lens.experiments.evidence import Estimate, Finding, moves, resampled, stays
from actadd_lens.experiments.storing import as_json


def estimate(value: float, half: float, *, neutral: float = 0.0, nulls: tuple[float, ...] = ()) -> Estimate:
    return Estimate(value, value - half, value + half, 20, "texts", nulls, neutral)


def test_the_statistic_is_that_of_the_table_and_its_interval_that_of_resampled_rows() -> None:
    rows = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 8.0]])
    found = resampled(lambda table: table[:, 0].sum() / table[:, 1].sum(), rows, of="texts", resamples=300, seed=3)
    random = np.random.default_rng(3)
    drawn = [rows[random.integers(3, size=3)].sum(axis=0) for _ in range(300)]
    assert found.value == 9 / 14
    assert (found.low, found.high) == tuple(np.quantile([first / second for first, second in drawn], [0.025, 0.975]))
    assert (found.n, found.of) == (3, "texts")


def test_one_unit_has_no_interval_and_none_is_an_error() -> None:
    assert math.isnan(resampled(lambda table: float(table.mean()), np.ones((1, 1)), of="texts").low)
    with pytest.raises(SettingError, match="nothing to resample"):
        resampled(lambda table: 0.0, np.ones((0, 2)), of="texts")


@pytest.mark.parametrize(
    ("found", "side", "verdict"),
    [
        (estimate(0.9, 0.05, neutral=1), "less", "same direction"),
        (estimate(0.9, 0.05, neutral=1), "greater", "opposite"),
        (estimate(0.9, 0.15, neutral=1), "less", "no effect"),
        (estimate(0.9, 0.05, neutral=1, nulls=(0.95, 1.0, 1.1)), "less", "same direction"),
        (estimate(0.9, 0.05, neutral=1, nulls=(0.85, 1.0, 1.1)), "less", "no effect"),
        (estimate(2.0, 0.5, nulls=tuple(range(-19, 2))), "greater", "same direction"),
        (estimate(2.0, 0.5, nulls=tuple(range(-19, 5))), "greater", "no effect"),
    ],
)
def test_a_number_moves_when_interval_and_nulls_say_so(found: Estimate, side: str, verdict: str) -> None:
    assert moves(found, side) == verdict


def test_an_estimate_without_interval_decides_nothing() -> None:
    found = Estimate(5.0, math.nan, math.nan, 1, "texts")
    assert (moves(found, "greater"), stays(found, 9.0)) == ("not testable here", "not testable here")


def test_a_few_units_decide_nothing_and_the_finding_says_so() -> None:
    few = Estimate(0.15, 0.1, 0.2, 9, "prompts")
    assert (moves(few, "greater"), stays(few, 1.0)) == ("not testable here", "not testable here")
    assert "9 prompts are too few" in Finding(1, "a number", moves(few, "greater"), few).reason
    assert moves(Estimate(0.15, 0.1, 0.2, 10, "prompts"), "greater") == "same direction"


def test_a_null_without_a_value_speaks_against_the_effect() -> None:
    assert moves(estimate(2.0, 0.5, nulls=(math.nan,) * 19), "greater") == "no effect"
    assert estimate(2.0, 0.5, nulls=(0.0, math.nan, 1.0)).p_value("greater") == 0.5


def test_where_nothing_varied_the_rule_of_three_stands_in_for_the_interval() -> None:
    still = {n: Estimate(0.0, 0.0, 0.0, n, "facts") for n in (50, 299, 300)}
    assert [stays(still[n], 0.01) for n in still] == ["not testable here", "not testable here", "same direction"]


def test_a_cost_that_falls_is_no_cost() -> None:
    cheaper, dearer = estimate(0.6, 0.05, neutral=1), estimate(1.4, 0.05, neutral=1)
    assert (stays(cheaper, 0.1), stays(cheaper, 0.1, against="greater")) == ("opposite", "same direction")
    assert (stays(dearer, 0.1, against="greater"), stays(dearer, 0.1, against="less")) == ("opposite", "same direction")


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (estimate(1.003, 0.005, neutral=1), "same direction"),
        (estimate(1.003, 0.02, neutral=1), "not testable here"),
        (estimate(1.05, 0.02, neutral=1), "opposite"),
        (estimate(0.95, 0.02, neutral=1), "opposite"),
    ],
)
def test_a_number_stays_when_its_whole_interval_does(found: Estimate, verdict: str) -> None:
    assert stays(found, 0.01) == verdict


def test_findings_come_back_from_json_even_with_numbers_that_are_none() -> None:
    told = Finding(3, "words", "no effect", Estimate(0.5, math.nan, math.nan, 1, "prompts", (0.1, 0.2)), "most", "few")
    again = Finding.from_record(json.loads(json.dumps(as_json(told.record()))))
    assert repr(again) == repr(told)
    assert Finding.from_record(Finding(1, "x", "no effect").record()) == Finding(1, "x", "no effect")
