"""InferAligner: golden cases of the formula, and what holds without them."""

from functools import cache
from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens import methods
from actadd_lens.methods.infer_aligner import GateRule, Threshold
from actadd_lens.methods.reading import read_prompts
from actadd_lens.models import backend_of
from actadd_lens.models.protocol import Spot
from tests.methods import golden

CASES = golden.cases("infer_aligner")
HARMFUL = ["The bad wolf wanted to hurt the pig.", "He wanted to break the window.", "The man took her bag away."]
HARMLESS = ["The girl gave a flower to her mom.", "They ate a cake in the sun."]


@cache
def target_of(name: str, family: str, factor: float) -> Any:
    """The aligned model with what its MLPs write made smaller, as the cases have it."""
    golden.raw_model(name, family)  # skips where it is not there
    raw = golden.raw_model.__wrapped__(name, family)
    for block in raw.blocks:
        if family == "hooked":
            block.mlp.W_out.data *= factor
            block.mlp.b_out.data *= factor
        else:
            for parameter in block.mlp.out.parameters():
                parameter.data *= factor
    return raw


def models_of(case: dict[str, Any], family: str) -> tuple[Any, Any]:
    name = case["model_aligned"]["name"]
    aligned = golden.raw_model(name, family, sha256=case["model_aligned"]["sha256_model_safetensors"])
    return target_of(name, family, case["model_target"]["mlp_output_projection_factor"]), aligned


def found_in(case: dict[str, Any], family: str, rule: GateRule = "best") -> methods.InferAligner:
    target, aligned = models_of(case, family)
    thresholds: dict[str, Threshold] = {"midpoint": "midpoint", "mean_all": "mean"}
    return methods.infer_aligner(
        target,
        aligned,
        [prompt["ids"] for prompt in case["harmful"]],
        [prompt["ids"] for prompt in case["harmless"]],
        paper_layers=case["layers_shifted"],
        coefficient=case["alpha"],
        unit=case["ssv"].endswith("unit"),
        gate=rule,
        threshold=thresholds[case["threshold_rule"]],
    )


def variants(case: dict[str, Any], family: str) -> dict[str, Any]:
    best, each = found_in(case, family), found_in(case, family, "each")
    found = {
        "unsteered": (),
        "one_gate_all_tokens": best,
        "per_layer_all_tokens": each,
        "one_gate_last_token_onward": best.at(position="last"),
        "ungated_all_tokens": best.ungated,
    }
    return {name: steps for name, steps in found.items() if name in case["prompts"][0]}


@pytest.mark.shared
@pytest.mark.parametrize("chosen", CASES)
def test_vectors_thresholds_and_gates_are_as_calculated(chosen: Any) -> None:
    case, family = chosen
    found, kept = found_in(case, family), golden.tensors("infer_aligner")
    target, _ = models_of(case, family)
    assert found.best_layer == case["best_layer"] + 1
    assert [found.accuracy[layer + 1] for layer in range(len(case["accuracy_by_layer"]))] == pytest.approx(
        case["accuracy_by_layer"], abs=1e-5
    )
    thresholds = kept[f"{case['case']}/threshold_{case['threshold_rule']}"]
    for layer, raw in enumerate(kept[f"{case['case']}/srv_target_raw"]):
        gate = found.gates[layer + 1]
        assert golden.near(gate.direction.activations[0], raw / raw.norm())
        assert abs(gate.threshold - float(thresholds[layer])) < 1e-4
    theirs = kept[f"{case['case']}/ssv_aligned_raw"]
    for vector in found.vectors:
        raw = theirs[vector.layer - 1]
        assert golden.near(vector.activations[0], raw / raw.norm() if case["ssv"].endswith("unit") else raw)
    spots = [Spot(layer) for layer in sorted(found.gates)]
    read = read_prompts(backend_of(target), [prompt["ids"] for prompt in case["prompts"]], spots)
    for number, prompt in enumerate(case["prompts"]):
        scores = [
            float(read.of_prompts(spot)[number].float() @ found.gates[spot.layer].direction.activations[0])
            for spot in spots
        ]
        assert scores == pytest.approx(prompt["projections"], abs=1e-4)
        opened = [score > found.gates[spot.layer].threshold for score, spot in zip(scores, spots, strict=True)]
        assert opened == [bool(gate) for gate in prompt["gates_per_layer"]]
        assert opened[case["best_layer"]] == bool(prompt["gate_of_best_layer"])


@pytest.mark.shared
@pytest.mark.parametrize("chosen", CASES)
def test_log_probs_of_every_rule_are_as_calculated(chosen: Any) -> None:
    case, family = chosen
    golden.check_prompts("infer_aligner", case, models_of(case, family)[0], variants(case, family))


@pytest.mark.shared
@pytest.mark.parametrize(("chosen", "way"), golden.ways("infer_aligner"))
def test_greedy_text_of_every_rule_is_as_calculated(chosen: Any, way: str) -> None:
    case, family = chosen
    golden.check_texts(case, models_of(case, family)[0], variants(case, family), way)


