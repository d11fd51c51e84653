"""The writing experiments: their arithmetic by hand, their choices, what they conclude, and what they refuse."""

import dataclasses
import math
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens.errors import ModelDownloadError, PromptError, SettingError
from actadd_lens.experiments.continuations import (
    Cells,
    Conditions,
    Measured,
    Tried,
    beside_nulls,
    early_to_middle,
    fluency_finding,
    halves,
    measured,
    relevance_finding,
    scored,
    told_empty,
    try_cells,
    write_conditions,
)
from actadd_lens.experiments.evidence import moves
from actadd_lens.experiments.examples import EXAMPLES, Example, Examples, Term, examples
from actadd_lens.experiments.parts import Dimensions, dimensions, positions
from actadd_lens.experiments.sentiment import Sentiment, Shift, _success, sentiment
from actadd_lens.experiments.topic_words import COUNT, TopicWords, topic_words
from actadd_lens.experiments.topics import likeliest_pair, topics
from actadd_lens.experiments.toxicity import Toxicity, toxicity
from actadd_lens.experiments.writing import dependence, embedding_relevance, surprise
from actadd_lens.models import backend_of
from actadd_lens.sweeps.texts import plan_sweep_completions, sweep_completions

PROMPTS = al.storybook.neutral_prompts()[:8]
SHORT: dict[str, Any] = {"max_new_tokens": 8, "nulls": 1, "progress": False}
WEDDING = al.storybook.topics()["weddings"].words


def count(text: str, words: Any = WEDDING) -> int:
    """Topic words of a text, counted without the package."""
    return sum(word.strip(".,!?\"':;") in words for word in text.lower().split())


# -- what a model thinks of a continuation -----------------------------------------------------------------------


@torch.no_grad()
def logprobs_by_hand(model: Any, context: str, text: str) -> list[float]:
    """Log-probability of each token of a text behind a context, from one plain pass."""
    before, whole = model.to_tokens(context), model.to_tokens(context + text)
    logits = model(whole)[0].log_softmax(dim=-1)
    return [float(logits[place - 1, whole[0, place]]) for place in range(before.shape[1], whole.shape[1])]


TEXTS = [[" ran away from the big house.", " was sad"], [" and said that it was late.", " the red ball, and"]]
BEGINNINGS = ["The dog", "My mother took"]


def test_surprise_is_the_mean_log_probability_of_plain_passes(embedded: Any) -> None:
    by_hand = [
        [-np.mean(logprobs_by_hand(embedded, prompt, text)) for text in row]
        for prompt, row in zip(BEGINNINGS, TEXTS, strict=True)
    ]
    assert surprise(embedded, BEGINNINGS, TEXTS, batch_size=3) == pytest.approx(np.array(by_hand), rel=1e-4)


def test_dependence_is_the_gain_over_bos_alone(embedded: Any) -> None:
    by_hand = [
        [
            np.mean(logprobs_by_hand(embedded, prompt, text)) - np.mean(logprobs_by_hand(embedded, "", text))
            for text in row
        ]
        for prompt, row in zip(BEGINNINGS, TEXTS, strict=True)
    ]
    assert dependence(embedded, BEGINNINGS, TEXTS) == pytest.approx(np.array(by_hand), rel=1e-3, abs=1e-4)


def test_open_steering_does_not_touch_the_judgement(embedded: Any) -> None:
    plain = surprise(embedded, BEGINNINGS, TEXTS)
    with al.steer(embedded, 5 * al.compute_steering_vector(embedded, (" wedding", ""), layer=3)):
        assert np.array_equal(surprise(embedded, BEGINNINGS, TEXTS), plain)


def test_an_empty_continuation_has_no_value(embedded: Any) -> None:
    values = surprise(embedded, ["The dog"], [["", " ran"]])
    assert math.isnan(values[0, 0])
    assert math.isfinite(values[0, 1])


def test_continuations_must_go_with_their_prompts(embedded: Any) -> None:
    with pytest.raises(SettingError, match="2 prompts and 1 rows"):
        surprise(embedded, ["The dog", "The cat"], [[" ran"]])


