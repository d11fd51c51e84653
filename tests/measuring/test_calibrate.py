"""Calibration: within the budget on one half, reported on the other, the nulls by the same steps."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens.measuring.budget import RUNGS
from actadd_lens.statistics import split_prompts

TEXTS = al.storybook.neutral_prompts()[:12]
BUDGET = 0.2
SETTINGS: dict[str, Any] = {"at_most": BUDGET, "progress": False}


@pytest.fixture(scope="module")
def vector(quickest: Any) -> al.SteeringVector:
    return al.compute_steering_vector(quickest, (" happy", " sad"), layer=1).row(-1).at(position="all")


@pytest.fixture(scope="module")
def found(quickest: Any, vector: al.SteeringVector) -> al.Calibration:
    return al.calibrate(quickest, vector, TEXTS, effect=al.metrics.entropy(), nulls=3, **SETTINGS)


def damage_of(model: Any, vector: Any, texts: Any) -> float:
    metric = al.metrics.kl_divergence("unsteered || steered")
    return float(al.measure(model, texts, vector, metric, progress=False).effect.mean)


def test_the_choice_is_the_largest_within_the_budget_on_its_own_half(quickest: Any, found: al.Calibration) -> None:
    assert set(found.chosen_on) == {TEXTS[index] for index in split_prompts(len(TEXTS))[0]}
    assert not set(found.chosen_on) & set(found.reported_on)
    step = 2 ** (1 / 16)
    assert not found.is_top
    assert damage_of(quickest, found.vector, found.chosen_on) <= BUDGET
    assert damage_of(quickest, step * found.vector, found.chosen_on) > BUDGET


def test_the_report_is_that_of_measure_on_the_other_half(quickest: Any, found: al.Calibration) -> None:
    assert found.damage.mean == pytest.approx(damage_of(quickest, found.vector, found.reported_on), rel=1e-4)
    direct = al.measure(quickest, found.reported_on, found.vector, al.metrics.entropy(), progress=False).effect
    assert found.effect is not None
    assert np.allclose(found.effect.by_prompt, direct.by_prompt, atol=1e-4)
    assert found.damage.n_prompts == len(found.reported_on)


def test_each_null_is_calibrated_by_the_same_steps(
    quickest: Any, vector: al.SteeringVector, found: al.Calibration
) -> None:
    nulls = al.null_vectors(quickest, vector, n=3)
    assert found.effect is not None
    for null, coefficient, effect in zip(nulls, found.null_coefficients, found.effect.nulls, strict=True):
        alone = al.calibrate(quickest, null, TEXTS, effect=al.metrics.entropy(), **SETTINGS)
        assert alone.coefficient == pytest.approx(coefficient, rel=1e-5)
        assert alone.effect is not None
        assert alone.effect.mean == pytest.approx(effect, abs=1e-4)


def test_the_size_that_was_given_does_not_matter_and_the_sign_stays(
    quickest: Any, vector: al.SteeringVector, found: al.Calibration
) -> None:
    given = al.calibrate(quickest, 40 * vector, TEXTS, **SETTINGS)
    assert given.coefficient == pytest.approx(found.coefficient, rel=1e-5)
    backwards = al.calibrate(quickest, -vector, TEXTS, **SETTINGS)
    assert backwards.coefficient < 0
    assert damage_of(quickest, backwards.vector, backwards.chosen_on) <= BUDGET


def test_budgets_that_are_never_or_at_once_overdrawn(quickest: Any, vector: al.SteeringVector) -> None:
    all_of_it = al.calibrate(quickest, vector, TEXTS, at_most=1e6, progress=False)
    assert all_of_it.is_top
    assert all_of_it.curve[-1].size == pytest.approx(RUNGS[-1])
    nothing = al.calibrate(quickest, vector, TEXTS, at_most=1e-12, progress=False)
    assert nothing.coefficient == 0
    assert nothing.damage.mean == 0


def test_several_vectors_grow_together(quickest: Any, vector: al.SteeringVector) -> None:
    pair = [vector, 2 * vector.at_layer(2)]
    found = al.calibrate(quickest, pair, TEXTS, **SETTINGS)
    first, second = found.interventions
    assert isinstance(first, al.SteeringVector)
    assert isinstance(second, al.SteeringVector)
    assert second.coefficient == pytest.approx(2 * first.coefficient)
    with pytest.raises(al.SettingError, match="interventions"):
        _ = found.vector


def test_a_result_shows_itself(found: al.Calibration) -> None:
    frame = found.frame()
    assert frame["chosen"].sum() == 1
    assert list(frame["coefficient"]) == sorted(frame["coefficient"])
    assert "nulls" in repr(found)
    assert len(found.plot()) == 2


def test_wrong_input_is_refused_before_anything_runs(quickest: Any, vector: al.SteeringVector) -> None:
    for budget in (0, -1, math.inf, math.nan):
        with pytest.raises(al.SettingError, match="at_most"):
            al.calibrate(quickest, vector, TEXTS, at_most=budget, progress=False)
    with pytest.raises(al.SettingError, match="8 or more"):
        al.calibrate(quickest, vector, TEXTS[:7], progress=False)
    with pytest.raises(al.CoefficientError, match="no coefficient"):
        al.calibrate(quickest, al.project_out(vector), TEXTS, progress=False)
    with pytest.raises(al.CoefficientError, match="zero"):
        al.calibrate(quickest, al.SteeringVector.from_tensor(torch.zeros(32), layer=1, source="0"), TEXTS,
                     progress=False)  # fmt: skip
