"""Mean-centring: the authors' golden cases, and what holds without them."""

from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens import methods
from tests.methods import golden

CASES = golden.cases("mean_centring")
TARGET = ["The happy girl smiled and laughed.", "He was glad."]
TRAINING = ["The dog ran home and then it slept.", "She said that it was a day.", "It was old."]


def vectors_of(case: dict[str, Any], model: Any) -> dict[str, al.SteeringVector]:
    read: Any = -1 if case["aggregation"]["target"].startswith("last") else "all"
    layer = case["layer"]
    return {
        "vector": methods.mean_centring(
            model, case["target_tokens"], case["training_tokens"], paper_layer=layer, read=read
        ),
        "uncentred": methods.mean_centring(model, case["target_tokens"], None, paper_layer=layer, read=read),
        "centre": methods.mean_centring(model, case["training_tokens"], None, paper_layer=layer),
    }


@pytest.mark.shared
@pytest.mark.parametrize("chosen", CASES)
def test_vectors_are_those_of_the_authors(chosen: Any) -> None:
    case, family = chosen
    found = vectors_of(case, golden.raw_model(case["model"], family))
    for name, vector in found.items():
        assert vector.layer == case["equals_resid_pre_layer"]
        assert golden.near(vector.activations[0], golden.tensors("mean_centring")[f"{case['name']}/{name}"]), name


@pytest.mark.shared
@pytest.mark.parametrize("chosen", CASES)
def test_log_probs_are_those_of_the_authors(chosen: Any) -> None:
    case, family = chosen
    model = golden.raw_model(case["model"], family)
    found = vectors_of(case, model)
    for run in [run for run in case["runs"] if run.get("logprobs_key")]:
        steered = run["coefficient"] * found[run["vector"]]
        log_probs = golden.last_log_probs(model, run["tokens"], (steered,))
        expected = golden.tensors("mean_centring")[f"{case['name']}/{run['logprobs_key']}"]
        assert (golden.picked_log_probs(run, log_probs) - expected).abs().max() < 2e-4


@pytest.mark.shared
@pytest.mark.parametrize(("chosen", "way"), golden.ways("mean_centring"))
def test_greedy_text_is_that_of_the_authors(chosen: Any, way: str) -> None:
    case, family = chosen
    model = golden.raw_model(case["model"], family)
    found = vectors_of(case, model)
    runs = [
        (run["tokens"], (run["coefficient"] * found[run["vector"]],), len(run["greedy_new_tokens"]))
        for run in case["runs"]
    ]
    assert golden.written(model, runs, way) == [run["greedy_new_tokens"] for run in case["runs"]]


def test_every_token_weighs_alike_and_bos_may_be_left_out(small: Any) -> None:
    def rows(texts: list[str], start: int) -> torch.Tensor:
        found = [small.run_with_cache(small.to_tokens(text))[1]["blocks.2.hook_resid_pre"][0, start:] for text in texts]
        return torch.cat(found).mean(dim=0)

    for bos in (True, False):
        vector = methods.mean_centring(small, TARGET, TRAINING, layer=2, bos=bos)
        assert golden.near(vector.activations[0], rows(TARGET, int(not bos)) - rows(TRAINING, int(not bos)), 1e-5)
    assert vector.position == "last"
    assert "BOS left out" in vector.provenance.steps[-1]


def test_a_set_less_itself_is_zero_and_swapping_negates(small: Any) -> None:
    assert float(methods.mean_centring(small, TARGET, TARGET, layer=2).norms) < 1e-6
    there = methods.mean_centring(small, TARGET, TRAINING, layer=2)
    back = methods.mean_centring(small, TRAINING, TARGET, layer=2)
    assert torch.equal(there.activations, -back.activations)
