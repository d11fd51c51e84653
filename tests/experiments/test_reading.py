"""The reading experiments against sums by hand, on the embedded model and on tables made up for the purpose."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens.errors import LayerError, PromptError, SettingError
from actadd_lens.experiments.direction import NullComparison, nulls_against
from actadd_lens.experiments.inputs import topic_of
from actadd_lens.experiments.knowledge import Knowledge, answer_rank, knowledge, read_lama
from actadd_lens.experiments.norms import Norms, norms
from actadd_lens.experiments.overhead import Overhead, Timing, overhead
from actadd_lens.experiments.perplexity import PerplexityOnTopic, perplexity_on_topic, sentences_of
from actadd_lens.experiments.timing import Measured
from actadd_lens.experiments.token_shift import TokenShift, token_shift
from actadd_lens.measuring.metrics import Reading
from actadd_lens.models import backend_of
from actadd_lens.storybook import ClozeFact
from tests.support import plain_hooks

PAIR = (" wedding", "")
PROMPTS = al.storybook.neutral_prompts()[:8]
ON, OFF = al.storybook.topics()["weddings"].sentences[:8], al.storybook.topics()["sea"].sentences[:9]


@torch.no_grad()
def log_probs(model: Any, text: str, layer: int | None = None, coefficient: float = 1.0) -> torch.Tensor:
    """The model's own log-probabilities, the vector added by hand at the front."""
    hooks = []
    if layer is not None:
        hooks = plain_hooks(coefficient * al.compute_steering_vector(model, PAIR, layer=layer), 0)
    tokens = model.to_tokens(text, prepend_bos=True)
    return model.run_with_hooks(tokens, fwd_hooks=hooks)[0].float().log_softmax(dim=-1)


@pytest.fixture(scope="module")
def perplexity(embedded: Any) -> PerplexityOnTopic:
    return perplexity_on_topic(
        embedded, PAIR, on_topic={"weddings": ON}, off_topic={"sea": OFF}, layers=[2, 7], nulls=2, progress=False
    )


@pytest.fixture(scope="module")
def shift(embedded: Any) -> TokenShift:
    texts = [*ON, *OFF]
    return token_shift(embedded, PAIR, prompts=PROMPTS, texts=texts, layer=3, nulls=2, least_count=2, progress=False)


@pytest.fixture(scope="module")
def known(embedded: Any) -> Knowledge:
    facts = al.storybook.cloze_facts()[:20]
    return knowledge(embedded, PAIR, facts=facts, ks=(1, 10, 100), layer=3, nulls=2, progress=False)


@pytest.fixture(scope="module")
def sizes(embedded: Any) -> Norms:
    return norms(embedded, PAIR, prompts=PROMPTS[:3], nulls=2, progress=False)


@pytest.fixture(scope="module")
def compared(embedded: Any) -> NullComparison:
    return nulls_against(embedded, PAIR, prompts=PROMPTS, layer=3, coefficients=(1.0, 3.0), nulls=3, progress=False)


@pytest.fixture(scope="module")
def timed(embedded: Any) -> Overhead:
    return overhead(embedded, sizes=((1, 64),), rows=2, length=8, max_new_tokens=2, repeats=2, progress=False)


