"""Traces against TransformerLens's own caches, and against truths that were planted."""

from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens import Trace, metrics, trace_injection, trace_layers
from tests.support import hook_state, plain_hooks, tokens_of, vector_of

PROMPT = "The girl looked at the old dog and then she"
PAIR = ("The girl was", "The dog said")
METRIC = metrics.logit_difference(5, 9)


def trace(model: Any, vectors: Any = None, **settings: Any) -> Trace:
    """Settings that most tests share."""
    vectors = 3.0 * vector_of(model, PAIR, 1) if vectors is None else vectors
    return trace_injection(model, PROMPT, vectors, **({"metric": METRIC} | settings))


@torch.no_grad()
def caches(model: Any, vector: al.SteeringVector, column: int = 0) -> tuple[Any, Any]:
    """TransformerLens's caches of an unsteered run and of one with the addition written out."""
    tokens = tokens_of(model, PROMPT)
    plain = model.run_with_cache(tokens)[1]
    with model.hooks(fwd_hooks=plain_hooks(vector, column)):
        return plain, model.run_with_cache(tokens)[1]


@torch.no_grad()
def logits(model: Any, vector: al.SteeringVector | None, column: int | None = 0) -> torch.Tensor:
    hooks = [] if vector is None else plain_hooks(vector, column)
    return model.run_with_hooks(tokens_of(model, PROMPT), fwd_hooks=hooks)[0, -1]


@pytest.fixture(params=["gpt2", "storybook", pytest.param("stories", marks=pytest.mark.shared)])
def folded(request: pytest.FixtureRequest, load: Any) -> Any:
    """Each architecture as a HookedTransformer, whose caches know heads."""
    return load(request.param, "hooked")


