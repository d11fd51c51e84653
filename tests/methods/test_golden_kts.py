"""KL-then-steer, compared number by number with a calculation by the authors' route."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens import methods
from actadd_lens.methods.adapter import Adapter
from actadd_lens.methods.kl_then_steer import draw_coefficients
from actadd_lens.models import backend_of
from actadd_lens.vectors.provenance import Provenance
from tests.methods.golden_training import check_by_own_loop, check_variants, named_cases, places, raw_model, tensors

pytestmark = pytest.mark.shared

ALL = named_cases("kts")
CASES = [name for name, case in ALL.items() if "model" in case or name == "absent"]
PLACES = places(CASES)
WEIGHTS = {
    "q_proj": "attn.W_Q", "k_proj": "attn.W_K", "v_proj": "attn.W_V", "o_proj": "attn.W_O", "out_proj": "attn.W_O",
    "c_fc": "mlp.W_in", "up_proj": "mlp.W_in", "gate_proj": "mlp.W_gate", "c_proj": "mlp.W_out",
    "down_proj": "mlp.W_out",
}  # fmt: skip


@pytest.fixture(scope="module")
def golden(shared_folder: Any) -> dict[str, torch.Tensor]:
    return tensors("kts")


def weight_name(theirs: str) -> str:
    """Theirs in ours."""
    parts = theirs.split(".")
    return f"blocks.{parts[2]}.{WEIGHTS[parts[-1]]}"


def adapter_of(model: Any, case: dict[str, Any], golden: Any, *, trained: bool) -> Adapter:
    """Their LoRA matrices, before training or after it."""
    backend, end, matrices = backend_of(model), "" if trained else "_init", {}
    for target in case["lora"]["targets"]:
        reads = golden[f"{case['case']}/lora_A{end}/{target}"]
        writes = golden[f"{case['case']}/lora_B/{target}"] * trained
        matrices[weight_name(target)] = (reads, writes)
    return Adapter(matrices, case["lora"]["scale"], Provenance.of_model(backend, source="golden"), backend.folds_norms)


def vectors_of(case: dict[str, Any], golden: Any) -> list[Any]:
    """Their directions: what block l leaves is our l + 1."""
    return [
        al.SteeringVector.from_tensor(golden[f"{case['case']}/direction/{layer}"], layer=layer + 1, source="golden")
        for layer in case["layers"]
    ]


def texts_of(case: dict[str, Any]) -> list[list[int]]:
    """Their texts without the padding."""
    rows = zip(case["train_ids_right_padded"], case["attention_mask"], strict=True)
    return [[token for token, real in zip(row, mask, strict=True) if real] for row, mask in rows]


def settings(case: dict[str, Any], model: Any, golden: Any) -> dict[str, Any]:
    return {
        "coefficients": case["optimiser"]["coefficient_schedule_cycled"], "learning_rate": case["optimiser"]["lr"],
        "start": adapter_of(model, case, golden, trained=False), "batch_size": None, "progress": False,
    }  # fmt: skip


@PLACES
def test_vectors_are_means_at_the_last_token(name: str, family: str, golden: Any) -> None:
    case = ALL[name]
    model = raw_model(case["model"]["name"], family)
    pairs = [(pair["pos_ids"], pair["neg_ids"]) for pair in case["pairs"]]
    for layer in case["layers"]:
        found = methods.caa(model, pairs, paper_layer=layer, read=-1).activations[0]
        expected = golden[f"{name}/direction/{layer}"]
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@PLACES
def test_losses_before_training(name: str, family: str, golden: Any) -> None:
    case = ALL[name]
    model = raw_model(case["model"]["name"], family)
    for key, expected in case["loss_at_init"].items():
        told, _, positions = key.partition(",")
        adapter = methods.kl_then_steer(
            model, vectors_of(case, golden), texts_of(case),
            **{**settings(case, model, golden), "coefficients": [float(told.removeprefix("coeff="))], "steps": 1},
            count_padding=positions.startswith("all"),
        )  # fmt: skip
        assert adapter.history[0]["loss"] == pytest.approx(expected, abs=1e-4), key


@PLACES
def test_the_loss_of_each_step_and_the_adapter_that_is_learnt(name: str, family: str, golden: Any) -> None:
    case = ALL[name]
    model = raw_model(case["model"]["name"], family)
    adapter = methods.kl_then_steer(
        model, vectors_of(case, golden), texts_of(case), steps=case["optimiser"]["steps"], count_padding=True,
        **settings(case, model, golden),
    )  # fmt: skip
    losses = torch.tensor([row["loss"] for row in adapter.history])
    assert (losses - torch.tensor(case["loss_by_step"])).abs().max() < 1e-4
    expected = adapter_of(model, case, golden, trained=True)
    for weight, pair in adapter.matrices.items():
        for found, told in zip(pair, expected.matrices[weight], strict=True):
            assert (found - told).abs().max() < 1e-3, weight
    for key, told in case["loss_after"].items():
        number = float(key.partition(",")[0].removeprefix("coeff="))
        again = methods.kl_then_steer(
            model, vectors_of(case, golden), texts_of(case), steps=1, count_padding=True,
            **{**settings(case, model, golden), "coefficients": [number], "start": adapter},
        )  # fmt: skip
        assert again.history[0]["loss"] == pytest.approx(told, abs=1e-4 + 2e-3 * told)


@PLACES
def test_gradients_before_training(name: str, family: str, golden: Any) -> None:
    from actadd_lens.methods import kl_then_steer

    case = ALL[name]
    model = raw_model(case["model"]["name"], family)
    seen: dict[str, torch.Tensor] = {}
    step = torch.optim.AdamW.step

    def look(optimiser: Any, *args: Any, **kwargs: Any) -> Any:
        for number, parameter in enumerate(optimiser.param_groups[0]["params"]):
            seen.setdefault(str(number), parameter.grad.clone())
        return step(optimiser, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", look)
        kl_then_steer(
            model, vectors_of(case, golden), texts_of(case), steps=1, count_padding=True,
            **{**settings(case, model, golden), "coefficients": [case["coeff"]]},
        )  # fmt: skip
    for number, target in enumerate(case["lora"]["targets"]):
        expected = golden[f"{name}/grad_B_init/{target}"]
        assert (seen[str(2 * number + 1)] - expected).abs().max() < 5e-4


@PLACES
def test_log_probs_and_greedy_texts_before_and_after(name: str, family: str, golden: Any) -> None:
    case = ALL[name]
    model = raw_model(case["model"]["name"], family)
    steering = [case["coeff"] * vector.at(position="all+bos") for vector in vectors_of(case, golden)]
    adapter = adapter_of(model, case, golden, trained=True)
    for condition, open_it in (("base", nullcontext), ("trained", lambda: adapter.on(model))):
        with open_it():
            check_variants(model, case, {f"{condition}_unsteered": (), f"{condition}_steered": steering}, golden)


@pytest.mark.slow
@PLACES
def test_greedy_texts_by_the_models_own_loop(name: str, family: str, golden: Any) -> None:
    case = ALL[name]
    model = raw_model(case["model"]["name"], family)
    steering = [case["coeff"] * vector.at(position="all+bos") for vector in vectors_of(case, golden)]
    with adapter_of(model, case, golden, trained=True).on(model):
        check_by_own_loop(model, case["prompts"], {"trained_steered": steering})


def test_coefficients_are_drawn_in_the_authors_order(shared_folder: Any) -> None:
    for told in ALL["coefficient_sampling"]["draws"]:
        found = draw_coefficients(
            told["C"], steps=20, probability=told["probability"], both_signs=told["range"] == "both", seed=told["seed"]
        )
        assert found == told["first_20"]