@pytest.fixture(
    params=["perplexity", "shift", "known", "sizes", "compared", pytest.param("timed", marks=pytest.mark.slow)]
)
def result(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


# -- every experiment ------------------------------------------------------------------------------------------


def test_an_experiment_tells_a_table_a_picture_findings_and_settings_that_json_takes(result: Any) -> None:
    assert len(result.frame())
    assert result.frame().columns.is_unique
    ax = result.plot()
    assert ax.get_xlabel()
    assert ax.get_title()
    assert len(result.summary()) > 50
    assert json.loads(json.dumps(result.settings)) == result.settings
    for finding in result.findings():
        assert 1 <= finding.claim <= 12
        assert finding.verdict == "not testable here" or finding.estimate is not None
        json.dumps(finding.record())


def test_every_number_has_its_nulls_and_its_interval(perplexity: Any, shift: Any, known: Any, compared: Any) -> None:
    estimates = [perplexity.on_topic, perplexity.off_topic, perplexity.contrast, perplexity.slope, shift.rise]
    estimates += [shift.place, shift.kl_share, shift.skewness, known.change(10)]
    for estimate in estimates:
        assert len(estimate.nulls) == 2
        assert estimate.low <= estimate.value <= estimate.high
    assert len(compared.on_target("gaussian", coefficient=3.0).nulls) == 3


def test_a_topic_is_that_of_the_words_given_or_of_the_pairs_own_words(embedded: Any) -> None:
    assert topic_of(("He sailed his boat", "He sat"), None).name == "sea"
    assert topic_of(al.compute_steering_vector(embedded, PAIR, layer=1), None).name == "weddings"
    assert topic_of((" dog", ""), ["dog", "puppy"]).words == ("dog", "puppy")
    for pair in ((" dog", ""), ("The bride sailed", " "), ("weddingish", "")):
        with pytest.raises(SettingError, match="give the topic's words as words="):
            topic_of(pair, None)


# -- perplexity ------------------------------------------------------------------------------------------------


def test_a_perplexity_ratio_is_that_of_all_predictions_not_made_from_injected_positions(
    embedded: Any, perplexity: PerplexityOnTopic
) -> None:
    rows = al.compute_steering_vector(embedded, PAIR, layer=2).rows

    def nll(texts: Any, layer: int | None) -> tuple[float, int]:
        total, count = 0.0, 0
        for text in texts:
            tokens = embedded.to_tokens(text, prepend_bos=True)[0]
            logs = log_probs(embedded, text, layer)
            for column in range(rows, len(tokens) - 1):
                total -= float(logs[column, tokens[column + 1]])
                count += 1
        return total, count

    (steered, count), (plain, _) = nll(ON, 2), nll(ON, None)
    found = perplexity.ratio("weddings", layer=2, coefficient=1.0)
    assert found.value == pytest.approx(math.exp(steered / count) / math.exp(plain / count), rel=1e-4)
    assert perplexity.predictions[perplexity.set_of == 0].sum() == count
    other = perplexity.ratio("sea", layer=2, coefficient=1.0)
    contrast = perplexity.log_contrast(layer=2, coefficient=1.0)
    assert contrast.value == pytest.approx(math.log(found.value) - math.log(other.value), abs=1e-9)


def made_up(change: np.ndarray, share: np.ndarray | None = None, **settings: Any) -> PerplexityOnTopic:
    """Twenty-four units on the topic and as many off it, ten predictions each; `change` is per prediction."""
    per_unit = 10 * change[..., None] + 1e-7 * (np.arange(24) % 2)
    conditions = np.concatenate([per_unit[:, :, :, 0], per_unit[:, :, :, 1]], axis=-1)
    layers = tuple(range(conditions.shape[1]))
    share = np.repeat([0.1, 0.0], 24) if share is None else share
    told = {"pair": "p", "n_layers": len(layers), "seed": 0, **settings}
    return PerplexityOnTopic(
        model="made up", sets=("on", "off"), layers=layers, coefficients=(1.0,), of="sentences",
        set_of=np.repeat([0, 1], 24), share=share, predictions=np.full(48, 10.0), unsteered=np.full(48, 30.0),
        change=conditions, edges=(0.1,), settings=told,
    )  # fmt: skip


LAYERS = np.array([[-0.2, 0.15], [-0.1, 0.002], [-0.05, 0.001], [0.0, 0.0]])
"""Log ratio on and off the topic, layer by layer: what the paper claims."""


def test_the_layer_is_the_lowest_on_topic_of_those_that_leave_other_text_within_a_percent() -> None:
    nothing = np.zeros((3, 4, 1, 2))
    found = made_up(np.concatenate([LAYERS[None, :, None], nothing]))
    assert found.chosen == (1, 1.0)
    assert found.on_topic.value == pytest.approx(math.exp(-0.1))
    assert found.off_topic.value == pytest.approx(math.exp(0.002))
    assert found.on_topic.n == 12
    harmful = np.array([[[[-0.3, 0.5]], [[-0.1, 0.2]]]])
    assert made_up(harmful).chosen == (1, 1.0)


def test_findings_on_perplexity_go_the_papers_way_where_the_numbers_do_and_the_other_where_they_do_not() -> None:
    nothing = np.zeros((19, 4, 1, 2))
    likely = made_up(np.concatenate([LAYERS[None, :, None], nothing]))
    assert {finding.verdict for finding in likely.findings()} == {"same direction"}
    assert [finding.claim for finding in likely.findings()] == [1, 1, 1, 1, 2, 2, 2]
    worse = np.array([[0.1, 0.05], [0.2, 0.05], [0.3, 0.05], [-0.2, -0.05]])
    verdicts = [finding.verdict for finding in made_up(np.concatenate([worse[None, :, None], nothing])).findings()]
    assert verdicts[1] == "opposite"
    assert verdicts[4] == "not testable here"
    assert verdicts[5] == "opposite"


def test_layers_are_judged_where_there_is_a_fall_early_enough_and_on_the_half_that_chose_nothing() -> None:
    nothing = np.zeros((19, 4, 1, 2))
    idle = made_up(np.concatenate([1e-4 * LAYERS[None, :, None], nothing])).findings()
    assert [idle[5].verdict, idle[5].reason] == [
        "not testable here", "no fall above 1% at the chosen layer that could vanish",
    ]  # fmt: skip
    found = made_up(np.concatenate([LAYERS[None, :, None], nothing]))
    on_half = found.findings()[6].estimate
    assert on_half is not None
    assert on_half.n == 12
    late = dataclasses.replace(found, layers=(4, 5, 6, 7), settings={**found.settings, "n_layers": 8})
    assert [finding.verdict for finding in late.findings()][4:] == ["same direction"] * 2 + ["not testable here"]
    assert "not as early" in late.findings()[6].reason


def test_the_last_layer_is_not_compared_with_itself() -> None:
    falling = np.array([[0.0, 0.0], [-0.05, 0.001], [-0.1, 0.002], [-0.2, 0.003]])
    found = made_up(np.concatenate([falling[None, :, None], np.zeros((19, 4, 1, 2))]))
    assert found.chosen == (3, 1.0)
    against_last = found.findings()[4]
    assert [against_last.verdict, against_last.reason] == ["not testable here", "the chosen layer is the last"]


def test_a_cell_without_a_number_is_not_chosen() -> None:
    for broken in ([math.nan, 0.0], [-0.5, math.nan], [math.nan, math.nan]):
        change = np.array([[[broken], [[-0.1, 0.002]], [[-0.05, 0.001]]]])
        assert made_up(change).chosen == (1, 1.0)
        assert made_up(change + np.array([0.0, 0.5])).chosen == (2, 1.0)


def test_the_slope_is_percent_per_percentage_point_and_untestable_where_all_shares_are_one() -> None:
    change = np.array([[[[-0.1, 0.0]]]])
    assert made_up(change).slope.value == pytest.approx(-1.0)
    verdict = made_up(change, share=np.full(48, 0.1)).findings()[3]
    assert verdict.verdict == "not testable here"
    assert "same share" in verdict.reason


def test_bins_hold_the_units_of_their_share() -> None:
    found = made_up(np.array([[[[-0.1, 0.0]]]]))
    assert [(share, ratio.n) for share, ratio in found.by_share] == [(0.0, 24), (pytest.approx(0.1), 24)]
    assert found.by_share[1][1].value == pytest.approx(math.exp(-0.1))


def test_documents_of_sentences_are_the_units_and_sentences_too_short_are_left_out(embedded: Any) -> None:
    documents = [list(ON[:3]), ["Yes", *ON[3:6]]]
    found = perplexity_on_topic(
        embedded, PAIR, on_topic=documents, off_topic=[OFF], layers=[2], nulls=0, progress=False
    )
    whole = perplexity_on_topic(embedded, PAIR, on_topic=ON[:6], off_topic=OFF, layers=[2], nulls=0, progress=False)
    assert found.of == "documents"
    assert (found.set_of == 0).sum() == 2
    assert found.notes[0].startswith("1 sentence was")
    cell: dict[str, Any] = {"layer": 2, "coefficient": 1.0}
    assert found.ratio("on topic", **cell).value == pytest.approx(whole.ratio("on topic", **cell).value, rel=1e-5)


def test_running_text_is_cut_into_sentences() -> None:
    assert sentences_of("a. First point. Then!\n\n  Title  \n") == ("a. First point.", "Then!", "Title")


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"on_topic": "one text"}, PromptError, "not a list of texts"),
        ({"on_topic": ON[:4]}, SettingError, "has 4 sentences"),
        ({"on_topic": ["Yes"]}, PromptError, "more tokens than"),
        ({"words": "wedding"}, SettingError, "words is 'wedding'"),
        ({"bins": (0.2, 0.1)}, SettingError, "ascending"),
        ({"layers": [99]}, LayerError, "Layer 99"),
        ({"n": 0}, SettingError, "n is 0"),
        ({"pair": (" dog", "")}, SettingError, "no topic of the package"),
        ({"pair": (" dog", ""), "words": ["dog"]}, SettingError, "its texts as on_topic="),
    ],
)
def test_wrong_input_for_perplexity_is_told(
    embedded: Any, unchecked: None, settings: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        perplexity_on_topic(embedded, **{"pair": PAIR, "off_topic": OFF, **settings}, progress=False)


# -- tokens ----------------------------------------------------------------------------------------------------


def test_a_topic_tokens_place_rise_and_part_are_those_of_the_models_own_logits(
    embedded: Any, shift: TokenShift
) -> None:
    ids, places, rises, parts, totals = list(shift.token_ids), [], [], [], []
    for prompt in PROMPTS:
        plain, steered = (log_probs(embedded, prompt, layer)[-1].double() for layer in (None, 3))
        change = steered - plain
        places.append(np.mean([float((change < change[token]).sum()) / (len(change) - 1) for token in ids]))
        rises.append(float(steered[ids].logsumexp(0) - plain[ids].logsumexp(0)))
        parts.append(float((steered.exp() * change)[ids].sum()))
        totals.append(float((steered.exp() * change).sum()))
    assert shift.place.value == pytest.approx(np.mean(places), abs=1e-3)
    assert shift.rise.value == pytest.approx(np.mean(rises), abs=1e-3)
    assert shift.kl_share.value == pytest.approx(sum(parts) / sum(totals), rel=1e-2)
    assert " wedding" in shift.tokens


def test_the_tokens_of_the_texts_are_those_of_text_shift(embedded: Any, shift: TokenShift) -> None:
    vector = al.compute_steering_vector(embedded, PAIR, layer=3)
    from actadd_lens.analysis.shift import text_shift

    expected = {token.token: token.change for token in text_shift(embedded, [*ON, *OFF], vector, least_count=2).tokens}
    assert dict(zip(shift.seen.tolist(), shift.changes[0].tolist(), strict=True)) == pytest.approx(expected, abs=1e-4)
    found = shift.text_frame()
    assert found["change"].is_monotonic_decreasing


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"words": ["qwertyuiopasdf"]}, "single token"),
        ({"words": "wedding"}, "words is"),
        ({"tokens": []}, "tokens is"),
        ({"texts": ["The dog was good."]}, "occur 5 times"),
        ({"texts": ["The", "Yes"]}, "texts of 4 tokens or more"),
        ({"pair": (" dog", "")}, "no topic of the package"),
    ],
)
def test_wrong_input_for_the_shift_is_told(
    embedded: Any, unchecked: None, settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(SettingError, match=match):
        token_shift(embedded, **{"pair": PAIR, **settings}, prompts=PROMPTS[:1], nulls=0, progress=False)


# -- knowledge -------------------------------------------------------------------------------------------------


def test_p_at_k_is_the_share_of_answers_among_the_k_likeliest_tokens(embedded: Any, known: Knowledge) -> None:
    hits = []
    for fact in known.facts:
        answer = embedded.to_tokens(fact.answer, prepend_bos=False)[0, 0]
        hits.append(int(answer) in log_probs(embedded, fact.prompt, 3)[-1].topk(10).indices.tolist())
    assert known.steered(10).value == pytest.approx(np.mean(hits))
    change = known.change(10)
    assert change.value == pytest.approx(known.steered(10).value - known.unsteered(10).value)
    assert list(known.frame()["K"]) == [1, 10, 100]


def facts_with(unsteered: list[float], steered: list[float]) -> Knowledge:
    facts = tuple(ClozeFact("made up", str(index), " x") for index in range(len(unsteered)))
    return Knowledge(
        model="made up", facts=facts, ks=(10,), ranks=np.array([steered]), unsteered_ranks=np.array(unsteered),
        settings={"pair": "p", "layer": 3, "n_layers": 8, "coefficient": 1.0},
    )  # fmt: skip


def test_knowledge_stays_falls_or_cannot_be_told() -> None:
    ranks = [1.0, 20.0] * 30
    assert facts_with(5 * ranks, 5 * ranks).findings()[0].verdict == "same direction"
    assert facts_with(ranks, [20.0] * 60).findings()[0].verdict == "opposite"
    ignorant = facts_with([500.0] * 60, [500.0] * 60).findings()[0]
    assert ignorant.verdict == "not testable here"
    assert "unsteered P@10 is 0" in ignorant.reason
    few = facts_with(ranks, [20.0, 20.0, *ranks[2:]]).findings()[0]
    assert few.verdict == "undecided"
    assert "do not decide" in few.reason


def test_a_fact_is_asked_behind_the_rows_of_the_vector_only(embedded: Any) -> None:
    facts = [("The cat", " sat"), ("The", " cat"), ("The cat sat on the", " mat")]
    pair = ("The bride", "A dog")  # with BOS three rows, as many as the tokens of the first prompt
    found = knowledge(embedded, pair, facts=facts, ks=(1,), nulls=0, progress=False)
    assert [fact.prompt for fact in found.facts] == ["The cat sat on the"]
    assert found.notes[0].startswith("2 facts")


def test_an_answer_among_logits_that_are_no_numbers_is_never_known(embedded: Any) -> None:
    rank = answer_rank({"The cat": " sat"}).bind(backend_of(embedded))
    tokens = embedded.to_tokens("The cat", prepend_bos=True)
    logits = torch.zeros(1, embedded.cfg.d_vocab)
    reading = Reading(logits, tokens, torch.tensor([3]), torch.zeros_like(tokens, dtype=torch.bool), logits)
    assert float(rank(reading)) == embedded.cfg.d_vocab
    logits[0, 0] = math.nan
    assert float(rank(reading)) == math.inf


def test_lama_facts_end_in_their_mask_and_are_asked_once(tmp_path: Any) -> None:
    rows = [("Fire is [MASK].", "hot"), ("[MASK] is hot.", "Fire"), ("Fire is [MASK] .", "red"), ("To [MASK]", "go")]
    file = tmp_path / "facts.jsonl"
    file.write_text("\n".join(json.dumps({"masked_sentence": text, "object": word}) for text, word in rows))
    found = read_lama(file)
    assert [(fact.prompt, fact.answer) for fact in found.facts] == [("Fire is", " hot"), ("To", " go")]
    assert (found.not_last, found.repeated) == (1, 1)
    file.write_text(json.dumps({"masked_sentence": "[MASK] is hot.", "object": "Fire"}))
    with pytest.raises(SettingError, match="last word"):
        read_lama(file)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"facts": [("A", "")]}, "not a fact"),
        ({"facts": [("Fire is", " hot"), ("Fire is", " red")]}, "asked twice"),
        ({"facts": []}, "holds no facts"),
        ({"ks": (0,)}, "integers from 1"),
    ],
)
def test_wrong_facts_are_told(embedded: Any, unchecked: None, settings: dict[str, Any], match: str) -> None:
    with pytest.raises((PromptError, SettingError), match=match):
        knowledge(embedded, PAIR, progress=False, **settings)


