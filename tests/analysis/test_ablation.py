"""Token ablation against vectors and logits written out by hand, and against truths that were planted."""

from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens import TokenAblation, ablate_tokens, metrics
from tests.support import close, hook_state, plain_hooks, tokens_of

PROMPTS = ("The old dog was there and then the girl", "Then she said that the girl felt that it was a good day")
PAIR = ("The girl was good", "The dog said")
METRIC = metrics.logit_difference(5, 9)


def ablate(model: Any, pair: Any = PAIR, **settings: Any) -> TokenAblation:
    """Settings that most tests share."""
    told: dict[str, Any] = {
        "layer": 1,
        "prompts": PROMPTS,
        "metric": METRIC,
        "coefficient": 2.0,
        "progress": False,
    } | settings
    return ablate_tokens(model, pair, **told)


def words(model: Any) -> tuple[str, str]:
    """Two words that are one token each."""
    found = [word for word in (" the", " and", " was", " to", " a") if len(row_of(model, word)) == 2]
    return found[0], found[1]


def differing_in_one_token(model: Any) -> tuple[tuple[str, str], int]:
    """A pair that differs in one token, and where."""
    pair = tuple(f"She said{word} day" for word in words(model))
    plus, minus = (row_of(model, text) for text in pair)
    (place,) = [index for index, (left, right) in enumerate(zip(plus, minus, strict=True)) if left != right]
    return (pair[0], pair[1]), place


def row_of(model: Any, text: str) -> list[int]:
    return tokens_of(model, text)[0].tolist()


def difference_by_hand(model: Any, plus: list[int], minus: list[int], layer: int) -> torch.Tensor:
    """h+ - h- of two rows of tokens, each run alone."""
    name = f"blocks.{layer}.hook_resid_pre"
    streams = [model.run_with_cache(torch.tensor([row]))[1][name][0] for row in (plus, minus)]
    return streams[0] - streams[1]


def metric_by_hand(model: Any, prompt: str, vector: al.SteeringVector | None) -> float:
    """A logit difference from TransformerLens's own hooked run, the addition written out."""
    hooks = [] if vector is None else plain_hooks(vector, 0)
    logits = model.run_with_hooks(tokens_of(model, prompt), fwd_hooks=hooks)[0, -1]
    return float(logits[5] - logits[9])


@torch.no_grad()
def test_a_removed_token_leaves_the_vector_of_the_tokens_that_are_left(model: Any) -> None:
    plus, minus = (row_of(model, text) for text in PAIR)
    pad = al.PromptPair(*PAIR).tokens(model).pad_token
    assert pad is not None
    assert len(plus) > len(minus)
    for item in ablate(model).of_kind("token"):
        assert item.side is not None
        left = {"positive": list(plus), "negative": list(minus)}
        del left[item.side][item.start]
        length = max(map(len, left.values()))
        filled = [row + [pad] * (length - len(row)) for row in left.values()]
        expected = difference_by_hand(model, filled[0], filled[1], layer=1)
        assert close(item.vector.activations[:length], expected)
        assert not item.vector.activations[length:].any()


@torch.no_grad()
@pytest.mark.parametrize("replacement", ["pad", 7])
def test_a_replaced_token_leaves_all_others_in_their_places(small: Any, replacement: Any) -> None:
    tokens = al.PromptPair(*PAIR).tokens(small)
    assert tokens.negative is not None
    neutral: Any = tokens.pad_token if replacement == "pad" else replacement
    for item in ablate(small, replacement=replacement, spans=[("positive", 1, 3)]).ablations:
        if item.side is None:
            continue
        rows = {"positive": list(tokens.positive), "negative": list(tokens.negative)}
        rows[item.side][item.start : item.stop] = [neutral] * (item.stop - item.start)
        assert close(item.vector.activations, difference_by_hand(small, rows["positive"], rows["negative"], layer=1))


@torch.no_grad()
def test_effects_and_drops_are_those_of_runs_by_hand(small: Any) -> None:
    result = ablate(small, replacement=["remove", "pad"], batch_size=5)
    plain = np.array([metric_by_hand(small, prompt, None) for prompt in PROMPTS])
    whole = np.array([metric_by_hand(small, prompt, result.whole) for prompt in PROMPTS])
    assert result.effect.mean == pytest.approx((whole - plain).mean(), abs=1e-4)
    for item in result.ablations:
        values = np.array([metric_by_hand(small, prompt, item.vector) for prompt in PROMPTS])
        np.testing.assert_allclose(item.effect.by_prompt, values - plain, atol=1e-4)
        np.testing.assert_allclose(item.drop.by_prompt, whole - values, atol=1e-4)


