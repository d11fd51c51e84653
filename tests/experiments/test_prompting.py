"""Injection against prompting, against passes written out by hand."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens.errors import LayerError, PromptError, SettingError
from actadd_lens.experiments.evidence import Estimate
from actadd_lens.experiments.prompting import Prompting, _Rivals, prompting
from actadd_lens.measuring.nulls import null_table
from actadd_lens.statistics import split_prompts
from tests.support import plain_hooks, tokens_of

PAIR = (" wedding", "")
ON = al.storybook.topics()["weddings"].sentences[:10]
OFF = al.storybook.sentiment_sentences()["neutral"][:10]
PROMPTS = al.storybook.neutral_prompts()[:10]
SMALL: dict[str, Any] = {
    "on_topic": ON, "off_topic": OFF, "prompts": PROMPTS, "layers": (2, 4), "transplant_layers": (0, 3), "nulls": 2,
    "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def found(embedded: Any) -> Prompting:
    return prompting(embedded, PAIR, **SMALL)


@torch.no_grad()
def nll(model: Any, tokens: torch.Tensor, skipped: int, hooks: Any = ()) -> tuple[float, int]:
    """Summed NLL of a row's tokens but for the predictions of its first columns, and their number."""
    log_probs = model.run_with_hooks(tokens, fwd_hooks=list(hooks)).log_softmax(dim=-1)[0]
    each = [-float(log_probs[column, tokens[0, column + 1]]) for column in range(skipped, tokens.shape[1] - 1)]
    return sum(each), len(each)


def test_ratios_are_those_of_passes_by_hand_over_the_same_predictions(embedded: Any, found: Prompting) -> None:
    vector = found.coefficient * al.compute_steering_vector(embedded, PAIR, layer=found.layer)
    said = embedded.to_tokens(PAIR[0], prepend_bos=True)
    for name, texts in (("on-topic", ON), ("off-topic", OFF)):
        sums = np.zeros(3)
        total = 0
        for index in split_prompts(len(texts))[1]:
            tokens = tokens_of(embedded, texts[index])
            behind = torch.cat([said, tokens[:, 1:]], dim=1)
            plain, count = nll(embedded, tokens, vector.rows)
            sums += (plain, nll(embedded, tokens, vector.rows, plain_hooks(vector, 0))[0],
                     nll(embedded, behind, vector.rows + said.shape[1] - 1)[0])  # fmt: skip
            total += count
        ratios = [found.injection[name].value, found.prompt[name].value, found.against[name].value]
        by_hand = np.exp(np.array([sums[1] - sums[0], sums[2] - sums[0], sums[1] - sums[2]]) / total)
        assert ratios == pytest.approx(by_hand, rel=1e-4)
        assert found.injection[name].n == 5


def test_the_layer_is_chosen_on_the_other_half(embedded: Any, found: Prompting) -> None:
    logs: dict[tuple[str, int], float] = {}
    for name, texts in (("on", ON), ("off", OFF)):
        for layer in SMALL["layers"]:
            vector = al.compute_steering_vector(embedded, PAIR, layer=layer)
            conditions = [
                [nll(embedded, tokens_of(embedded, texts[index]), vector.rows, hooks) for index in split_prompts(10)[0]]
                for hooks in ((), plain_hooks(vector, 0))
            ]
            plain, steered = (sum(total for total, _ in condition) for condition in conditions)
            logs[name, layer] = (steered - plain) / sum(count for _, count in conditions[0])
    harmless = [layer for layer in SMALL["layers"] if logs["off", layer] <= np.log(1.01)]
    best = min(harmless, key=lambda layer: logs["on", layer]) if harmless else min(
        SMALL["layers"], key=lambda layer: logs["off", layer])  # fmt: skip
    assert found.layer == best


def test_adding_at_layer_0_is_prompting(found: Prompting, small: Any) -> None:
    assert found.identity.value < 1e-3
    assert found.identity.n == 16
    longer = prompting(small, ("The old dog", "She felt"), words=("dog", "the", "was"), **SMALL | {"layers": (1,)})
    assert longer.identity.value < 1e-3


def test_a_transplant_is_the_vector_of_one_layer_added_at_another(embedded: Any, found: Prompting) -> None:
    words = [f" {word}" for word in al.storybook.topics()["weddings"].words]
    single = [word for word in words if embedded.to_tokens(word, prepend_bos=False).shape[1] == 1]
    bare = [word.strip() for word in words if embedded.to_tokens(word.strip(), prepend_bos=False).shape[1] == 1]
    metric = al.metrics.token_set_logprob([*single, *bare])
    effects = {
        read: al.measure(
            embedded, PROMPTS, 4 * al.compute_steering_vector(embedded, PAIR, layer=read).at_layer(3), metric
        )
        for read in (0, 3)
    }
    difference = effects[0].steered - effects[3].steered
    assert found.transplanted[3].value == pytest.approx(float(difference.mean()), abs=1e-4)
    assert found.at_home(3).value == pytest.approx(effects[3].effect.mean, abs=1e-4)
    assert len(found.transplanted[3].nulls) == 2


def test_the_table_holds_ratios_and_transplants(found: Prompting) -> None:
    frame = found.frame()
    assert list(frame.columns) == ["measure", "of", "how", "value", "low", "high", "n", "lowest null", "highest null"]
    assert len(frame) == 3 * 2 + 2 * 2
    assert "read at 0, added at 3" in frame["how"].tolist()
    assert found.settings["layer"] == found.layer
    assert str(found.layer) in found.summary()


