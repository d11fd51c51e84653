"""CAA: the authors' golden cases, and what holds without them."""

from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens import methods
from tests.methods import golden

CASES = golden.cases("caa")
PAIRS = [("The dog ran home. (A)", "The dog ran home. (B)"), ("She was sad that day. (B)", "She was sad that day. (A)")]


def vector_of(case: dict[str, Any], model: Any) -> al.SteeringVector:
    """The case's vector at its layer, normalised with the other behaviour's where it was."""
    pairs = [(pair["positive_tokens"], pair["negative_tokens"]) for pair in case["pairs"]]
    vector = methods.caa(model, pairs, paper_layer=case["layer"], mark=case["end_tokens"])
    if case["normalised_across_behaviors"]:
        raw = golden.tensors("caa")[f"{case['name']}/raw_vector_of_refusal"]
        other = al.SteeringVector.from_tensor(raw, layer=vector.layer, source="refusal")
        return methods.common_norm([vector, other])[0]
    return vector


def landed(vector: al.SteeringVector, run: dict[str, Any]) -> al.SteeringVector:
    """The run's multiple; the authors steer every token where their mark is not found."""
    steered = run["multiplier"] * vector
    return steered.at(position="all+bos") if run["from_position"] == -1 else steered


@pytest.mark.shared
@pytest.mark.parametrize("chosen", CASES)
def test_the_vector_is_that_of_the_authors(chosen: Any) -> None:
    case, family = chosen
    model = golden.raw_model(case["model"], family)
    vector = vector_of(case, model)
    assert vector.layer == case["equals_resid_pre_layer"]
    assert golden.near(vector.activations[0], golden.tensors("caa")[f"{case['name']}/vector"])


@pytest.mark.shared
@pytest.mark.parametrize("chosen", CASES)
def test_log_probs_and_the_share_of_the_matching_answer_are_those_of_the_authors(chosen: Any) -> None:
    case, family = chosen
    model = golden.raw_model(case["model"], family)
    vector = vector_of(case, model)
    for run in case["runs"]:
        log_probs = golden.last_log_probs(model, run["tokens"], (landed(vector, run),))
        if run.get("logprobs_key"):
            expected = golden.tensors("caa")[f"{case['name']}/{run['logprobs_key']}"]
            assert (golden.picked_log_probs(run, log_probs) - expected).abs().max() < 2e-4
        if run["kind"] == "ab":
            letters = log_probs[model.tokenizer.convert_tokens_to_ids(["A", "B"])].softmax(dim=0)
            assert abs(float(letters["(A)(B)".index(run["answer_matching_behavior"]) // 3]) - run["p_match"]) < 1e-4


@pytest.mark.shared
@pytest.mark.parametrize(("chosen", "way"), golden.ways("caa"))
def test_greedy_text_is_that_of_the_authors(chosen: Any, way: str) -> None:
    case, family = chosen
    model = golden.raw_model(case["model"], family)
    vector = vector_of(case, model)
    runs = [run for run in case["runs"] if run.get("greedy_new_tokens")]
    asked = [(run["tokens"], (landed(vector, run),), len(run["greedy_new_tokens"])) for run in runs]
    assert golden.written(model, asked, way) == [run["greedy_new_tokens"] for run in runs]


def test_the_vector_is_the_mean_difference_at_the_letter(small: Any) -> None:
    vector = methods.caa(small, PAIRS, layer=2)
    rows = [
        [small.run_with_cache(small.to_tokens(text))[1]["blocks.2.hook_resid_pre"][0, -2] for text in pair]
        for pair in PAIRS
    ]
    by_hand = torch.stack([plus - minus for plus, minus in rows]).mean(dim=0)
    assert golden.near(vector.activations[0], by_hand, 1e-5)
    assert (vector.rows, vector.position, vector.layer) == (1, "last", 2)


def test_a_mark_says_where_the_vector_lands(small: Any) -> None:
    vector = methods.caa(small, PAIRS, layer=2, mark="dog")
    seen = al.preview(small, "The dog ran home", vector)
    assert vector.position == al.after("dog")
    assert [small.to_string([token]) for token in small.to_tokens("The dog ran home")[0]]  # the mark is a text's
    assert seen is not None


def test_common_norm_makes_all_as_long_as_their_mean(small: Any) -> None:
    one, other = methods.caa(small, PAIRS[:1], layer=2), methods.caa(small, PAIRS[1:], layer=2)
    found = methods.common_norm([one, other])
    mean = float(one.norms + other.norms) / 2
    assert [float(vector.norms) for vector in found] == pytest.approx([mean, mean], rel=1e-5)
    with pytest.raises(al.VectorError, match="one layer"):
        methods.common_norm([one, other.at_layer(3)])
    with pytest.raises(al.VectorError, match="zero"):
        methods.common_norm([one - one])
