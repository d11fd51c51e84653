"""What metrics and scorers may be, and what they may not do to each other."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import actadd_lens as al
from actadd_lens import metrics, scorers
from actadd_lens.cli import main
from actadd_lens.measuring.metrics import Reading
from tests.support import PAIRS, vector_of

PROMPTS = ("The girl looked at the dog. She felt", "It was a good day and she")


def spoiling(logits: Tensor) -> Tensor:
    """Changes what it reads."""
    logits.mul_(3.0).add_(1.0)
    return logits[:, 0]


def spoils_all(reading: Reading) -> Tensor:
    for tensor in (reading.logits, reading.unsteered_logits, reading.tokens, reading.lengths):
        tensor.mul_(2)
    reading.injected.fill_(True)
    return reading.logits.sum(dim=-1)


def test_a_metric_that_writes_into_its_logits_harms_no_other(small: Any) -> None:
    everything = [
        metrics.named("first", spoiling), al.Metric("second", "", "last", lambda backend: spoils_all),
        metrics.entropy(), metrics.kl_divergence(), metrics.perplexity(),
    ]  # fmt: skip
    cell: dict[str, Any] = {"layers": 1, "coefficients": [2, 3], "prompts": PROMPTS}
    found = al.sweep(small, PAIRS[0], **cell, metric=everything)
    alone = al.sweep(small, PAIRS[0], **cell, metric=everything[2:])
    assert np.array_equal(found.steered[2:], alone.steered)
    assert np.array_equal(found.unsteered[2:], alone.unsteered)
    vector = 2 * vector_of(small, PAIRS[0], 1)
    steered = al.measure(small, PROMPTS, vector, spoiling, nulls=2, batch_size=2)
    with torch.no_grad(), al.steer(small, vector):
        expected = [3 * float(small(small.to_tokens(text, prepend_bos=True))[0, -1, 0]) + 1 for text in PROMPTS]
    np.testing.assert_allclose(steered.steered, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "metric",
    [
        lambda logits: logits, lambda logits: logits.sum(), lambda logits: 1.0, lambda logits: logits[:, :1],
        lambda logits: logits[:, 0].numpy(), lambda logits: logits[:, 0].tolist(), lambda logits: logits[:, 0] * 1j,
    ],
)  # fmt: skip
def test_a_metric_gives_one_number_for_each_row(quickest: Any, metric: Any) -> None:
    with pytest.raises(al.SettingError, match="returned .* for .* rows: expected a tensor of one real number for each"):
        al.measure(quickest, PROMPTS, vector_of(quickest, PAIRS[0], 1), metric)
    with pytest.raises(al.SettingError, match="expected a tensor of one real number for each row"):
        al.sweep(quickest, PAIRS[0], layers=1, coefficients=2, prompts=PROMPTS, metric=metric)


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        (metrics.entropy, r"metrics.entropy makes a metric: call it, metrics.entropy\(...\)"),
        (al.Metric, "metrics.Metric makes a metric"),
        (scorers.sentiment(), "reads texts, not logits"),
        (lambda: 1, "not a metric"),
        (lambda logits, tokens: 1, "not a metric"),
    ],
)
def test_what_is_no_metric_is_refused_before_anything_runs(quickest: Any, metric: Any, told: str) -> None:
    with pytest.raises(al.SettingError, match=told):
        al.plan_sweep(quickest, PAIRS[0], layers=1, coefficients=2, prompts=PROMPTS, metric=metric)


@pytest.mark.parametrize("scorer", [metrics.entropy, lambda: 1.0, lambda texts, more: 1.0])
def test_what_is_no_scorer_is_refused_before_anything_runs(quickest: Any, scorer: Any) -> None:
    with pytest.raises(al.SettingError, match="reads logits, not texts|cannot be called with texts alone"):
        al.measure_completions(quickest, PROMPTS, vector_of(quickest, PAIRS[0], 1), scorer)


@pytest.mark.parametrize("word", ["wedding cake", "", " ", "!", "well-being", "bride ", "under_score", "...", "a.b", 3])
@pytest.mark.parametrize("factory", [scorers.word_share, scorers.word_count, scorers.contains_word])
@pytest.mark.usefixtures("unchecked")
def test_a_word_that_no_text_can_hold_is_refused(factory: Any, word: Any) -> None:
    with pytest.raises(al.SettingError, match="is not a word: .* would never be found"):
        factory(["bride", word])


@pytest.mark.parametrize("word", ["Bride", "WEDDING", "don't", "café", "3rd", "ÉTÉ"])
def test_a_word_that_is_accepted_is_found(word: str) -> None:
    assert scorers.word_count([word])([f"So, {word}!", f"{word.lower()}; {word.upper()}"]) == [1.0, 2.0]


def test_repeated_prompts_are_noticed(quickest: Any) -> None:
    vector = vector_of(quickest, PAIRS[0], 1)
    texts = [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    cell: dict[str, Any] = {"layers": 1, "coefficients": 2, "prompts": texts}
    for run in (
        lambda: al.measure(quickest, texts, vector, metrics.entropy()),
        lambda: al.plan_sweep(quickest, PAIRS[0], **cell, metric=metrics.entropy()),
        lambda: al.plan_sweep_completions(quickest, PAIRS[0], **cell, scorers=scorers.word_count(["dog"])),
    ):
        with pytest.warns(UserWarning, match="1 of the 3 prompts are repeats, such as 'The girl looked"):
            run()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_vector_is_saved_in_no_device_or_pipe(quickest: Any, tmp_path: Path) -> None:
    vector = vector_of(quickest, PAIRS[0], 1)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/null")):
        with pytest.raises(al.VectorFileError, match="is a device or pipe, not a file"):
            vector.save(path)


def test_show_prints_no_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vector = al.SteeringVector.from_tensor(torch.ones(1, 4), layer=1, source="\x1b[2J\x07 mine\u202e\n x")
    vector.save(tmp_path / "mine.safetensors")
    for options in ([], ["--json"]):
        assert main(["show", str(tmp_path / "mine.safetensors"), *options]) == 0
        told = capsys.readouterr().out
        assert "mine" in told
        assert all(sign.isprintable() or sign == "\n" for sign in told)


@pytest.mark.usefixtures("unchecked")
def test_a_source_is_a_text() -> None:
    with pytest.raises(al.SettingError, match="source is 3: expected a text"):
        al.SteeringVector.from_tensor(torch.ones(1, 4), layer=1, source=3)  # type: ignore[arg-type]  # wrong on purpose