# -- against TransformerLens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["unsteered", "steered"])
def test_contributions_are_those_of_the_caches_own_decomposition(folded: Any, at: str) -> None:
    vector = 3.0 * vector_of(folded, PAIR, 1)
    plain, steered = caches(folded, vector)
    scaled_by = plain if at == "unsteered" else steered
    direction = (folded.W_U[:, 5] - folded.W_U[:, 9]).detach()

    def contribution(component: torch.Tensor) -> torch.Tensor:
        return scaled_by.apply_ln_to_stack(component, layer=-1, pos_slice=-1)[:, 0] @ direction

    parts = trace(folded, at=at).contributions
    layers, heads = parts.heads.shape
    by_head = [cache.stack_head_results(layer=-1, pos_slice=-1)[: layers * heads] for cache in (plain, steered)]
    np.testing.assert_allclose(parts.heads.flatten(), contribution(by_head[1] - by_head[0]).detach().numpy(), atol=1e-4)
    by_mlp = [
        torch.stack([cache[f"blocks.{layer}.hook_mlp_out"][:, -1] for layer in range(layers)])
        for cache in (plain, steered)
    ]
    np.testing.assert_allclose(parts.mlps, contribution(by_mlp[1] - by_mlp[0]).detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("at", ["unsteered", "steered"])
@pytest.mark.parametrize("position", [0, 2, "back"])
def test_with_the_final_norm_frozen_contributions_sum_to_the_change(folded: Any, at: str, position: Any) -> None:
    vector = 3.0 * vector_of(folded, PAIR, 1)
    length = tokens_of(folded, PROMPT).shape[1]
    column = length - vector.rows if position == "back" else position
    plain, steered = caches(folded, vector, column)
    name = f"blocks.{folded.cfg.n_layers - 1}.hook_resid_post"
    change = steered[name] - plain[name]
    scale = (plain if at == "unsteered" else steered)["ln_final.hook_scale"][0, -1]
    centred = change[0, -1] - (0.0 if "RMS" in folded.cfg.normalization_type else change[0, -1].mean())
    frozen = centred / scale @ (folded.W_U[:, 5] - folded.W_U[:, 9]).detach()
    parts = trace(folded, position=position, at=at).contributions
    assert parts.direct == pytest.approx(float(frozen), abs=1e-4)
    assert parts.higher_orders == pytest.approx(0.0, abs=1e-4)


def test_all_parts_sum_to_the_change_of_the_metric(model: Any) -> None:
    vector = 3.0 * vector_of(model, PAIR, 1)
    before, after = logits(model, None), logits(model, vector)
    for metric, value in (
        (METRIC, lambda found: found[5] - found[9]),
        (metrics.next_token_logit(7), lambda found: found[7]),
        (metrics.next_token_logprob(7), lambda found: found.log_softmax(-1)[7]),
        (metrics.entropy(), lambda found: -(found.softmax(-1) * found.log_softmax(-1)).sum()),
    ):
        found = trace(model, metric=metric)
        assert found.change == pytest.approx(float(value(after) - value(before)), abs=1e-4)
        assert found.contributions.total == pytest.approx(found.change, abs=1e-4)


def test_a_metric_of_every_token_is_shared_out_over_them(model: Any) -> None:
    found = trace(model, metric=metrics.cross_entropy())
    assert found.contributions.total == pytest.approx(found.change, abs=1e-4)
    small = trace(model, 0.01 * vector_of(model, PAIR, 1), metric=metrics.cross_entropy())
    parts = small.contributions
    assert abs(parts.higher_orders) < 0.05 * (np.abs(parts.heads).sum() + np.abs(parts.mlps).sum())


def test_the_carried_injection_reaches_the_last_token_by_itself(folded: Any) -> None:
    vector = 3.0 * vector_of(folded, PAIR, 1)
    plain, _ = caches(folded, vector)
    last = vector.injection[-1]
    centred = last - (0.0 if "RMS" in folded.cfg.normalization_type else last.mean())
    expected = centred / plain["ln_final.hook_scale"][0, -1] @ (folded.W_U[:, 5] - folded.W_U[:, 9]).detach()
    assert trace(folded, position="back").contributions.carried == pytest.approx(float(expected), abs=1e-4)
    assert trace(folded, position="front").contributions.carried == 0.0


def test_changes_and_attention_are_those_of_the_caches(folded: Any) -> None:
    vector = 3.0 * vector_of(folded, PAIR, 1)
    plain, steered = caches(folded, vector, 2)
    found = trace(folded, position=2)
    layers, heads, length = found.head_change.shape
    assert found.injected == tuple(2 + row for row in vector.norms.nonzero().flatten().tolist())
    results = [cache.stack_head_results(layer=-1)[: layers * heads, 0] for cache in (plain, steered)]
    norms = (results[1] - results[0]).norm(dim=-1).reshape(layers, heads, length)
    np.testing.assert_allclose(found.head_change, norms.detach().numpy(), atol=2e-4, rtol=1e-4)
    for cache, shown in ((plain, found.attention_unsteered), (steered, found.attention_steered)):
        for layer in range(layers):
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0]
            for query in range(length):
                paid = sum(pattern[:, query, key] for key in found.injected if key < query)
                expected = paid.numpy() if isinstance(paid, torch.Tensor) else np.zeros(heads)
                np.testing.assert_allclose(shown[layer, :, query], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "storybook", pytest.param("stories", marks=pytest.mark.shared)])
def test_both_families_agree(load: Any, name: str) -> None:
    models = [load(name, family) for family in ("hooked", "bridge")]
    vector = 3.0 * vector_of(models[0], PAIR, 1)  # one vector for both: the size of nulls hangs on the mean of its rows
    found = [trace(model, vector, nulls=2, null_kind="gaussian") for model in models]
    for pick in (
        lambda item: item.contributions.heads,
        lambda item: item.contributions.mlps,
        lambda item: [item.contributions.final_norm, item.change],
        lambda item: item.attention_steered,
        lambda item: item.head_change,
        lambda item: item.mlp_change,
        lambda item: item.arrived,
        lambda item: item.nulls[1].heads,
    ):
        np.testing.assert_allclose(pick(found[0]), pick(found[1]), atol=1e-4, rtol=1e-4)
    assert found[0].injected == found[1].injected


def test_folded_and_raw_weights_agree(gpt2_folder: Any, load: Any) -> None:
    folded = load("gpt2", "hooked")
    kept: dict[str, Any] = dict.fromkeys(
        ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"), False
    )
    raw = al.load_model(gpt2_folder, family="hooked", **kept)
    vector = 3.0 * vector_of(folded, PAIR, 1)
    found = [trace(model, vector).contributions for model in (raw, folded)]
    np.testing.assert_allclose(found[0].heads, found[1].heads, atol=1e-4)
    np.testing.assert_allclose(found[0].mlps, found[1].mlps, atol=1e-4)


