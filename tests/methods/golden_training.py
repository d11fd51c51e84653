"""What the golden tests of methods that train share: cases by name, models with raw weights, texts from token ids."""

import json
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import actadd_lens as al
from tests.conftest import FAMILIES, SHARED
from tests.methods.golden import raw_model, tensors

__all__ = ["check_by_own_loop", "check_variants", "named_cases", "places", "raw_model", "tensors"]

SHORT, LONG = "One day", "The dog ran to the park to play with a big red ball and a blue car. It was"


def named_cases(method: str) -> dict[str, dict[str, Any]]:
    """The cases of a method by name; one that is absent where the folder is."""
    path = SHARED / "golden" / "methods" / f"{method}.json"
    if not path.is_file():
        return {"absent": {}}
    return {case["case"]: case for case in json.loads(path.read_text())["cases"]}


QUICK = ("stories_three_sites-bridge", "stories_qv-bridge")
"""Cases of each kind that always run; `-m slow` runs the others."""


def places(names: Any) -> pytest.MarkDecorator:
    """Each case in both families."""
    found = [
        pytest.param(
            name, family, id=f"{name}-{family}",
            marks=[] if f"{name}-{family}".startswith(QUICK) or name == "absent" else [pytest.mark.slow],
        )
        for name in names
        for family in FAMILIES
    ]  # fmt: skip
    return pytest.mark.parametrize(("name", "family"), found)


def opened(model: Any, vectors: Any) -> Any:
    """`steer`, or nothing where nothing is done."""
    return al.steer(model, vectors) if vectors else nullcontext()


def check_log_probs(model: Any, prompt: dict[str, Any], vectors: Any, found: dict[str, torch.Tensor], key: str) -> None:
    """Log-probs after a prompt."""
    with torch.no_grad(), opened(model, vectors):
        log_probs = model(torch.tensor([prompt["ids"]]))[0, -1].float().log_softmax(dim=-1)
    if f"{key}/logprobs" in found:
        assert (log_probs - found[f"{key}/logprobs"]).abs().max() < 2e-4
    else:
        ids = found[f"{key}/logprobs_top_ids"].long()
        assert (log_probs[ids] - found[f"{key}/logprobs_top"]).abs().max() < 2e-4


def check_texts(model: Any, prompts: list[dict[str, Any]], variants: dict[str, Any], *, cached: bool) -> None:
    """Greedy tokens of all prompts and variants, in one batch with prompts of other lengths."""
    pairs = [(prompt, name) for prompt in prompts for name in variants]
    texts = [SHORT, *(prompt["text"] for prompt, _ in pairs), LONG]
    vectors = al.per_prompt([None, *(variants[name] or None for _, name in pairs), None])
    found = al.complete(
        model, texts, vectors, max_new_tokens=12, temperature=0, stop_at_eos=False, use_past_kv_cache=cached
    )
    for number, (prompt, name) in enumerate(pairs, 1):
        assert list(found.steered_continuations[number][0].tokens) == prompt[name]["greedy_ids"], (prompt["text"], name)


def check_variants(model: Any, case: dict[str, Any], variants: dict[str, Any], found: dict[str, torch.Tensor]) -> None:
    """Log-probs and greedy tokens of all prompts of a case in some of its variants."""
    for number, prompt in enumerate(case["prompts"]):
        for variant, vectors in variants.items():
            check_log_probs(model, prompt, vectors, found, f"{case['case']}/prompt{number}/{variant}")
    for cached in (True, False) if case["case"].startswith("stories") else (True,):
        check_texts(model, case["prompts"], variants, cached=cached)


def check_by_own_loop(model: Any, prompts: list[dict[str, Any]], variants: dict[str, Any]) -> None:
    """Greedy tokens of prompts, one by one, by TransformerLens's own loop, with and without the cache."""
    for prompt in prompts:
        for variant, vectors in variants.items():
            for cached in (True, False):
                check_alone(model, prompt, variant, vectors, cached=cached)


def check_alone(model: Any, prompt: dict[str, Any], name: str, vectors: Any, *, cached: bool) -> None:
    """Greedy tokens of one prompt by TransformerLens's own loop."""
    ids = torch.tensor([prompt["ids"]])
    told = prompt[name]["greedy_ids"]
    lengths = {"prompt_lengths": ids.shape[1]} if vectors else {}
    with torch.no_grad(), al.steer(model, vectors, **lengths) if vectors else nullcontext():
        written = model.generate(
            ids, max_new_tokens=len(told), do_sample=False, stop_at_eos=False, verbose=False, return_type="tokens",
            use_past_kv_cache=cached,
        )  # fmt: skip
    assert written[0, ids.shape[1] :].tolist() == told
