"""Sixteen cases run with the paper authors' own code, compared number by number."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import actadd_lens as al
from tests.conftest import SHARED

pytestmark = pytest.mark.shared

FILE = SHARED / "golden" / "tinytalk-3m.json"
CASES = {case["name"]: case for case in json.loads(FILE.read_text())} if FILE.is_file() else {"absent": {}}


@pytest.fixture(scope="module")
def golden(shared_folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of all cases."""
    return load_file(shared_folder / "golden" / "tinytalk-3m.safetensors")


@pytest.fixture(params=["hooked", "bridge"], scope="module")
def tinytalk(request: pytest.FixtureRequest, load: Any) -> Any:
    """The model of the golden run, in both families."""
    return load("tinytalk", request.param)


def vectors_of(model: Any, case: dict[str, Any]) -> list[al.SteeringVector]:
    found = [
        pair["coefficient"]
        * al.compute_steering_vector(model, (pair["positive"], pair["negative"]), layer=pair["layer"])
        for pair in case["pairs"]
    ]
    kept = case["residual_slice"]
    return found if kept is None else [vector.keep_dimensions(slice(*kept)) for vector in found]


def skip_where_not_comparable(model: Any, case: dict[str, Any]) -> None:
    """The bridge's weights are raw, the golden run's centred: a vector differs along the all-ones direction, which
    every reader discards. Cut to some dimensions, that difference is no longer all-ones, and is read.
    """
    if case["residual_slice"] is not None and type(model).__name__ == "TransformerBridge":
        pytest.skip("dimensions of a centred and of a raw vector are not the same numbers")


@pytest.mark.parametrize("name", CASES)
def test_vectors_are_those_of_the_authors(tinytalk: Any, golden: Any, name: str) -> None:
    case = CASES[name]
    for pair in case["pairs"]:
        tokens = al.PromptPair(pair["positive"], pair["negative"]).tokens(tinytalk)
        assert (list(tokens.positive), list(tokens.negative or ())) == (
            pair["positive_tokens"],
            pair["negative_tokens"],
        )
    summed: dict[str, torch.Tensor] = {}
    for vector in vectors_of(tinytalk, {**case, "residual_slice": None}):  # theirs cut when they add, not before
        summed[vector.hook_name] = summed.get(vector.hook_name, 0) + vector.injection
    expected = {key.split(".net.")[1]: golden[key] for key in golden if key.startswith(f"{name}.net.")}
    assert summed.keys() == expected.keys()
    for hook, found in summed.items():
        rows, theirs = found, expected[hook]
        if type(tinytalk).__name__ == "TransformerBridge":
            rows, theirs = (tensor - tensor.mean(dim=-1, keepdim=True) for tensor in (found, theirs))
        size = max(1.0, *(abs(pair["coefficient"]) for pair in case["pairs"]))
        assert (rows - theirs).abs().max() < 1e-4 * size


@pytest.mark.parametrize("name", CASES)
def test_steered_log_probs_are_those_of_the_authors(tinytalk: Any, golden: Any, name: str) -> None:
    case = CASES[name]
    skip_where_not_comparable(tinytalk, case)
    tokens = tinytalk.to_tokens(case["prompt"])
    assert tokens[0].tolist() == case["prompt_tokens"]
    with torch.no_grad(), al.steer(tinytalk, *vectors_of(tinytalk, case), position=case["location"]):
        log_probs = tinytalk(tokens)[0].log_softmax(dim=-1)
    tolerance = 1e-3 * max(1.0, *(abs(pair["coefficient"]) / 5 for pair in case["pairs"]))
    assert (log_probs[-1] - golden[f"{name}.logprobs_last"]).abs().max() < tolerance
    actual = log_probs[:-1].gather(1, tokens[0, 1:, None])[:, 0]
    assert (actual - golden[f"{name}.actual_next_logprobs"]).abs().max() < tolerance


@pytest.mark.parametrize("name", CASES)
def test_greedy_text_is_that_of_the_authors(tinytalk: Any, golden: Any, name: str) -> None:
    case = CASES[name]
    skip_where_not_comparable(tinytalk, case)
    new = case["greedy_tokens"][len(case["prompt_tokens"]) :]
    found = al.complete(
        tinytalk, case["prompt"], vectors_of(tinytalk, case), position=case["location"], max_new_tokens=len(new),
        temperature=0, stop_at_eos=False,
    )  # fmt: skip
    assert list(found.steered_continuations[0][0].tokens) == new
    assert case["prompt"] + found.steered[0][0] == case["greedy_text"]
    assert case["prompt"] + found.unsteered[0][0] == case["unsteered_greedy_text"]