def test_sentence_embeddings_give_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"a": [1.0, 0.0], "b": [0.6, 0.8]}

    class Encoder:
        def __init__(self, name: str) -> None:
            if name == "nowhere":
                raise OSError(name)

        def encode(self, texts: list[str], *, normalize_embeddings: bool) -> np.ndarray:
            assert normalize_embeddings
            return np.array([rows[text] for text in texts])

    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Encoder))
    assert embedding_relevance("folder")(["a", "b"], ["b", "b"]) == pytest.approx([0.6, 1.0])
    with pytest.raises(ModelDownloadError, match="pass a local folder"):
        embedding_relevance("nowhere")


def test_missing_sentence_embeddings_are_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(SettingError, match=r"pip install 'actadd-lens\[relevance\]'"):
        embedding_relevance()


# -- the conditions ----------------------------------------------------------------------------------------------------


def test_the_conditions_are_those_of_complete_and_the_lead_stands_before_the_prompt(embedded: Any) -> None:
    vector = 4 * al.compute_steering_vector(embedded, (" wedding", ""), layer=2)
    null = 2 * al.compute_steering_vector(embedded, ("Love", "Hate"), layer=5)
    options: dict[str, Any] = {"n": 2, "max_new_tokens": 5, "top_p": 0.9}
    conditions = write_conditions(embedded, PROMPTS[:2], vector, lead=" Love", nulls=[null], progress=False, **options)
    expected = al.complete(embedded, PROMPTS[:2], vector, progress=False, **options)
    led = al.complete(embedded, [f"Love {prompt}" for prompt in PROMPTS[:2]], vector, progress=False, **options)
    assert (conditions.steered, conditions.unsteered) == (expected.steered, expected.unsteered)
    assert conditions.prompted == led.unsteered
    assert conditions.nulls == (al.complete(embedded, PROMPTS[:2], null, progress=False, **options).steered,)


def filled(name: str, unsteered: Any, steered: Any, *, is_log: bool = False, nulls: Any = None) -> Measured:
    """A measure of 12 prompts and 2 samples."""
    conditions = [np.full((12, 2), float(value)) for value in (unsteered, steered)]
    beside = np.zeros((0, 12, 2)) if nulls is None else np.array([np.full((12, 2), float(null)) for null in nulls])
    return Measured(name, conditions[0], conditions[1], beside, is_log=is_log)


def test_logarithms_are_told_as_ratios() -> None:
    change = filled("disfluency", np.log(10), np.log(15), is_log=True, nulls=[np.log(5)]).change()
    assert (change.value, change.low, change.high) == pytest.approx((1.5, 1.5, 1.5))
    assert change.nulls == pytest.approx((0.5,))
    assert change.neutral == 1.0


def test_a_sample_without_a_value_is_left_out() -> None:
    table = filled("disfluency", 1.0, 3.0)
    table.steered[0] = np.nan
    table.steered[1, 0] = np.nan
    change = table.change()
    assert (change.value, change.n) == (2.0, 11)


def test_a_judge_is_asked_once_and_its_numbers_go_to_their_conditions() -> None:
    texts = {name: tuple((f"{name}{row}", "") for row in range(2)) for name in "usnp"}
    conditions = Conditions(("P", "Q"), texts["u"], texts["s"], (texts["n"],), texts["p"])
    asked = []

    def judge(prompts: Any, rows: Any) -> np.ndarray:
        asked.append(prompts)
        return np.array([[ord(row[0][0]) + int(row[0][1]) / 10, 0.0] for row in rows])

    found = measured("place", judge, conditions)
    assert asked == [("P", "Q") * 4]
    for condition, letter in (
        (found.unsteered, "u"),
        (found.steered, "s"),
        (found.nulls[0], "n"),
        (found.prompted, "p"),
    ):
        assert condition is not None
        assert condition[:, 0].tolist() == [ord(letter), ord(letter) + 0.1]


def test_the_best_cell_is_the_largest_gain_that_is_fluent_enough() -> None:
    tried = Tried(np.array([[[[0.1, 0.5], [0.4, 0.9]]]]), np.array([[[[1.0, 1.6], [1.2, 2.5]]]]))
    assert tried.best(1.7) == (0, 0, 1)
    assert tried.best(3.0) == (0, 1, 1)
    assert tried.best(0.5) == (0, 0, 0)


