"""Sweeps: the numbers of the naive loop, kept on disk without mixing, and read with honest statistics."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import actadd_lens as al
from actadd_lens import metrics
from tests.support import PAIRS, hook_state, prompts, tokens_of

PROMPTS = ("The girl looked at the dog. She felt", "It was a good day and she", "The old dog said that the girl was")
TOKEN = " the"


def measures() -> list[al.Metric]:
    """One of each kind: the last logits, the unsteered ones beside them, and every column."""
    return [metrics.next_token_logprob(10), metrics.kl_divergence("unsteered || steered"), metrics.cross_entropy()]


def by_hand(logits: Tensor, plain: Tensor, tokens: Tensor, left_out: range) -> list[float]:
    """The metrics of `measures` of one prompt's logits, written out."""
    steered, unsteered = logits[-1].log_softmax(-1), plain[-1].log_softmax(-1)
    divergence = (unsteered.exp() * (unsteered - steered)).sum()
    nll = [-float(logits[at].log_softmax(-1)[tokens[at + 1]]) for at in range(len(tokens) - 1) if at not in left_out]
    return [float(steered[10]), float(divergence), float(np.mean(nll)) if nll else float("nan")]


@torch.no_grad()
def naive(
    model: Any, pair: Any, layer: int, coefficient: float, position: Any, prompt: str, hooks: Any = ()
) -> tuple[list[float], list[float]]:
    """Steered and unsteered metrics of one cell on one prompt: steer, run, measure."""
    tokens = tokens_of(model, prompt)
    vector = al.compute_steering_vector(model, pair, layer=layer) if isinstance(pair, tuple) else pair.at_layer(layer)
    plain = model(tokens)[0]
    with al.steer(model, coefficient * vector, position=position):
        steered = model(tokens)[0]
    length = tokens.shape[1]
    starts = {"front": 0, "mid": length // 2 - vector.rows // 2, "back": length - vector.rows}
    start = starts.get(position, position)
    left_out = range(1, length) if position == "all" else range(start, start + vector.rows)
    return by_hand(steered, plain, tokens[0], left_out), by_hand(plain, plain, tokens[0], left_out)


def assert_is_naive(found: al.Sweep, model: Any, pairs: Sequence[Any]) -> None:
    """Every cell of a sweep against the naive loop."""
    grid = found.grid
    for place in np.ndindex(*grid.shape):
        pair, layer, coefficient, position = place
        for number, prompt in enumerate(grid.prompts):
            steered, plain = naive(
                model, pairs[pair], grid.layers[layer], grid.coefficients[coefficient], grid.positions[position], prompt
            )
            np.testing.assert_allclose(found.steered[(slice(None), *place, number, 0)], steered, atol=2e-5, rtol=1e-5)
            np.testing.assert_allclose(found.unsteered[:, pair, position, number, 0], plain, atol=2e-5, rtol=1e-5)


# -- equal to the naive loop -----------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=6)
def test_a_random_grid_is_the_naive_loop(model: Any, data: st.DataObject) -> None:
    top = model.cfg.n_layers
    pairs = data.draw(st.lists(st.sampled_from(PAIRS[:2]), min_size=1, max_size=2, unique=True))
    layers = data.draw(st.lists(st.integers(0, top - 1), min_size=1, max_size=3, unique=True))
    coefficients = data.draw(st.lists(st.sampled_from([-4.0, 0.0, 0.5, 3.0]), min_size=1, max_size=2, unique=True))
    positions = data.draw(st.lists(st.sampled_from(["front", "mid", "back", 1]), min_size=1, max_size=2, unique=True))
    texts = [f"The girl looked {text}" for text in data.draw(st.lists(prompts, min_size=1, max_size=3))]
    found = al.sweep(
        model, pairs, layers=layers, coefficients=coefficients, positions=positions, prompts=texts, metric=measures(),
        batch_size=data.draw(st.sampled_from([1, 5, 64])),
    )  # fmt: skip
    assert_is_naive(found, model, pairs)


def test_position_all_is_the_naive_loop(small: Any) -> None:
    vector = al.compute_steering_vector(small, PAIRS[0], layer=1).row(-1)
    found = al.sweep(
        small, vector, layers=[0, 2], coefficients=[3], positions="all", prompts=PROMPTS, metric=measures()
    )
    assert_is_naive(found, small, [vector])


def test_nulls_are_measured_as_null_vectors_are(small: Any) -> None:
    metric = metrics.next_token_logprob(10)
    found = al.sweep(small, PAIRS[0], layers=[1, 3], coefficients=[2, -3], prompts=PROMPTS, metric=metric, nulls=3)
    for layer, coefficient in [(0, 1), (1, 0)]:
        number, scale = found.grid.layers[layer], found.grid.coefficients[coefficient]
        vector = scale * al.compute_steering_vector(small, PAIRS[0], layer=number)
        expected = al.measure(small, PROMPTS, vector, metric, nulls=3)
        np.testing.assert_allclose(found.nulls[0, :, 0, layer, coefficient, 0], expected.nulls, atol=2e-5)


def test_a_null_is_one_pair_of_phrases_at_every_layer(small: Any) -> None:
    plan = al.plan_sweep(small, PAIRS[0], layers=[0, 2], coefficients=1, prompts=PROMPTS, metric=len, nulls=4)
    vectors = plan.passes.placed.vectors([0])
    own = al.null_vectors(small, al.compute_steering_vector(small, PAIRS[0], layer=2), n=4)
    for ours, theirs in zip(vectors[0, 1][1:], own, strict=True):
        assert torch.allclose(ours.activations, theirs.activations, atol=1e-5)


def test_zero_coefficient_has_exactly_no_effect(hooked: Any) -> None:
    found = al.sweep(hooked, PAIRS[0], layers=range(4), coefficients=0, prompts=PROMPTS[0], metric=measures()[0])
    assert np.abs(found.effects).max() < 1e-6


# -- the caller's hooks ----------------------------------------------------------------------------------------


def test_the_callers_hooks_act_as_in_the_naive_loop(small: Any) -> None:
    """Hooks below, at and above the injection, in place and from the end of the prompt."""

    def scale(stream: Tensor, hook: Any) -> Tensor:
        return 1.5 * stream

    def silence_last(stream: Tensor, hook: Any) -> None:
        stream[:, -1, :3] = 0.0

    before = hook_state(small)
    hooks = [
        ("blocks.0.hook_resid_post", scale),
        ("blocks.1.hook_resid_pre", silence_last),
        ("blocks.1.hook_resid_pre", scale),
        ("blocks.2.hook_mlp_out", scale),
    ]
    with small.hooks(fwd_hooks=hooks):
        found = al.sweep(small, PAIRS[0], layers=[0, 1, 2], coefficients=[2], prompts=PROMPTS, metric=measures())
        assert_is_naive(found, small, PAIRS[:1])
    assert hook_state(small) == before


def test_a_hook_sees_the_unsteered_stream_at_the_injection_layer_once_per_row(hooked: Any) -> None:
    seen = []
    with hooked.hooks(fwd_hooks=[("blocks.2.hook_resid_pre", lambda stream, hook: seen.append(stream.clone()))]):
        al.sweep(hooked, PAIRS[0], layers=2, coefficients=[5, 9], prompts=PROMPTS[0], metric=measures()[0])
    unsteered, rows = seen[-2:]
    assert torch.equal(rows, unsteered.expand_as(rows)) and len(rows) == 2


def test_steering_that_is_open_is_left_out(hooked: Any) -> None:
    settings = {"layers": [1], "coefficients": [2], "prompts": PROMPTS, "metric": measures()}
    expected = al.sweep(hooked, PAIRS[0], **settings)
    with al.steer(hooked, 9 * al.compute_steering_vector(hooked, PAIRS[1], layer=0)):
        found = al.sweep(hooked, PAIRS[0], **settings)
    assert np.array_equal(found.steered, expected.steered) and np.array_equal(found.unsteered, expected.unsteered)
