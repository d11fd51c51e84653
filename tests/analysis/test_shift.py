"""Next-token shift against the model's own steered logits, and over texts against a loop over tokens."""

from collections import defaultdict
from contextlib import nullcontext
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al

PROMPTS = ["The girl looked at the old dog", "I went to my friend and she said that"]
TEXTS = ["The dog was good and the girl was good.", "She said that the old dog felt good today."]


def vector(model: Any) -> al.SteeringVector:
    return 4 * al.compute_steering_vector(model, ("I love weddings", "I hate"), layer=2)


@torch.no_grad()
def own_log_probs(model: Any, text: str, *vectors: al.SteeringVector) -> torch.Tensor:
    with al.steer(model, *vectors) if vectors else nullcontext():
        return model(model.to_tokens(text))[0].float().log_softmax(dim=-1)


def test_numbers_are_those_of_the_models_own_steered_pass(model: Any) -> None:
    v = vector(model)
    plain = torch.stack([own_log_probs(model, prompt)[-1] for prompt in PROMPTS])
    steered = torch.stack([own_log_probs(model, prompt, v)[-1] for prompt in PROMPTS])
    found = al.next_token_shift(model, PROMPTS, v, least=0.0, k=5, tokens=[11, 12])
    change = (steered - plain).mean(dim=0)
    parts = (steered.exp() * (steered - plain)).mean(dim=0)
    assert np.allclose(found.changes, change, atol=1e-4)
    assert found.kl.steered == pytest.approx(float(parts.sum()), abs=1e-4)
    for one in found.rises + found.falls + found.followed + found.kl_parts:
        assert one.unsteered == pytest.approx(float(plain[:, one.token].exp().mean()), abs=1e-5)
        assert one.steered == pytest.approx(float(steered[:, one.token].exp().mean()), abs=1e-5)
        assert one.kl_part == pytest.approx(float(parts[one.token]), abs=1e-4)
        assert one.rank_before == 1 + int((plain.mean(0) > plain.mean(0)[one.token] + 1e-6).sum())
    assert [one.change for one in found.rises] == pytest.approx(change.topk(5).values.tolist(), abs=1e-4)
    assert [one.kl_part for one in found.kl_parts] == pytest.approx(parts.topk(5).values.tolist(), abs=1e-4)


def test_kl_is_the_metric_and_its_parts_add_up_to_it(small: Any) -> None:
    v = vector(small)
    found = al.next_token_shift(small, PROMPTS, v, tokens=range(small.cfg.d_vocab), nulls=3)
    assert sum(one.kl_part for one in found.followed) == pytest.approx(found.kl.steered, abs=1e-6)
    measured = al.measure(small, PROMPTS, v, al.metrics.kl_divergence(), nulls=3)
    assert found.kl.by_prompt == pytest.approx(measured.steered, abs=1e-5)
    assert np.allclose(found.kl.nulls, measured.effect.nulls, atol=1e-5)
    for one in found.followed[:3]:
        log_prob = al.metrics.next_token_logprob(one.token)
        effect = al.measure(small, PROMPTS, v, log_prob, nulls=3).effect
        assert one.change == pytest.approx(effect.mean, abs=1e-5)
        assert one.z == pytest.approx(effect.standardised, rel=1e-2)


def test_batches_of_any_size_give_the_same(small: Any) -> None:
    v = vector(small)
    whole, single = (al.next_token_shift(small, PROMPTS, v, nulls=3, batch_size=size) for size in (64, 1))
    assert np.allclose(whole.changes, single.changes, atol=1e-5)
    assert np.allclose(whole.kl.nulls, single.kl.nulls, atol=1e-5)
    texts, one = (al.text_shift(small, TEXTS, v, nulls=3, batch_size=size) for size in (64, 1))
    assert np.allclose(texts.frame()[["change", "z"]], one.frame()[["change", "z"]], atol=1e-3)


@pytest.mark.slow
def test_a_null_vector_shifts_a_token_that_stands_in_few_runs(small: Any) -> None:
    stood = 0
    for null in al.null_vectors(small, vector(small), kind="gaussian", n=40, seed=5):
        found = al.next_token_shift(small, PROMPTS[:2], null, nulls=59, null_kind="gaussian", tokens=[3, 4])
        stood += bool(found.significant)
        assert all(0 < one.adjusted_p <= 1 for one in (*found.rises, *found.falls, *found.kl_parts, *found.followed))
    assert stood <= 40 * 0.05 + 3 * (40 * 0.05 * 0.95) ** 0.5
    assert not al.next_token_shift(small, PROMPTS, vector(small)).significant


