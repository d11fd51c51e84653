"""What steering must do exactly, checked against additions written out by hand."""

import gc
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import actadd_lens as al
from tests.support import (
    PAIRS,
    close,
    coefficients,
    hook_state,
    layers,
    placed_vector,
    plain_hooks,
    prompts,
    tokens_of,
    vector_of,
)

SENTENCE = "The girl looked at the dog. She felt"


def resid_pre(model: Any, tokens: Tensor, layer: int, **options: Any) -> Tensor:
    """The stream at a hook point, as a hook of the caller's that comes last sees it."""
    seen = []
    model.run_with_hooks(
        tokens,
        fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", lambda stream, hook: seen.append(stream.clone()))],
        **options,
    )
    return seen[0]


# -- the vector ------------------------------------------------------------------------------------------------


@given(data=st.data())
def test_swapping_the_pair_negates_the_vector(model: Any, data: st.DataObject) -> None:
    pair, layer = data.draw(st.sampled_from(PAIRS)), data.draw(layers(model))
    swapped = vector_of(model, pair[::-1], layer)
    assert close(vector_of(model, pair, layer).activations, -swapped.activations, 1e-5)


@given(data=st.data())
@pytest.mark.filterwarnings("ignore:Both prompts of")
def test_a_pair_of_equal_prompts_is_exactly_zero(model: Any, data: st.DataObject) -> None:
    text, layer = data.draw(prompts), data.draw(layers(model))
    vector = al.compute_steering_vector(model, (text, text), layer=layer)
    assert torch.equal(vector.activations, torch.zeros(tokens_of(model, text).shape[1], model.cfg.d_model))


@given(data=st.data())
def test_rows_of_the_shared_beginning_are_exactly_zero_and_the_rest_is_not(model: Any, data: st.DataObject) -> None:
    start, layer = data.draw(prompts), data.draw(layers(model))
    plus, minus = tokens_of(model, start + " happy")[0], tokens_of(model, start + " sad")[0]
    shared = int((plus[: len(minus)] == minus[: len(plus)]).long().cumprod(0).sum())
    norms = al.compute_steering_vector(model, (start + " happy", start + " sad"), layer=layer).norms
    assert shared >= 2
    assert (norms[:shared] == 0).all()
    assert (norms[shared:] > 0).all() or layer == 0


@given(data=st.data())
def test_a_vector_is_the_difference_of_two_cached_streams(model: Any, data: st.DataObject) -> None:
    pair, layer = data.draw(st.sampled_from(PAIRS)), data.draw(layers(model))
    rows = al.PromptPair(*pair).tokens(model)
    name = f"blocks.{layer}.hook_resid_pre"
    plus, minus = (
        model.run_with_cache(torch.tensor([row]), names_filter=[name])[1][name][0]
        for row in (rows.positive, rows.negative)
    )
    assert close(vector_of(model, pair, layer).activations, plus - minus)


def test_many_pairs_and_layers_in_one_pass_give_what_each_gives_alone(model: Any) -> None:
    every = range(model.cfg.n_layers)
    together = al.compute_steering_vectors(model, PAIRS, layers=every, batch_size=6)
    for place, pair in enumerate(PAIRS):
        for layer in every:
            assert close(together[place, layer].activations, vector_of(model, pair, layer).activations, 1e-5)


def test_an_unpaired_addition_is_the_stream_itself_with_its_bos_row(small: Any) -> None:
    vector = al.compute_steering_vector(small, ("Love", None), layer=2)
    stream = resid_pre(small, tokens_of(small, "Love"), 2)[0]
    assert close(vector.activations, stream)
    assert vector.norms[0] > 0


# -- what is added ---------------------------------------------------------------------------------------------


@given(data=st.data())
def test_steering_adds_the_injection_at_its_position_and_nowhere_else(model: Any, data: st.DataObject) -> None:
    tokens = tokens_of(model, data.draw(prompts))
    vector, position, column = placed_vector(data, model, tokens.shape[1])
    expected = model.run_with_hooks(tokens, fwd_hooks=plain_hooks(vector, column))
    with al.steer(model, vector, position=position):
        assert close(model(tokens), expected)


@given(data=st.data())
def test_position_all_adds_one_row_to_every_token_but_bos(model: Any, data: st.DataObject) -> None:
    tokens = tokens_of(model, data.draw(prompts))
    vector = data.draw(coefficients) * vector_of(
        model, data.draw(st.sampled_from(PAIRS)), data.draw(layers(model))
    ).row(-1)
    expected = model.run_with_hooks(tokens, fwd_hooks=plain_hooks(vector, None))
    with al.steer(model, vector, position="all"):
        assert close(model(tokens), expected)


