"""One decode loop: equal to TransformerLens's own and to whole passes by hand, whatever the batch and the cache."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import actadd_lens as al
from tests.support import (
    PAIRS,
    coefficients,
    generate,
    generated_by_hand,
    layers,
    placed_vector,
    plain_hooks,
    prompts,
    tokens_of,
    vector_of,
    written_by_hand,
)

SENTENCE = "The girl looked at the dog. She felt"
LENGTHS = ["The girl", SENTENCE, "She", "It was a good day and she said that"]


def greedy(model: Any, texts: Any, vectors: Any, **changes: Any) -> list[list[int]]:
    """Steered greedy tokens, one list per prompt."""
    options: dict[str, Any] = {"max_new_tokens": 5, "temperature": 0, "stop_at_eos": False, **changes}
    return [list(samples[0].tokens) for samples in al.complete(model, texts, vectors, **options).steered_continuations]


# -- with the cache, without it, and by hand -------------------------------------------------------------------


@settings(max_examples=4)
@given(data=st.data())
def test_complete_writes_what_whole_passes_by_hand_write(model: Any, data: st.DataObject) -> None:
    text = data.draw(prompts)
    tokens = tokens_of(model, text)
    vector, position, column = placed_vector(data, model, tokens.shape[1])
    expected = written_by_hand(model, tokens, plain_hooks(vector, column), 5)
    assert greedy(model, text, vector, position=position) == [expected]
    assert greedy(model, text, vector, position=position, use_past_kv_cache=False) == [expected]


@settings(max_examples=3)
@given(data=st.data())
def test_position_all_reaches_generated_tokens_too(model: Any, data: st.DataObject) -> None:
    text = data.draw(st.one_of(st.just(""), prompts))
    tokens = tokens_of(model, text) if text else torch.tensor([[model.tokenizer.bos_token_id]])
    vector = data.draw(coefficients) * vector_of(
        model, data.draw(st.sampled_from(PAIRS)), data.draw(layers(model))
    ).row(-1)
    expected = written_by_hand(model, tokens, plain_hooks(vector, None), 5)
    assert greedy(model, text, vector, position="all") == [expected]
    assert greedy(model, text, vector, position="all", use_past_kv_cache=False) == [expected]
    expected = generated_by_hand(model, tokens, plain_hooks(vector, None), 5)
    for cached in (True, False):
        with al.steer(model, vector, position="all"):
            assert generate(model, tokens, 5, use_past_kv_cache=cached)[0, -5:].tolist() == expected


@settings(max_examples=3)
@given(data=st.data())
def test_transformer_lens_generates_the_same_inside_steer(model: Any, data: st.DataObject) -> None:
    tokens = tokens_of(model, data.draw(prompts))
    vector, position, column = placed_vector(data, model, tokens.shape[1])
    expected = written_by_hand(model, tokens, plain_hooks(vector, column), 5)
    with al.steer(model, vector, position=position):
        assert generate(model, tokens, 5)[0, -5:].tolist() == expected
    with al.steer(model, vector, position=position, prompt_lengths=[tokens.shape[1]]):
        assert generate(model, tokens, 5)[0, -5:].tolist() == expected
        assert generate(model, tokens, 5, use_past_kv_cache=False)[0, -5:].tolist() == expected
    if position not in ("mid", "back"):
        with al.steer(model, vector, position=position):
            assert generate(model, tokens, 5, use_past_kv_cache=False)[0, -5:].tolist() == expected


def test_a_prompt_of_one_token_is_steered_with_the_cache_and_without(model: Any) -> None:
    tokens = torch.tensor([[model.tokenizer.bos_token_id]])
    vector = 8 * vector_of(model, PAIRS[0], 1).row(-1)
    expected = written_by_hand(model, tokens, plain_hooks(vector, 0), 5)
    assert expected != written_by_hand(model, tokens, [], 5)
    for cached in (True, False):
        assert greedy(model, "", vector, use_past_kv_cache=cached) == [expected]
    expected = generated_by_hand(model, tokens, plain_hooks(vector, 0), 5)
    for cached in (True, False):
        with al.steer(model, vector):
            assert generate(model, tokens, 5, use_past_kv_cache=cached)[0, -5:].tolist() == expected


def test_two_generations_inside_one_block_are_each_steered(small: Any) -> None:
    vector, alone = 5 * vector_of(small, PAIRS[0], 2), {}
    for text in LENGTHS[1], LENGTHS[3]:
        with al.steer(small, vector, position="back"):
            alone[text] = generate(small, tokens_of(small, text), 5).tolist()
    with al.steer(small, vector, position="back"):
        for text in LENGTHS[1], LENGTHS[3], LENGTHS[1]:
            assert generate(small, tokens_of(small, text), 5).tolist() == alone[text]


def test_the_unsteered_condition_is_what_the_model_writes_on_its_own(model: Any) -> None:
    found = al.complete(
        model, LENGTHS, vector_of(model, PAIRS[3], 2).row(-1), max_new_tokens=6, temperature=0, stop_at_eos=False
    )
    for text, samples in zip(LENGTHS, found.unsteered_continuations, strict=True):
        assert list(samples[0].tokens) == generate(model, tokens_of(model, text), 6)[0, -6:].tolist()


# -- batches ---------------------------------------------------------------------------------------------------


@settings(max_examples=3)
@given(data=st.data())
def test_a_row_of_a_batch_gets_what_it_gets_alone(model: Any, data: st.DataObject) -> None:
    texts = data.draw(st.lists(prompts, min_size=2, max_size=4))
    shortest = min(tokens_of(model, text).shape[1] for text in texts)
    vector, position, _ = placed_vector(data, model, shortest)
    alone = [greedy(model, text, vector, position=position)[0] for text in texts]
    assert greedy(model, texts, vector, position=position) == alone
    assert greedy(model, texts, vector, position=position, use_past_kv_cache=False) == alone
    assert greedy(model, texts, vector, position=position, batch_size=2) == alone


@settings(max_examples=2)
@given(data=st.data())
def test_position_all_leaves_padding_out_in_batches(model: Any, data: st.DataObject) -> None:
    texts = data.draw(st.lists(prompts, min_size=2, max_size=4))
    vector = 5 * vector_of(model, PAIRS[0], data.draw(layers(model))).row(-1)
    alone = [greedy(model, text, vector, position="all")[0] for text in texts]
    assert greedy(model, texts, vector, position="all") == alone


@pytest.mark.parametrize("position", ["front", "mid", "back", 1, "all"])
def test_left_padded_batches_with_a_mask_are_steered_row_by_row(model: Any, position: Any) -> None:
    vector = 5 * vector_of(model, PAIRS[0], 2).row(-1)
    rows = [tokens_of(model, text)[0] for text in LENGTHS]
    longest, filler = max(map(len, rows)), model.tokenizer.pad_token_id or 0
    tokens = torch.stack([torch.cat([torch.full((longest - len(row),), filler), row]) for row in rows])
    mask = torch.stack([torch.cat([torch.zeros(longest - len(row)), torch.ones(len(row))]) for row in rows]).long()
    before = model(tokens, attention_mask=mask)
    with al.steer(model, vector, position=position):
        together = model(tokens, attention_mask=mask)
    for row, alone in enumerate(rows):
        unsteered = model(alone[None])[0, -1]
        with al.steer(model, vector, position=position):
            steered = model(alone[None])[0, -1]
        assert torch.allclose(before[row, -1], unsteered, atol=2e-3, rtol=1e-3)
        assert torch.allclose(together[row, -1], steered, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("position", ["front", 1])
def test_right_padded_batches_without_a_mask_are_steered_from_the_front(model: Any, position: Any) -> None:
    vector = 5 * vector_of(model, PAIRS[0], 2).row(-1)
    rows = [tokens_of(model, text)[0] for text in LENGTHS]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.tokenizer.pad_token_id or 0)
    with al.steer(model, vector, position=position):
        together = model(tokens)
        for row, alone in enumerate(rows):
            steered = model(alone[None])[0]
            assert torch.allclose(together[row, : len(alone)], steered, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("position", ["front", "back", "all"])
def test_padding_receives_nothing(model: Any, position: Any) -> None:
    vector = 5 * vector_of(model, PAIRS[0], 2).row(-1)
    rows = [tokens_of(model, text)[0] for text in LENGTHS]
    longest, name = max(map(len, rows)), "blocks.2.hook_resid_pre"
    mask = torch.stack([(torch.arange(longest) >= longest - len(row)).long() for row in rows])
    filler = model.tokenizer.pad_token_id or 0
    tokens = torch.stack([torch.cat([torch.full((longest - len(row),), filler), row]) for row in rows])
    plain = model.run_with_cache(tokens, attention_mask=mask, names_filter=[name])[1][name]
    with al.steer(model, vector, position=position):
        steered = model.run_with_cache(tokens, attention_mask=mask, names_filter=[name])[1][name]
    touched = ((steered - plain) != 0).any(dim=-1)
    assert not (touched & (mask == 0)).any()
    expected = {"front": torch.ones(len(rows)), "back": torch.ones(len(rows)), "all": mask.sum(dim=1) - 1}[position]
    assert touched.sum(dim=1).tolist() == expected.tolist()


@pytest.mark.parametrize("position", ["front", "back", "all"])
def test_generate_of_a_list_is_steered_row_by_row(model: Any, position: Any) -> None:
    vector = 5 * vector_of(model, PAIRS[0], 2).row(-1)
    expected = greedy(model, LENGTHS, vector, position=position)
    with al.steer(model, vector, position=position):
        found = generate(model, LENGTHS, 5)
    assert found[:, -5:].tolist() == expected


def test_each_row_of_complete_may_start_at_another_column(small: Any) -> None:
    vector = 5 * vector_of(small, PAIRS[3], 2)
    alone = [greedy(small, text, vector, position="mid")[0] for text in (LENGTHS[1], LENGTHS[3])]
    assert greedy(small, [LENGTHS[1], LENGTHS[3]], vector, position="mid") == alone


# -- samples ---------------------------------------------------------------------------------------------------


def sampled(model: Any, texts: Any, **options: Any) -> dict[str, tuple[str, ...]]:
    found = al.complete(model, texts, 3 * vector_of(model, PAIRS[3], 2), position="front", **options)
    return dict(zip(found.prompts, found.steered, strict=True))


def test_one_seed_gives_one_text_and_another_seed_another(model: Any) -> None:
    first = sampled(model, SENTENCE, n=3, max_new_tokens=4)
    assert sampled(model, SENTENCE, n=3, max_new_tokens=4) == first
    assert sampled(model, SENTENCE, n=3, max_new_tokens=4, seed=1) != first
    assert len(set(first[SENTENCE])) > 1


def test_samples_do_not_depend_on_batching_or_on_the_order_of_prompts(model: Any) -> None:
    texts = [SENTENCE, LENGTHS[3], "The girl looked at the old dog"]
    alone = {text: sampled(model, text, n=3, max_new_tokens=4)[text] for text in texts}
    assert sampled(model, texts, n=3, max_new_tokens=4) == alone
    assert sampled(model, texts[::-1], n=3, max_new_tokens=4) == alone
    assert sampled(model, texts, n=3, max_new_tokens=4, batch_size=1) == alone
    more = sampled(model, texts, n=5, max_new_tokens=4)
    assert {text: samples[:3] for text, samples in more.items()} == alone
    cut = sampled(model, texts, n=3, max_new_tokens=4, use_past_kv_cache=False)
    assert cut == alone


def test_both_conditions_draw_the_same_random_numbers(small: Any) -> None:
    found = al.complete(small, SENTENCE, 0 * vector_of(small, PAIRS[0], 2), n=4, max_new_tokens=8)
    assert found.steered == found.unsteered


def test_the_callers_random_state_is_left_alone(small: Any) -> None:
    vector = vector_of(small, PAIRS[3], 2)
    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002  (the global state is what is looked at)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    al.complete(small, SENTENCE, vector, n=2, max_new_tokens=4)
    al.null_vectors(small, vector, n=2)
    al.null_vectors(small, vector, kind="gaussian", n=2)
    al.measure(small, SENTENCE, vector, al.metrics.entropy(), nulls=2)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(np.random.get_state(), states[1], strict=True))  # noqa: NPY002


def test_sampled_tokens_have_the_models_probabilities(quickest: Any) -> None:
    found = al.complete(
        quickest, SENTENCE, 0 * vector_of(quickest, PAIRS[3], 2), n=4000, max_new_tokens=1, batch_size=8000
    )
    tokens = torch.tensor([sample.tokens[0] for sample in found.unsteered_continuations[0]])
    probabilities = quickest(tokens_of(quickest, SENTENCE))[0, -1].softmax(dim=-1).detach()
    shares = torch.bincount(tokens, minlength=len(probabilities)) / 4000
    deviations = (shares - probabilities) / (probabilities * (1 - probabilities) / 4000).sqrt().clamp_min(1e-9)
    assert deviations[probabilities > 2e-3].abs().max() < 4.5


# -- where a continuation ends ---------------------------------------------------------------------------------


def test_a_stop_text_is_cut_off_and_ends_the_continuation(embedded: Any) -> None:
    vector = 0 * vector_of(embedded, PAIRS[3], 2)
    whole = al.complete(embedded, SENTENCE, vector, n=4, max_new_tokens=20, seed=2)
    stop = whole.steered[0][0][6:9]  # inside the text, and across tokens as it falls
    cut = al.complete(embedded, SENTENCE, vector, n=4, max_new_tokens=20, seed=2, stop=stop)
    for before, after in zip(whole.steered[0], cut.steered_continuations[0], strict=True):
        assert after.text == before.split(stop)[0]
        assert after.finish == ("stop" if stop in before else after.finish)
    assert cut.steered_continuations[0][0].finish == "stop"


def test_the_first_of_several_stop_texts_counts(embedded: Any) -> None:
    vector = 0 * vector_of(embedded, PAIRS[3], 2)
    text = al.complete(embedded, SENTENCE, vector, max_new_tokens=20, seed=2).steered[0][0]
    found = al.complete(
        embedded, SENTENCE, vector, max_new_tokens=20, seed=2, stop=[text[8:10], text[3:5], "never there"]
    )
    assert found.steered[0][0] == text[: min(text.find(text[8:10]), text.find(text[3:5]))]


def test_the_end_of_text_token_ends_a_continuation(small: Any) -> None:
    vector, eos = 0 * vector_of(small, PAIRS[3], 2), small.tokenizer.eos_token_id
    options: dict[str, Any] = {"n": 60, "max_new_tokens": 30, "temperature": 4.0}
    open_ended = al.complete(small, SENTENCE, vector, stop_at_eos=False, **options)
    ended = al.complete(small, SENTENCE, vector, **options)
    endings = 0
    for before, after in zip(open_ended.steered_continuations[0], ended.steered_continuations[0], strict=True):
        if eos in before.tokens:
            endings += 1
            assert after.tokens == before.tokens[: before.tokens.index(eos) + 1]
            assert after.finish == "end of text"
            assert small.tokenizer.eos_token not in after.text
        else:
            assert (after.tokens, after.finish) == (before.tokens, "length")
        assert len(before.tokens) == 30
    assert endings > 0


def test_text_and_prompt_join_to_what_the_tokens_say(model: Any) -> None:
    found = al.complete(model, LENGTHS, vector_of(model, PAIRS[0], 2).row(-1), n=3, max_new_tokens=8, stop_at_eos=False)
    for text, samples in zip(LENGTHS, found.steered_continuations, strict=True):
        prompt = tokens_of(model, text)[0].tolist()
        for sample in samples:
            joined = model.tokenizer.decode(prompt + list(sample.tokens), clean_up_tokenization_spaces=False)
            assert joined == model.tokenizer.decode(prompt, clean_up_tokenization_spaces=False) + sample.text


def test_a_prompt_may_fill_the_context_and_no_more(small: Any) -> None:
    vector = vector_of(small, PAIRS[0], 2)
    text = " ".join(["the dog"] * 40)
    while tokens_of(small, text).shape[1] > 60:
        text = text[:-1]
    room = small.cfg.n_ctx - small.to_tokens(text, truncate=False).shape[1]
    found = al.complete(small, text, vector, max_new_tokens=room, temperature=0, stop_at_eos=False)
    assert len(found.steered_continuations[0][0].tokens) == room
    with pytest.raises(al.PromptError, match=rf"{room + 1} new ones, but small reads at most 64"):
        al.complete(small, text, vector, max_new_tokens=room + 1)


def test_whoever_watches_sees_every_token_and_changes_nothing(small: Any) -> None:
    vector = al.compute_steering_vector(small, (" happy", " sad"), layer=2)
    settings: dict[str, Any] = {"n": 2, "max_new_tokens": 5, "batch_size": 4, "progress": False}
    seen: list[al.Completions] = []
    watched = al.complete(
        small,
        ["The girl looked at the dog.", "The boy went home, and there was a dog in the garden"],
        vector,
        watch=seen.append,
        **settings,
    )
    assert (
        watched.steered
        == al.complete(
            small,
            ["The girl looked at the dog.", "The boy went home, and there was a dog in the garden"],
            vector,
            **settings,
        ).steered
    )
    lengths = [[len(row[0].tokens) for row in each.steered_continuations] for each in seen]
    assert lengths[0] in ([1, 0], [0, 1])  # the second batch has not begun
    assert lengths[-1] == [5, 5]
    assert seen[-1].unsteered == watched.unsteered
