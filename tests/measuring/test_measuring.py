"""Metrics, nulls and scorers against independent code."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens.measuring.metrics import KLDirection
from tests.support import PAIRS, plain_hooks, tokens_of, vector_of

PROMPTS = ["The girl looked at the dog. She felt", "It was a good day and she", "The old dog said that it was good"]


@torch.no_grad()
def conditions(
    model: Any, text: str, vector: al.SteeringVector, column: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of both conditions, steered first, from passes with the addition written out."""
    tokens = tokens_of(model, text)
    steered = model.run_with_hooks(tokens, fwd_hooks=plain_hooks(vector, column))
    return steered[0].log_softmax(dim=-1), model(tokens)[0].log_softmax(dim=-1)


def by_hand(model: Any, vector: al.SteeringVector, number: Any) -> tuple[list[float], list[float]]:
    """A number of the last log-probs, steered and unsteered, for each prompt."""
    found = [conditions(model, text, vector, 0) for text in PROMPTS]
    return [float(number(steered[-1])) for steered, _ in found], [float(number(plain[-1])) for _, plain in found]


def check(measured: al.Measurement, expected: tuple[list[float], list[float]]) -> None:
    assert measured.steered == pytest.approx(np.array(expected[0]), abs=2e-3, rel=1e-3)
    assert measured.unsteered == pytest.approx(np.array(expected[1]), abs=2e-3, rel=1e-3)


def test_metrics_of_the_next_token_are_those_of_independent_code(model: Any) -> None:
    vector = 5 * vector_of(model, PAIRS[0], 2)
    metrics = al.metrics
    cases = {
        metrics.next_token_logprob(7): lambda p: p[7],
        metrics.logit_difference(7, 9): lambda p: p[7] - p[9],
        metrics.token_set_logprob([7, 9, 7]): lambda p: torch.log(p[7].exp() + p[9].exp()),
        metrics.entropy(): lambda p: torch.distributions.Categorical(logits=p).entropy(),
    }
    for metric, number in cases.items():
        check(al.measure(model, PROMPTS, vector, metric, batch_size=3), by_hand(model, vector, number))


def test_a_function_of_the_last_logits_is_a_metric(small: Any) -> None:
    vector = 5 * vector_of(small, PAIRS[0], 2)
    measured = al.measure(small, PROMPTS, vector, lambda logits: logits.log_softmax(dim=-1).max(dim=-1).values)
    check(measured, by_hand(small, vector, lambda p: p.max()))


@pytest.mark.usefixtures("unchecked")
def test_kl_divergence_both_ways(model: Any) -> None:
    vector = 5 * vector_of(model, PAIRS[0], 2)
    orders: dict[KLDirection, tuple[int, int]] = {"steered || unsteered": (0, 1), "unsteered || steered": (1, 0)}
    for direction, order in orders.items():
        metric = al.metrics.kl_divergence(direction)
        assert direction in metric.name
        measured = al.measure(model, PROMPTS, vector, metric)
        for place, text in enumerate(PROMPTS):
            pair = [log_probs[-1].double() for log_probs in conditions(model, text, vector, 0)]
            first, second = pair[order[0]], pair[order[1]]
            expected = torch.nn.functional.kl_div(second, first, log_target=True, reduction="sum")
            assert measured.steered[place] == pytest.approx(float(expected), abs=1e-3, rel=1e-3)
        assert measured.unsteered == pytest.approx(0, abs=1e-5)
    with pytest.raises(al.SettingError, match="'both' is not known: 'steered || unsteered' or"):
        al.metrics.kl_divergence("both")  # type: ignore[arg-type]  # the wrong input