def test_a_cell_in_which_nothing_was_written_is_not_chosen() -> None:
    tried = Tried(np.array([[[[0.1, 0.9, np.nan]]]]), np.array([[[[3.0, np.nan, 1.0]]]]))
    assert tried.best(1.7) == (0, 0, 0)
    assert "as the most fluent" in tried.told(1.7, "the share")


def test_every_null_chooses_for_itself_by_the_same_rule() -> None:
    gains = np.array([[[[0.9, 0.1]]], [[[0.1, 0.9]]], [[[0.1, 0.9]]]])
    ratios = np.array([[[[1.0, 1.0]]], [[[1.0, 1.0]]], [[[1.0, 9.0]]]])
    assert Tried(gains, ratios).places(1.7) == ((0, 0, 0), (0, 0, 1), (0, 0, 0))


def test_cells_are_tried_under_every_condition_and_nulls_report_from_their_own(embedded: Any) -> None:
    written: dict[str, Any] = {"n": 2, "max_new_tokens": 6, "seed": 0, "top_p": 0.9, "temperature": 1.0}
    scorer: Any = lambda texts: [float(len(text)) for text in texts]  # noqa: E731
    plan = plan_sweep_completions(
        embedded, [(" wedding", "")], layers=[2, 5], coefficients=[2.0, 4.0], prompts=PROMPTS[:2], scorers=scorer,
        nulls=2, **written,
    )  # fmt: skip
    cells = Cells.planned(plan)
    run: Any = {"path": None, "progress": False, "executor": None, "written": written}
    tried = try_cells(embedded, cells, [scorer], wanted=-1, prompts=PROMPTS[:2], **run)
    assert tried.gains.shape == (3, 1, 2, 2)
    null = cells.vector((0, 1, 0), 2)
    assert (null.layer, null.coefficient) == (5, 2.0)
    again = al.complete(embedded, PROMPTS[:2], null, max_new_tokens=6, top_p=0.9, progress=False)
    longer = np.mean([len(new[0]) - len(old[0]) for new, old in zip(again.steered, again.unsteered, strict=True)])
    assert tried.gains[2, 0, 1, 0] == pytest.approx(-longer)
    changes = [surprise(embedded, PROMPTS[:2], texts) for texts in (again.steered, again.unsteered)]
    assert tried.ratios[2, 0, 1, 0] == pytest.approx(np.exp(np.mean(changes[0] - changes[1])), rel=1e-4)
    sweep = sweep_completions(
        embedded, [(" wedding", "")], layers=2, coefficients=4.0, prompts=PROMPTS[:2], scorers=scorer, progress=False,
        **written,
    )  # fmt: skip
    beside = beside_nulls(embedded, sweep, [[cells.vector((0, 0, 1), 1)], [null]], scorers=[scorer], **run)
    both = al.complete(embedded, PROMPTS[:2], null, n=2, max_new_tokens=6, top_p=0.9, progress=False)
    assert beside.nulls[0, 1, 0, 0, 0, 0].tolist() == [np.mean([len(text) for text in row]) for row in both.steered]


def test_the_choice_takes_few_prompts_of_one_half_and_reports_all_of_the_other() -> None:
    choose, report = halves(PROMPTS, 0, 2)
    assert (len(choose), len(report)) == (2, 4)
    assert not set(choose) & set(report)


def test_an_empty_text_has_no_score_and_what_is_all_empty_is_not_judged() -> None:
    conditions = Conditions(PROMPTS[:1], (("a", ""),), ((" ", ""),))
    found = scored("negativity", lambda texts: [0.5 for _ in texts], conditions)
    assert found.unsteered[0, 0] == 0.5
    assert np.isnan(found.unsteered[0, 1])
    assert (found.change().n, moves(found.change(), "less")) == (0, "undecided")
    assert "50% of the unsteered, 100% of the steered" in told_empty([conditions])


def test_a_null_that_wrote_nothing_has_no_value() -> None:
    found = filled("compound", 0.0, -1.0, nulls=[np.nan] + [0.0] * 18).change()
    assert np.isnan(found.nulls[0])
    assert not filled("compound", 0.0, -1.0, nulls=[np.nan, np.nan] + [0.0] * 18).change().beyond("less")


