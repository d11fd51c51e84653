"""A probe behind its own gate: against arithmetic by hand, and what it leaves alone."""

from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens import methods
from actadd_lens.methods.probe import _logistic

SAD = [
    "The dog lost his ball and was sad",
    "She was sad and cried all day",
    "He fell and it hurt",
    "Nobody came to play",
]
GLAD = ["The dog found his ball and was glad", "She was happy and sang all day", "He won and it was fun"]


def streams(model: Any, texts: list[str], layer: int) -> torch.Tensor:
    """The stream at the last token of each text, in double precision."""
    name = f"blocks.{layer}.hook_resid_pre"
    rows = [model.run_with_cache(model.to_tokens(text))[1][name][0, -1] for text in texts]
    return torch.stack(rows).detach().double()


def test_means_are_told_apart_at_their_midpoint(small: Any) -> None:
    found = methods.probe(small, SAD, GLAD, layer=2, fit="means")
    sad, glad = (streams(small, texts, 2).mean(dim=0) for texts in (SAD, GLAD))
    assert torch.allclose(found.vector.activations[0].double(), sad - glad, atol=1e-5)
    assert (found.vector.position, found.vector.layer, found.vector.coefficient) == ("all", 2, 1.0)
    unit = (sad - glad) / (sad - glad).norm()
    assert found.gate.threshold == pytest.approx(float((sad + glad) / 2 @ unit), abs=1e-5)
    assert found.gate.scores(small, SAD).tolist() == pytest.approx((streams(small, SAD, 2) @ unit).tolist(), abs=1e-4)


def test_the_plane_of_the_regression_is_where_its_loss_is_least() -> None:
    draw = np.random.default_rng(0)
    texts, others = (torch.tensor(draw.normal(mean, 1, size=(count, 5))) for mean, count in ((0.4, 12), (-0.4, 30)))
    ridge, size = 0.05, float(torch.cat([texts, others]).norm(dim=1).mean())
    normal, bias = _logistic(texts, others, ridge)

    def loss(weights: torch.Tensor, shift: float) -> float:
        sides = [-(torch.sigmoid(sign * (rows @ weights + shift)).log().mean()) for sign, rows in
                 ((1, texts), (-1, others))]  # fmt: skip
        return float(sides[0] + sides[1] + ridge * (weights * size).square().sum())

    least = loss(normal, bias)
    for _ in range(50):
        step = torch.tensor(draw.normal(size=5)) * 1e-3
        assert least < loss(normal + step, bias)
    assert least < min(loss(normal, bias + 1e-3), loss(normal, bias - 1e-3))


def test_it_acts_on_prompts_of_its_class_and_leaves_others_bit_for_bit(small: Any) -> None:
    found = methods.probe(small, SAD, GLAD, layer=2).times(-3)
    opened = found.opens(small, SAD + GLAD)
    assert opened.tolist() == [True] * len(SAD) + [False] * len(GLAD)
    assert found.accuracy(small, SAD, GLAD) == 1.0
    assert found.accuracy(small, GLAD, SAD) == 0.0
    texts = al.complete(small, SAD + GLAD, found, max_new_tokens=3, temperature=0)
    assert texts.steered[len(SAD) :] == texts.unsteered[len(SAD) :]
    measured = al.measure(small, SAD + GLAD, found, al.metrics.kl_divergence(), progress=False)
    assert [value > 0 for value in measured.steered.tolist()] == opened.tolist()


def test_behind_the_gate_it_does_what_its_vector_does(small: Any) -> None:
    found = methods.probe(small, SAD, GLAD, layer=2).times(2)
    gated, alone = (
        al.measure(small, SAD, what, al.metrics.kl_divergence(), progress=False) for what in (found, found.vector)
    )
    assert torch.equal(torch.as_tensor(gated.steered), torch.as_tensor(alone.steered))


def test_times_and_at_change_the_vector_and_not_the_gate(small: Any) -> None:
    found = methods.probe(small, SAD, GLAD, paper_layer=1, token=-2)
    assert (found.vector.layer, found.gate.token) == (2, -2)
    changed = found.times(-2).at(position="last")
    assert (changed.vector.coefficient, changed.vector.position) == (-2.0, "last")
    assert changed.gate is found.gate
    assert [item.vector for item in changed] == [changed.vector]


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_fitted_is_refused(quickest: Any) -> None:
    for wrong, told in (({"fit": "svm"}, "logistic or means"), ({"ridge": 0}, "above 0"), ({"token": "all"}, "token")):
        with pytest.raises(al.SettingError, match=told):
            methods.probe(quickest, SAD, GLAD, layer=2, **wrong)
    with pytest.raises(al.VectorError, match="nothing separates them"):
        methods.probe(quickest, SAD, SAD, layer=2)
    with pytest.raises(al.PromptError):
        methods.probe(quickest, SAD, [], layer=2)