@pytest.mark.parametrize("position", ["front", "mid", 1])
def test_perplexity_leaves_out_predictions_from_injected_positions_in_both_conditions(
    model: Any, position: Any
) -> None:
    vector = 5 * vector_of(model, PAIRS[0], 2)
    measured = al.measure(model, PROMPTS, vector, al.metrics.perplexity(), position=position)
    for place, text in enumerate(PROMPTS):
        tokens = tokens_of(model, text)[0]
        length, rows = len(tokens), vector.rows
        column = {"front": 0, "mid": length // 2 - rows // 2}.get(position, position)
        kept = [index for index in range(length - 1) if not column <= index < column + rows]
        for values, log_probs in zip(
            (measured.steered, measured.unsteered), conditions(model, text, vector, column), strict=True
        ):
            losses = [-float(log_probs[index, tokens[index + 1]]) for index in kept]
            assert values[place] == pytest.approx(np.exp(np.mean(losses)), rel=2e-3)


@pytest.mark.parametrize("position", ["back", "all", "all+bos", "last"])
def test_a_text_with_no_prediction_after_an_injection_has_no_perplexity(small: Any, position: Any) -> None:
    """What comes before an injection cannot change, and would say that a destroyed model is undamaged."""
    vector = 1000 * vector_of(small, PAIRS[0], 2)
    vector = vector if position == "back" else vector.row(-1)
    measured = al.measure(small, PROMPTS, vector, al.metrics.perplexity(), position=position)
    assert np.isnan([measured.steered, measured.unsteered]).all()
    for ask in (lambda: measured.effect, lambda: measured.ratio):
        with pytest.raises(al.SettingError, match=r"no value on any prompt.*kl_divergence"):
            ask()
    swept = al.sweep(small, [vector], layers=[2], coefficients=[1.0], positions=[position], prompts=PROMPTS,
                     metric=al.metrics.perplexity())  # fmt: skip
    with pytest.raises(al.SettingError, match="no value on any prompt"):
        swept.effect()


TOOLS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "calibrate": lambda model, row, texts, metric: al.calibrate(model, row, texts, damage=metric, at_most=1.0),
    "linearity": lambda model, row, texts, metric: al.linearity(model, texts, row, metric),
    "attribute_injection": lambda model, row, texts, metric: al.attribute_injection(model, texts, row, metric),
    "attention_or_value": lambda model, row, texts, metric: al.attention_or_value(model, texts, row, metric),
    "minimal_set": lambda model, row, texts, metric: al.minimal_set(model, texts, row, metric),
    "ablate_dimensions": lambda model, row, texts, metric: al.ablate_dimensions(model, texts, row, metric, keep=[10]),
    "interaction": lambda model, row, texts, metric: al.interaction(model, [row, row.at_layer(1)], metric, texts),
    "best": lambda model, row, texts, metric: al.sweep(
        model, row.at(position=None), layers=2, coefficients=1.0, positions="all", prompts=texts, metric=metric
    ).best(),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_no_tool_takes_a_metric_without_a_value_for_no_effect(small: Any, tool: str) -> None:
    row = vector_of(small, PAIRS[0], 2).row(-1).at(position="all")
    texts = [f"{begin} {text}" for begin in ("", "And", "But") for text in PROMPTS]
    with pytest.raises(al.SettingError, match="perplexity has no value on any prompt"):
        TOOLS[tool](small, row, texts, al.metrics.perplexity())


def test_prompts_are_measured_together_as_each_alone(model: Any) -> None:
    vector, metric = 5 * vector_of(model, PAIRS[0], 2), al.metrics.next_token_logprob(7)
    together = al.measure(model, PROMPTS, vector, metric, nulls=3, batch_size=64)
    cut = al.measure(model, PROMPTS, vector, metric, nulls=3, batch_size=1)
    assert together.nulls == pytest.approx(cut.nulls, abs=1e-3)
    assert together.steered == pytest.approx(cut.steered, abs=1e-3)
    alone = [al.measure(model, text, vector, metric).steered[0] for text in PROMPTS]
    assert together.steered == pytest.approx(np.array(alone), abs=1e-3)


def test_null_conditions_are_null_vectors_run_one_by_one(small: Any) -> None:
    vector, metric = 5 * vector_of(small, PAIRS[0], 2), al.metrics.entropy()
    measured = al.measure(small, PROMPTS, vector, metric, nulls=3, seed=4)
    for row, null in zip(measured.nulls, al.null_vectors(small, vector, n=3, seed=4), strict=True):
        assert al.measure(small, PROMPTS, null, metric).steered == pytest.approx(row, abs=1e-4)
    effect = measured.effect
    assert effect.nulls == pytest.approx((measured.nulls - measured.unsteered).mean(axis=1))
    assert effect.mean == pytest.approx((measured.steered - measured.unsteered).mean())


def test_tokens_of_a_metric_must_be_one_token(small: Any) -> None:
    vector = vector_of(small, PAIRS[0], 2)
    with pytest.raises(al.PromptError, match=r"'wedding cake' is \d+ tokens for small.*Give a text that is one"):
        al.measure(small, PROMPTS, vector, al.metrics.next_token_logprob("wedding cake"))
    with pytest.raises(al.PromptError, match="10000 is not a token of small: ids go from 0 to 499"):
        al.measure(small, PROMPTS, vector, al.metrics.next_token_logprob(10000))
    with pytest.raises(al.SettingError, match="3 is not a metric"):
        al.measure(small, PROMPTS, vector, 3)


# -- nulls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unrelated_pairs", "gaussian"])
@pytest.mark.parametrize("pair", PAIRS)
def test_nulls_have_the_vectors_row_norms_and_place(model: Any, kind: Any, pair: tuple[str, str]) -> None:
    vector = (-3 * vector_of(model, pair, 2)).at(position=1)
    nulls = al.null_vectors(model, vector, kind=kind, n=4, seed=2)
    assert len(nulls) == 4
    for null in nulls:
        assert torch.allclose(null.norms, vector.norms, rtol=1e-4, atol=1e-5)
        assert (null.norms[vector.norms == 0] == 0).all()
        assert (null.layer, null.coefficient, null.position) == (vector.layer, vector.coefficient, vector.position)
        assert null.provenance.source.startswith(f"null: {kind}")
        cosine = torch.nn.functional.cosine_similarity(null.activations.flatten(), vector.activations.flatten(), dim=0)
        assert abs(float(cosine)) < 0.99
    for one, other in itertools.combinations(nulls, 2):
        assert not torch.equal(one.activations, other.activations)


def test_nulls_are_seeded(small: Any) -> None:
    vector = vector_of(small, PAIRS[0], 2)
    for kind in ("unrelated_pairs", "gaussian"):
        first, again, other = (al.null_vectors(small, vector, kind=kind, n=2, seed=seed) for seed in (0, 0, 1))
        assert all(torch.equal(one.activations, two.activations) for one, two in zip(first, again, strict=True))
        assert not torch.equal(first[0].activations, other[0].activations)


def test_a_pair_longer_than_any_text_has_nulls_too(small: Any) -> None:
    long = " ".join(al.storybook.neutral_prompts()[:3])
    vector = al.compute_steering_vector(small, (long, "She said " + long), layer=2)
    first, second = al.null_vectors(small, vector, n=2)
    for null in (first, second):
        torch.testing.assert_close(null.norms, vector.norms)
        assert bool((null.norms[1:] > 0).all())
    assert not torch.equal(first.activations, second.activations)


def test_nulls_of_unrelated_pairs_are_differences_that_the_model_made(small: Any) -> None:
    texts = ["alpha beta gamma delta epsilon", "one two three four five six"]
    vector = vector_of(small, PAIRS[3], 2)
    assert al.null_vectors(small, vector, n=2, texts=texts)[0].rows == vector.rows
    with pytest.raises(al.SettingError, match="No two phrases of .* were found"):
        al.null_vectors(small, vector, n=2, texts=["same", "same"])
    with pytest.raises(al.SettingError, match="two texts or more"):
        al.null_vectors(small, vector, n=2, texts=["lonely"])


def test_nulls_of_an_unpaired_addition_are_unpaired_and_keep_its_bos_row(model: Any) -> None:
    vector = 3 * al.compute_steering_vector(model, al.PromptPair(" wedding day", None), layer=2)
    for kind in ("unrelated_pairs", "gaussian"):
        nulls = al.null_vectors(model, vector, kind=kind, n=3)
        for null in nulls:
            torch.testing.assert_close(null.activations[0], vector.activations[0])
            torch.testing.assert_close(null.norms, vector.norms)
        assert not torch.equal(nulls[0].activations[1:], nulls[1].activations[1:])
    phrase = al.compute_steering_vector(model, al.PromptPair(" blue sky", None), layer=2)
    bos = phrase.activations[0]  # what a phrase of other words has in its first row is the same
    torch.testing.assert_close(bos, vector.activations[0])
    ending = al.null_vectors(model, vector.row(-1), n=2)
    assert ending[0].rows == 1


def test_a_row_that_mixes_bos_with_words_has_no_nulls(small: Any) -> None:
    unpaired, pair = (
        al.compute_steering_vector(small, al.PromptPair("Love", other), layer=2) for other in (None, "Hate")
    )
    for mixed in (unpaired.mean_rows(), unpaired.row(0), unpaired + pair):
        with pytest.raises(al.SettingError, match="includes the BOS row of an unpaired addition"):
            al.null_vectors(small, mixed, n=2)
    assert al.null_vectors(small, unpaired - unpaired, n=2)[0].rows == unpaired.rows


def test_shuffled_rows_are_the_same_rows_in_another_order(small: Any) -> None:
    vector = vector_of(small, PAIRS[2], 2)
    shuffled = al.shuffle_rows(vector, seed=3)
    assert shuffled.norms[0] == 0
    assert sorted(shuffled.norms.tolist()) == sorted(vector.norms.tolist())
    assert not torch.equal(shuffled.activations, vector.activations)


def test_wrong_null_settings_are_refused(small: Any, unchecked: None) -> None:
    vector = vector_of(small, PAIRS[0], 2)
    with pytest.raises(al.SettingError, match="kind 'uniform' is not known: use 'unrelated_pairs' or 'gaussian'"):
        al.null_vectors(small, vector, kind="uniform")  # type: ignore[arg-type]  # the wrong input
    for n in (0, 2.5, True):
        with pytest.raises(al.SettingError, match=f"n is {n!r}: expected an integer from 1"):
            al.null_vectors(small, vector, n=n)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(al.SettingError, match="nulls is -1: expected an integer from 0"):
        al.measure(small, PROMPTS, vector, al.metrics.entropy(), nulls=-1)


# -- scorers ---------------------------------------------------------------------------------------------------


def test_word_scorers_count_whole_words_whatever_their_case() -> None:
    words, texts = (
        ["Bride", "groom"],
        ["The BRIDE and the bridegroom.", "groom's; groom, groom", "", "!!!", "bride-to-be"],
    )
    assert al.scorers.word_count(words)(texts) == [1.0, 2.0, 0.0, 0.0, 1.0]
    assert al.scorers.word_share(words)(texts) == pytest.approx([1 / 5, 2 / 3, 0, 0, 1 / 3])
    assert al.scorers.contains_word(words)(texts) == [1.0, 1.0, 0.0, 0.0, 1.0]
    nothing: list[str] = []
    for wrong in ("bride", nothing):
        with pytest.raises(al.SettingError, match="is not a list of words"):
            al.scorers.word_count(wrong)


def test_the_sentiment_scorer_is_vaders() -> None:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    texts = ["I love this happy day!", "A sad, terrible thing.", "It is a table.", ""]
    analyse = SentimentIntensityAnalyzer().polarity_scores
    assert al.scorers.sentiment()(texts) == [analyse(text)["compound"] for text in texts]


def test_completions_are_scored_steered_minus_unsteered(small: Any) -> None:
    found = al.complete(small, PROMPTS, 5 * vector_of(small, PAIRS[0], 2), n=3, max_new_tokens=6)
    effect = found.score(lambda texts: [float(len(text)) for text in texts])
    lengths = [[[len(text) for text in row] for row in condition] for condition in (found.steered, found.unsteered)]
    assert effect.mean == pytest.approx(np.mean(lengths[0]) - np.mean(lengths[1]))
    frame = found.frame()
    assert list(frame.columns) == ["prompt", "sample", "steered", "unsteered"]
    assert len(frame) == 9
    with pytest.raises(al.SettingError, match=r"shape \(1,\) for 9 texts: expected one each"):
        found.score(lambda texts: [1.0])


def test_measured_completions_share_one_unsteered_condition(small: Any) -> None:
    from actadd_lens.measuring.measure import measure_completions

    vector, length = 5 * vector_of(small, PAIRS[0], 2), lambda texts: [float(len(text)) for text in texts]
    (measured,) = measure_completions(small, PROMPTS, vector, length, n=2, nulls=3, seed=1, max_new_tokens=5)
    plain = al.complete(small, PROMPTS, vector, n=2, seed=1, max_new_tokens=5)
    assert measured.completions.steered == plain.steered
    assert measured.completions.unsteered == plain.unsteered
    assert measured.effect.mean == pytest.approx(plain.score(length).mean)
    expected = [
        al.complete(small, PROMPTS, null, n=2, seed=1, max_new_tokens=5).score(length).mean
        for null in al.null_vectors(small, vector, n=3, seed=1)
    ]
    assert measured.effect.nulls == pytest.approx(np.array(expected))


# -- preview ---------------------------------------------------------------------------------------------------


def test_a_measurement_draws_its_effect_above_its_nulls(small: Any) -> None:

    vector = 5 * vector_of(small, PAIRS[0], 2)
    measured = al.measure(small, PROMPTS, vector, al.metrics.entropy(), nulls=4)
    [written] = al.measure_completions(
        small, PROMPTS, vector, al.scorers.word_count(["she"]), n=2, nulls=3, max_new_tokens=3
    )
    for result, unit in ((measured, "entropy"), (written, "count of she")):
        ax = result.plot()
        assert ax.get_yticklabels()[0].get_text() == f"5 × {vector.label}"
        assert unit in ax.get_xlabel()
        dots = np.asarray(ax.collections[0].get_offsets())
        assert np.sort(dots[:, 0]) == pytest.approx(np.sort(result.effect.nulls))
        assert result.effect.mean in np.asarray(ax.lines[0].get_xdata())
        assert result.plot(ax) is ax


@pytest.mark.parametrize("position", ["front", "mid", "back", 1])
def test_a_preview_tells_rows_tokens_and_relative_norms(model: Any, position: Any) -> None:
    vector, tokens = -5 * vector_of(model, PAIRS[0], 2), tokens_of(model, PROMPTS[0])
    stream = model.run_with_cache(tokens, names_filter=[vector.hook_name])[1][vector.hook_name][0]
    length, rows = tokens.shape[1], vector.rows
    column = {"front": 0, "mid": length // 2 - rows // 2, "back": length - rows}.get(position, position)
    shown = al.preview(model, PROMPTS[0], vector, position=position)
    assert [(touch.token, touch.row) for touch in shown.touches] == [(column + row, row) for row in range(rows)]
    for touch in shown.touches:
        norm = 5 * float(vector.norms[touch.row])
        assert touch.norm == pytest.approx(norm, rel=1e-4, abs=1e-5)
        assert touch.relative == pytest.approx(norm / float(stream[touch.token].norm()), rel=1e-3, abs=1e-5)
    assert len(shown.tokens) == length
    assert len(shown.frame()) == length
    assert "row 1" in str(shown)
    assert "<table>" in shown._repr_html_()


def test_a_preview_runs_no_block_from_the_layer_up(small: Any) -> None:
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(small.blocks)
    ]
    try:
        al.preview(small, PROMPTS[0], vector_of(small, PAIRS[0], 2))
        assert ran == [0, 1]
        ran.clear()
        al.compute_steering_vectors(small, PAIRS, layers=[0, 2])
        assert ran == [0, 1]
    finally:
        for handle in handles:
            handle.remove()


def test_a_preview_of_all_touches_every_token_but_bos(small: Any) -> None:
    shown = al.preview(small, PROMPTS[0], vector_of(small, PAIRS[0], 2).row(-1), position="all")
    assert [touch.token for touch in shown.touches] == list(range(1, len(shown.tokens)))
    assert all(touch.row is None for touch in shown.touches)
