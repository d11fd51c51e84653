"""Activation scaling, compared number by number with a faithful calculation."""

from typing import Any

import pytest
import torch

from actadd_lens import methods
from actadd_lens.methods.activation_scaling import _encoded, _logits, loss_of
from actadd_lens.models import backend_of
from actadd_lens.models.protocol import Spot
from actadd_lens.vectors.provenance import Provenance
from tests.methods.golden_training import check_by_own_loop, check_variants, named_cases, places, raw_model, tensors

pytestmark = pytest.mark.shared

CASES = named_cases("activation_scaling")
PLACES = places(CASES)
KINDS: dict[str, Any] = {"ActivScalar": "scalars", "SteerVec": "vectors", "DynScalar": "probes"}


@pytest.fixture(scope="module")
def golden(shared_folder: Any) -> dict[str, torch.Tensor]:
    return tensors("activation_scaling")


def spots(case: dict[str, Any]) -> list[Spot]:
    """Theirs in ours: what a block leaves enters the next one."""
    return [
        Spot(layer + 1, "resid_pre") if site == "resid_post" else Spot(layer, site)
        for site in case["sites"]
        for layer in case["layers"]
    ]


def scaling_of(
    model: Any, case: dict[str, Any], values: torch.Tensor, *, learns: bool = False
) -> methods.ActivationScaling:
    """Their tensor [site, layer, token] or [..., width], in our rows."""
    rows = values.float().flatten(0, 1)
    rows = rows[:, None] if case["kind"] == "DynScalar" else rows[..., None] if case["kind"] == "ActivScalar" else rows
    parts = {spot: row.clone().requires_grad_(learns) for spot, row in zip(spots(case), rows, strict=True)}
    return methods.ActivationScaling(
        KINDS[case["kind"]], parts, Provenance.of_model(backend_of(model), source="golden")
    )


def tasks(case: dict[str, Any]) -> list[methods.Task]:
    return [methods.Task(tuple(item["ids"]), item["correct_id"], item["wrong_id"]) for item in case["all_prompts"]]


def names(case: dict[str, Any]) -> tuple[str, str]:
    """Keys of what was given, and of what was learnt."""
    if case["kind"] == "DynScalar":
        return "probe_given", "probe_learned_fp16"
    return "alpha_given", "theta_learned_fp16" if case["kind"] == "SteerVec" else "alpha_learned"


@PLACES
def test_losses_and_gradients_at_given_numbers(name: str, family: str, golden: Any) -> None:
    case = CASES[name]
    model = raw_model(case["model"]["name"], family)
    for place, told in case["evaluations"].items():
        given = golden[f"{name}/{names(case)[0]}"] * (place == "at_given")
        scaling = scaling_of(model, case, given, learns=True)
        report = methods.evaluate_scaling(model, scaling, tasks(case), margin=case["margin"])
        assert torch.allclose(report.unsteered, torch.tensor(told["margin_0"]), atol=2e-4)
        assert torch.allclose(report.margins, torch.tensor([told["margin_+1"], told["margin_-1"]]), atol=2e-4)
        assert report.effectiveness == pytest.approx(told["effectiveness"], abs=1e-4)
        assert report.faithfulness == pytest.approx(told["faithfulness"], abs=1e-4)
        assert report.size == pytest.approx(told["minimality_mean_abs"], abs=1e-5)
        if "kl_whole_vocabulary" in told:
            assert float(report.kl_all.mean()) == pytest.approx(told["kl_whole_vocabulary"], abs=1e-4)
        backend = backend_of(model)
        tokens = _encoded(backend, tasks(case))
        settings = {"margin": case["margin"], **case["weights"]}
        loss = loss_of(backend, scaling, tokens, _logits(backend, tokens, []), settings)["loss"]
        assert loss.item() == pytest.approx(told["total"], abs=1e-4)
        found = torch.stack(torch.autograd.grad(loss, list(scaling.values.values())))
        if f"{name}/grad_norm_{place}" in golden:
            expected = golden[f"{name}/grad_norm_{place}"].flatten(0, 1)
            assert torch.allclose(found.norm(dim=-1), expected, atol=5e-4)
        elif f"{name}/grad_{place}" in golden:
            assert torch.allclose(found.reshape(-1), golden[f"{name}/grad_{place}"].reshape(-1), atol=5e-4)


@PLACES
def test_what_is_learnt_and_the_loss_of_each_step(name: str, family: str, golden: Any) -> None:
    case = CASES[name]
    model = raw_model(case["model"]["name"], family)
    found = methods.activation_scaling(
        model, tasks(case), sites=[(spot.layer, spot.site) for spot in spots(case)], learn=KINDS[case["kind"]],
        margin=case["margin"], **case["weights"], steps=case["optimiser"]["steps"],
        learning_rate=case["optimiser"]["lr"], progress=False,
    )  # fmt: skip
    losses = torch.tensor([row["loss"] for row in found.history])
    assert torch.allclose(losses, torch.tensor(case["loss_by_step"]), atol=1e-4), (
        (losses - torch.tensor(case["loss_by_step"])).abs().max()
    )
    expected = scaling_of(model, case, golden[f"{name}/{names(case)[1]}"])
    for spot, values in found.values.items():
        difference = (values - expected.values[spot]).abs()
        # A number that the penalty holds at zero rings about it by steps of Adam: rounding decides on which side of
        # |x| a step falls, and so its place, but not the loss.
        at_zero = expected.values[spot].abs() < case["optimiser"]["lr"]
        bound = torch.where(at_zero, case["optimiser"]["lr"], 1e-3)
        assert (difference < bound).all(), spot


@PLACES
def test_log_probs_and_greedy_texts_of_what_was_learnt(name: str, family: str, golden: Any) -> None:
    case = CASES[name]
    model = raw_model(case["model"]["name"], family)
    check_variants(model, case, variants_of(model, case, golden), golden)


@pytest.mark.slow
@PLACES
def test_greedy_texts_by_the_models_own_loop(name: str, family: str, golden: Any) -> None:
    case = CASES[name]
    model = raw_model(case["model"]["name"], family)
    check_by_own_loop(model, case["prompts"][:1], variants_of(model, case, golden))


def variants_of(model: Any, case: dict[str, Any], golden: Any) -> dict[str, Any]:
    """What is done in each variant of a case."""
    scaling = scaling_of(model, case, golden[f"{case['case']}/{names(case)[1]}"])
    found = [key for key in case["prompts"][0] if key.startswith("lambda=")]
    return {"unsteered": ()} | {key: scaling.interventions(float(key.removeprefix("lambda="))) for key in found}