def test_norm_and_cosine_are_those_of_all_rows_together(quickest: Any) -> None:
    result = ablate(quickest)
    whole, *parts = (
        2.0 * (rows - rows.mean(dim=-1, keepdim=True)).flatten()
        for rows in [result.whole.activations, *(item.vector.activations for item in result.ablations)]
    )
    for item, part in zip(result.ablations, parts, strict=True):
        expected = torch.cosine_similarity(part, whole, dim=0) if item.vector.activations.any() else 0.0
        assert item.norm == pytest.approx(float(part.norm()), rel=1e-5)
        assert item.cosine == pytest.approx(float(expected), abs=1e-5)


def test_both_families_agree(load: Any) -> None:
    for name in ("gpt2", "storybook"):
        frames = [ablate(load(name, family), replacement=["remove", "pad"]).frame() for family in ("hooked", "bridge")]
        assert list(frames[0]["text"]) == list(frames[1]["text"])
        for column in ("effect", "drop", "norm", "cosine"):
            np.testing.assert_allclose(frames[0][column], frames[1][column], atol=1e-4, rtol=1e-4)


# -- planted truths ----------------------------------------------------------------------------------------------


def test_the_one_token_in_which_a_pair_differs_carries_it_all(small: Any) -> None:
    pair, place = differing_in_one_token(small)
    result = ablate(small, pair, replacement=row_of(small, pair[1])[place])
    found = [item for item in result.of_kind("token") if item.side == "positive"]
    shares = {item.start: item.drop.mean / result.effect.mean for item in found}
    assert shares.pop(place) == 1.0
    assert all(abs(share - 1.0) > 1e-3 for share in shares.values())
    carrier = next(item for item in found if item.start == place)
    assert (carrier.norm, carrier.cosine, carrier.effect.mean) == (0.0, 0.0, 0.0)


def test_at_layer_0_the_row_of_the_differing_token_is_the_whole_vector(small: Any) -> None:
    pair, place = differing_in_one_token(small)
    result = ablate(small, pair, layer=0)
    dropped, alone = (result.of_kind(kind)[place] for kind in ("row dropped", "row alone"))
    assert dropped.drop.mean == result.effect.mean
    assert alone.drop.mean == 0.0
    assert dropped.cosine == 0.0
    assert alone.cosine == pytest.approx(1.0)


def test_a_row_of_zeros_carries_exactly_nothing(small: Any) -> None:
    pair, place = differing_in_one_token(small)
    result = ablate(small, pair, nulls=3)
    for row in range(place):
        dropped, alone = (result.of_kind(kind)[row] for kind in ("row dropped", "row alone"))
        assert dropped.drop.mean == alone.effect.mean == 0.0
        assert not dropped.drop.nulls.any()


def test_a_pair_of_equal_prompts_has_no_effect_to_carry(quickest: Any) -> None:
    result = ablate(quickest, ("The dog", "The dog"))
    assert result.effect.mean == 0.0
    assert result.frame()["share"].isna().all()
    assert all(item.cosine == 0.0 for item in result.ablations)


# -- what is taken out -------------------------------------------------------------------------------------------


def test_every_token_but_bos_and_pads_is_taken_out_in_every_way(quickest: Any) -> None:
    result = ablate(quickest, replacement=["remove", "pad", 7], spans=[("negative", 1, 3)])
    plus, minus = (row_of(quickest, text) for text in PAIR)
    expected = {("positive", index) for index in range(1, len(plus))} | {("negative", i) for i in range(1, len(minus))}
    for replacement in result.replacements:
        tokens = [item for item in result.of_kind("token") if item.replacement == replacement]
        assert {(item.side, item.start) for item in tokens} == expected
        assert len(tokens) == len(expected)
    assert len(result.replacements) == 3
    assert [(item.side, item.start, item.stop) for item in result.of_kind("span")] == [("negative", 1, 3)] * 3


def test_without_bos_the_first_token_is_taken_out_too(quickest: Any) -> None:
    result = ablate(quickest, al.PromptPair("The dog", "The cat", prepend_bos=False))
    assert min(item.start for item in result.of_kind("token")) == 0