@given(data=st.data())
def test_zero_coefficient_leaves_the_logits_unchanged_to_the_bit(model: Any, data: st.DataObject) -> None:
    tokens = tokens_of(model, data.draw(prompts))
    vector, position, _ = placed_vector(data, model, tokens.shape[1])
    unsteered = model(tokens)
    with al.steer(model, 0 * vector, position=position):
        assert torch.equal(model(tokens), unsteered)


@given(data=st.data())
def test_vectors_at_one_layer_add_up(model: Any, data: st.DataObject) -> None:
    layer, c, d = data.draw(layers(model)), data.draw(coefficients), data.draw(coefficients)
    v, w = c * vector_of(model, PAIRS[0], layer), d * vector_of(model, PAIRS[3], layer)
    tokens = tokens_of(model, "The girl looked at the old dog and said that it was")
    with al.steer(model, v + w):
        summed = model(tokens)
    with al.steer(model, v, w):
        assert close(model(tokens), summed)
    with al.steer(model, w), al.steer(model, v):
        assert close(model(tokens), summed)


@given(data=st.data())
def test_vectors_at_several_layers_and_places_all_act(model: Any, data: st.DataObject) -> None:
    tokens = tokens_of(model, data.draw(prompts))
    placed = [placed_vector(data, model, tokens.shape[1]) for _ in range(2)]
    hooks = [hook for vector, _, column in placed for hook in plain_hooks(vector, column)]
    expected = model.run_with_hooks(tokens, fwd_hooks=hooks)
    with al.steer(model, *(vector.at(position=position) for vector, position, _ in placed)):
        assert close(model(tokens), expected)


def test_a_position_of_the_vectors_own_wins_over_the_one_given(small: Any) -> None:
    vector = 5 * vector_of(small, PAIRS[0], 1).row(-1)
    tokens = tokens_of(small, SENTENCE)
    with al.steer(small, vector, position="back"):
        back = small(tokens)
    with al.steer(small, vector.at(position="back"), position="front"):
        assert torch.equal(small(tokens), back)


def test_the_addition_goes_to_a_copy(model: Any) -> None:
    vector, tokens = 5 * vector_of(model, PAIRS[0], 2), tokens_of(model, SENTENCE)
    below, here = "blocks.1.hook_resid_post", "blocks.2.hook_resid_pre"
    plain = model.run_with_cache(tokens, names_filter=[below, here])[1]
    with al.steer(model, vector):
        steered = model.run_with_cache(tokens, names_filter=[below, here])[1]
    assert torch.equal(steered[below], plain[below])
    added = steered[here] - plain[here]
    assert close(added[0, : vector.rows], vector.injection)
    assert (added[0, vector.rows :] == 0).all()


def test_hooks_of_the_caller_see_the_stream_before_and_after(model: Any) -> None:
    vector, tokens = 5 * vector_of(model, PAIRS[0], 2), tokens_of(model, SENTENCE)
    plain, name = resid_pre(model, tokens, 2), "blocks.2.hook_resid_pre"
    seen: dict[str, Tensor] = {}
    with model.hooks([(name, lambda stream, hook: seen.update(before=stream.clone()))]):
        with al.steer(model, vector), model.hooks([(name, lambda stream, hook: seen.update(after=stream.clone()))]):
            model(tokens)
    assert torch.equal(seen["before"], plain)
    assert close((seen["after"] - plain)[0, : vector.rows], vector.injection)


def test_the_stream_is_steered_where_only_part_of_the_model_runs(hooked: Any) -> None:
    vector, tokens = 5 * vector_of(hooked, PAIRS[0], 2), tokens_of(hooked, SENTENCE)
    stream = hooked(tokens, stop_at_layer=1)
    expected = hooked.run_with_hooks(tokens, fwd_hooks=plain_hooks(vector, 0))
    with al.steer(hooked, vector):
        assert close(hooked(stream, start_at_layer=1), expected)
        assert close(hooked(tokens, stop_at_layer=2), hooked(stream, start_at_layer=1, stop_at_layer=2))


def test_a_layer_below_the_start_adds_nothing(hooked: Any) -> None:
    vector, tokens = 5 * vector_of(hooked, PAIRS[0], 0), tokens_of(hooked, SENTENCE)
    stream = hooked(tokens, stop_at_layer=2)
    unsteered = hooked(stream, start_at_layer=2)
    with al.steer(hooked, vector):
        assert torch.equal(hooked(stream, start_at_layer=2), unsteered)


def test_gradients_flow_through_steering(model: Any) -> None:
    vector, tokens = 5 * vector_of(model, PAIRS[0], 2), tokens_of(model, SENTENCE)
    weight = model.embed.W_E

    def gradient(run: Any) -> Tensor:
        (found,) = torch.autograd.grad(run()[0, -1].square().sum(), weight)
        return found

    expected = gradient(lambda: model.run_with_hooks(tokens, fwd_hooks=plain_hooks(vector, 0)))
    with al.steer(model, vector):
        assert close(gradient(lambda: model(tokens)), expected)
    assert expected.abs().max() > 0


