"""SADI: golden cases of the authors' rule and of the formula, and what holds without them."""

from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens import methods
from actadd_lens.methods.sadi import SadiSite
from tests.methods import golden

CASES = golden.cases("sadi")
SITES: dict[str, SadiSite] = {"z": "head", "act": "neuron", "mlp_out": "mlp_out", "resid_post": "resid_pre"}
PAIRS = [("Tom lost his toy. Tom felt sad", "Tom lost his toy. Tom felt happy"), ("It was hot", "It was cold")]


def found_in(case: dict[str, Any], model: Any) -> methods.Sadi:
    pairs = [(pair["pos_ids"], pair["neg_ids"]) for pair in case["pairs"]]
    return methods.sadi(model, pairs, site=SITES[case["site"]], k=case["K"], strength=case["strength_code"])


def variants(case: dict[str, Any], model: Any) -> dict[str, Any]:
    frozen = found_in(case, model)
    running = methods.sadi(
        model,
        [(pair["pos_ids"], pair["neg_ids"]) for pair in case["pairs"]],
        site=SITES[case["site"]],
        k=case["K"],
        strength=case["strength_code"],
        rule="running",
    )
    found = {"unsteered": (), "frozen": frozen, "running": running, "running_onward": running.at(position="last")}
    return {name: steps for name, steps in found.items() if name in case["prompts"][0]}


@pytest.mark.shared
@pytest.mark.parametrize("chosen", CASES)
def test_the_chosen_elements_are_those_of_the_authors(chosen: Any) -> None:
    case, family = chosen
    model = golden.raw_model(case["model"]["name"], family, sha256=case["model"]["sha256_model_safetensors"])
    found, kept = found_in(case, model), golden.tensors("sadi")
    shift = int(case["site"] == "resid_post")
    assert [[layer - shift, element] for layer, element in found.elements] == case["top_indices_layer_element"]
    assert golden.near(found.mean_difference, kept[f"{case['case']}/mean_difference"])
    mask = kept[f"{case['case']}/mask"].bool()
    assert torch.equal(found.mask.repeat_interleave(mask.shape[1] // found.mask.shape[1], dim=1), mask)


@pytest.mark.shared
@pytest.mark.parametrize("chosen", CASES)
def test_log_probs_of_every_rule_are_as_calculated(chosen: Any) -> None:
    case, family = chosen
    model = golden.raw_model(case["model"]["name"], family)
    golden.check_prompts("sadi", case, model, variants(case, model))


@pytest.mark.shared
@pytest.mark.parametrize(("chosen", "way"), golden.ways("sadi"))
def test_greedy_text_of_every_rule_is_as_calculated(chosen: Any, way: str) -> None:
    case, family = chosen
    model = golden.raw_model(case["model"]["name"], family)
    golden.check_texts(case, model, variants(case, model), way)


def test_the_largest_signed_differences_of_all_layers_are_chosen(small: Any) -> None:
    found = methods.sadi(small, PAIRS, site="mlp_out", k=5, strength=3.0)
    table = found.mean_difference
    assert table[found.mask].min() >= table[~found.mask].max()
    assert [float(table[layer, element]) for layer, element in found.elements] == table.flatten().topk(
        5
    ).values.tolist()
    assert methods.sadi(small, PAIRS, site="resid_pre", k=1, strength=3.0).layers == (1, 2, 3, 4)


def test_the_difference_of_a_head_is_the_mean_over_its_coordinates(small: Any) -> None:
    found = methods.sadi(small, PAIRS[:1], site="head", k=1, strength=2.0)
    right, wrong = (
        small.run_with_cache(small.to_tokens(text))[1]["blocks.1.attn.hook_z"][0, -1].mean(dim=-1) for text in PAIRS[0]
    )
    assert torch.allclose(found.mean_difference[1], right - wrong, atol=1e-5)


@pytest.mark.parametrize("rule", ["frozen", "running"])
def test_a_factor_of_one_leaves_the_next_token_as_it_is(small: Any, rule: Any) -> None:
    found = methods.sadi(small, PAIRS, site="head", k=3, strength=1.0, rule=rule)
    measured = al.measure(small, ["The dog ran", "She was"], found, al.metrics.kl_divergence(), progress=False)
    assert abs(measured.effect.mean) < 1e-6


def test_only_the_last_token_of_the_prompt_is_scaled(small: Any) -> None:
    tokens = small.to_tokens("The dog ran home")
    found = methods.sadi(small, PAIRS, site="mlp_out", k=4, strength=6.0, rule="running")
    with al.steer(small, *found):
        steered = small(tokens)
    plain = small(tokens)
    assert torch.equal(steered[0, :-1], plain[0, :-1])
    assert not torch.equal(steered[0, -1], plain[0, -1])


def test_times_scales_the_delta_and_nulls_draw_as_many_elements(small: Any) -> None:
    found = methods.sadi(small, PAIRS, site="head", k=3, strength=5.0)
    assert (found.times(0.5).strength, found.times(0).strength) == (3.0, 1.0)
    drawn = found.nulls(4, seed=1)
    assert {null.k for null in drawn} == {3}
    assert all(int(null.mask.sum()) == 3 for null in drawn)
    assert len({null.elements for null in drawn}) > 1
    assert [null.elements for null in found.nulls(4, seed=1)] == [null.elements for null in drawn]


@pytest.mark.usefixtures("unchecked")
def test_settings_out_of_range_are_refused(quickest: Any) -> None:
    sound: dict[str, Any] = {"site": "head", "k": 2, "strength": 3.0}
    for wrong, told in (
        ({"site": "attn"}, "site is 'attn'"),
        ({"rule": "onward"}, "rule is 'onward'"),
        ({"k": 0}, "from 1 to 16"),
        ({"k": 17}, "the elements of all layers"),
    ):
        with pytest.raises(al.SettingError, match=told):
            methods.sadi(quickest, PAIRS, **{**sound, **wrong})
    with pytest.raises(al.CoefficientError):
        methods.sadi(quickest, PAIRS, site="head", k=2, strength=float("nan"))


def test_a_mask_of_centred_weights_is_refused_by_raw_ones(load: Any) -> None:
    raw, other = load("gpt2", "bridge"), load("gpt2", "hooked")
    found = methods.sadi(other, PAIRS, site="mlp_out", k=2, strength=3.0)
    with pytest.raises(al.VectorError, match="Read it again"):
        al.complete(raw, "The dog", found, max_new_tokens=1)