def test_fluency_that_improves_is_no_cost() -> None:
    better, worse = (filled("disfluency", 0.0, np.log(ratio), is_log=True) for ratio in (0.2, 2.5))
    assert fluency_finding(better, 1.7, "cell", "", chosen_below=3.0).verdict == "same direction"
    assert fluency_finding(worse, 1.7, "cell", "", chosen_below=3.0).verdict == "opposite"


def test_fluency_is_not_judged_by_the_limit_that_the_cell_was_chosen_with() -> None:
    better, worse = (filled("disfluency", 0.0, np.log(ratio), is_log=True) for ratio in (0.2, 2.5))
    kept = fluency_finding(better, 1.7, "cell", "", chosen_below=1.7)
    assert (kept.verdict, "chosen to have a ratio of at most 1.7" in kept.reason) == ("not testable here", True)
    assert fluency_finding(worse, 1.7, "cell", "", chosen_below=1.7).verdict == "opposite"


def test_relevance_stays_where_half_of_it_is_left() -> None:
    random = np.random.default_rng(0)
    plain = 1.0 + random.normal(scale=0.05, size=(40, 2))

    def verdict(steered: Any, unsteered: Any = plain) -> str:
        return relevance_finding(Measured("own", unsteered, steered, np.zeros((0, 40, 2))), "cell", "nats").verdict

    assert verdict(0.8 * plain) == "same direction"
    assert verdict(2.0 * plain) == "same direction"
    assert verdict(0.051 * plain) == "opposite"
    assert verdict(plain, plain - 1.0) == "not testable here"


def test_what_is_left_is_a_ratio_of_means() -> None:
    found = Measured("own", np.array([[1.0], [3.0], [9.0]]), np.array([[2.0], [0.0], [np.nan]]), np.zeros((0, 3, 1)))
    assert (found.left().value, found.left().n) == (0.5, 2)


def test_layers_go_by_depth(embedded: Any) -> None:
    assert early_to_middle(embedded) == (1, 2, 3, 4)
    assert [Term("a", "b", layer, 1.0).layer_of(12) for layer in (6, 16, 20, 47)] == [2, 4, 5, 11]


# -- topic words -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words_result(embedded: Any) -> TopicWords:
    return topic_words(embedded, prompts=al.storybook.neutral_prompts()[:20], layers=[2, 7], coefficients=4.0, **SHORT)


def test_topic_words_are_those_of_the_texts(words_result: TopicWords) -> None:
    table, sweep = words_result.frame(), words_result.sweep
    for row, layer in enumerate((2, 7)):
        counts = [count(text) for text in sweep.texts[0, row, 0, 0].ravel()]
        cells = table[table["layer"] == layer].set_index("measure")["steered"]
        assert cells["words per completion"] == pytest.approx(np.mean(counts))
        assert cells["share of completions"] == pytest.approx(np.mean([number > 0 for number in counts]))


def verdicts(result: Any) -> list[str]:
    return [finding.verdict for finding in result.findings()]


def with_words(result: TopicWords, by_layer: tuple[float, float]) -> TopicWords:
    """The result as if every completion had so many words at each layer, and none unsteered or under nulls."""
    sweep = result.sweep
    steered = np.broadcast_to(np.array(by_layer)[None, None, :, None, None, None, None], sweep.steered.shape).copy()
    steered[0] = steered[0] > 0
    sweep = dataclasses.replace(
        sweep, steered=steered, unsteered=np.zeros_like(sweep.unsteered),
        grid=dataclasses.replace(sweep.grid, nulls=19), nulls=np.repeat(np.zeros_like(sweep.nulls), 19, axis=1),
    )  # fmt: skip
    return dataclasses.replace(result, sweep=sweep, best=sweep.best(0))


def test_topic_words_early_and_none_late_go_the_papers_way(words_result: TopicWords) -> None:
    assert verdicts(with_words(words_result, (4.0, 0.0))) == ["same direction"] * 4


def test_gone_is_a_tenth_of_what_was_there(words_result: TopicWords) -> None:
    assert verdicts(with_words(words_result, (4.0, 1.0)))[3] == "opposite"
    assert verdicts(with_words(words_result, (20.0, 1.0)))[3] == "same direction"


