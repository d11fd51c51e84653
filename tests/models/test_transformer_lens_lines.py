"""Vectors that go from one line of TransformerLens to the other, and what docs/transformer-lens-4.md tells of both."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import actadd_lens as al
from actadd_lens.errors import FingerprintError, ModelError
from tests.conftest import FAMILIES, HAS_HOOKED
from tests.line_model import COEFFICIENT, DATA, FILES, LAYER, PAIR, PROMPT, build
from tests.support import close

IS_LINE_3 = version("transformer-lens").startswith("3.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("lines") / "line-model")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, folder: Path) -> Any:
    if request.param == "hooked" and not HAS_HOOKED:
        pytest.skip("this TransformerLens has no HookedTransformer")
    return al.load_model(folder, family=request.param)


@pytest.fixture(scope="module")
def bridge(folder: Path) -> Any:
    return al.load_model(folder, family="bridge")


@pytest.fixture(params=FILES)
def saved(request: pytest.FixtureRequest) -> al.SteeringVector:
    return al.SteeringVector.load(DATA / f"{request.param}.safetensors")


def without_mean(rows: Tensor) -> Tensor:
    """Rows without their part along the all-ones direction."""
    return rows - rows.mean(dim=-1, keepdim=True)


@torch.no_grad()
def log_probs_by_transformers(folder: Path, tokens: Tensor, injection: Tensor) -> Tensor:
    """Log-probs of the Hugging Face model alone, the injection added before a block of its own."""
    from transformers import GPT2LMHeadModel

    def add(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        stream = args[0].clone()
        stream[:, : len(injection)] += injection
        return (stream, *args[1:])

    model = GPT2LMHeadModel.from_pretrained(folder)
    model.eval().transformer.h[LAYER].register_forward_pre_hook(add)
    return model(tokens).logits.log_softmax(dim=-1)


# -- which family ----------------------------------------------------------------------------------------------


def test_load_model_gives_the_family_that_this_line_prefers(folder: Path) -> None:
    assert type(al.load_model(folder)).__name__ == ("HookedTransformer" if IS_LINE_3 else "TransformerBridge")


def test_whether_there_is_a_hooked_transformer_is_told_rightly() -> None:
    assert HAS_HOOKED is IS_LINE_3


@pytest.mark.skipif(IS_LINE_3, reason="this TransformerLens has HookedTransformer")
def test_insisting_on_the_removed_family_says_what_to_do(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"removed in 4\.0.*'transformer-lens<4'.*family='bridge'"):
        al.load_model(folder, family="hooked")


def test_what_is_no_model_is_refused_on_either_line() -> None:
    with pytest.raises(ModelError, match="A Linear cannot be steered"):
        al.models.backend_of(torch.nn.Linear(2, 2))


# -- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_file_tells_the_line_that_wrote_it(name: str) -> None:
    vector = al.SteeringVector.load(DATA / f"{name}.safetensors")
    assert vector.provenance.versions["transformer_lens"] == name.split("-")[1]
    assert vector.provenance.weight_processing == (
        "raw" if name.startswith("bridge") else "norms folded, writing weights centred"
    )


def test_a_vector_of_any_line_and_family_is_the_one_computed_here(saved: al.SteeringVector, model: Any) -> None:
    here = COEFFICIENT * al.compute_steering_vector(model, PAIR, layer=LAYER)
    assert close(without_mean(saved.injection), without_mean(here.injection), 1e-5)
    assert saved.layer == here.layer
    assert saved.provenance.positive_tokens == here.provenance.positive_tokens


def test_a_vector_of_any_line_and_family_steers_as_the_hugging_face_model_does_with_it(
    saved: al.SteeringVector, model: Any, folder: Path
) -> None:
    tokens = model.to_tokens(PROMPT)
    with torch.no_grad(), al.steer(model, saved):
        steered = model(tokens).log_softmax(dim=-1)
    assert close(steered, log_probs_by_transformers(folder, tokens, saved.injection))
    assert not close(steered, model(tokens).log_softmax(dim=-1).detach(), 0.1)


def test_files_differ_only_along_the_all_ones_direction() -> None:
    """So centring is what the tests above had to reconcile: it moved the rows by a good part of their size."""
    hooked, *bridges = (al.SteeringVector.load(DATA / f"{name}.safetensors").activations for name in FILES)
    assert torch.equal(*bridges)
    moved = (hooked - bridges[1]).norm(dim=-1).max() / bridges[1].norm(dim=-1).max()
    assert float(moved) == pytest.approx(0.083, abs=5e-4)
    assert all(close(without_mean(hooked), without_mean(rows), 1e-5) for rows in bridges)
    assert hooked.mean(dim=-1).abs().max() < 1e-5
    assert all((rows.mean(dim=-1).abs().max() > 0.1) for rows in bridges)


def test_a_vector_of_either_line_refuses_other_weights(saved: al.SteeringVector, tmp_path: Path) -> None:
    other = al.load_model(build(tmp_path / "line-model", seed=1))
    with pytest.raises(FingerprintError, match="with other weights"), al.steer(other, saved):
        pass


def test_vectors_of_both_lines_add_up(model: Any) -> None:
    first, *others = (al.SteeringVector.load(DATA / f"{name}.safetensors") for name in FILES)
    total = sum(others, first)
    with torch.no_grad():
        tokens = model.to_tokens(PROMPT)
        with al.steer(model, total):
            steered = model(tokens)
        with al.steer(model, len(FILES) * first):
            assert close(steered, model(tokens))


@pytest.mark.parametrize("no_processing", [True, False])
def test_compatibility_mode_is_the_same_model(saved: al.SteeringVector, folder: Path, no_processing: bool) -> None:
    model = al.load_model(folder, family="bridge")
    model.enable_compatibility_mode(no_processing=no_processing)
    tokens = model.to_tokens(PROMPT)
    with torch.no_grad(), al.steer(model, saved):
        steered = model(tokens).log_softmax(dim=-1)
    assert close(steered, log_probs_by_transformers(folder, tokens, saved.injection))
    centred = al.compute_steering_vector(model, PAIR, layer=LAYER).activations.mean(dim=-1).abs().max() < 1e-5
    assert bool(centred) is not no_processing
    processing = "not centred" if no_processing else "centred"
    assert al.models.backend_of(model).weight_processing == f"compatibility mode, writing weights {processing}"


# -- other architectures ---------------------------------------------------------------------------------------


def test_a_model_without_keys_and_values_says_how_it_can_be_steered(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    folder = build(tmp_path / "mamba")
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=257, hidden_size=32, num_hidden_layers=4, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    MambaForCausalLM(config).save_pretrained(folder)
    model = al.load_model(folder, family="bridge")
    vector = 100 * al.compute_steering_vector(model, PAIR, layer=LAYER)
    tokens = model.to_tokens(PROMPT)
    with (
        torch.no_grad(),
        pytest.raises(ModelError, match=r"running state at layer 2.*use_cache=False"),
        al.steer(model, vector),
    ):
        model(tokens)
    with pytest.raises(ModelError, match="use_past_kv_cache=False"):
        al.complete(model, PROMPT, vector, max_new_tokens=2)
    assert al.complete(model, PROMPT, vector, max_new_tokens=2, use_past_kv_cache=False).steered
    with torch.no_grad(), al.steer(model, vector):
        steered = model(tokens, use_cache=False)
    assert not close(steered, model(tokens, use_cache=False).detach(), 1e-2)


# -- what the page tells ---------------------------------------------------------------------------------------


def caller(seen: list[str]) -> Any:
    return lambda stream, hook: seen.append(hook.name)


def test_a_hook_sees_the_bridges_own_name_for_its_hook_point(model: Any) -> None:
    seen: list[str] = []
    model.run_with_hooks(model.to_tokens(PROMPT), fwd_hooks=[("blocks.1.hook_resid_pre", caller(seen))])
    is_bridge = type(model).__name__ == "TransformerBridge"
    assert seen == ["blocks.1.hook_in" if is_bridge else "blocks.1.hook_resid_pre"]


def test_line_4_refuses_hook_names_that_do_not_exist(bridge: Any) -> None:
    tokens = bridge.to_tokens(PROMPT)
    seen: list[str] = []
    hooks = [("blocks.1.nothing", caller(seen))]
    if IS_LINE_3:
        bridge.run_with_hooks(tokens, fwd_hooks=hooks)
        assert not bridge.run_with_cache(tokens, names_filter="nothing")[1].keys()
        assert not seen
        return
    with pytest.raises(KeyError, match="does not exist on this model"):
        bridge.run_with_hooks(tokens, fwd_hooks=hooks)
    with pytest.raises(KeyError, match="matched no hook points"):
        bridge.run_with_cache(tokens, names_filter="nothing")


@torch.no_grad()
def test_line_4_starts_at_a_layer_and_steering_acts_from_there_on(bridge: Any) -> None:
    tokens = bridge.to_tokens(PROMPT)
    cache = bridge.run_with_cache(tokens)[1]
    vector = al.SteeringVector.load(DATA / f"{FILES[0]}.safetensors")
    if IS_LINE_3:
        with pytest.raises(NotImplementedError, match="start_at_layer"):
            bridge(cache["blocks.1.hook_resid_pre"], start_at_layer=1)
        return
    unsteered = bridge(tokens)
    with al.steer(bridge, vector):
        steered = bridge(tokens)
        for start in range(bridge.cfg.n_layers):
            stream = cache[f"blocks.{start}.hook_resid_pre"]
            assert close(bridge(stream, start_at_layer=start), steered if start <= LAYER else unsteered, 1e-5)


@torch.no_grad()
def test_a_bridge_that_stops_at_a_layer_returns_the_steered_stream_there(model: Any) -> None:
    tokens = model.to_tokens(PROMPT)
    vector = al.SteeringVector.load(DATA / f"{FILES[0]}.safetensors")
    unsteered = model(tokens, stop_at_layer=LAYER)
    with al.steer(model, vector):
        stopped = model(tokens, stop_at_layer=LAYER)
    expected = unsteered.clone()
    if type(model).__name__ == "TransformerBridge":
        expected[:, : vector.rows] += vector.injection
    assert close(stopped, expected, 1e-5)