# -- norms and nulls -------------------------------------------------------------------------------------------


def test_a_relative_norm_is_the_rows_over_the_streams_where_it_lands(embedded: Any, sizes: Norms) -> None:
    vector = al.compute_steering_vector(embedded, PAIR, layer=2)
    expected, streams = [], []
    for prompt in PROMPTS[:3]:
        _, cache = embedded.run_with_cache(embedded.to_tokens(prompt, prepend_bos=True))
        stream = cache["blocks.2.hook_resid_pre"][0].norm(dim=-1)
        expected.append(float(vector.norms[1] / stream[1]))
        streams.append(float(stream[1:].mean()))
    assert sizes.relative_norm(1, layer=2).value == pytest.approx(np.mean(expected), rel=1e-4)
    assert sizes.stream[2] == pytest.approx(streams, rel=1e-4)
    assert sizes.relative_norm(0, layer=2).value == 0
    assert sizes.findings() == ()


def test_growth_is_the_geometric_mean_per_layer() -> None:
    stream = 2.0 ** np.arange(8)[:, None] * np.array([[1.0, 3.0]])
    found = Norms(
        model="made up", rows=("0", "1"), layers=(0,), relative=np.ones((1, 2, 2)), bos=10 * stream.mean(axis=1),
        null_relative=np.zeros((0, 1, 2, 2)), stream=stream, settings={"pair": "p"},
    )  # fmt: skip
    assert found.growth.value == pytest.approx(2.0)
    assert found.bos_ratio == pytest.approx(np.full(8, 10.0))