# -- hooks come and go -----------------------------------------------------------------------------------------


class LeaveError(Exception):
    """Raised by a test inside a block."""


def test_on_leaving_ours_are_gone_and_the_callers_are_there(model: Any) -> None:
    vector, tokens = vector_of(model, PAIRS[0], 2), tokens_of(model, SENTENCE)
    calls = []
    model.add_hook("blocks.2.hook_resid_pre", lambda stream, hook: calls.append(1))
    try:
        before = hook_state(model)
        with al.steer(model, vector):
            assert hook_state(model) != before
            model(tokens)
        assert hook_state(model) == before
        with pytest.raises(LeaveError), al.steer(model, vector, vector.at_layer(1)):
            raise LeaveError
        assert hook_state(model) == before
        al.complete(model, SENTENCE, vector, max_new_tokens=2)
        al.preview(model, SENTENCE, vector)
        al.compute_steering_vectors(model, PAIRS, layers=[0, 2])
        al.measure(model, SENTENCE, vector, al.metrics.entropy())
        assert hook_state(model) == before
        calls.clear()
        model(tokens)
        assert calls == [1]
    finally:
        model.reset_hooks(including_permanent=False)


def test_an_error_inside_a_pass_takes_our_hooks_away(small: Any) -> None:
    before = hook_state(small)

    def fail(stream: Tensor, hook: Any) -> None:
        raise LeaveError

    for run in (
        lambda: al.compute_steering_vector(small, PAIRS[0], layer=3),
        lambda: al.complete(small, SENTENCE, vector_of(small, PAIRS[0], 2), max_new_tokens=2),
        lambda: al.measure(small, SENTENCE, vector_of(small, PAIRS[0], 2), al.metrics.entropy()),
    ):
        vector_of(small, PAIRS[0], 2)
        with small.hooks([("blocks.1.hook_resid_pre", fail)]), pytest.raises(LeaveError):
            run()
        assert hook_state(small) == before


def test_resetting_hooks_inside_ends_steering_with_a_warning(small: Any) -> None:
    tokens = tokens_of(small, SENTENCE)
    unsteered = small(tokens)
    before = hook_state(small)
    with pytest.warns(al.SteeringWarning, match="reset_hooks"), al.steer(small, 5 * vector_of(small, PAIRS[0], 2)):
        small.reset_hooks()
        assert torch.equal(small(tokens), unsteered)
    assert hook_state(small) == before


def test_vectors_and_tools_inside_open_steering_are_those_of_the_unsteered_model(model: Any) -> None:
    vector = vector_of(model, PAIRS[0], 2)
    plain = al.complete(model, SENTENCE, vector, temperature=0, max_new_tokens=4)
    shown = al.preview(model, SENTENCE, vector.at_layer(3))
    measured = al.measure(model, SENTENCE, vector, al.metrics.entropy())
    with al.steer(model, 10 * vector_of(model, PAIRS[1], 1), position="back"):
        assert torch.equal(al.compute_steering_vector(model, PAIRS[0], layer=2).activations, vector.activations)
        inside = al.complete(model, SENTENCE, vector, temperature=0, max_new_tokens=4)
        assert (inside.steered, inside.unsteered) == (plain.steered, plain.unsteered)
        assert al.preview(model, SENTENCE, vector.at_layer(3)) == shown
        again = al.measure(model, SENTENCE, vector, al.metrics.entropy())
        assert (again.steered == measured.steered).all()
        assert (again.unsteered == measured.unsteered).all()


def test_fwd_hooks_do_what_steer_does_and_leave_nothing_behind(model: Any) -> None:
    vectors = [5 * vector_of(model, PAIRS[0], 2), -3 * vector_of(model, PAIRS[1], 1)]
    tokens, before = tokens_of(model, SENTENCE), hook_state(model)
    with al.steer(model, *vectors, position="back"):
        steered = model(tokens)
    hooks = al.fwd_hooks(model, vectors, position="back")
    assert [name for name, _ in hooks] == ["blocks.2.hook_resid_pre", "blocks.1.hook_resid_pre"]
    assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=hooks), steered)
    with model.hooks(fwd_hooks=hooks):
        assert torch.equal(model(tokens), steered)
    del hooks
    gc.collect()
    assert hook_state(model) == before


# -- positions that do not fit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["front", "mid", "back", 0, 1])
def test_a_vector_taller_than_the_prompt_is_refused_before_its_block(small: Any, position: Any) -> None:
    vector, tokens = vector_of(small, PAIRS[2], 1), tokens_of(small, "a")
    seen = []
    with small.hooks([("blocks.1.hook_resid_post", lambda stream, hook: seen.append(1))]):
        with al.steer(small, vector, position=position), pytest.raises(al.PositionError, match="does not fit onto a"):
            small(tokens)
    assert not seen
