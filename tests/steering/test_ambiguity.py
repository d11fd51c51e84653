"""Where the prompt cannot be told from a pass, steering says so; where it can, it does not."""

from typing import Any

import pytest
import torch

import actadd_lens as al
from tests.support import PAIRS, close, generate, plain_hooks, tokens_of, vector_of

LONG = "The girl looked at the dog. She felt"
SHORT = "The girl"


@pytest.fixture
def row(model: Any) -> al.SteeringVector:
    """One row, which fits anywhere."""
    return 5 * vector_of(model, PAIRS[0], 2).row(-1)


def refused(match: str) -> Any:
    """An ambiguity, told with what to do about it."""
    return pytest.raises(al.AmbiguousPositionError, match=match)


@pytest.mark.parametrize("position", ["mid", "back"])
def test_generation_without_a_cache_leaves_mid_and_back_open(model: Any, row: Any, position: str) -> None:
    tokens = tokens_of(model, LONG)
    with al.steer(model, row, position=position), refused(r"repeats the one of \d+ tokens.*prompt_lengths=.*complete"):
        generate(model, tokens, 3, use_past_kv_cache=False)
    with al.steer(model, row, position=position, prompt_lengths=[tokens.shape[1]]):
        generate(model, tokens, 3, use_past_kv_cache=False)