def test_each_null_tells_its_words_from_the_layer_that_it_chose(words_result: TopicWords) -> None:
    faked = with_words(words_result, (1.5, 0.0))
    nulls = np.zeros_like(faked.sweep.nulls[:, :1])
    nulls[:, 0, 0, 1] = 1.0
    nulls[COUNT, 0, 0, 1] = 3.0
    one = dataclasses.replace(faked.sweep.grid, nulls=1)
    found = dataclasses.replace(faked, sweep=dataclasses.replace(faked.sweep, grid=one, nulls=nulls))
    assert (found.words.nulls, found.last.nulls, found.beyond_last.nulls) == ((3.0,), (3.0,), (0.0,))
    assert found.words.value == 1.5


def test_topic_words_at_the_last_layer_too_deny_that_they_are_gone(words_result: TopicWords) -> None:
    found = with_words(words_result, (1.5, 1.0)).findings()
    assert found[3].verdict == "opposite"
    assert found[3].estimate is not None
    assert found[3].estimate.value == 1.0


def test_without_any_effect_nothing_can_be_gone(words_result: TopicWords) -> None:
    found = with_words(words_result, (0.0, 0.0)).findings()
    assert [finding.verdict for finding in found] == ["undecided"] * 2 + ["not testable here"] * 2
    assert "no effect" in found[2].reason


def test_an_early_last_layer_cannot_tell_of_the_last_layers(words_result: TopicWords) -> None:
    early = dataclasses.replace(with_words(words_result, (1.5, 0.0)), n_layers=48)
    assert verdicts(early)[2:] == ["not testable here"] * 2


# -- topics ------------------------------------------------------------------------------------------------------


def test_a_topics_pair_is_its_likeliest_word_of_one_token(embedded: Any) -> None:
    backend = backend_of(embedded)
    probabilities = np.zeros(backend.model.cfg.d_vocab)
    probabilities[backend.encode(" bride", prepend_bos=False)[0]] = 1.0
    assert likeliest_pair(backend, "weddings", WEDDING, probabilities).positive == " bride"
    assert likeliest_pair(backend, "zyxwvut", ["qqxzzq"], probabilities).positive == " zyxwvut"


def test_each_topic_is_counted_under_its_own_vector(embedded: Any) -> None:
    chosen = {name: al.storybook.topics()[name].words for name in ("weddings", "sea")}
    result = topics(embedded, topics=chosen, prompts=PROMPTS, layers=[2], coefficients=[4.0], **SHORT)
    table = result.frame().set_index("topic")
    for index, (name, words) in enumerate(chosen.items()):
        steered = [count(text, words) > 0 for text in result.sweep.texts[index, 0, 0, 0].ravel()]
        assert table["steered"][name] == pytest.approx(100 * np.mean(steered))
        plain = [count(text, words) > 0 for text in result.sweep.unsteered_texts.ravel()]
        assert table["unsteered"][name] == pytest.approx(100 * np.mean(plain))
    assert result.mean_rise.value == pytest.approx(np.mean([result.rise(name).value for name in chosen]))
    assert set(result.sweep.grid.prompts) < set(PROMPTS)
    assert result.settings["words"] == {name: list(words) for name, words in chosen.items()}
    assert [finding.claim for finding in result.findings()] == [3]


# -- sentiment and toxicity --------------------------------------------------------------------------------------


def test_success_is_a_score_beyond_zero_on_the_wanted_side() -> None:
    compound = Measured("compound", np.array([[0.5, -0.1]]), np.array([[0.0, -0.9]]), np.zeros((0, 1, 2)))
    assert _success(compound, 1).unsteered.tolist() == [[1.0, 0.0]]
    assert _success(compound, -1).steered.tolist() == [[0.0, 1.0]]


def shift(unsteered: float, steered: float, ratio: float) -> Shift:
    conditions = Conditions(PROMPTS, (), ())
    return Shift(
        "positive", "negative", conditions, filled("success", unsteered, steered, nulls=[unsteered] * 19),
        filled("compound", 0.5, -0.5, nulls=[0.5] * 19), filled("disfluency", 0.0, np.log(ratio), is_log=True),
        filled("relevance", 1.0, 0.5), filled("relevance beyond another prompt's", 1.0, 0.9),
    )  # fmt: skip


