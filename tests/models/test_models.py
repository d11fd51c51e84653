"""Loading: any name, any folder whatever its path is called, either family; equal to the source model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import actadd_lens as al
from tests.conftest import FAMILIES, HAS_HOOKED, SHARED

TEXT = "Once upon a time there was a girl who looked at the dog. She felt"

FOLDERS = [
    "gpt2",
    pytest.param("tinytalk-3m", marks=pytest.mark.shared),
    pytest.param("stories-260k", marks=pytest.mark.shared),
]


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest, gpt2_folder: Path) -> Path:
    """A Hugging Face folder: GPT-2 as transformers saves it today, GPT-Neo, and Llama."""
    if request.param == "gpt2":
        return gpt2_folder
    if not SHARED.is_dir():
        pytest.skip("there is no folder shared/ beside the checkout")
    return SHARED / "models" / request.param


@torch.no_grad()
def source_log_probs(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """Those of the model that transformers loads."""
    from transformers import AutoModelForCausalLM

    source = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, attn_implementation="eager")
    return source(tokens).logits.log_softmax(dim=-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_the_log_probs_of_its_source(folder: Path, family: Any) -> None:
    if family == "hooked" and not HAS_HOOKED:
        pytest.skip("this TransformerLens has no HookedTransformer")
    model = al.load_model(folder, family=family)
    tokens = model.to_tokens(TEXT)
    with torch.no_grad():
        found = model(tokens).log_softmax(dim=-1)
    assert (found - source_log_probs(folder, tokens)).abs().max() < 1e-4
    assert model.cfg.model_name == folder.name


@pytest.mark.parametrize("name", ["llama", "gemma-2b", "Meta-Llama-3-8B"])
def test_the_path_of_a_folder_says_nothing(folder: Path, name: str, tmp_path: Path) -> None:
    copy = tmp_path / "models" / name
    shutil.copytree(folder, copy)
    model, original = al.load_model(str(copy)), al.load_model(folder)
    tokens = original.to_tokens(TEXT)
    assert torch.equal(model(tokens), original(tokens))
    assert model.cfg.model_name == name


def test_a_relative_path_and_a_home_path_are_folders(
    gpt2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(gpt2_folder, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("mine", "./mine", "~/mine", Path("mine")):
        assert al.load_model(path).cfg.model_name == "mine"


def test_a_folder_called_like_a_model_is_not_taken_for_it(
    gpt2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(gpt2_folder, tmp_path / "storybook")
    monkeypatch.chdir(tmp_path)
    assert al.load_model("storybook").cfg.d_model == 192
    assert al.load_model("./storybook").cfg.d_model == 32


def test_keywords_are_passed_on(folder: Path) -> None:
    if not HAS_HOOKED:
        pytest.skip("this TransformerLens has no HookedTransformer")
    raw = al.load_model(folder, fold_ln=False, center_writing_weights=False, center_unembed=False, dtype=torch.float64)
    assert str(raw.cfg.normalization_type) in ("LN", "RMS")
    assert raw.W_E.dtype == torch.float64
    tokens = raw.to_tokens(TEXT)
    assert (raw(tokens).log_softmax(dim=-1).float() - source_log_probs(folder, tokens)).abs().max() < 1e-4


def test_gpt2_folders_without_n_ctx_keep_their_config_file(gpt2_folder: Path) -> None:
    before = (gpt2_folder / "config.json").read_text()
    assert "n_ctx" not in json.loads(before)
    assert al.load_model(gpt2_folder).cfg.n_ctx == 64
    assert (gpt2_folder / "config.json").read_text() == before


def test_loading_prints_nothing_and_leaves_no_temporary_folder(
    gpt2_folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for family in FAMILIES:
        if family == "bridge" or HAS_HOOKED:
            al.load_model(gpt2_folder, family=family)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_the_default_is_the_embedded_model(load: Any) -> None:
    model = al.load_model()
    assert (model.cfg.model_name, model.cfg.n_layers, model.cfg.d_model) == ("storybook", 8, 192)
    assert (type(model).__name__ == "HookedTransformer") == HAS_HOOKED


def test_a_model_that_people_made_themselves_works_as_it_is(gpt2_folder: Path) -> None:
    if not HAS_HOOKED:
        pytest.skip("this TransformerLens has no HookedTransformer")
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformers import AutoTokenizer

    config = HookedTransformerConfig(
        n_layers=3, d_model=16, n_ctx=32, d_head=8, act_fn="relu", d_vocab=500, attn_only=True, seed=0
    )
    model = HookedTransformer(config, tokenizer=AutoTokenizer.from_pretrained(gpt2_folder), move_to_device=False)
    vector = al.compute_steering_vector(model, ("Love", "Hate"), layer=1)
    found = al.complete(model, "The girl looked at the dog", 50 * vector, max_new_tokens=4, temperature=0)
    assert found.steered != found.unsteered
    assert vector.provenance.model == "custom"


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_models_are_steered(gpt2_folder: Path, family: Any) -> None:
    if family == "hooked" and not HAS_HOOKED:
        pytest.skip("this TransformerLens has no HookedTransformer")
    whole, half = (al.load_model(gpt2_folder, family=family, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    vectors = [al.compute_steering_vector(model, ("Love", "Hate"), layer=2) for model in (whole, half)]
    size = vectors[0].activations.abs().max()
    assert (vectors[0].activations - vectors[1].activations).abs().max() < 0.05 * size
    tokens, logits = whole.to_tokens(TEXT), []
    for model in (whole, half):
        with torch.no_grad(), al.steer(model, 2 * vectors[0]):
            logits.append(model(tokens).float())
    assert logits[1].isfinite().all()
    assert (logits[0] - logits[1]).abs().mean() < 0.1 * logits[0].abs().mean()
    assert al.complete(half, TEXT, vectors[0], max_new_tokens=3).steered


def test_a_bridge_in_compatibility_mode_is_the_same_model(gpt2_folder: Path) -> None:
    bridge = al.load_model(gpt2_folder, family="bridge")
    raw = 5 * al.compute_steering_vector(bridge, ("Love", "Hate"), layer=2)
    tokens, steered = bridge.to_tokens(TEXT), []
    with torch.no_grad(), al.steer(bridge, raw):
        steered.append(bridge(tokens).log_softmax(dim=-1))
    bridge.enable_compatibility_mode(disable_warnings=True)
    processed = 5 * al.compute_steering_vector(bridge, ("Love", "Hate"), layer=2)
    for vector in (raw, processed):  # they differ along the all-ones direction, which nothing reads
        with torch.no_grad(), al.steer(bridge, vector):
            steered.append(bridge(tokens).log_softmax(dim=-1))
    assert (steered[1] - steered[0]).abs().max() < 1e-3
    assert (steered[2] - steered[0]).abs().max() < 1e-3
    assert (processed.provenance.weight_processing or "").startswith("compatibility mode")
