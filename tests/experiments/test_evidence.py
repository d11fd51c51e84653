"""Estimates, verdicts and findings, against arithmetic by hand."""

import json
import math

import numpy as np
import pytest

from actadd_lens.errors import SettingError
from actadd_lens.experiments.evidence import Estimate, Finding, Side, moves, resampled, stays
from actadd_lens.experiments.storing import as_json
from actadd_lens.statistics import mean_interval


def estimate(value: float, half: float, *, neutral: float = 0.0, nulls: tuple[float, ...] = ()) -> Estimate:
    return Estimate(value, value - half, value + half, 20, "texts", nulls, neutral)


def test_the_statistic_is_that_of_the_table_and_its_interval_that_of_its_jackknife() -> None:
    rows = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 8.0]])

    def ratio(table: np.ndarray) -> float:
        return float(table[:, 0].sum() / table[:, 1].sum())

    found = resampled(ratio, rows, of="texts")
    assert found.value == 9 / 14
    without = [ratio(rows[[1, 2]]), ratio(rows[[0, 2]]), ratio(rows[[0, 1]])]
    pseudo = np.array([3 * found.value - 2 * value for value in without])
    low, high = mean_interval(pseudo)  # around the mean of pseudo-values, and here around the statistic itself
    moved = found.value - pseudo.mean()
    assert (found.low, found.high) == pytest.approx((float(low) + moved, float(high) + moved))
    assert (found.n, found.of) == (3, "texts")
    means = rows[:, :1]
    assert resampled(lambda table: float(table.mean()), means, of="texts").low == pytest.approx(
        float(mean_interval(means[:, 0])[0])
    )


def test_a_statistic_that_is_not_smooth_is_resampled() -> None:
    rows = np.array([[1.0], [3.0], [5.0], [9.0]])
    found = resampled(lambda table: float(np.median(table)), rows, of="texts", smooth=False, resamples=300, seed=3)
    random = np.random.default_rng(3)
    drawn = [np.median(rows[random.integers(4, size=4)]) for _ in range(300)]
    assert (found.low, found.high) == tuple(np.quantile(drawn, [0.025, 0.975]))


def test_a_share_has_an_interval_even_where_all_or_none_are_hits() -> None:
    none, every = (Estimate.share(np.full((20, 1), hit), of="facts") for hit in (0.0, 1.0))
    assert (none.low, every.high) == (0.0, 1.0)
    assert none.high == pytest.approx(1 - every.low) == pytest.approx(0.18, abs=0.01)
    unchanged = Estimate.paired(np.ones((20, 1)), np.ones((20, 1)))
    assert unchanged.low < 0 < unchanged.high


def test_one_unit_has_no_interval_and_none_is_an_error() -> None:
    assert math.isnan(resampled(lambda table: float(table.mean()), np.ones((1, 1)), of="texts").low)
    with pytest.raises(SettingError, match="nothing to resample"):
        resampled(lambda table: 0.0, np.ones((0, 2)), of="texts")


@pytest.mark.parametrize(
    ("found", "side", "verdict"),
    [
        (estimate(0.9, 0.05, neutral=1), "less", "same direction"),
        (estimate(0.9, 0.05, neutral=1), "greater", "opposite"),
        (estimate(0.9, 0.15, neutral=1), "less", "undecided"),
        (estimate(0.9, 0.05, neutral=1, nulls=tuple(np.linspace(0.98, 1.1, 19))), "less", "same direction"),
        (estimate(0.9, 0.05, neutral=1, nulls=(0.95, 1.0, 1.1)), "less", "undecided"),
        (estimate(0.9, 0.05, neutral=1, nulls=(1.0,) * 19), "less", "same direction"),
        (estimate(0.9, 0.05, neutral=1, nulls=(0.85, 1.0, 1.1)), "less", "undecided"),
        (estimate(2.0, 0.5, nulls=tuple(range(-19, 2))), "greater", "same direction"),
        (estimate(2.0, 0.5, nulls=tuple(range(-19, 5))), "greater", "undecided"),
    ],
)
def test_a_number_moves_when_interval_and_nulls_say_so(found: Estimate, side: Side, verdict: str) -> None:
    assert moves(found, side) == verdict


def test_an_estimate_without_interval_decides_nothing() -> None:
    found = Estimate(5.0, math.nan, math.nan, 1, "texts")
    assert (moves(found, "greater"), stays(found, 9.0)) == ("undecided", "undecided")


def test_a_few_units_decide_nothing_and_the_finding_says_so() -> None:
    few = Estimate(0.15, 0.1, 0.2, 9, "prompts")
    assert (moves(few, "greater"), stays(few, 1.0)) == ("undecided", "undecided")
    assert "9 prompts are too few" in Finding(1, "a number", moves(few, "greater"), few).reason
    assert moves(Estimate(0.15, 0.1, 0.2, 10, "prompts"), "greater") == "same direction"