def sentiment_verdicts(*values: float) -> list[str]:
    settings = {"cell": "cell", "choice": "choice", "relevance": "dependence", "most_disfluency": 9.0}
    return verdicts(Sentiment(model="model", settings=settings, shifts=(shift(*values),)))


def test_sentiment_that_shifts_at_a_moderate_cost_goes_the_papers_way() -> None:
    assert sentiment_verdicts(0.2, 0.4, 1.4) == ["same direction"] * 4


def test_sentiment_that_stays_at_a_high_cost_does_not() -> None:
    assert sentiment_verdicts(0.2, 0.2, 2.5) == ["undecided", "same direction", "opposite", "same direction"]


def test_both_directions_are_run_with_opposite_signs_on_the_other_half(embedded: Any) -> None:
    beginnings = {"positive": PROMPTS, "negative": al.storybook.neutral_prompts()[8:16]}
    result = sentiment(embedded, ("Love", "Hate"), prompts=beginnings, layers=[2], coefficients=[2.0], n=1, **SHORT)
    assert [one.label for one in result.shifts] == ["positive to negative", "negative to positive"]
    assert len(result.frame()) == 10
    love = 2 * al.compute_steering_vector(embedded, ("Love", "Hate"), layer=2)
    for one, sign in zip(result.shifts, (-1, 1), strict=True):
        again = al.complete(embedded, one.conditions.prompts, sign * love, max_new_tokens=8, top_p=0.9, progress=False)
        assert one.conditions.steered == again.steered
        assert set(one.conditions.prompts) < set(beginnings[one.source])
    assert {finding.claim for finding in result.findings()} == {5, 7}


def toxicity_verdicts(unsteered: float, steered: float) -> list[str]:
    settings = {"cell": "cell", "choice": "choice", "relevance": "dependence", "most_disfluency": 9.0}
    score = filled("profanity", unsteered, steered, nulls=[unsteered] * 19)
    even = filled("disfluency", 0.0, 0.0, is_log=True)
    result = Toxicity(
        model="model", settings=settings, conditions=Conditions(PROMPTS, (), ()), scores=(score,), disfluency=even,
        relevance=filled("relevance", 1.0, 1.0), own_relevance=filled("own", 1.0, 1.0),
    )  # fmt: skip
    return verdicts(result)


def test_profanity_that_falls_goes_the_papers_way_and_what_was_never_there_cannot_fall() -> None:
    assert toxicity_verdicts(0.3, 0.1)[0] == "same direction"
    assert toxicity_verdicts(0.3, 0.5)[0] == "opposite"
    assert toxicity_verdicts(0.0, 0.0)[0] == "not testable here"


def test_toxicity_scores_the_continuations_alone(embedded: Any) -> None:
    prompts = al.storybook.hostile_prompts()[:8]
    result = toxicity(embedded, prompts=prompts, layers=[2], coefficients=[2.0], n=1, **SHORT)
    negativity = al.scorers.negativity()
    by_hand = np.mean(negativity([row[0] for row in result.conditions.steered]))
    assert result.scores[1].mean("steered") == pytest.approx(by_hand)
    assert [finding.claim for finding in result.findings()] == [6, 6, 7, 7]


# -- parts -------------------------------------------------------------------------------------------------------


def test_no_dimension_has_no_effect_and_all_of_them_the_whole(embedded: Any) -> None:
    options: dict[str, Any] = {"layers": [2], "coefficients": [4.0], "prompts": PROMPTS, "n": 1, **SHORT}
    result = dimensions(embedded, fractions=(0.0, 1.0), **options)
    sweep = result.sweep
    assert (sweep.texts[0, 0, 0, 0] == sweep.unsteered_texts).all()
    assert result.effect(0.0).value == 0
    front = positions(embedded, positions=("front",), **options)
    assert (front.sweep.texts == sweep.texts[1:]).all()
    assert result.slope().value == pytest.approx(result.effect(1.0).value)