def test_the_target_is_the_log_probability_of_the_pairs_own_token(embedded: Any, compared: NullComparison) -> None:
    token = int(embedded.to_tokens(" wedding", prepend_bos=False)[0, 0])
    changes = [
        float(log_probs(embedded, prompt, 3, 3.0)[-1, token] - log_probs(embedded, prompt)[-1, token])
        for prompt in PROMPTS
    ]
    assert compared.on_target("gaussian", coefficient=3.0).value == pytest.approx(np.mean(changes), abs=1e-3)
    assert compared.target == "log-prob of ' wedding'"


def test_the_gentler_vector_is_the_one_that_moves_less_than_the_mean_of_its_nulls() -> None:
    kl = np.array([[1.0, 5.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0], [4.0, 4.0, 4.0, 0.0]])[:, None]
    found = NullComparison(
        model="made up", target="t", coefficients=(1.0,), kinds=("gaussian",), kl={"gaussian": kl},
        effect={"gaussian": kl}, entropy={"gaussian": kl}, unsteered_entropy=np.full(4, 2.0),
    )  # fmt: skip
    gentler = found.gentler("gaussian", coefficient=1.0)
    assert gentler.value == 0.5
    assert gentler.nulls == (0.75, 0.25)
    assert found.disturbance("gaussian", coefficient=1.0).value == 1.0
    with pytest.raises(SettingError, match="kind is"):
        found.gentler("unrelated_pairs", coefficient=1.0)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"nulls": 1}, "from 2"),
        ({"kinds": "gaussian"}, "kinds is"),
        ({"metric": al.metrics.perplexity()}, "last token"),
    ],
)
def test_wrong_input_for_the_comparison_is_told(
    embedded: Any, unchecked: None, settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(SettingError, match=match):
        nulls_against(embedded, PAIR, prompts=PROMPTS, progress=False, **settings)


# -- time ------------------------------------------------------------------------------------------------------


def timing(parameters: int, ratio: float, what: Any) -> Timing:
    ones = (1.0,) * 20
    return Timing("made up", parameters, what, Measured((ratio, ratio + 1e-8) * 10, ones), Measured(ones, ones))


def test_a_premium_is_the_median_ratio_minus_one_and_falls_where_the_largest_has_less() -> None:
    timings = tuple(
        timing(size, ratio, what) for size, ratio in ((1, 1.2), (9, 1.002)) for what in ("forward", "generation")
    )
    found = Overhead(model="made up", timings=timings, settings={"repeats": 20})
    assert found.of("forward")[0].premium.value == pytest.approx(0.2)
    assert found.growth("forward").value == pytest.approx(-0.198)
    assert {finding.verdict for finding in found.findings()} == {"same direction"}
    cheaper = Overhead(model="made up", timings=(timing(9, 0.9, "forward"), timing(9, 0.9, "generation")), settings={})
    assert cheaper.findings()[0].verdict == "same direction"
    single = Overhead(model="made up", timings=timings[2:], settings={"repeats": 20})
    assert [finding.verdict for finding in single.findings()] == ["same direction", "not testable here"] * 2


def test_models_of_all_sizes_are_timed_smallest_first(timed: Overhead) -> None:
    assert len(timed.timings) == 4
    sizes = [one.parameters for one in timed.timings]
    assert sizes == sorted(sizes)
    assert {one.model for one in timed.timings} == {"random, 1 x 64", timed.model}
    assert all(min(one.steered.seconds + one.unsteered.seconds) > 0 for one in timed.timings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"sizes": ((2, 65),)}, "multiple of 64"), ({"repeats": 1}, "from 2"), ({"length": 500}, "tokens"),
     ({"layer": 3, "sizes": ((2, 64),)}, "layer is 3")],
)  # fmt: skip
def test_wrong_sizes_are_told_before_anything_is_timed(
    embedded: Any, unchecked: None, settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(SettingError, match=match):
        overhead(embedded, progress=False, **settings)


# -- a run that was killed -------------------------------------------------------------------------------------


def test_a_run_with_a_file_finds_there_what_it_found_before(
    embedded: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> tuple[Any, ...]:
        options: dict[str, Any] = {"path": tmp_path / "kept.sqlite", "nulls": 2, "progress": False}
        return (
            perplexity_on_topic(embedded, PAIR, on_topic=ON, off_topic=OFF, layers=[2], **options),
            knowledge(embedded, PAIR, facts=al.storybook.cloze_facts()[:5], ks=(1, 10), **options),
            nulls_against(embedded, PAIR, prompts=PROMPTS, coefficients=(2.0,), **options),
        )

    def refuse(*_: Any) -> None:
        raise AssertionError("a pass was run again")

    first = run()
    monkeypatch.setattr("actadd_lens.sweeps.passes.SweepPasses.ends", refuse)
    for before, again in zip(first, run(), strict=True):
        assert before.frame().equals(again.frame())
