"""Attention or value: against patching written out with plain Hugging Face modules, and planted truths."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens import metrics
from actadd_lens.models import backend_of
from actadd_lens.statistics import max_t_p, on_one_scale
from tests.plain_gpt2 import Held, Run, all_heads, plain_gpt2, plain_run
from tests.support import hook_state, vector_of

PROMPTS = (
    "The girl looked at the old dog and then she",
    "She felt that it was",
    "It was a good day and the old dog said",
)
PAIR = ("The girl was", "The dog said")
METRIC = metrics.logit_difference(5, 9)


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def rows(model: Any) -> list[list[int]]:
    return [backend_of(model).encode(prompt) for prompt in PROMPTS]


def value(run: Run) -> float:
    return float(run.logits[-1, 5] - run.logits[-1, 9])


def test_the_four_conditions_are_those_of_patching_by_hand(small: Any, gpt2_folder: Path) -> None:
    vector = 3.0 * vector_of(small, PAIR, 1)
    found = al.attention_or_value(small, PROMPTS, vector, METRIC, batch_size=9, progress=False)
    for prompt, tokens in enumerate(rows(small)):
        plain, steered = plain_run(gpt2_folder, tokens), plain_run(gpt2_folder, tokens, vector)
        frozen = plain_run(gpt2_folder, tokens, vector, held=Held(patterns=all_heads(plain.patterns)))
        patterns = plain_run(gpt2_folder, tokens, held=Held(patterns=all_heads(steered.patterns)))
        expected = [value(run) for run in (plain, steered, frozen, patterns)]
        np.testing.assert_allclose(found.values[0, :, prompt], expected, atol=2e-4)
    parts = [found.effect(part).mean for part in ("by values", "by attention", "together")]
    assert sum(parts) == pytest.approx(found.effect("whole").mean, abs=1e-6)


def test_heads_frozen_one_by_one_are_those_of_patching_by_hand(small: Any, gpt2_folder: Path) -> None:
    vector = 3.0 * vector_of(small, PAIR, 1)
    found = al.attention_or_value(small, PROMPTS[:1], vector, METRIC, by_head=True, batch_size=7, progress=False)
    assert found.heads is not None
    tokens = rows(small)[0]
    plain, steered = plain_run(gpt2_folder, tokens), plain_run(gpt2_folder, tokens, vector)
    for layer, head in ((1, 0), (2, 3), (3, 1)):
        ways = (
            Held(patterns={(layer, head): plain.patterns[layer][head]}),
            Held(values={(layer, head): plain.values[layer][head]}),
            Held(mixed={(layer, head): plain.mixed[layer][head]}),
        )
        lost = [value(steered) - value(plain_run(gpt2_folder, tokens, vector, held=way)) for way in ways]
        np.testing.assert_allclose(found.heads[0, :, layer, head, 0], lost, atol=2e-4)
    assert not found.heads[:, :, 0].any()


def test_both_families_agree_where_key_heads_are_shared(load: Any) -> None:
    for name in ("storybook", "stories"):
        models = [load(name, family) for family in ("hooked", "bridge")]
        vector = 2.0 * vector_of(models[0], PAIR, 1)
        found = [
            al.attention_or_value(model, PROMPTS, vector, metrics.next_token_logprob(7), progress=False).values
            for model in models
        ]
        np.testing.assert_allclose(found[0], found[1], atol=2e-3)


def test_a_trace_with_attention_frozen_is_the_by_values_part(small: Any) -> None:
    vector = 3.0 * vector_of(small, PAIR, 1)
    parts = al.attention_or_value(small, PROMPTS[0], vector, METRIC, progress=False)
    trace = al.trace_injection(small, PROMPTS[0], vector, metric=METRIC, freeze="attention", nulls=2)
    assert trace.change == pytest.approx(parts.effect("by values").mean, abs=1e-4)
    assert trace.contributions.total == pytest.approx(trace.change, abs=1e-4)
    assert np.abs(trace.contributions.attention).max() < 1e-5
    np.testing.assert_allclose(trace.contributions.values, trace.contributions.heads, atol=1e-4)
    np.testing.assert_allclose(trace.attention_steered, trace.attention_unsteered)
    assert "attention frozen" in repr(trace)


def test_a_trace_splits_each_head_as_its_weights_would_by_hand(small: Any, gpt2_folder: Path) -> None:
    vector, tokens = 3.0 * vector_of(small, PAIR, 1), rows(small)[0]
    trace = al.trace_injection(small, PROMPTS[0], vector, metric=METRIC)
    plain, steered = plain_run(gpt2_folder, tokens), plain_run(gpt2_folder, tokens, vector)
    model = plain_gpt2(gpt2_folder)
    last = plain.streams[-1][-1]
    scale = ((last - last.mean()).square().mean() + model.config.layer_norm_epsilon).sqrt()
    direction = model.transformer.ln_f.weight * (model.lm_head.weight[5] - model.lm_head.weight[9])
    direction = (direction - direction.mean()) / scale
    for layer, head in ((1, 2), (3, 0)):
        written = model.transformer.h[layer].attn.c_proj.weight[head * 8 : head * 8 + 8] @ direction
        pattern = [run.patterns[layer][head, -1] for run in (plain, steered)]
        values = [run.values[layer][head] for run in (plain, steered)]
        before = pattern[0] @ values[0] @ written
        by_attention, by_values = (pattern[1] @ values[0] @ written, pattern[0] @ values[1] @ written)
        assert trace.contributions.attention[layer, head] == pytest.approx(float(by_attention - before), abs=2e-4)
        assert trace.contributions.values[layer, head] == pytest.approx(float(by_values - before), abs=2e-4)
        whole = pattern[1] @ values[1] @ written - before
        assert trace.contributions.heads[layer, head] == pytest.approx(float(whole), abs=2e-4)
    assert not trace.contributions.attention[0].any()
    assert {"by attention", "by values"} <= set(trace.frame().columns)


def test_each_null_goes_through_the_same(small: Any) -> None:
    vector = 3.0 * vector_of(small, PAIR, 1)
    found = al.attention_or_value(small, PROMPTS[:2], vector, METRIC, nulls=3, by_head=True, progress=False)
    (null, *_) = al.null_vectors(small, vector, n=3)
    alone = al.attention_or_value(small, PROMPTS[:2], null, METRIC, by_head=True, progress=False)
    np.testing.assert_allclose(found.values[1], alone.values[0], atol=1e-4)
    assert found.heads is not None
    assert alone.heads is not None
    np.testing.assert_allclose(found.heads[1], alone.heads[0], atol=1e-4)
    frame = found.head_frame()
    assert frame["layer"].min() == 1
    assert (frame[["adjusted p, attention", "adjusted p, both"]] >= 0.25).all(axis=None)
    assert list(found.frame()["part"]) == ["whole", "by values", "by attention", "together"]
    share, low, high = found.share("by values")
    assert low <= share <= high
    assert "<table" in found._repr_html_()


def test_a_null_vectors_heads_stand_in_at_most_one_of_twenty_runs(quickest: Any) -> None:
    vector = 3.0 * vector_of(quickest, PAIR, 2)
    found = al.attention_or_value(
        quickest, PROMPTS[1], vector, METRIC, nulls=40, null_kind="gaussian", by_head=True, progress=False
    )
    assert found.heads is not None
    table = found.heads[1:].mean(axis=-1)[:, :, 2:].reshape(40, -1)
    stood = []
    for index in range(40):
        others = np.delete(table, index, axis=0)
        scaled = on_one_scale(np.concatenate([table[index][None], others]))
        stood.append((max_t_p(scaled[0], scaled[1:], "two-sided") <= 0.05).any())
    assert np.mean(stood) <= 0.05


def test_nothing_of_a_vector_of_zeros_and_no_hook_stays(small: Any) -> None:
    before = hook_state(small)
    found = al.attention_or_value(small, PROMPTS, 0.0 * vector_of(small, PAIR, 1), METRIC, progress=False)
    np.testing.assert_allclose(found.values[0], found.values[0, :1].repeat(4, axis=0), atol=1e-5)
    assert hook_state(small) == before


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_frozen_is_refused(quickest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vector = vector_of(quickest, PAIR, 1)
    with pytest.raises(al.SettingError, match="expected 'attention' or None"):
        al.trace_injection(quickest, PROMPTS[0], vector, metric=METRIC, freeze="values")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(al.SettingError, match="by_head=True"):
        al.attention_or_value(quickest, PROMPTS[0], vector, METRIC, progress=False).head_frame()
    with pytest.raises(al.PositionError, match="does not fit"):
        al.attention_or_value(quickest, "The", vector, METRIC, progress=False)
    monkeypatch.setattr("actadd_lens.models.swaps.is_mix", lambda *told: False)
    with pytest.raises(al.ModelError, match="do not give the outputs of its heads"):
        al.attention_or_value(quickest, PROMPTS[0], vector, METRIC, progress=False)
