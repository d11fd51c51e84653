"""The first-order estimate against finite differences, and the effects against `measure`."""

from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al

PROMPTS = ["The girl looked at the old dog", "I went to my friend and she said that"]
METRICS = [al.metrics.logit_difference(300, 410), al.metrics.next_token_logprob(290), al.metrics.entropy(),
           al.metrics.cross_entropy()]  # fmt: skip


def vector(model: Any, layer: int = 1) -> al.SteeringVector:
    return al.compute_steering_vector(model, ("I love weddings", "I hate"), layer=layer)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_slope_is_what_small_coefficients_do(model: Any, metric: al.Metric) -> None:
    v = vector(model)
    v = v / float(v.norms.max())
    h = 0.03
    found = al.linearity(model, PROMPTS, v, metric, coefficients=[-h, h])
    by_hand = (found.steered[1] - found.steered[0]) / (2 * h)
    assert found.slopes == pytest.approx(by_hand, rel=0.03, abs=0.01 * np.abs(by_hand).max() + 2e-4)


def test_slopes_of_several_vectors_and_of_every_token_follow_finite_differences(small: Any) -> None:
    for vectors, position in (([vector(small), vector(small, 3)], 2), ([vector(small).row(-1)], "all")):
        some = [one / (10 * float(one.norms.max())) for one in vectors]
        found = al.linearity(small, PROMPTS, some, METRICS[0], coefficients=[-0.5, 0.5], position=position)
        by_hand = found.steered[1] - found.steered[0]
        assert found.slopes == pytest.approx(by_hand, rel=0.03, abs=1e-3)


def test_rows_share_the_slope_and_zero_rows_have_none(small: Any) -> None:
    v = 2 * vector(small)
    found = al.linearity(small, PROMPTS, v, METRICS[0], coefficients=[1])
    assert sum(found.row_slopes) == pytest.approx(found.slope, rel=1e-6)
    assert found.row_slopes[0] == found.row_slopes[1] == 0.0
    for row in range(2, v.rows):
        alone = al.linearity(small, PROMPTS, v.row(row), METRICS[0], coefficients=[1], position=row)
        assert alone.slope == pytest.approx(found.row_slopes[row], rel=1e-3, abs=1e-4)
    assert found.row_frame()["slope"].tolist() == list(found.row_slopes)


def test_metric_that_nothing_moves_has_no_slope_and_no_effect(small: Any) -> None:
    v = vector(small, layer=3).row(-1)
    weights = torch.linspace(-1, 1, small.cfg.d_vocab)

    def flat(logits: torch.Tensor) -> torch.Tensor:
        return 0.0 * (logits @ weights) + 2.0

    found = al.linearity(small, PROMPTS[0], v, flat, coefficients=[-1, 1])
    assert found.slope == 0.0
    assert not (found.steered - found.unsteered).any()


def test_effects_and_nulls_are_those_of_measure(small: Any) -> None:
    v = vector(small)
    found = al.linearity(small, PROMPTS, v, METRICS[1], coefficients=[3, -1, 0], nulls=4)
    assert found.coefficients == (-1.0, 0.0, 3.0)
    for index, factor in enumerate(found.coefficients):
        measured = al.measure(small, PROMPTS, factor * v, METRICS[1])
        assert found.steered[index] == pytest.approx(measured.steered, abs=1e-5)
    nulls = al.measure(small, PROMPTS, v, METRICS[1], nulls=4)
    scaled = [al.measure(small, PROMPTS, 3 * null, METRICS[1]).effect.mean for null in al.null_vectors(small, v, n=4)]
    assert found.nulls.shape == (4, 3)
    assert found.nulls[:, 2] == pytest.approx(scaled, abs=1e-5)
    assert found.effects[2].standardised == pytest.approx(
        (found.effects[2].mean - np.mean(scaled)) / np.std(scaled, ddof=1), rel=1e-2
    )
    assert not found.nulls[:, 1].any()
    assert len(nulls.nulls) == 4


def test_divergence_from_the_unsteered_model_has_slope_zero(small: Any) -> None:
    found = al.linearity(small, PROMPTS, vector(small), al.metrics.kl_divergence(), coefficients=[1])
    assert found.slope == pytest.approx(0.0, abs=1e-5)


def test_weights_keep_no_gradient_and_no_grad_outside_does_not_matter(small: Any) -> None:
    plain = al.linearity(small, PROMPTS, vector(small), METRICS[0], coefficients=[1]).slopes
    with torch.no_grad():
        inside = al.linearity(small, PROMPTS, vector(small), METRICS[0], coefficients=[1]).slopes
    assert plain == pytest.approx(inside)
    assert all(weight.grad is None for weight in small.parameters())
    assert all(not small.hook_dict[f"blocks.{layer}.hook_resid_pre"].fwd_hooks for layer in range(4))


def test_both_families_agree(load: Any) -> None:
    found = [al.linearity(load("gpt2", family), PROMPTS, vector(load("gpt2", family)), METRICS[0], nulls=2)
             for family in ("hooked", "bridge")]  # fmt: skip
    assert found[0].slopes == pytest.approx(found[1].slopes, rel=1e-3, abs=1e-4)
    assert np.allclose(found[0].steered, found[1].steered, atol=1e-3)


def test_results_show_themselves(small: Any) -> None:
    found = al.linearity(small, PROMPTS, vector(small), METRICS[1], nulls=3)
    assert {"effect", "first-order estimate", "null sd"} <= set(found.frame().columns)
    legend = found.plot().get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert "c × first-order estimate" in labels
    assert "first-order" in found._repr_html_()
