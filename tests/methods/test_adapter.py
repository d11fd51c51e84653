"""Adapters: what they change while they are on, and that nothing of them stays."""

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens.identity.model_state import model_key
from actadd_lens.methods import Adapter
from actadd_lens.models import backend_of
from actadd_lens.models.adapted import adaptations_on
from tests.conftest import HAS_HOOKED
from tests.support import hook_state

TOKENS = torch.tensor([[0, 5, 7, 3, 9]])
RAW: dict[str, Any] = {
    "fold_ln": False,
    "center_writing_weights": False,
    "center_unembed": False,
    "fold_value_biases": False,
}


def adapter_of(model: Any, *, seed: int = 0, size: float = 0.1, **settings: Any) -> Adapter:
    """An adapter that changes something."""
    empty = Adapter.untrained(model, rank=2, seed=seed, **settings)
    draw = torch.Generator().manual_seed(seed)
    matrices = {
        name: (reads, size * torch.randn(writes.shape, generator=draw))
        for name, (reads, writes) in empty.matrices.items()
    }
    return Adapter(matrices, empty.scale, empty.provenance, empty.folds_norms)


def logits(model: Any, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).clone()


def state(model: Any) -> list[Any]:
    """Everything that an adapter could leave behind."""
    weights = {name: (id(weight), weight.clone()) for name, weight in model.named_parameters()}
    return [weights, {name: type(module) for name, module in model.named_modules()}, hook_state(model)]


def assert_as_before(model: Any, before: list[Any]) -> None:
    weights, *rest = state(model)
    assert {name: number for name, (number, _) in weights.items()} == {
        name: number for name, (number, _) in before[0].items()
    }
    assert all(torch.equal(weight, before[0][name][1]) for name, (_, weight) in weights.items())
    assert rest == before[1:]
    assert not adaptations_on(model)


def test_an_untrained_adapter_changes_nothing_bit_for_bit(small: Any) -> None:
    plain = logits(small)
    with Adapter.untrained(small).on(small):
        assert torch.equal(logits(small), plain)


def test_it_adds_the_scaled_product_to_each_weight(small: Any) -> None:
    adapter, merged = adapter_of(small), copy.deepcopy(small)
    backend = backend_of(merged)
    for name, (reads, writes) in adapter.matrices.items():
        linear = backend.linear_map(int(name.split(".")[1]), name.split(".")[-1])
        assert linear is not None
        linear.weight.data += linear.lay(adapter.scale * writes @ reads)
    with adapter.on(small):
        found = logits(small)
    assert (found - logits(merged)).abs().max() < 1e-4
    assert (found - logits(small)).abs().max() > 1e-2


def test_both_families_have_the_same_maps(gpt2_folder: Path) -> None:
    if not HAS_HOOKED:
        pytest.skip("this TransformerLens has no HookedTransformer")
    models = [al.load_model(gpt2_folder, family="hooked", **RAW), al.load_model(gpt2_folder, family="bridge")]
    adapter, found = adapter_of(models[0]), []
    for model in models:
        with adapter.on(model):
            found.append(logits(model).log_softmax(dim=-1))
    assert (found[0] - found[1]).abs().max() < 1e-4


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_by_whatever_way_the_block_ends_the_model_is_as_it_was(small: Any, error: Any) -> None:
    before, adapter = state(small), adapter_of(small)

    def run() -> None:
        with adapter.on(small):
            logits(small)
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(error):
            run()
    assert_as_before(small, before)


def test_the_weights_that_are_listed_and_saved_stay_the_models_own(small: Any) -> None:
    before = {name: weight.clone() for name, weight in small.state_dict().items()}
    with adapter_of(small).on(small):
        assert all(torch.equal(weight, before[name]) for name, weight in small.state_dict().items())


def test_steering_nests_with_it_either_way_and_vectors_of_the_model_still_go_with_it(small: Any) -> None:
    adapter, vector = adapter_of(small), 3 * al.compute_steering_vector(small, ("Love", "Hate"), layer=2)
    with adapter.on(small), al.steer(small, vector):
        inside = logits(small)
    with al.steer(small, vector), adapter.on(small):
        outside = logits(small)
    assert torch.equal(inside, outside)
    assert not torch.equal(inside, logits(small))


