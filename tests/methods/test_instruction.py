"""Instruction following: the authors' golden cases, and what holds without them."""

from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens import methods
from actadd_lens.vectors.interventions import Intervention
from tests.methods import golden

CASES = golden.cases("instruct")
PAIRS = [("Tell me about a dog. Be brief.", "Tell me about a dog."), ("What is this? Be brief.", "What is this?")]


def model_of(case: dict[str, Any], family: str) -> Any:
    return golden.raw_model(case["model"], family, processed=case["weights"].startswith("HookedTransformer defaults"))


def found_in(part: dict[str, Any], model: Any) -> methods.Instruction:
    pairs = [(pair["with"], pair["without"]) for pair in part["pairs"]]
    return methods.instruction(model, pairs, paper_layer=part["layer"])


def steered(case: dict[str, Any], model: Any, run: dict[str, Any]) -> tuple[Intervention, ...]:
    one = found_in(case, model)
    first = one.set() if run["kind"] == "adjust_rs" else one.add(run["weight"])
    if not case.get("second"):
        return (first,)
    return (first, found_in(case["second"], model).add(case["second"]["weight"]))


@pytest.mark.shared
@pytest.mark.parametrize("chosen", CASES)
def test_direction_and_mean_projection_are_those_of_the_authors(chosen: Any) -> None:
    case, family = chosen
    found = found_in(case, model_of(case, family))
    kept = golden.tensors("instruct")
    assert found.direction.layer == case["equals_resid_pre_layer"]
    assert golden.near(found.direction.activations[0], kept[f"{case['name']}/direction"])
    assert golden.near(found.difference.activations[0], kept[f"{case['name']}/mean_difference"])
    size = max(1.0, abs(case["average_projection_with"]))
    assert abs(found.mean_projection - case["average_projection_with"]) < 1e-4 * size
    assert abs(found.mean_projection_without - case["average_projection_without"]) < 1e-4 * size
    if case.get("second"):
        second = found_in(case["second"], model_of(case, family))
        assert golden.near(second.direction.activations[0], kept[f"{case['name']}/second_direction"])


@pytest.mark.shared
@pytest.mark.parametrize("chosen", CASES)
def test_log_probs_are_those_of_the_authors(chosen: Any) -> None:
    case, family = chosen
    model = model_of(case, family)
    for run in [run for run in case["runs"] if run.get("logprobs_key")]:
        log_probs = golden.last_log_probs(model, run["tokens"], steered(case, model, run))
        expected = golden.tensors("instruct")[f"{case['name']}/{run['logprobs_key']}"]
        assert (golden.picked_log_probs(run, log_probs) - expected).abs().max() < 2e-4


@pytest.mark.shared
@pytest.mark.parametrize(("chosen", "way"), golden.ways("instruct"))
def test_greedy_text_is_that_of_the_authors(chosen: Any, way: str) -> None:
    case, family = chosen
    model = model_of(case, family)
    runs = [(run["tokens"], steered(case, model, run), len(run["greedy_new_tokens"])) for run in case["runs"]]
    assert golden.written(model, runs, way) == [run["greedy_new_tokens"] for run in case["runs"]]


def test_setting_gives_every_token_the_projection_of_prompts_with_the_instruction(small: Any) -> None:
    found = methods.instruction(small, PAIRS, layer=2)
    with al.steer(small, found.set()):
        _, cache = small.run_with_cache(small.to_tokens("The dog ran home"))
    along = cache["blocks.2.hook_resid_pre"][0] @ found.direction.activations[0]
    assert along.tolist() == pytest.approx([found.mean_projection] * len(along), abs=1e-5)


def test_the_direction_is_of_unit_norm_and_its_difference_is_what_was_read(small: Any) -> None:
    found = methods.instruction(small, PAIRS, layer=2)
    assert float(found.direction.norms) == pytest.approx(1.0, abs=1e-6)
    by_hand = methods.caa(small, PAIRS, layer=2, read=-1)
    assert golden.near(found.difference.activations[0], by_hand.activations[0], 1e-5)
    assert (found.add(-3).coefficient, found.add(-3).position) == (-3, "all+bos")


def test_an_instruction_that_changes_nothing_has_no_direction(small: Any) -> None:
    with pytest.raises(al.VectorError, match="the same at that token"):
        methods.instruction(small, [("The dog", "The dog")], layer=2)
    assert torch.isfinite(torch.tensor(methods.instruction(small, PAIRS, layer=2).mean_projection))