# -- planted truths ----------------------------------------------------------------------------------------------


def test_a_head_that_is_zeroed_reads_nothing(small: Any) -> None:
    def zero(mixed: torch.Tensor, hook: Any) -> torch.Tensor:
        mixed = mixed.clone()
        mixed[:, :, 1] = 0.0
        return mixed

    assert trace(small).contributions.heads[2, 1] != 0.0
    with small.hooks(fwd_hooks=[("blocks.2.attn.hook_z", zero)]):
        found = trace(small)
    assert found.contributions.heads[2, 1] == 0.0
    assert not found.head_change[2, 1].any()
    assert np.count_nonzero(found.contributions.heads[2]) == found.contributions.heads.shape[1] - 1
    assert found.contributions.total == pytest.approx(found.change, abs=1e-4)


def test_layers_below_the_injection_read_nothing(small: Any) -> None:
    found = trace(small, 3.0 * vector_of(small, PAIR, 2))
    assert not found.contributions.heads[:2].any()
    assert not found.mlp_change[:2].any()
    assert found.contributions.heads[2:].all()


def test_a_vector_of_zeros_changes_nothing(small: Any) -> None:
    found = trace(small, 0.0 * vector_of(small, PAIR, 1))
    assert found.injected == ()
    assert found.contributions.total == pytest.approx(0.0, abs=1e-5)
    assert np.isnan(found.attention()).all()


def test_at_the_last_layer_an_unembedding_direction_is_carried_and_not_read(quickest: Any) -> None:
    direction = quickest.W_U[:, 5] - quickest.W_U[:, 9]
    vector = al.SteeringVector.from_tensor(direction.detach(), layer=quickest.cfg.n_layers - 1, source="planted")
    found = trace(quickest, 0.1 * vector, position="back")
    assert found.contributions.carried > np.abs(found.contributions.heads).max()
    assert found.contributions.carried > 0


def test_several_vectors_and_every_token_sum_up_too(model: Any) -> None:
    first, second = (vector_of(model, PAIR, layer) for layer in (1, 2))
    for vectors, position in (([2 * first, -second], "front"), (2 * first.row(-1), "all")):
        found = trace(model, vectors, position=position)
        assert found.contributions.total == pytest.approx(found.change, abs=1e-4)
        assert found.contributions.higher_orders == pytest.approx(0.0, abs=1e-4)
    assert trace(model, 2 * first.row(-1), position="all").injected == tuple(range(1, len(found.tokens)))


def test_first_order_misses_less_of_a_smaller_injection(small: Any) -> None:
    metric = metrics.next_token_logprob(7)
    missed = []
    for coefficient in (0.1, 0.01):
        found = trace(small, coefficient * vector_of(small, PAIR, 1), metric=metric)
        missed.append(abs(found.contributions.higher_orders) / coefficient)
    assert missed[1] < 0.3 * missed[0]


def test_a_divergence_has_no_first_order_where_it_is_zero(small: Any) -> None:
    assert np.abs(trace(small, metric=metrics.kl_divergence()).contributions.heads).max() < 1e-5
    assert np.abs(trace(small, metric=metrics.kl_divergence(), at="steered").contributions.heads).max() > 1e-5


# -- nulls, layers, showing --------------------------------------------------------------------------------------


def test_a_null_is_traced_as_it_would_be_alone(small: Any) -> None:
    vector = 3.0 * vector_of(small, PAIR, 1)
    found = trace(small, vector, nulls=3, batch_size=3)
    for null, parts in zip(al.null_vectors(small, vector, n=3), found.nulls, strict=True):
        alone = trace(small, null).contributions
        np.testing.assert_allclose(parts.heads, alone.heads, atol=1e-5)
        assert parts.total == pytest.approx(alone.total, abs=1e-5)