@pytest.mark.shared
@pytest.mark.parametrize("chosen", CASES)
def test_gates_that_are_read_in_the_steered_stream_are_as_calculated(chosen: Any) -> None:
    case, family = chosen
    target, _ = models_of(case, family)
    found = found_in(case, family, "each")
    rows = found.running(target, [prompt["ids"] for prompt in case["prompts"]]).items
    for number, (prompt, row) in enumerate(zip(case["prompts"], rows, strict=True)):
        expected = [layer for layer in case["layers_shifted"] if prompt["gates_running_per_layer"][layer]]
        assert [vector.layer - 1 for vector in row] == expected
        told = prompt["running_per_layer_all_tokens"]
        log_probs = golden.last_log_probs(target, prompt["ids"], row)[torch.tensor(told["top_ids"])]
        assert (log_probs - torch.tensor(told["top_logprobs"])).abs().max() < 2e-4, number


def test_a_lower_layers_vector_may_shut_the_gates_above_it(small: Any) -> None:
    found = methods.infer_aligner(small, small, HARMFUL, HARMLESS, layers=[2, 3], coefficient=-50.0)
    (row,) = found.running(small, HARMFUL[:1]).items
    assert [vector.layer for vector in row] == [2]
    (row,) = found.times(0).running(small, HARMFUL[:1]).items
    assert [vector.layer for vector in row] == [2, 3]
    with pytest.raises(al.PromptError):
        found.running(small, [])


def test_the_gate_opens_on_harm_and_what_it_shuts_is_left_bit_for_bit(small: Any) -> None:
    found = methods.infer_aligner(small, small, HARMFUL, HARMLESS, layers=[2, 3], coefficient=2.0)
    assert found.accuracy[found.best_layer] == max(found.accuracy.values())
    scores = found.gate.scores(small, HARMFUL + HARMLESS)
    opened = (scores > found.gate.threshold).tolist()
    texts = al.complete(small, HARMFUL + HARMLESS, found, max_new_tokens=3, temperature=0)
    for prompt, is_open in enumerate(opened):
        if not is_open:
            assert texts.steered[prompt] == texts.unsteered[prompt]
    measured = al.measure(small, HARMFUL + HARMLESS, found, al.metrics.kl_divergence(), progress=False)
    assert [value > 0 for value in measured.steered.tolist()] == opened


def test_the_midpoint_lies_between_the_classes_and_the_mean_with_the_larger_one(small: Any) -> None:
    midpoint = methods.infer_aligner(small, small, HARMFUL, HARMLESS, layers=[2])
    mean = methods.infer_aligner(small, small, HARMFUL, HARMLESS, layers=[2], threshold="mean")
    harmful, harmless = (midpoint.gates[2].scores(small, texts) for texts in (HARMFUL, HARMLESS))
    assert midpoint.gates[2].threshold == pytest.approx(float(harmful.mean() + harmless.mean()) / 2, abs=1e-4)
    assert mean.gates[2].threshold == pytest.approx(float(torch.cat([harmful, harmless]).mean()), abs=1e-4)


def test_vectors_may_be_of_unit_norm_scaled_or_others(small: Any) -> None:
    found = methods.infer_aligner(small, small, HARMFUL, HARMLESS, layers=[2, 3], unit=True, coefficient=3.0)
    assert [float(vector.norms) for vector in found.vectors] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert [vector.coefficient for vector in found.times(2).vectors] == [6.0, 6.0]
    nulls = [al.null_vectors(small, vector, n=1)[0] for vector in found.vectors]
    assert found.with_vectors(nulls).gates is found.gates
    with pytest.raises(al.LayerError, match="other layers"):
        found.with_vectors(nulls[:1])
    assert {item.position for item in found} == {"all+bos"}
    assert {item.position for item in found.at(position="last")} == {"last"}


def test_models_of_other_shapes_are_refused(small: Any, load: Any) -> None:
    with pytest.raises(al.VectorError, match="share a base model"):
        methods.infer_aligner(small, load("storybook", "bridge"), HARMFUL, HARMLESS, layers=[2])


@pytest.mark.usefixtures("unchecked")
def test_settings_out_of_range_are_refused(quickest: Any) -> None:
    for wrong, told in (({"gate": "all"}, "best or each"), ({"threshold": 0.5}, "midpoint or mean")):
        with pytest.raises(al.SettingError, match=told):
            methods.infer_aligner(quickest, quickest, HARMFUL, HARMLESS, layers=[2], **wrong)
    with pytest.raises(al.LayerError, match="Give layer="):
        methods.infer_aligner(quickest, quickest, HARMFUL, HARMLESS)
    with pytest.raises(al.VectorError, match="the same"):
        methods.infer_aligner(quickest, quickest, HARMFUL, HARMFUL, layers=[2])
