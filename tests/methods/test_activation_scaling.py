"""Activation scaling: what is learnt, where it lands, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens import methods
from actadd_lens.models.protocol import Spot
from tests.methods.test_adapter import assert_as_before, logits, state

TASKS = [((0, 5, 7, 3), 20, 21), ((0, 5, 8, 3), 22, 23), ((0, 6, 7, 3), 24, 25)]


def learnt(model: Any, tasks: Any = TASKS, **settings: Any) -> methods.ActivationScaling:
    return methods.activation_scaling(model, tasks, **{"steps": 4, "progress": False, **settings})


def same(left: methods.ActivationScaling, right: methods.ActivationScaling) -> bool:
    equal = [torch.equal(values, right.values[spot]) for spot, values in left.values.items()]
    return left.history == right.history and all(equal)


@pytest.mark.slow
def test_the_answers_flip_in_both_directions_and_the_model_stays_as_it_was(quickest: Any) -> None:
    before = state(quickest)
    found = learnt(quickest, steps=45, learning_rate=0.1, faithfulness=0.05, sites=("attn_out", "mlp_out", "resid_pre"))
    report = methods.evaluate_scaling(quickest, found, TASKS)
    assert report.flips == {1.0: 1.0, -1.0: 1.0}
    assert report.effect(1.0).mean + report.effect(-1.0).mean == pytest.approx(1.0), "each answer won once before"
    assert found.history[-1]["loss"] < 0.5 * found.history[0]["loss"]
    assert_as_before(quickest, before)
    assert all(weight.grad is None for weight in quickest.parameters())


@pytest.mark.parametrize("kind", ["scalars", "vectors", "probes"])
def test_what_was_learnt_is_what_hooks_by_hand_do(quickest: Any, kind: Any) -> None:
    found = learnt(quickest, learn=kind, sites=("attn_out", "resid_pre"))
    tokens = torch.tensor([TASKS[0][0], TASKS[1][0]])

    def hook(spot: Spot) -> Any:
        values = found.values[spot]

        def change(stream: torch.Tensor, hook: Any) -> torch.Tensor:
            if kind == "vectors":
                return stream - 2 * values
            factor = values if kind == "scalars" else (stream * values).sum(dim=-1, keepdim=True)
            return stream * (1 - 2 * factor)

        return change

    hooks = [(item.hook_name, hook(item.spot)) for item in found.interventions(-2)]
    with torch.no_grad(), al.steer(quickest, found.interventions(-2)):
        steered = quickest(tokens)
    with torch.no_grad():
        assert (steered - quickest.run_with_hooks(tokens, fwd_hooks=hooks)).abs().max() < 1e-4


def test_a_coefficient_of_zero_leaves_the_logits_bit_for_bit(quickest: Any) -> None:
    plain = logits(quickest)
    with al.steer(quickest, learnt(quickest).interventions(0)):
        assert torch.equal(logits(quickest), plain)


def test_scalars_leave_what_is_written_after_the_prompt_alone(quickest: Any) -> None:
    found = learnt(quickest, steps=10, learning_rate=0.1)
    longer = torch.tensor([[*TASKS[0][0], 9]])
    kept = {}
    with al.steer(quickest, found.interventions(1)), torch.no_grad():
        _, cache = quickest.run_with_cache(longer)
        kept = {item.hook_name: cache[item.hook_name][0, 4] for item in found.interventions(1)}
    first = found.interventions(1)[0].hook_name
    _, plain = quickest.run_with_cache(longer)
    assert not torch.equal(plain[first][0, 1], cache[first][0, 1])
    assert torch.equal(plain[first][0, 4], kept[first])


def test_a_shorter_prompt_is_refused(quickest: Any) -> None:
    with pytest.raises(al.PositionError), al.steer(quickest, learnt(quickest).interventions(1)):
        logits(quickest, torch.tensor([[0, 5]]))
    with pytest.raises(al.PromptError, match="3 tokens"):
        methods.evaluate_scaling(quickest, learnt(quickest), [((0, 5, 7), 20, 21)])


@pytest.mark.slow
def test_it_goes_on_bit_for_bit_from_a_checkpoint(quickest: Any, tmp_path: Path) -> None:
    path, settings = tmp_path / "checkpoint", {"batch_size": 2, "seed": 3}
    learnt(quickest, steps=10, checkpoint=path, **settings)
    found = learnt(quickest, steps=13, checkpoint=path, **settings)
    assert same(found, learnt(quickest, steps=13, **settings))
    with pytest.raises(al.SettingError, match="margin"):
        learnt(quickest, steps=13, checkpoint=path, margin=2.0, **settings)


def test_what_is_best_on_other_tasks_is_kept_and_patience_ends_it(quickest: Any) -> None:
    found = learnt(quickest, TASKS[:2], held_out=TASKS[2:], patience=3, steps=20, learning_rate=0.5)
    looks = [row["held out"] for row in found.history]
    assert found.settings["kept_step"] == looks.index(min(looks)) + 1
    assert len(looks) < 20


def test_a_file_holds_all_of_it_and_another_model_is_refused(quickest: Any, load: Any, tmp_path: Path) -> None:
    found, path = learnt(quickest), tmp_path / "scaling.safetensors"
    found.save(path)
    loaded = methods.ActivationScaling.load(path)
    assert same(loaded, found)
    assert (loaded.kind, loaded.provenance, loaded.prompt_length) == ("scalars", found.provenance, 4)
    other = load("storybook", "bridge")
    with pytest.raises(al.FingerprintError), al.steer(other, loaded.interventions(1)):
        pass
    with pytest.raises(al.VectorFileError, match="adapter"):
        methods.Adapter.load(path)


def test_nulls_have_the_same_size_and_parts_keep_the_largest(quickest: Any) -> None:
    found = learnt(quickest, steps=10)
    size = sum(float(values.abs().sum()) for values in found.values.values())
    for kind in ("shuffled", "gaussian"):
        null = found.null(0, kind=kind)
        assert sum(float(values.abs().sum()) for values in null.values.values()) == pytest.approx(size, rel=1e-5)
        assert not any(torch.equal(null.values[spot], values) for spot, values in found.values.items())
        assert all(torch.equal(null.values[spot], found.null(0, kind=kind).values[spot]) for spot in found.values)
    numbers = found.frame()["value"].abs()
    kept = found.largest(3).frame()["value"]
    assert (kept != 0).sum() == 3
    assert kept.abs().max() == numbers.max()
    assert (found.without_small(float(numbers.median())).frame()["value"] != 0).sum() < len(numbers)


def test_layers_are_ours_and_a_papers_output_of_a_block_is_one_higher(quickest: Any) -> None:
    last = quickest.cfg.n_layers
    ours = learnt(quickest, steps=1, sites="resid_pre")
    theirs = learnt(quickest, steps=1, sites="resid_pre", paper_layers=range(last))
    assert list(ours.values) == list(theirs.values) == [Spot(layer) for layer in range(1, last + 1)]
    assert list(learnt(quickest, steps=1, sites=["attn_out", (2, "mlp_out")], layers=[1]).values) == [
        Spot(1, "attn_out"),
        Spot(2, "mlp_out"),
    ]


def test_probes_take_prompts_of_other_lengths_and_scalars_do_not(quickest: Any) -> None:
    tasks = [*TASKS, ((0, 5, 7, 3, 9, 11), 20, 21)]
    assert learnt(quickest, tasks, learn="probes").prompt_length is None
    with pytest.raises(al.PromptError, match="6 tokens"):
        learnt(quickest, tasks)


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"tasks": []}, al.PromptError, "No task"),
        ({"tasks": ["text"]}, al.PromptError, "is not a task"),
        ({"tasks": [((0, 5), 7, 7)]}, al.PromptError, "same answer"),
        ({"tasks": [("A text", " wedding cake", " b")]}, al.PromptError, "tokens for"),
        ({"sites": ()}, al.SettingError, "sites"),
        ({"sites": "stream"}, al.SettingError, "site"),
        ({"sites": [(9, "mlp_out")]}, al.LayerError, "9"),
        ({"layers": [1], "paper_layers": [1]}, al.SettingError, "not both"),
        ({"learn": "numbers"}, al.SettingError, "learn"),
        ({"margin": -1}, al.SettingError, "margin"),
        ({"minimality": float("inf")}, al.SettingError, "minimality"),
        ({"seed": -1}, al.SettingError, "seed"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(
    unchecked: Any, quickest: Any, settings: Any, error: Any, told: str
) -> None:
    with pytest.raises(error, match=told):
        learnt(quickest, **settings)


def test_pictures_show_each_place(quickest: Any) -> None:
    found = learnt(quickest)
    assert found.plot() is not None
    frame = found.frame()
    assert len(frame) == 2 * quickest.cfg.n_layers * 4
    assert set(frame["site"]) == {"attn_out", "mlp_out"}
