"""KL-then-steer: training that leaves no trace, goes on bit for bit, and keeps what does best elsewhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens import methods
from tests.methods.test_adapter import assert_as_before, state

BENIGN = ["The girl looked at the old dog.", "She felt that it was a good day.", "He said no.", "The day was good."]


def vector(model: Any, layer: int = 2) -> al.SteeringVector:
    return 2 * al.compute_steering_vector(model, ("Love", "Hate"), layer=layer).row(-1)


def train(model: Any, vectors: Any = None, **settings: Any) -> methods.Adapter:
    given = {"probability": 0.7, "rank": 2, "batch_size": 3, "steps": 4, "progress": False, **settings}
    return methods.kl_then_steer(model, [vector(model)] if vectors is None else vectors, BENIGN, **given)


def same(left: methods.Adapter, right: methods.Adapter) -> bool:
    ours, theirs = ([matrix for pair in adapter.matrices.values() for matrix in pair] for adapter in (left, right))
    return left.history == right.history and all(map(torch.equal, ours, theirs))


def test_it_lowers_the_loss_and_leaves_the_model_as_it_was(quickest: Any) -> None:
    before = state(quickest)
    slopes = [None if weight.grad is None else weight.grad.clone() for weight in quickest.parameters()]
    adapter = train(quickest, steps=16, coefficients=[2.0, -2.0], batch_size=None, learning_rate=2e-2)
    losses = [row["loss"] for row in adapter.history]
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:2])
    assert_as_before(quickest, before)
    for weight, slope in zip(quickest.parameters(), slopes, strict=True):
        assert weight.grad is None if slope is None else torch.equal(weight.grad, slope)


def test_a_coefficient_of_zero_costs_nothing_before_training(quickest: Any) -> None:
    assert train(quickest, steps=1, coefficients=[0.0]).history[0]["loss"] == pytest.approx(0.0, abs=1e-6)


def test_a_seed_makes_it_the_same_and_another_seed_another(quickest: Any) -> None:
    assert same(train(quickest), train(quickest))
    assert not same(train(quickest), train(quickest, seed=1))


def test_open_steering_and_switched_off_gradients_are_not_its_business(quickest: Any) -> None:
    with al.steer(quickest, 5 * vector(quickest, layer=1), position="all"), torch.no_grad():
        inside = train(quickest)
    assert same(inside, train(quickest))


def test_it_goes_on_bit_for_bit_after_an_interruption(quickest: Any, tmp_path: Path) -> None:
    calls: list[int] = []
    stop = [12]
    wanted = vector(quickest)

    def read(model: Any) -> Any:
        calls.append(1)
        if len(calls) == stop[0]:
            raise KeyboardInterrupt
        return wanted

    settings = {"steps": 13, "held_out": BENIGN[:2], "check_every": 50}
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(quickest, read, checkpoint=path, **settings)
    stop[0] = 0
    calls.clear()
    found = train(quickest, read, checkpoint=path, **settings)
    assert len(calls) == 3, "the first ten steps are not run again"
    assert same(found, train(quickest, read, **settings))
    assert same(train(quickest, read, checkpoint=path, **settings), found), "nothing is left to do"


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(quickest: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    train(quickest, checkpoint=path)
    with pytest.raises(al.SettingError, match="its coefficient is 1.0, here it is 2.0"):
        train(quickest, checkpoint=path, coefficient=2.0)
    with pytest.raises(al.SettingError, match="given"):
        train(quickest, [vector(quickest, layer=1).at_layer(2)], checkpoint=path)
    with pytest.raises(al.SettingError, match="has gone 4 steps"):
        train(quickest, checkpoint=path, steps=3)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(al.VectorFileError, match="damaged"):
        train(quickest, checkpoint=path)
    with pytest.raises(al.SettingError, match="no folder"):
        train(quickest, checkpoint=tmp_path / "absent" / "file")


def test_the_adapter_that_is_best_on_other_texts_is_kept_and_patience_ends_it(quickest: Any) -> None:
    adapter = train(quickest, steps=14, held_out=BENIGN[:1], check_every=1, patience=2, learning_rate=0.5)
    looks = {step: row["held out"] for step, row in enumerate(adapter.history, 1) if "held out" in row}
    assert adapter.settings["kept_step"] == min(looks, key=lambda step: looks[step])
    assert len(adapter.history) < 14


def test_training_can_go_on_from_an_adapter_and_draws_of_several_vectors(quickest: Any) -> None:
    begun = train(quickest, steps=2)
    found = train(quickest, [[vector(quickest)], [vector(quickest, layer=1)]], start=begun, steps=6, probability=1.0)
    assert found.scale == begun.scale
    assert not same(found, begun)
    assert len(found.settings["vectors"]) == 2


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"probability": 2}, al.SettingError, "probability"),
        ({"coefficient": 0}, al.SettingError, "coefficient"),
        ({"steps": 0}, al.SettingError, "steps"),
        ({"batch_size": 0}, al.SettingError, "batch_size"),
        ({"learning_rate": float("nan")}, al.SettingError, "learning_rate"),
        ({"patience": 0}, al.SettingError, "patience"),
        ({"weights": "W_X"}, al.SettingError, "W_X"),
        ({"vectors": [al.replace("clean", layer=1)]}, al.CoefficientError, "coefficient"),
        ({"vectors": []}, al.VectorError, "No steering vector"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(
    unchecked: Any, quickest: Any, settings: Any, error: Any, told: str
) -> None:
    with pytest.raises(error, match=told):
        train(quickest, **settings)


def test_numbers_that_overflow_are_an_error(quickest: Any) -> None:
    with pytest.raises(al.NonFiniteError, match="learning_rate"):
        train(quickest, steps=8, coefficients=[1.0], learning_rate=1e30)


def test_the_tradeoff_is_measured_from_the_model_as_it_is(quickest: Any) -> None:
    adapter = train(quickest, steps=12, coefficients=[2.0], batch_size=None, learning_rate=2e-2)
    wanted = vector(quickest)
    prompts = ["The girl", "The old dog", "She felt"]
    metric = al.metrics.logit_difference(10, 11)
    found = al.adapter_tradeoff(
        quickest,
        adapter,
        wanted,
        prompts=prompts,
        metric=metric,
        benign=BENIGN,
        coefficients=[-2, -1, 1, 2],
        progress=False,
    )
    frame = found.frame().set_index(["condition", "coefficient"])
    assert frame.loc[("model", 0.0), "effect"] == 0
    assert frame.loc[("model", 0.0), "side effect"] == pytest.approx(0, abs=1e-6)
    steered = al.measure(quickest, prompts, 2 * wanted, metric, position="all+bos", progress=False)
    assert frame.loc[("model", 2.0), "effect"] == pytest.approx(steered.effect.mean, abs=1e-4)
    with adapter.on(quickest):
        ours = al.measure(quickest, prompts, 2 * wanted, metric, position="all+bos", progress=False)
    assert frame.loc[("adapter", 2.0), "effect"] == pytest.approx(
        float((ours.steered - steered.unsteered).mean()), abs=1e-4
    )
    side_effects = frame["side effect"]
    assert side_effects["adapter", 2.0] < side_effects["model", 2.0]
    assert found.plot().get_xlabel().startswith("effect")


def test_what_the_model_alone_pays_for_an_effect_is_read_between_coefficients() -> None:
    effects = np.array([[[0.0], [1.0], [2.0], [-1.0]], [[0.0], [0.5], [3.0], [-1.5]]])
    sides = np.array(
        [[[0.0, 0.0], [1.0, 3.0], [4.0, 4.0], [1.0, 1.0]], [[0.0, 0.0], [1.5, 1.5], [9.0, 9.0], [2.0, 2.0]]]
    )
    found = al.AdapterTradeoff(al.metrics.entropy(), (0.0, 1.0, 2.0, -1.0), effects, sides)
    frame = found.frame().set_index(["condition", "coefficient"])
    assert frame.loc[("adapter", 1.0), "model's coefficient for it"] == 0.5
    assert frame.loc[("adapter", 1.0), "model's side effect for it"] == 1.0
    beside = found.beside_smaller(1.0)
    assert beside is not None
    assert beside.mean == pytest.approx(0.5)
    assert found.beside_smaller(2.0) is None
    with pytest.raises(al.SettingError):
        found.beside_smaller(7.0)