def test_a_null_without_a_value_speaks_against_the_effect() -> None:
    assert moves(estimate(2.0, 0.5, nulls=(math.nan,) * 19), "greater") == "undecided"
    assert estimate(2.0, 0.5, nulls=(0.0, math.nan, 1.0)).p_value("greater") == 0.5


def test_where_nothing_varied_the_rule_of_three_stands_in_for_the_interval() -> None:
    still = {n: Estimate(0.0, 0.0, 0.0, n, "facts") for n in (50, 299, 300)}
    assert [stays(still[n], 0.01) for n in still] == ["undecided", "undecided", "same direction"]


def test_a_cost_that_falls_is_no_cost() -> None:
    cheaper, dearer = estimate(0.6, 0.05, neutral=1), estimate(1.4, 0.05, neutral=1)
    assert (stays(cheaper, 0.1), stays(cheaper, 0.1, against="greater")) == ("opposite", "same direction")
    assert (stays(dearer, 0.1, against="greater"), stays(dearer, 0.1, against="less")) == ("opposite", "same direction")


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (estimate(1.003, 0.005, neutral=1), "same direction"),
        (estimate(1.003, 0.02, neutral=1), "undecided"),
        (estimate(1.05, 0.02, neutral=1), "opposite"),
        (estimate(0.95, 0.02, neutral=1), "opposite"),
    ],
)
def test_a_number_stays_when_its_whole_interval_does(found: Estimate, verdict: str) -> None:
    assert stays(found, 0.01) == verdict


def test_findings_come_back_from_json_even_with_numbers_that_are_none() -> None:
    told = Finding(3, "words", "undecided", Estimate(0.5, math.nan, math.nan, 1, "prompts", (0.1, 0.2)), "most", "few")
    again = Finding.from_record(json.loads(json.dumps(as_json(told.record()))))
    assert repr(again) == repr(told)
    assert Finding.from_record(Finding(1, "x", "undecided").record()) == Finding(1, "x", "undecided")


def test_what_was_called_no_effect_is_undecided() -> None:
    record = Finding(1, "x", "undecided", reason="told").record()
    assert Finding.from_record({**record, "verdict": "no effect"}).verdict == "undecided"


def test_a_small_number_is_shown_to_be_small_only_within_a_margin_told_before() -> None:
    near = estimate(0.001, 0.004)
    assert (moves(near, "greater"), moves(near, "greater", margin=0.01)) == ("undecided", "shown to be small")
    assert moves(estimate(0.02, 0.004), "greater", margin=0.01) == "same direction"


def test_a_verdict_does_not_hang_on_the_largest_of_a_few_nulls() -> None:
    few = np.append(np.linspace(-1.0, 1.0, 18), 5.0)
    assert estimate(4.0, 0.5, nulls=tuple(few)).p_value("greater") == 0.1
    assert moves(estimate(4.0, 0.5, nulls=tuple(few)), "greater") == "undecided"  # counted, p is .1
    skewed = tuple(np.append(np.zeros(18), 3.0))
    assert estimate(1.4, 0.1, nulls=tuple(np.append(np.zeros(18), 1.39))).p_value("greater") == 0.05
    assert moves(estimate(0.5, 0.1, nulls=tuple(np.random.default_rng(0).normal(0, 0.4, 19) - 0.5)), "greater") == (
        "same direction"
    )
    assert (
        estimate(3.01, 0.1, nulls=skewed).judged_p("greater")
        == 0.05
        == estimate(9.0, 0.1, nulls=skewed).judged_p("greater")
    )
    three = estimate(4.0, 0.5, nulls=(0.0, 0.1, -0.1))
    assert moves(three, "greater") == "undecided"
    assert Finding.of_move(1, "x", three, "greater").reason == "3 nulls are too few: p cannot be below 0.25"
    many = tuple(np.append(np.linspace(-1.0, 1.0, 38), 5.0))
    assert (
        estimate(4.0, 0.5, nulls=many).judged_p("greater") == estimate(4.0, 0.5, nulls=many).p_value("greater") == 0.05
    )
    low, high = estimate(4.0, 0.5, nulls=many).p_interval("greater")
    assert low < 1 / 39 < high


def test_p_of_moving_and_of_staying_are_those_of_the_interval() -> None:
    found = estimate(1.0, 2.0)  # 20 texts: Student's t with 19 degrees of freedom, of which .025 lie above 2.093024

    def above(t: float) -> float:
        grid = np.linspace(t, 200.0, 2_000_001)
        density = (1 + grid**2 / 19) ** -10 * math.gamma(10) / (math.sqrt(19 * math.pi) * math.gamma(9.5))
        return float(np.trapezoid(density, grid))

    one = 2.093024 / 2.0
    assert found.p_moves("greater") == pytest.approx(above(1.0 * one), abs=1e-5)
    assert found.p_moves("less") == pytest.approx(above(-1.0 * one), abs=1e-5)
    assert found.p_stays(3.0) == pytest.approx(above(2.0 * one), abs=1e-5)
    assert found.p_stays(3.0, against="less") == pytest.approx(above(4.0 * one), abs=1e-5)
