"""Scorers of repetition and compressibility by hand, and classifiers beside transformers' own pipeline."""

import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

import actadd_lens as al

TEXTS = ["I love the old dog.", "A cold wind blew over the sea and the boats came home.", "No."]


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory, gpt2_folder: Path) -> Path:
    """A random GPT-2 that tells three labels apart."""
    from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

    folder = tmp_path_factory.mktemp("classifiers") / "moods"
    tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    names = {0: "sad", 1: "calm", 2: "glad"}
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2, id2label=names,
        label2id={name: number for number, name in names.items()}, pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_repetition_counts_runs_that_stand_there_earlier() -> None:
    scorer = al.scorers.repetition(3)
    assert scorer(["one two three one two three", "one two", "", "a b c d"]) == [0.25, 0.0, 0.0, 0.0]
    assert al.scorers.repetition(1)(["No, no, NO."]) == [pytest.approx(2 / 3)]
    assert scorer.__name__ == "repetition of 3 words"


def test_compressibility_is_what_deflate_saves() -> None:
    text = "the same again, " * 30
    packed = zlib.compress(text.encode(), 9)
    found = al.scorers.compressibility()([text, "", "é"])
    assert found[0] == pytest.approx(1 - (len(packed) - 6) / len(text.encode()))  # zlib's frame is six bytes
    assert found[1] == 0.0
    assert found[2] < 0


def test_a_classifier_gives_what_transformers_own_pipeline_gives(classifier_folder: Path) -> None:
    from transformers import pipeline

    scorer = al.scorers.text_classifier(classifier_folder, "glad", batch_size=2)
    pipe = pipeline("text-classification", model=str(classifier_folder), top_k=None)
    expected = [next(item["score"] for item in found if item["label"] == "glad") for found in pipe(TEXTS)]
    assert scorer(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert al.scorers.text_classifier(classifier_folder, 2)(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert "moods" in scorer.__name__


def test_completions_are_scored_by_it(quickest: Any, classifier_folder: Path) -> None:
    scorer = al.scorers.text_classifier(classifier_folder, "glad")
    vector = al.compute_steering_vector(quickest, ("Love", "Hate"), layer=1)
    (found,) = al.measure_completions(quickest, TEXTS[:2], 2 * vector, scorer, n=2, max_new_tokens=4, progress=False)
    assert -1 <= found.effect.mean <= 1


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_classifier_is_refused(classifier_folder: Path, gpt2_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(al.SettingError, match="no label 'angry'"):
        al.scorers.text_classifier(classifier_folder, "angry")
    with pytest.raises(al.ModelError, match="holds no classifier"):
        al.scorers.text_classifier(tmp_path, "glad")
    with pytest.raises(al.ModelError, match="drawn at random"):
        al.scorers.text_classifier(gpt2_folder, "LABEL_0")
    with pytest.raises(al.SettingError, match="words is 0"):
        al.scorers.repetition(0)
    with pytest.raises(al.SettingError, match="batch_size"):
        al.scorers.text_classifier(classifier_folder, "glad", batch_size=0)
