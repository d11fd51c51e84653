"""Comparison: equal damage, nulls of each in its own kind, prompting beside it, and what is shown of differences."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens.cli import main
from actadd_lens.measuring.comparison import between
from actadd_lens.models import backend_of
from actadd_lens.statistics import sign_flip_p

PROMPTS, TEXTS = al.storybook.neutral_prompts()[:6], al.storybook.neutral_prompts()[6:16]
METRIC = al.metrics.entropy()
SETTINGS: dict[str, Any] = {"prompts": PROMPTS, "texts": TEXTS, "at_most": 0.2, "nulls": 2, "progress": False}
WORDS = "Once it was good and "


@pytest.fixture(scope="module")
def vector(quickest: Any) -> al.SteeringVector:
    return al.compute_steering_vector(quickest, (" happy", " sad"), layer=1)


@pytest.fixture(scope="module")
def found(quickest: Any, vector: al.SteeringVector) -> al.Comparison:
    factor = torch.linspace(0.5, 2.0, 32)
    given = {
        "vector": vector,
        "everywhere": lambda model: vector.row(-1).at(position="all"),
        "projection": al.project_out(vector.row(-1)).at(position="all"),
        "scaled": al.scale(factor, layer=2, model=quickest).at(position="all"),
        "halved": al.scale(0.5, layer=2).at(position="all"),
    }
    return al.compare(quickest, given, metric=METRIC, prompting={"words": WORDS}, **SETTINGS)


def test_each_contender_has_the_effect_and_the_damage_that_measure_gives(quickest: Any, found: al.Comparison) -> None:
    damage = al.metrics.kl_divergence("unsteered || steered")
    for entry in found.entries:
        if entry.kind == "steering":
            effect = al.measure(quickest, PROMPTS, entry.condition, METRIC, progress=False).effect
            assert np.allclose(entry.effect.by_prompt, effect.by_prompt, atol=1e-4)
            hurt = al.measure(quickest, found.reported_on, entry.condition, damage, progress=False).effect.mean
            assert entry.damage.mean == pytest.approx(hurt, abs=1e-4)


def test_what_has_a_coefficient_is_calibrated_as_calibrate_does(
    quickest: Any, vector: al.SteeringVector, found: al.Comparison
) -> None:
    alone = al.calibrate(quickest, vector, TEXTS, at_most=0.2, progress=False)
    assert found["vector"].factor == pytest.approx(alone.coefficient)
    assert found.chosen_on == alone.chosen_on
    assert found["projection"].factor is None
    assert found["everywhere"].calibrating.passes > 0


def test_words_in_the_prompt_are_measured_as_longer_prompts(quickest: Any, found: al.Comparison) -> None:
    entry, backend = found["words"], backend_of(quickest)
    with torch.no_grad():
        for number, prompt in enumerate(PROMPTS):
            said, plain = (
                quickest(torch.tensor([backend.encode(text)]))[0, -1].log_softmax(-1)
                for text in (WORDS + prompt, prompt)
            )
            by_hand = -(said.exp() * said).sum() + (plain.exp() * plain).sum()
            assert entry.effect.by_prompt[number] == pytest.approx(float(by_hand), abs=1e-4)
    assert entry.extra_tokens == len(backend.encode(WORDS, prepend_bos=False))
    assert len(entry.effect.nulls) == 2


def test_nulls_are_of_the_contenders_own_kind(found: al.Comparison) -> None:
    assert {entry.name: len(entry.effect.nulls) for entry in found.entries} == {
        "vector": 2, "everywhere": 2, "projection": 2, "scaled": 2, "halved": 0, "words": 2,
    }  # fmt: skip


def test_the_ranking_tells_what_is_shown_by_flips_adjusted_over_all_pairs(found: al.Comparison) -> None:
    means = [entry.effect.mean for entry in found.entries]
    assert means == sorted(means, reverse=True)
    assert len(found.pairs) == len(found.entries) * (len(found.entries) - 1) // 2
    by_prompt = [found[pair.first].effect.by_prompt - found[pair.second].effect.by_prompt for pair in found.pairs]
    assert np.allclose([pair.p for pair in found.pairs], sign_flip_p(np.array(by_prompt)))
    for pair in found.pairs:
        assert ("shown" if pair.p <= 0.05 else "undecided") in str(pair)
    assert between(found.entries[:1]) == ()


def test_a_result_shows_itself_and_is_json(found: al.Comparison) -> None:
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["at_most"] == 0.2
    assert len(found.frame()) == len(found.entries)
    assert "told apart" not in str(found)
    assert "undecided" in str(found) or "shown" in str(found)
    assert "<table" in found._repr_html_()
    found.plot()


def test_a_scorer_reads_the_texts_that_complete_writes(quickest: Any, vector: al.SteeringVector) -> None:
    scorer = al.scorers.word_count(["the", "a"])
    found = al.compare(quickest, {"vector": vector}, scorer=scorer, prompting={"words": WORDS}, n=2, max_new_tokens=6,
                       **SETTINGS)  # fmt: skip
    written = al.complete(quickest, PROMPTS, found["vector"].condition, n=2, max_new_tokens=6)
    assert np.allclose(found["vector"].effect.by_prompt, written.score(scorer).by_prompt)
    assert found["words"].effect.n_samples == 2


def test_wrong_input_is_refused_before_anything_runs(quickest: Any, vector: al.SteeringVector) -> None:
    both: dict[str, Any] = {"metric": METRIC, "scorer": al.scorers.word_count(["a"])}
    for wrong, told in (
        ({}, "either metric"), (both, "either metric"), ({"metric": METRIC, "texts": TEXTS[:7]}, "8 or more"),
        ({"metric": METRIC, "texts": PROMPTS * 2}, "apart"), ({"metric": METRIC, "at_most": 0.0}, "at_most"),
        ({"metric": METRIC, "prompting": {"words": " "}}, "front of the prompt"),
        ({"metric": al.metrics.perplexity(), "prompting": {"words": WORDS}}, "whole texts"),
    ):  # fmt: skip
        with pytest.raises(al.SettingError, match=told):
            al.compare(quickest, {"vector": vector}, **{**SETTINGS, **wrong})
    with pytest.raises(al.SettingError, match="by name"):
        al.compare(quickest, {}, metric=METRIC, **SETTINGS)


@pytest.mark.slow
def test_the_command_compares_on_the_embedded_model(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from actadd_lens.experiments import comparing

    monkeypatch.setattr(comparing, "PROMPTS", 4)
    monkeypatch.setattr(comparing, "TEXTS", 8)
    monkeypatch.setattr(comparing, "PAIRS", 4)
    assert main(["compare", "--nulls", "1", "--task", "weddings", "--out", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    names = {row["contender"] for row in told["contenders"]}
    assert {"ActAdd, rows at the front", "CAA", "words in the prompt"} <= names
    assert {path.name for path in tmp_path.iterdir()} == {
        "contenders.csv", "pairs.csv", "compare.json", "compare.png",
    }  # fmt: skip
    assert main(["compare", "--task", "sport"]) == 2