@pytest.mark.parametrize("position", ["mid", "back"])
def test_passes_that_do_not_repeat_each_other_are_fresh_prompts(model: Any, row: Any, position: str) -> None:
    texts = [LONG, LONG, "A cat", "It was a good day and then she said that it felt good", LONG]
    expected = []
    for text in texts:
        tokens = tokens_of(model, text)
        column = {"mid": tokens.shape[1] // 2, "back": tokens.shape[1] - 1}[position]
        expected.append(model.run_with_hooks(tokens, fwd_hooks=plain_hooks(row, column)))
    with al.steer(model, row, position=position):
        for text, logits in zip(texts, expected, strict=True):
            assert close(model(tokens_of(model, text)), logits)


@pytest.mark.parametrize("position", ["mid", "back"])
def test_a_prompt_that_begins_with_the_last_one_is_not_told_from_generation(
    model: Any, row: Any, position: str
) -> None:
    with al.steer(model, row, position=position):
        model(tokens_of(model, SHORT))
        with refused("is it generation without the KV cache, or a longer prompt"):
            model(tokens_of(model, LONG))


@pytest.mark.parametrize("position", ["mid", "back", "all"])
def test_texts_of_different_lengths_without_a_mask_are_refused(model: Any, row: Any, position: str) -> None:
    tokens = model.to_tokens([SHORT, LONG], padding_side="right")
    with al.steer(model, row, position=position), refused("may end in padding, but no attention mask.*prompt_lengths"):
        model(tokens)


@pytest.mark.parametrize("position", ["mid", "back", "all"])
def test_texts_of_one_length_without_a_mask_are_not(model: Any, row: Any, position: str) -> None:
    tokens = tokens_of(model, LONG).repeat(3, 1)
    with al.steer(model, row, position=position):
        assert close(model(tokens), model(tokens[:1]).repeat(3, 1, 1))


def test_rows_that_overhang_a_shorter_prompt_are_refused(model: Any) -> None:
    vector, tokens = vector_of(model, PAIRS[2], 2), model.to_tokens([SHORT, LONG], padding_side="right")
    fits = vector_of(model, PAIRS[0], 2).row(-1)
    with al.steer(model, vector), refused(r"would need \d+ tokens, but row 0 of this batch may have only \d+ before"):
        model(tokens)
    with al.steer(model, fits, position=tokens.shape[1] - 2), refused("but row 0 of this batch may have only"):
        model(tokens)
    with al.steer(model, fits):
        model(tokens)


def test_left_padding_without_a_mask_is_refused(model: Any, row: Any) -> None:
    pad = model.tokenizer.pad_token_id
    long, short = tokens_of(model, LONG), tokens_of(model, SHORT)
    filler = torch.full((1, long.shape[1] - short.shape[1]), 0 if pad is None else pad)
    tokens = torch.cat([long, torch.cat([filler, short], dim=1)])
    with al.steer(model, row), refused(r"Rows \[1\] seem to be padded on the left.*attention_mask="):
        model(tokens)


def test_a_prompt_of_no_tokens_is_one_onto_which_nothing_fits(hooked: Any) -> None:
    row = vector_of(hooked, PAIRS[0], 2).row(-1)
    with al.steer(hooked, row), pytest.raises(al.PositionError, match="does not fit onto a prompt of 0 tokens"):
        hooked(torch.zeros(1, 0, dtype=torch.long))


@pytest.mark.parametrize("position", ["mid", "back", "last", "generated"])
def test_one_row_that_ends_in_padding_without_a_mask_is_refused(model: Any, row: Any, position: str) -> None:
    text, pad = tokens_of(model, LONG), model.tokenizer.pad_token_id or 0
    tokens, mask = torch.cat([text, torch.full((1, 3), pad)], dim=1), torch.ones(1, text.shape[1] + 3).long()
    mask[:, text.shape[1] :] = 0
    with al.steer(model, row, position=position), refused("may end in padding, but no attention mask.*prompt_lengths"):
        model(tokens)
    with al.steer(model, row, position=position):
        expected = model(text)
    with al.steer(model, row, position=position):
        assert close(model(tokens, attention_mask=mask)[:, : text.shape[1]], expected)
    with al.steer(model, row, position=position, prompt_lengths=text.shape[1]):
        assert close(model(tokens)[:, : text.shape[1]], expected)


@pytest.mark.parametrize("position", ["mid", "back"])
def test_prompt_lengths_settle_right_padded_batches(model: Any, row: Any, position: str) -> None:
    texts = [SHORT, LONG]
    tokens = model.to_tokens(texts, padding_side="right")
    lengths = [tokens_of(model, text).shape[1] for text in texts]
    name = "blocks.2.hook_resid_pre"
    plain = model.run_with_cache(tokens, names_filter=[name])[1][name]
    with al.steer(model, row, position=position, prompt_lengths=lengths):
        steered = model.run_with_cache(tokens, names_filter=[name])[1][name]
    touched = ((steered - plain) != 0).any(dim=-1).nonzero().tolist()
    columns = [length // 2 if position == "mid" else length - 1 for length in lengths]
    assert touched == [[place, column] for place, column in enumerate(columns)]


@pytest.mark.parametrize("position", ["mid", "back"])
def test_steering_that_opens_after_the_prompt_was_cached_knows_no_length(hooked: Any, position: str) -> None:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    tokens, vector = tokens_of(hooked, LONG), 5 * vector_of(hooked, PAIRS[0], 2).row(-1)
    cache = TransformerLensKeyValueCache.init_cache(hooked.cfg, hooked.cfg.device, 1)
    hooked(tokens[:, :-1], past_kv_cache=cache)
    with al.steer(hooked, vector, position=position), refused("went through before steering began"):
        hooked(tokens[:, -1:], past_kv_cache=cache)


def test_steering_that_opens_after_the_prompt_adds_to_new_tokens_only(hooked: Any) -> None:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    tokens, vector = tokens_of(hooked, LONG), 5 * vector_of(hooked, PAIRS[0], 2).row(-1)
    last = tokens.shape[1] - 1
    for position, column in (("front", None), ("all", last), (last, last)):
        cache = TransformerLensKeyValueCache.init_cache(hooked.cfg, hooked.cfg.device, 1)
        hooked(tokens[:, :-1], past_kv_cache=cache)
        with al.steer(hooked, vector, position=position):
            found = hooked(tokens[:, -1:], past_kv_cache=cache)
        hooks = [] if column is None else plain_hooks(vector, column)
        assert close(found[0, -1], hooked.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1])


def test_a_pass_that_begins_from_a_stream_hides_where_bos_is(hooked: Any) -> None:
    stream = hooked(tokens_of(hooked, LONG), stop_at_layer=1)
    fresh = stream + 0
    vector = 5 * vector_of(hooked, PAIRS[0], 2).row(-1)
    with al.steer(hooked, vector, position="all"), refused("began from a residual stream.*Start from tokens"):
        hooked(fresh, start_at_layer=1)


@pytest.mark.parametrize("position", [al.since([2, 5, 7]), [[True], [True], [True]]])
def test_a_span_for_other_prompts_than_those_of_the_batch_is_refused(small: Any, position: Any) -> None:
    row, tokens = vector_of(small, PAIRS[0], 2).row(-1), tokens_of(small, LONG)
    for rows in (2, 4):
        with (
            al.steer(small, row, position=position),
            pytest.raises(al.PositionError, match=rf"for 3 prompts, but this batch has {rows} rows"),
        ):
            small(tokens.repeat(rows, 1))
    with al.steer(small, row, position=position):
        small(tokens.repeat(3, 1))


@pytest.mark.parametrize("lengths", [[3, 4, 5], [999, 2]])
def test_prompt_lengths_that_do_not_go_with_the_batch_are_refused(small: Any, lengths: list[int]) -> None:
    vector, tokens = vector_of(small, PAIRS[0], 2).row(-1), tokens_of(small, LONG).repeat(2, 1)
    with al.steer(small, vector, prompt_lengths=lengths), pytest.raises(al.PositionError, match="one length per row"):
        small(tokens)