def test_traces_of_several_layers_are_those_of_each_alone(small: Any) -> None:
    prompts = (PROMPT, "Then she said that it was a good day")
    found = trace_layers(small, prompts, PAIR, layers=[0, 2], metric=METRIC, coefficient=3.0, nulls=2)
    for index, layer in enumerate((0, 2)):
        alone = [trace_injection(small, text, 3.0 * vector_of(small, PAIR, layer), metric=METRIC) for text in prompts]
        assert found.effects[index].mean == pytest.approx(np.mean([item.change for item in alone]), abs=1e-4)
        expected = np.mean([item.contributions.by_layer for item in alone], axis=0)
        np.testing.assert_allclose(found.contributions[index], expected, atol=1e-4)
        paid = np.mean([item.attention().mean(axis=1) for item in alone], axis=0)
        np.testing.assert_allclose(found.attention()[index, layer:], paid[layer:], atol=1e-5)
        assert np.isnan(found.attention()[index, :layer]).all()
    frame = found.frame()
    parts = frame[["heads", "MLPs", "carried injection", "higher orders", "final norm"]].sum(axis=1)
    np.testing.assert_allclose(parts, frame["effect"], atol=1e-4)


def test_tables_and_pictures_hold_every_part(quickest: Any) -> None:

    found = trace(quickest, nulls=3)
    frame = found.frame()
    assert frame["contribution"].sum() == pytest.approx(found.change, abs=1e-4)
    assert frame["layer"].min() == 1
    assert {"standardised", "attention steered", "change norm"} <= set(frame.columns)
    assert found.plot().get_xticklabels()[-1].get_text() == "MLP"
    assert found.plot_attention().get_ylabel() == "layer"
    layers = trace_layers(quickest, [PROMPT], PAIR, layers=range(4), metric=METRIC, nulls=2)
    assert len(layers.plot()) == 3
    assert "heads" in repr(found)
    assert "<table" in found._repr_html_()
    assert "<table" in layers._repr_html_()
    assert "by layer 0:" in repr(layers)


def test_no_hook_stays_behind(small: Any) -> None:
    before = hook_state(small)
    trace(small)
    assert hook_state(small) == before


# -- wrong input -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"vectors": "Love"}, al.VectorError, "is not a steering vector"),
        ({"vectors": []}, al.VectorError, "No steering vector"),
        ({"metric": 3}, al.SettingError, "is not a metric"),
        ({"metric": metrics.precision_at(1, {PROMPT: " dog"})}, al.SettingError, "has no gradient"),
        ({"metric": metrics.next_token_logit("two words")}, al.PromptError, "tokens for"),
        ({"position": 99}, al.PositionError, "does not fit"),
        ({"at": "both"}, al.SettingError, "'unsteered' or 'steered'"),
        ({"nulls": -1}, al.SettingError, "from 0"),
    ],
)
def test_wrong_input_says_what_was_expected(quickest: Any, settings: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        trace(quickest, **settings)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("prompt", "error", "match"),
    [([PROMPT], al.SettingError, "trace_layers"), ("The", al.PositionError, "does not fit")],
)
def test_a_prompt_that_cannot_be_traced_is_refused(quickest: Any, prompt: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        trace_injection(quickest, prompt, vector_of(quickest, PAIR, 1), metric=METRIC)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"layers": []}, al.LayerError, "No layer was given"),
        ({"layers": [99]}, al.LayerError, "does not exist"),
        ({"prompts": []}, al.PromptError, "No prompt was given"),
        ({"coefficient": "3"}, al.CoefficientError, "is not a number"),
    ],
)
def test_layers_that_cannot_be_traced_are_refused(quickest: Any, settings: Any, error: Any, match: str) -> None:
    told = {"prompts": [PROMPT], "pair": PAIR, "layers": [1], "metric": METRIC} | settings
    with pytest.raises(error, match=match):
        trace_layers(quickest, told.pop("prompts"), told.pop("pair"), **told)


def test_a_stream_that_is_no_sum_of_its_components_is_refused(small: Any) -> None:
    with (
        small.hooks(fwd_hooks=[("blocks.2.hook_attn_out", lambda value, hook: 2 * value)]),
        pytest.raises(al.ModelError, match="is not the sum"),
    ):
        trace(small)


def test_parts_of_a_trace_have_p_values_adjusted_over_all_of_them(small: Any) -> None:
    v = al.compute_steering_vector(small, ("Love", "Hate"), layer=1)
    frame = al.trace_injection(small, PROMPT, 3 * v, metric=al.metrics.next_token_logprob(7), nulls=19).frame()
    assert (frame["adjusted p"] >= 0.05).all()
    assert frame["adjusted p"].max() <= 1
