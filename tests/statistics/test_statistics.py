"""Intervals and p-values against numbers worked out by hand, and against simulated truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import actadd_lens as al
from actadd_lens.statistics import max_t_p, monte_carlo_p, paired_effect, split_prompts, standardised_effect
from actadd_lens.statistics.pvalues import Alternative


def test_an_effect_is_the_mean_difference_by_prompt() -> None:
    steered, unsteered = np.array([[1.0, 3.0], [5.0, 7.0]]), np.array([[0.0, 1.0], [1.0, 1.0]])
    effect = paired_effect(steered, unsteered)
    assert effect.by_prompt.tolist() == [1.5, 5.0]
    assert (effect.mean, effect.steered, effect.unsteered) == (3.25, 4.0, 0.75)
    assert (effect.n_prompts, effect.n_samples) == (2, 2)


def test_a_constant_effect_has_no_spread() -> None:
    noise = np.random.default_rng(0).normal(size=(12, 3))
    effect = paired_effect(noise + 2, noise)
    assert (effect.low, effect.mean, effect.high) == pytest.approx((2, 2, 2))


@pytest.mark.parametrize(
    ("prompts", "samples", "covers"),
    [(10, 4, "prompts and samples"), (2, 1, "prompts"), (1, 4, "samples only"), (1, 1, "nothing")],
)
def test_an_interval_says_what_it_covers(prompts: int, samples: int, covers: str) -> None:
    effect = paired_effect(np.random.default_rng(0).normal(size=(prompts, samples)), np.zeros((prompts, samples)))
    assert effect.covers == covers
    assert ("no interval" if covers == "nothing" else covers) in str(effect)
    assert np.isnan(effect.low) == np.isnan(effect.high) == (covers == "nothing")


def test_few_prompts_have_the_wide_interval_of_student_and_say_so() -> None:
    spread_over_prompts = np.arange(5.0)[:, None].repeat(5, axis=1) + 0.5
    effect = paired_effect(spread_over_prompts, np.zeros((5, 5)))
    half = 2.7764451 * np.arange(5.0).std(ddof=1) / np.sqrt(5)  # no skewness, so Student's own
    assert (effect.low, effect.high) == pytest.approx((2.5 - half, 2.5 + half))
    assert "few prompts" in str(effect)


def test_the_interval_is_that_of_the_mean_of_normal_numbers() -> None:
    differences = np.random.default_rng(1).normal(size=(400, 1))
    effect = paired_effect(differences, np.zeros((400, 1)), resamples=4000)
    half = 1.96 * differences.std() / 20
    assert effect.low == pytest.approx(differences.mean() - half, abs=0.012)
    assert effect.high == pytest.approx(differences.mean() + half, abs=0.012)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    random, hits, trials = np.random.default_rng(2), 0, 200
    for trial in range(trials):
        prompt_effects = random.normal(0.7, 1.0, size=(30, 1))
        steered = prompt_effects + random.normal(size=(30, 3))
        effect = paired_effect(steered, random.normal(size=(30, 3)), resamples=300, seed=trial)
        hits += effect.low <= 0.7 <= effect.high
    assert 0.91 <= hits / trials <= 0.995


def test_intervals_have_nothing_random_in_them() -> None:
    data = np.random.default_rng(3).normal(size=(12, 2))
    state = np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002  (the global state is looked at)
    first, other = (paired_effect(data, data * 0, seed=seed) for seed in (0, 1))
    assert (first.low, first.high) == (other.low, other.high)
    assert (np.random.get_state(legacy=False)["state"]["key"] == state).all()  # noqa: NPY002


@pytest.mark.parametrize(
    ("alternative", "expected"), [("greater", (1 + 2) / 6), ("less", (1 + 4) / 6), ("two-sided", (1 + 3) / 6)]
)
def test_p_values_by_hand(alternative: Alternative, expected: float) -> None:
    nulls = np.array([-3.0, 0.0, 1.0, 2.0, 5.0])
    assert monte_carlo_p(2.0, nulls, alternative) == pytest.approx(expected)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.integers(-6, 6))
def test_p_values_are_never_zero_and_count_ties(nulls: list[int], observed: int) -> None:
    expected = (1 + sum(null >= observed for null in nulls)) / (1 + len(nulls))
    assert monte_carlo_p(float(observed), np.array(nulls, dtype=float)) == pytest.approx(expected)
    assert 0 < expected <= 1


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 100), st.sampled_from(["greater", "less", "two-sided"]))
def test_adjusted_p_values_by_hand(nulls: int, cells: int, seed: int, alternative: Alternative) -> None:
    random = np.random.default_rng(seed)
    observed, table = random.integers(-3, 4, cells).astype(float), random.integers(-3, 4, (nulls, cells)).astype(float)
    turn = {"greater": lambda x: x, "less": lambda x: -x, "two-sided": abs}[alternative]
    expected = []
    for value in observed:
        beyond = 0
        for row in table:
            beyond += max(turn(cell) for cell in row) >= turn(value)
        expected.append((1 + beyond) / (1 + nulls))
    found = max_t_p(observed, table, alternative)
    assert found.tolist() == pytest.approx(expected)
    alone = [monte_carlo_p(value, table[:, cell], alternative) for cell, value in enumerate(observed)]
    assert all(adjusted >= plain for adjusted, plain in zip(found, alone, strict=True))


def test_max_t_rejects_a_true_null_grid_about_as_often_as_it_should() -> None:
    random = np.random.default_rng(4)
    smallest = [max_t_p(random.normal(size=20), random.normal(size=(19, 20))).min() for _ in range(400)]
    assert np.mean(np.array(smallest) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_nulls_that_differ_by_rounding_only_have_no_spread() -> None:
    same = np.array([0.1 + 0.2, 0.3, 0.3])
    assert same.std() > 0
    assert np.isnan(standardised_effect(1.0, same))


def test_standardised_effects_by_hand() -> None:
    assert standardised_effect(7.0, np.array([1.0, 3.0, 5.0])) == pytest.approx((7 - 3) / 2)
    effect = paired_effect(np.full((3, 2), 7.0), np.zeros((3, 2))).with_nulls(np.array([1.0, 3.0, 5.0]))
    assert (effect.standardised, effect.p_value()) == (2.0, 0.25)
    assert np.isnan(paired_effect(np.ones((3, 2)), np.zeros((3, 2))).p_value())


@given(st.integers(8, 40), st.integers(0, 5))
def test_halves_are_apart_and_whole(count: int, seed: int) -> None:
    choose, report = split_prompts(count, seed=seed)
    assert sorted(choose + report) == list(range(count))
    assert abs(len(choose) - len(report)) <= 1
    assert (choose, report) == split_prompts(count, seed=seed)


def test_wrong_numbers_are_refused(unchecked: None) -> None:
    with pytest.raises(al.SettingError, match="7 prompts are too few.*use 8 or more"):
        split_prompts(7)
    with pytest.raises(al.SettingError, match=r"\(2, 1\) and \(3, 1\)"):
        paired_effect(np.zeros((2, 1)), np.zeros((3, 1)))
    with pytest.raises(al.SettingError, match="NaN or infinite"):
        paired_effect(np.array([[np.nan]]), np.zeros((1, 1)))
    with pytest.raises(al.SettingError, match="level is 1.5"):
        paired_effect(np.zeros((2, 1)), np.zeros((2, 1)), level=1.5)
    with pytest.raises(al.SettingError, match="needs nulls"):
        monte_carlo_p(1.0, np.zeros(0))
    with pytest.raises(al.SettingError, match="needs two nulls"):
        standardised_effect(1.0, np.zeros(1))
    with pytest.raises(al.SettingError, match="alternative 'more' is not known"):
        monte_carlo_p(1.0, np.zeros(3), "more")  # type: ignore[arg-type]  # the wrong input
