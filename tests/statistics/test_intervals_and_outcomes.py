"""Intervals, outcomes, power and adjustment against numbers worked out by hand, and laws that must hold."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import actadd_lens as al
from actadd_lens import statistics
from actadd_lens.statistics.quantiles import binomial_share_to, chance_interval, t_quantile, t_share_below

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("share", "degrees", "value"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.95, 9, 1.83311), (0.975, 43, 2.01669), (0.995, 30, 2.75000)],
)
def test_students_t_is_that_of_the_tables(share: float, degrees: int, value: float) -> None:
    assert t_quantile(share, degrees) == pytest.approx(value, rel=1e-5)
    assert t_share_below(value, degrees) == pytest.approx(share, abs=1e-5)
    assert t_quantile(1 - share, degrees) == pytest.approx(-value, rel=1e-5)


def test_quantiles_between_whole_degrees_lie_between_theirs() -> None:
    assert t_quantile(0.975, 3) < t_quantile(0.975, 2.5) < t_quantile(0.975, 2)


def test_the_binomial_interval_is_that_of_clopper_and_pearson() -> None:
    assert chance_interval(0, 10) == pytest.approx((0.0, 1 - 0.025**0.1))
    assert chance_interval(3, 10) == pytest.approx((0.06674, 0.65245), abs=1e-5)
    assert binomial_share_to(2, 4, 0.5) == pytest.approx(11 / 16)


def test_without_skewness_the_interval_is_students() -> None:
    values = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    low, high = statistics.mean_interval(values + 2)
    half = 2.7764451 * values.std(ddof=1) / 5**0.5
    assert (float(low), float(high)) == pytest.approx((2 - half, 2 + half))


def test_a_tail_stretches_the_interval_to_its_side_by_halls_transformation() -> None:
    values = np.array([0.0, 0.0, 1.0, 1.0, 2.0, 3.0, 9.0])
    low, high = (float(end) for end in statistics.mean_interval(values))
    centred = values - values.mean()
    skew = (centred**3).mean() / (centred**2).mean() ** 1.5
    for end, sign in ((low, 1), (high, -1)):
        t = (values.mean() - end) / values.std(ddof=1)  # in units of the root of 7
        hall = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / (6 * 7)
        assert hall == pytest.approx(sign * t_quantile(0.975, 6) / 7**0.5)
    assert high - values.mean() > values.mean() - low


@settings(max_examples=60)
@given(st.integers(2, 20), st.integers(1, 6), st.integers(0, 1000))
def test_an_interval_of_shares_is_never_empty_and_turns_with_the_conditions(
    prompts: int, samples: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    first, second = ((random.random((prompts, samples)) < random.random()).astype(float) for _ in range(2))
    low, high = (float(end) for end in statistics.share_interval(first, second))
    difference = first.mean() - second.mean()
    assert -1 - 1e-9 <= low <= difference <= high <= 1 + 1e-9
    assert low < high
    turned = statistics.share_interval(second, first)
    assert (-float(turned[1]), -float(turned[0])) == pytest.approx((low, high))
    same = statistics.share_interval(first, first)
    assert float(same[0]) < 0 < float(same[1])


def test_newcombes_interval_by_hand() -> None:
    first, second = np.array([[1.0]] * 6 + [[0.0]] * 4), np.array([[1.0]] * 2 + [[0.0]] * 8)
    q = t_quantile(0.975, 9)

    def wilson(share: float) -> tuple[float, float]:
        centre, half = (share + q * q / 20) / (1 + q * q / 10), np.sqrt(share * (1 - share) / 10 + q * q / 400)
        return centre - q / (1 + q * q / 10) * half, centre + q / (1 + q * q / 10) * half

    (low, high), (other_low, other_high) = wilson(0.6), wilson(0.2)
    linked = (0.2 - 0.12 - 0.05) / np.sqrt(0.24 * 0.16)  # both hit on 2 of 10; half a prompt is taken off
    below = np.sqrt((0.6 - low) ** 2 - 2 * linked * (0.6 - low) * (other_high - 0.2) + (other_high - 0.2) ** 2)
    above = np.sqrt((high - 0.6) ** 2 - 2 * linked * (high - 0.6) * (0.2 - other_low) + (0.2 - other_low) ** 2)
    found = statistics.share_interval(first, second)
    assert [float(end) for end in found] == pytest.approx([0.4 - below, 0.4 + above])


def test_zeros_are_misses_of_texts_and_numbers_of_logits(small: Any) -> None:
    """KL that is 0 everywhere has no interval of a share, which would be of some tenths of a nat."""
    love = al.compute_steering_vector(small, ("Love", "Hate"), layer=2)
    never = al.gated(love, al.gate(love.row(-1), 1e9))
    prompts = ["The girl looked at the dog", "It was a good day and she", "The old dog"]
    damage = al.measure(small, prompts, never, al.metrics.kl_divergence())
    assert (damage.effect.low, damage.effect.high) == (0, 0)
    assert damage.effect.kind == "numbers"
    assert "zero-width" in damage.effect.caution
    misses = statistics.paired_effect(np.zeros((12, 1)), np.zeros((12, 1)))
    assert misses.kind == "shares"
    assert misses.high > 0.2
    swept = al.sweep(small, [("Love", "Hate")], layers=2, coefficients=0.0, prompts=prompts,
                     metric=al.metrics.kl_divergence())  # fmt: skip
    low, high, _ = swept.intervals()
    assert (low.item(), high.item()) == (0, 0) == (swept.effect().low, swept.effect().high)


def test_the_kind_of_numbers_decides_and_is_told() -> None:
    hits = (RANDOM.random((20, 3)) < 0.5).astype(float)
    assert statistics.paired_effect(hits, 1 - hits).kind == "shares"
    assert statistics.paired_effect(hits + 1, hits).kind == "counts"
    assert statistics.paired_effect(hits / 2, hits).kind == "numbers"


@pytest.mark.parametrize(
    ("steered", "told"),
    [
        (np.linspace(-1, 1, 30)[:, None], ""),
        (np.linspace(-1, 1, 12)[:, None], "few prompts"),
        (np.array([[0.1]] * 29 + [[9.0]]), "long tail"),
        (np.full((30, 1), 0.5), "no variation"),
        (np.zeros((30, 1)), "few hits"),
    ],
)
def test_an_effect_says_where_its_interval_is_not_to_be_trusted(steered: np.ndarray, told: str) -> None:
    effect = statistics.paired_effect(steered, np.zeros_like(steered))
    assert effect.caution.startswith(told)
    assert bool(effect.caution) == bool(told)
    assert effect.caution in str(effect)


def test_the_same_effect_in_every_cell_and_alone() -> None:
    steered = (RANDOM.random((3, 12, 2)) < 0.4).astype(float)
    low, high, covers = statistics.cell_intervals(steered, np.zeros_like(steered))
    alone = [statistics.paired_effect(cell, np.zeros_like(cell)) for cell in steered]
    assert [(effect.low, effect.high) for effect in alone] == list(zip(low, high, strict=True))
    assert covers == alone[0].covers == "prompts and samples"


# -- outcomes --------------------------------------------------------------------------------------------------


def effect_of(values: np.ndarray) -> al.Effect:
    return statistics.paired_effect(values[:, None], np.zeros((len(values), 1)))


def test_small_is_shown_by_two_one_sided_tests() -> None:
    effect = effect_of(0.1 + np.linspace(-1, 1, 21))
    edge = effect.interval(0.9).high
    assert edge < effect.high
    assert (effect.equivalent(edge * 1.001), effect.equivalent(edge * 0.999)) == (True, False)
    assert effect.outcome() == "undecided"
    assert effect.outcome(margin=2.0) == "shown to be small"
    with pytest.raises(al.SettingError, match="margin is 0"):
        effect.equivalent(0)


def test_what_never_varied_shows_nothing_in_counts() -> None:
    assert not effect_of(np.zeros(30) + 2.0).equivalent(3.0)


def test_nulls_that_do_as_much_leave_an_effect_undecided() -> None:
    effect = effect_of(1.0 + np.linspace(-1, 1, 21))
    assert effect.outcome() == "shown"
    assert effect.outcome(alternative="less") == "undecided"
    assert effect.with_nulls(np.linspace(-2, 2, 99)).outcome() == "undecided"
    assert effect.with_nulls(np.linspace(-0.5, 0.5, 99)).outcome() == "shown"
    few = np.append(np.linspace(-0.3, 0.3, 18), 1.1)
    assert effect.with_nulls(few).outcome(alternative="greater") == "undecided"  # counted, p is .1
    assert effect.with_nulls(few - 0.2).outcome(alternative="greater") == "shown"
    assert (
        effect.with_nulls(np.linspace(-1.2, 0.98, 19)).outcome(alternative="greater") == "undecided"
    )  # p .05, and .055
    assert effect.with_nulls(np.zeros(18)).outcome() == "undecided"


def test_the_share_that_is_steered_backwards() -> None:
    assert effect_of(np.array([1.0, 2.0, -0.5, 3.0])).wrong_way == 0.25
    assert effect_of(-np.array([1.0, 2.0, -0.5, 3.0])).wrong_way == 0.25
    assert np.isnan(effect_of(np.array([1.0, -1.0])).wrong_way)


def test_effect_minus_nulls_by_hand() -> None:
    values = np.array([1.5, 2.0, 3.5, 4.0])
    nulls = np.array([[0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 2.0, 2.0], [0.5, 0.0, 1.0, 1.5]])
    found = effect_of(values).with_nulls(nulls.mean(axis=1), nulls).above_nulls()
    contrast = values - nulls.mean(axis=0)
    parts = np.array([contrast.var(ddof=1) / 4, nulls.mean(axis=1).var(ddof=1) / 3])
    degrees = parts.sum() ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 2)
    half = t_quantile(0.975, degrees) * parts.sum() ** 0.5
    assert (found.mean, found.low, found.high) == pytest.approx(
        (contrast.mean(), contrast.mean() - half, contrast.mean() + half)
    )
    with pytest.raises(al.SettingError, match="use nulls=20"):
        effect_of(values).above_nulls()
    with pytest.raises(al.SettingError, match="do not match 3 nulls"):
        effect_of(values).with_nulls(nulls.mean(axis=1), nulls[:, :3])


def test_standardised_by_prompt_is_that_of_each_prompt() -> None:
    nulls = np.array([[0.0, 1.0], [2.0, 1.0]])
    found = effect_of(np.array([3.0, 3.0])).with_nulls(nulls.mean(axis=1), nulls).standardised_by_prompt
    assert found[0] == pytest.approx(2 / 2**0.5)
    assert np.isnan(found[1])
    assert effect_of(np.array([1.0, 3.0])).per_prompt == pytest.approx(2 / 2**0.5)


def test_an_effect_tells_how_far_its_p_hangs_on_the_draw() -> None:
    effect = effect_of(np.array([5.0, 6.0])).with_nulls(np.linspace(-1, 1, 19))
    assert effect.p_interval() == pytest.approx((0.0, 1 - 0.025 ** (1 / 19)))
    assert np.isnan(effect_of(np.array([5.0, 6.0])).p_interval()).all()


# -- several pairs, several findings, power --------------------------------------------------------------------


def test_pairs_that_agree_exactly_leave_the_spread_over_prompts() -> None:
    row = np.array([1.0, 2.0, 3.0, 6.0])
    found = statistics.concept_effect(np.stack([row, row, row]))
    half = t_quantile(0.975, 3) * row.std(ddof=1) / 2
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))
    with pytest.raises(al.SettingError, match="two or more of each"):
        statistics.concept_effect(row[None])


def test_false_discovery_rates_by_hand() -> None:
    found = statistics.benjamini_hochberg(np.array([0.8, 0.01, np.nan, 0.02, 0.03]))
    assert np.isnan(found[2])
    assert found[[0, 1, 3, 4]].tolist() == pytest.approx([0.8, 0.04, 0.04, 0.04])


def test_lists_are_adjusted_for_what_each_null_finds_in_any_of_them() -> None:
    nulls = np.array([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    first, second = statistics.adjusted_over_lists([np.array([9.0, 3.5]), np.zeros(0)], nulls)
    # 9 leads its list, as one null does the other, from which it stands further apart; 3.5 is second, and three nulls
    # are first or second in a list.
    assert first.tolist() == [0.2, 0.8]
    near = statistics.adjusted_over_lists([np.array([4.1]), np.zeros(0)], nulls)
    assert near[0].tolist() == [0.4]  # it leads by less than the other list's first
    assert len(second) == 0
    assert statistics.adjusted_over_lists([np.array([9.0])], np.full((1, 4), np.nan))[0].tolist() == [1.0]


def test_flipped_signs_by_hand() -> None:
    assert statistics.sign_flip_p(np.array([[1.0, 1.0, 1.0]])).tolist() == [0.25]
    assert statistics.sign_flip_p(np.array([[1.0, -1.0, 1.0]])).tolist() == [1.0]
    assert np.isnan(statistics.sign_flip_p(np.array([[np.nan, np.nan]]))[0])


def test_power_is_that_of_simulated_t_tests() -> None:
    random = np.random.default_rng(1)
    for effect, prompts in ((0.5, 20), (0.8, 10)):
        drawn = random.normal(effect, 1.0, size=(20_000, prompts))
        t = drawn.mean(axis=1) / drawn.std(axis=1, ddof=1) * prompts**0.5
        by_hand = (np.abs(t) > t_quantile(0.975, prompts - 1)).mean()
        assert statistics.effect_power(effect, 1.0, prompts) == pytest.approx(by_hand, abs=0.015)
