"""What the tests of golden cases share: the cases, the models with raw weights, and writing from token ids."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import actadd_lens as al
from actadd_lens.models import backend_of
from actadd_lens.models.fetching import fetched_folder
from actadd_lens.models.loading import Family
from actadd_lens.vectors.interventions import Intervention
from actadd_lens.writing.decoding import Cell, DecodeSettings, decode_cells
from actadd_lens.writing.sampling import Sampling
from tests.conftest import FAMILIES, HAS_HOOKED, SHARED

FOLDER = SHARED / "golden" / "methods"
RAW: dict[str, Any] = {
    "fold_ln": False,
    "center_writing_weights": False,
    "center_unembed": False,
    "fold_value_biases": False,
}
WAYS = ("cached", "uncached", "batched")
QUICK = {"hooked": ("cached",), "bridge": ("batched",) if HAS_HOOKED else ("cached", "batched")}
"""Ways of writing that every run of the tests takes; the others are marked as slow."""
QUICK_CASES = (
    "caa_refusal_stories", "stories_cross", "ins_lowercase_tinytalk_raw", "mc_function_vector", "head_stories",
)  # fmt: skip
"""Cases of each method that every run of the tests takes, by how their names begin; the others are slow as well."""


def cases(method: str) -> list[Any]:
    """The cases of a method, each with each family of models; one that is skipped where the folder is absent."""
    file = FOLDER / f"{method}.json"
    if not file.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason="there is no folder shared/ beside the checkout"))]
    told = json.loads(file.read_text())
    found = told["cases"] if isinstance(told, dict) else told
    return [
        pytest.param((case, family), id=f"{name}-{family}", marks=_marks(name, case))
        for case in found
        for name in [case.get("name", case.get("case"))]
        for family in FAMILIES
    ]


def _marks(name: str, case: dict[str, Any]) -> list[Any]:
    slow = [] if name.startswith(QUICK_CASES) else [pytest.mark.slow]
    return slow + ([pytest.mark.smollm2] if str(case.get("model")).startswith("smollm2") else [])


def ways(method: str) -> list[Any]:
    """Each case and family with each way of writing."""
    return [
        pytest.param(
            found.values[0],
            way,
            id=f"{found.id}-{way}",
            marks=[
                *found.marks,
                *([] if found.values[0] is None or way in QUICK[found.values[0][1]] else [pytest.mark.slow]),
            ],
        )
        for found in cases(method)
        for way in WAYS
    ]


@cache
def tensors(method: str) -> dict[str, torch.Tensor]:
    """The tensors of all cases of a method."""
    return load_file(FOLDER / f"{method}.safetensors")


@cache
def raw_model(name: str, family: Family, *, processed: bool = False, sha256: str | None = None) -> Any:
    """A model with its weights as they are; HookedTransformer's defaults where a case says so."""
    if family == "hooked" and not HAS_HOOKED:
        pytest.skip("this TransformerLens has no HookedTransformer")
    if processed and family == "bridge":
        pytest.skip("a bridge's weights are raw")
    options: dict[str, Any] = {} if processed or family == "bridge" else RAW
    if name.startswith("smollm2"):
        if fetched_folder("smollm2") is None:
            pytest.skip("smollm2 is not here: run `actadd fetch smollm2`")
        model = al.load_model("smollm2", family=family, **options)
        for weights in model.parameters():  # the cases were run with weights that had been stored in half precision
            weights.data = weights.data.half().float()
        return model
    folder = SHARED / "models" / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not in shared/ beside the checkout")
    if sha256 is not None:
        assert hashlib.sha256(Path(folder / "model.safetensors").read_bytes()).hexdigest() == sha256
    return al.load_model(folder, family=family, **options)


def written(model: Any, runs: Sequence[tuple[list[int], tuple[Intervention, ...], int]], way: str) -> list[list[int]]:
    """Greedy tokens of prompts of ids, each with its interventions and number of new tokens.

    Batched, all stand in one batch of other lengths, with as many tokens for each as the longest asks for.
    """
    backend = backend_of(model)
    cells = [Cell(tuple(prompt), vectors) for prompt, vectors, _ in runs]
    most = max(count for _, _, count in runs)
    settings = DecodeSettings(
        max_new_tokens=most, stop_at_eos=False, use_past_kv_cache=way != "uncached", sampling=Sampling(temperature=0)
    )
    size = 256 if way == "batched" else 1
    found = decode_cells(backend, cells, settings, batch_size=size)
    return [list(texts[0].tokens[:count]) for texts, (_, _, count) in zip(found, runs, strict=True)]


@torch.no_grad()
def last_log_probs(model: Any, tokens: list[int], vectors: tuple[Intervention, ...]) -> torch.Tensor:
    """Log-probs after the last token of a prompt, from one pass."""
    ids = torch.tensor([tokens])
    if not vectors:
        return model(ids)[0, -1].log_softmax(dim=-1)
    with al.steer(model, *vectors):
        return model(ids)[0, -1].log_softmax(dim=-1)


def picked_log_probs(run: dict[str, Any], log_probs: torch.Tensor) -> torch.Tensor:
    """Those that a run of the first three methods keeps: some ids, every third, or all."""
    if run.get("logprobs_ids"):
        return log_probs[torch.tensor(run["logprobs_ids"])]
    return log_probs[:: run.get("logprobs_stride") or 1]


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> bool:
    """Whether a vector is another, relative to its norm."""
    return bool((found.float() - expected.float()).norm() <= tolerance * expected.float().norm())


def prompt_log_probs(method: str, prefix: str, log_probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Found and expected log-probs that a prompt of the later methods keeps: all, or those of the likeliest ids."""
    kept = tensors(method)
    if f"{prefix}/logprobs" in kept:
        return log_probs, kept[f"{prefix}/logprobs"]
    return log_probs[kept[f"{prefix}/logprobs_top_ids"].long()], kept[f"{prefix}/logprobs_top"]


def check_prompts(method: str, case: dict[str, Any], model: Any, steered: Any) -> None:
    """Log-probs of the prompts of a case of the later methods: whole ones where they are kept, the top 20 otherwise."""
    for number, prompt in enumerate(case["prompts"]):
        for variant, vectors in steered.items():
            found = last_log_probs(model, prompt["ids"], tuple(vectors))
            told = prompt[variant]
            top = found[torch.tensor(told["top_ids"])]
            assert (top - torch.tensor(told["top_logprobs"])).abs().max() < 2e-4, (number, variant)
            prefix = f"{case['case']}/prompt{number}/{variant}"
            if any(key.startswith(f"{prefix}/") for key in tensors(method)):
                whole, expected = prompt_log_probs(method, prefix, found)
                assert (whole - expected).abs().max() < 2e-4, (number, variant)


def check_texts(case: dict[str, Any], model: Any, steered: Any, way: str) -> None:
    """Greedy tokens of all prompts of a case, under all of its variants at once where they are batched."""
    runs, expected = [], []
    for prompt in case["prompts"]:
        for variant, vectors in steered.items():
            new = prompt[variant]["greedy_ids"]
            runs.append((prompt["ids"], tuple(vectors), len(new)))
            expected.append(new)
    assert written(model, runs, way) == expected