def test_only_tokens_likely_enough_are_listed_and_zero_shifts_nothing(small: Any) -> None:
    found = al.next_token_shift(small, PROMPTS, vector(small), least=0.01, k=500)
    for one in found.rises + found.falls:
        assert max(one.unsteered, one.steered) >= 0.01
    assert {one.change > 0 for one in found.rises} == {True}
    nothing = al.next_token_shift(small, PROMPTS, 0 * vector(small))
    assert nothing.rises == nothing.falls == nothing.kl_parts == ()
    assert nothing.kl.steered == 0.0


def test_text_shift_is_the_mean_over_occurrences_that_no_injected_position_foretells(model: Any) -> None:
    v = vector(model)
    changes = defaultdict(list)
    by_text = []
    for text in TEXTS:
        tokens = model.to_tokens(text)[0].tolist()
        plain, steered = own_log_probs(model, text), own_log_probs(model, text, v)
        mine = [
            (token, float(steered[column, token] - plain[column, token]))
            for column, token in enumerate(tokens[1:])
            if column >= v.rows
        ]
        by_text.append(np.mean([change for _, change in mine]))
        for token, change in mine:
            changes[token].append(change)
    found = al.text_shift(model, TEXTS, v)
    assert {one.token: one.count for one in found.tokens} == {token: len(some) for token, some in changes.items()}
    for one in found.tokens:
        assert one.change == pytest.approx(np.mean(changes[one.token]), abs=1e-4)
    assert found.effect.mean == pytest.approx(np.mean(by_text), abs=1e-4)
    assert [one.change for one in found.tokens] == sorted((one.change for one in found.tokens), reverse=True)
    expected, sample = found.quantiles
    assert len(expected) == len(sample) == len(found.tokens)
    assert expected[0] == pytest.approx(NormalDist().inv_cdf(0.5 / len(expected)))


def test_text_shift_is_minus_the_change_of_the_cross_entropy(small: Any) -> None:
    v = vector(small)
    measured = al.measure(small, TEXTS, v, al.metrics.cross_entropy(), nulls=4)
    found = al.text_shift(small, TEXTS, v, nulls=4)
    assert found.effect.mean == pytest.approx(-measured.effect.mean, abs=1e-5)
    assert np.allclose(found.effect.nulls, -measured.effect.nulls, atol=1e-5)


def test_intervals_cover_texts_or_occurrences_and_say_which(small: Any) -> None:
    v = vector(small)
    few = al.text_shift(small, TEXTS, v)
    assert few.covers == "occurrences"
    for one in few.tokens:
        assert np.isnan(one.low) == (one.count == 1)
        assert not one.low > one.change
        assert not one.high < one.change
    many = al.text_shift(small, TEXTS * 6, v)  # six copies: ten texts or more
    assert many.covers == "texts"
    ours = {one.token: one for one in few.tokens}
    for one in many.tokens:
        assert one.count == 6 * ours[one.token].count
        assert one.change == pytest.approx(ours[one.token].change, abs=1e-5)
        assert one.low <= one.change <= one.high
    assert {one.count for one in al.text_shift(small, TEXTS, v, least_count=2).tokens} >= {2}
    assert min(one.count for one in al.text_shift(small, TEXTS, v, least_count=2).tokens) == 2


def test_both_families_agree(load: Any) -> None:
    found = [al.next_token_shift(load("gpt2", family), PROMPTS, vector(load("gpt2", family)), nulls=2)
             for family in ("hooked", "bridge")]  # fmt: skip
    assert np.allclose(found[0].changes, found[1].changes, atol=1e-4)


def test_results_show_themselves(small: Any) -> None:
    shift = al.next_token_shift(small, PROMPTS, vector(small), k=4, nulls=2)
    assert len(shift.plot().get_yticks()) == len(shift.rises) + len(shift.falls)
    assert set(shift.frame()["list"]) <= {"rises", "falls", "KL", "followed"}
    assert "KL(steered || unsteered)" in shift._repr_html_()
    text = al.text_shift(small, TEXTS, vector(small))
    assert text.plot().get_ylabel() == "mean change of log-prob, nats"
    assert "change" in text._repr_html_()


@pytest.mark.parametrize("prepend_bos", [True, False])
def test_nothing_is_left_to_read_where_a_vector_lands_on_every_token(small: Any, prepend_bos: bool) -> None:
    """What BOS predicts comes before every injection and cannot change."""
    row = vector(small).row(-1).at(position="all")
    with pytest.raises(al.SettingError, match="No prediction is left"):
        al.text_shift(small, TEXTS, row, prepend_bos=prepend_bos)