def test_the_only_token_of_a_prompt_leaves_pads(quickest: Any) -> None:
    pair = al.PromptPair(words(quickest)[0], "", prepend_bos=False)
    (item,) = ablate(quickest, pair).of_kind("token")
    assert item.vector.provenance.positive_tokens == (pair.tokens(quickest).pad_token,)
    assert item.norm == 0.0


def test_an_unpaired_addition_has_one_side(quickest: Any) -> None:
    result = ablate(quickest, ("The dog", None), replacement="pad")
    assert len(result.tokens) == 1
    assert {item.side for item in result.of_kind("token")} == {"positive"}
    assert result.of_kind("row alone")[0].norm > 0  # BOS stays in


# -- nulls -------------------------------------------------------------------------------------------------------


def test_nulls_take_off_parts_of_the_size_that_the_ablation_takes_off(quickest: Any) -> None:
    from actadd_lens.analysis.ablation import _null_parts

    result = ablate(quickest)
    vectors = [item.vector for item in result.ablations]
    conditions = _null_parts(quickest, result.whole, vectors, 2, "unrelated_pairs", 0)
    assert len(conditions) == 2 * (1 + len(vectors))
    for index, vector in enumerate(vectors):
        lost = (result.whole.activations - vector.activations).norm(dim=-1)
        for condition in conditions[2 * (1 + index) : 2 * (2 + index)]:
            assert isinstance(condition[0], al.SteeringVector)
            taken = (result.whole.activations - condition[0].activations).norm(dim=-1)
            assert close(taken, lost, 1e-5)


def test_the_table_tells_p_values_of_each_drop_and_of_all_together(quickest: Any) -> None:
    frame = ablate(quickest, nulls=4).frame()
    assert {"null mean", "null sd", "p", "adjusted p"} <= set(frame.columns)
    assert (frame["adjusted p"] >= 0.2).all()
    assert (frame["adjusted p"] <= 1.0).all()
    assert (frame["p"] >= 0.2).all()


def test_adjusting_only_ever_makes_p_larger_and_one_ablation_alone_needs_none(quickest: Any) -> None:
    frame = ablate(quickest, nulls=9).frame()
    assert (frame["adjusted p"] >= frame["p"]).all()
    assert (frame["adjusted p"] > frame["p"]).any()


# -- showing, leaving no trace, wrong input ----------------------------------------------------------------------


def test_the_picture_and_the_coloured_tokens_show_leading_spaces(quickest: Any) -> None:

    result = ablate(quickest, replacement=["remove", "pad"])
    ax = result.plot()
    assert "p+, remove" in [label.get_text() for label in ax.get_yticklabels()]
    assert any(text.get_text().startswith("·") for text in ax.texts)
    html = result._repr_html_()
    assert html.count("<b>p+</b>") == 2
    assert "drop" in html
    assert "·" in html
    assert "drop" in repr(result)


def test_no_hook_stays_behind(small: Any) -> None:
    before = hook_state(small)
    ablate(small)
    assert hook_state(small) == before


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"pair": "Love"}, al.PromptError, "is not a prompt pair"),
        ({"layer": 99}, al.LayerError, "does not exist"),
        ({"prompts": []}, al.PromptError, "No prompt was given"),
        ({"prompts": [3]}, al.PromptError, "is not text"),
        ({"metric": 3}, al.SettingError, "is not a metric"),
        ({"coefficient": float("nan")}, al.CoefficientError, "not finite"),
        ({"position": -1}, al.PositionError, "negative"),
        ({"prompts": ["The"]}, al.PositionError, "does not fit"),
        ({"replacement": []}, al.SettingError, "No replacement"),
        ({"replacement": 10**9}, al.PromptError, "not a token"),
        ({"replacement": "two words here"}, al.PromptError, "tokens for"),
        ({"spans": [("positive", 0, 1)]}, al.SettingError, "BOS and pads stay"),
        ({"spans": [("positive", 1, 99)]}, al.SettingError, "is none of this pair"),
        ({"spans": ["positive"]}, al.SettingError, "is none of this pair"),
        ({"nulls": -1}, al.SettingError, "from 0"),
        ({"nulls": 2, "null_kind": "none"}, al.SettingError, "is not known"),
    ],
)
def test_wrong_input_says_what_was_expected(quickest: Any, settings: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        ablate(quickest, **settings)