def test_it_can_be_switched_off_inside_and_two_add_up_in_any_order_of_leaving(small: Any) -> None:
    before, plain = state(small), logits(small)
    one, other = adapter_of(small, seed=1), adapter_of(small, seed=2, weights=("W_Q", "W_out"))
    with other.on(small):
        alone = logits(small)
    first, second = one.on(small), other.on(small)
    first.__enter__()
    second.__enter__()
    both = logits(small)
    with other.off(small):
        with one.off(small):
            assert torch.equal(logits(small), plain)
        assert not torch.equal(logits(small), plain)
    assert torch.equal(logits(small), both)
    first.__exit__(None, None, None)
    assert torch.equal(logits(small), alone)
    second.__exit__(None, None, None)
    assert_as_before(small, before)


def test_another_thread_is_refused_and_a_copy_has_its_own_weights(small: Any) -> None:
    plain, found = logits(small), []

    def run() -> None:
        try:
            logits(small)
        except al.SteeringError as error:
            found.append(str(error))

    with adapter_of(small).on(small):
        copied = copy.deepcopy(small)
        assert torch.equal(logits(copied), plain)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert "another thread" in found[0]
    assert torch.equal(logits(copied), plain)


def test_text_under_it_is_that_of_the_changed_model_with_and_without_the_cache(small: Any) -> None:
    adapter, prompts = adapter_of(small, size=0.4), ["The girl looked", "The old dog felt that it was good"]
    vector = al.compute_steering_vector(small, ("Love", "Hate"), layer=2)
    with adapter.on(small):
        texts = [
            al.complete(small, prompts, 4 * vector, max_new_tokens=8, temperature=0, use_past_kv_cache=cached).steered
            for cached in (True, False)
        ]
    assert texts[0] == texts[1]
    assert texts[0] != al.complete(small, prompts, 4 * vector, max_new_tokens=8, temperature=0).steered


def test_stores_tell_the_model_with_it_from_the_model_without_it(small: Any) -> None:
    backend = backend_of(small)
    plain = model_key(backend)
    with adapter_of(small).on(small):
        changed = model_key(backend)
    with Adapter.untrained(small).on(small):
        untrained = model_key(backend)
    assert changed not in (plain, untrained)
    assert model_key(backend) == plain


def test_what_is_read_under_it_says_so(small: Any) -> None:
    with adapter_of(small).on(small):
        vector = al.compute_steering_vector(small, ("Love", "Hate"), layer=2)
    assert any("adapter" in step for step in vector.provenance.steps)
    assert not al.compute_steering_vector(small, ("Love", "Hate"), layer=2).provenance.steps


def test_another_model_and_other_weight_processing_are_refused(small: Any, load: Any, gpt2_folder: Path) -> None:
    adapter = adapter_of(small)
    with (
        pytest.raises(al.FingerprintError, match="trained for"),
        adapter.on(load("storybook", backend_of(small).family)),
    ):
        pass
    if HAS_HOOKED:
        family = "bridge" if backend_of(small).folds_norms else "hooked"
        with pytest.raises(al.VectorError, match="gains"), adapter.on(load("gpt2", family)):
            pass


def test_weights_that_a_model_does_not_have_are_refused_by_name(small: Any) -> None:
    with pytest.raises(al.ModelError, match="W_gate"):
        Adapter.untrained(small, weights="W_gate")
    with pytest.raises(al.SettingError, match="W_E"):
        Adapter.untrained(small, weights=("W_E",))


def test_a_file_holds_all_of_it_and_a_damaged_one_is_refused(small: Any, tmp_path: Path) -> None:
    adapter, path = adapter_of(small), tmp_path / "adapter.safetensors"
    adapter.save(path)
    loaded = Adapter.load(path)
    assert list(loaded.matrices) == list(adapter.matrices)
    for name, pair in adapter.matrices.items():
        assert all(torch.equal(found, told) for found, told in zip(loaded.matrices[name], pair, strict=True))
    assert (loaded.scale, loaded.provenance, loaded.folds_norms) == (
        adapter.scale,
        adapter.provenance,
        adapter.folds_norms,
    )
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(al.VectorFileError, match="hash"):
        Adapter.load(path)
    path.write_bytes(data[:-9])
    with pytest.raises(al.VectorFileError, match="damaged"):
        Adapter.load(path)
    al.compute_steering_vector(small, ("Love", "Hate"), layer=2).save(path)
    with pytest.raises(al.VectorFileError, match="steering vector"):
        Adapter.load(path)
    with pytest.raises(al.VectorFileError, match="no file"):
        Adapter.load(tmp_path / "absent")