def constructed(
    found: Prompting, off: tuple[float, float], gap: float, injection: tuple[float, float] = (0.6, 0.7)
) -> Prompting:
    low, high = off
    ratio = Estimate((low + high) / 2, low, high, 20, "texts", (0.5, 0.6), 1.0)
    own = Estimate(sum(injection) / 2, *injection, 20, "texts", tuple(np.linspace(1.0, 1.1, 19)), 1.0)
    return dataclasses.replace(
        found, against={"on-topic": ratio, "off-topic": ratio}, identity=Estimate(gap, 0.0, gap, 16, "texts"),
        injection={"on-topic": own, "off-topic": own},
    )  # fmt: skip


def test_a_transplant_that_cannot_be_told_is_not_said_to_do_nothing(
    found: Prompting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reason(home: Estimate) -> str:
        monkeypatch.setattr(Prompting, "at_home", lambda *_: home)
        finding = found.findings()[3]
        assert finding.verdict == "not testable here"
        return finding.reason

    assert "8 prompts are too few" in reason(Estimate(3.16, np.nan, np.nan, 8, "prompts"))
    assert "does not raise them" in reason(Estimate(0.0, -0.1, 0.1, 20, "prompts"))


def test_every_null_is_reported_from_the_cell_that_it_chose_itself(
    embedded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_then_off = [np.array([[-0.2, -0.1], [-0.1, -0.2], [-0.2, -0.1]]), np.zeros((3, 2))]  # vector and nulls; layers

    def ratios(rivals: Any, rows: Any, conditions: Any) -> np.ndarray:
        assert len(conditions) == 1 + 3 * 2
        return on_then_off.pop(0).ravel()

    monkeypatch.setattr(_Rivals, "_log_ratios", ratios)
    found = prompting(embedded, PAIR, **SMALL)
    vectors = [al.compute_steering_vector(embedded, PAIR, layer=layer) for layer in (2, 4)]
    drawn = null_table(embedded, vectors, n=2, seed=0)
    steered, plain, count = np.zeros(2), 0.0, 0
    for index in split_prompts(10)[1]:
        tokens = tokens_of(embedded, ON[index])
        one, number = nll(embedded, tokens, vectors[0].rows)
        plain, count = plain + one, count + number
        steered += [
            nll(embedded, tokens, vectors[0].rows, plain_hooks(null, 0))[0] for null in (drawn[1][0], drawn[0][1])
        ]
    assert found.layer == 2
    assert found.injection["on-topic"].nulls == pytest.approx(np.exp((steered - plain) / count), rel=1e-4)


def test_the_words_stand_behind_bos_where_the_pair_was_read_without_it(embedded: Any, found: Prompting) -> None:
    bare = prompting(embedded, al.PromptPair(*PAIR, prepend_bos=False), **SMALL)
    said = embedded.to_tokens(PAIR[0], prepend_bos=True)
    prompted, plain, count = 0.0, 0.0, 0
    for index in split_prompts(10)[1]:
        tokens = tokens_of(embedded, OFF[index])
        one, number = nll(embedded, tokens, 1)
        behind = torch.cat([said, tokens[:, 1:]], dim=1)
        prompted, plain, count = prompted + nll(embedded, behind, said.shape[1])[0], plain + one, count + number
    assert bare.prompt["off-topic"].value == pytest.approx(np.exp((prompted - plain) / count), rel=1e-4)
    assert bare.identity.value < 1e-3


def test_verdicts_follow_from_the_numbers(found: Prompting) -> None:
    verdicts = [finding.verdict for finding in constructed(found, (0.8, 0.9), 1e-5).findings()[:3]]
    assert verdicts == ["same direction"] * 3
    verdicts = [finding.verdict for finding in constructed(found, (1.05, 1.2), 0.5).findings()[:2]]
    assert verdicts == ["undecided", "opposite"]
    idle = constructed(found, (0.8, 0.9), 1e-5, injection=(0.999, 1.001)).findings()
    assert [finding.verdict for finding in idle[1:3]] == ["not testable here"] * 2
    assert "no significant effect on the topic" in idle[1].reason
    assert {finding.claim for finding in found.findings()} == {11}


def test_pictures_are_drawn(found: Prompting) -> None:

    first, second = (draw() for draw in found.pictures().values())
    assert "perplexity" in first.get_xlabel()
    assert second.get_ylabel() == "read at layer"


@pytest.mark.parametrize(
    ("pair", "settings", "error", "told"),
    [
        ((" wedding", None), {}, PromptError, "no negative"),
        (("", " wedding"), {}, PromptError, "no positive"),
        (PAIR, {"layers": (99,)}, LayerError, "Layer 99"),
        (PAIR, {"layers": ()}, SettingError, "nothing to choose from"),
        (PAIR, {"transplant_layers": (2, 4)}, SettingError, "expected layer 0"),
        (PAIR, {"on_topic": ON[:4]}, SettingError, "too few"),
        (PAIR, {"words": ("unpronounceability",)}, PromptError, "is one token"),
        (PAIR, {"prompts": ()}, PromptError, "No prompt"),
        ((" dog", ""), {}, SettingError, "no topic of the package"),
        ((" dog", ""), {"words": ["dog"], "on_topic": None}, SettingError, "its texts as on_topic="),
    ],
)
def test_wrong_input_is_told(
    embedded: Any, pair: Any, settings: dict[str, Any], error: type[Exception], told: str, unchecked: None
) -> None:
    with pytest.raises(error, match=told):
        prompting(embedded, pair, **SMALL | settings)