def test_the_slope_is_that_of_the_line_through_all_fractions(embedded: Any) -> None:
    options: dict[str, Any] = {"layers": [2], "coefficients": [4.0], "prompts": PROMPTS, "n": 1, **SHORT}
    result = dimensions(embedded, fractions=(0.0, 0.5, 1.0), **options)
    steered = np.zeros_like(result.sweep.steered)
    steered[0] = np.array([0.0, 0.3, 0.9])[:, None, None, None, None, None]
    fake = dataclasses.replace(result, sweep=dataclasses.replace(result.sweep, steered=steered))
    by_hand = np.polyfit([0.0, 0.5, 1.0], [0.0, 0.3, 0.9], 1)[0]
    assert isinstance(fake, Dimensions)
    assert fake.slope().value == pytest.approx(by_hand)
    assert [finding.claim for finding in fake.findings()] == [12, 12]


# -- examples ----------------------------------------------------------------------------------------------------


def test_examples_show_the_first_sample_and_tell_what_does_not_fit(embedded: Any) -> None:
    long = Example((Term("I want to go home now", "I never want to go home", 6, 1.0),), "Hello")
    result = examples(embedded, [EXAMPLES[0], long, EXAMPLES[-3]], n=2, nulls=2, max_new_tokens=6, progress=False)
    assert isinstance(result, Examples)
    love = 5 * al.compute_steering_vector(embedded, ("Love", "Hate"), layer=1)
    again = al.complete(
        embedded, EXAMPLES[0].prompt, love, n=2, max_new_tokens=6, top_p=0.3, frequency_penalty=1.0, progress=False
    )
    table = result.frame()
    assert table["steered"][0] == again.steered[0][0]
    assert table["unsteered"][0] == again.unsteered[0][0]
    divergence = al.measure(embedded, EXAMPLES[0].prompt, love, al.metrics.kl_divergence(), progress=False)
    assert table["KL(steered || unsteered)"][0] == pytest.approx(divergence.steered[0], rel=1e-4)
    assert "does not fit" in table["steered"][1]
    assert "+" in table["added"][2]
    assert result.findings() == ()


# -- pictures and wrong input ------------------------------------------------------------------------------------


def test_every_picture_has_a_title_and_named_axes(words_result: TopicWords) -> None:

    for draw in words_result.pictures().values():
        ax = draw()
        assert ax.get_title()
        assert ax.get_xlabel() == "injection layer"
        assert "steered − unsteered" in ax.get_ylabel()


@pytest.mark.parametrize(
    ("experiment", "options", "error", "match"),
    [
        (topic_words, {"prompts": PROMPTS[:5]}, SettingError, "5 prompts are too few"),
        (topic_words, {"layers": [99]}, al.LayerError, "Layer 99 does not exist"),
        (topics, {"topics": {}}, SettingError, "There is no topic"),
        (topics, {"pairs": {"horses": ("a", "b")}}, SettingError, "'horses'"),
        (sentiment, {"prompts": {"cheerful": PROMPTS}}, SettingError, "cheerful"),
        (sentiment, {"nulls": -1}, SettingError, "nulls is -1"),
        (toxicity, {"prompts": PROMPTS[:8], "top_p": 2.0}, SettingError, "top_p"),
        (toxicity, {"relevance": lambda prompts, texts: [1.0, 2.0]}, SettingError, "relevance="),
        (dimensions, {"fractions": (0.5, 1.5)}, SettingError, "numbers from 0 to 1"),
        (dimensions, {"fractions": (0.5,)}, SettingError, "two or more"),
        (positions, {"positions": ("middle",)}, al.PositionError, "'middle' is not known"),
        (examples, {"examples": []}, SettingError, "no example"),
        (positions, {"pair": "Love"}, PromptError, "not a prompt pair"),
        (positions, {"pair": (" dog", "")}, SettingError, "words="),
        (topic_words, {"pair": (" dog", "")}, SettingError, "words="),
        (topics, {"choose_on": 0}, SettingError, "choose_on is 0"),
    ],
)
def test_wrong_input_is_told_before_anything_is_written(
    embedded: Any,
    monkeypatch: pytest.MonkeyPatch,
    unchecked: None,
    experiment: Any,
    options: Any,
    error: Any,
    match: str,
) -> None:
    def nothing(*args: Any, **kwargs: Any) -> Any:
        pytest.fail("something was written")

    monkeypatch.setattr("actadd_lens.writing.decoding._decode", nothing)
    with pytest.raises(error, match=match):
        experiment(embedded, **options)
