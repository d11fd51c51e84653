"""The demonstration on a chat model: which tokens steering made likelier, and how the terminal shows them."""

from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens.cli import main
from actadd_lens.cli.demo import _coloured, _print_rank
from actadd_lens.experiments.chat_demonstration import Answer, token_shifts
from actadd_lens.models import backend_of
from actadd_lens.statistics import paired_effect

PROMPT = "The girl looked at the"


def test_a_tokens_shift_is_its_log_prob_steered_less_unsteered(quickest: Any) -> None:
    vector = 8 * al.compute_steering_vector(quickest, (" happy", " sad"), layer=2).row(-1).at(position="all")
    ((written,),) = al.complete(quickest, PROMPT, vector, temperature=0, max_new_tokens=4).steered_continuations
    found = token_shifts(quickest, PROMPT, written, vector)
    start = backend_of(quickest).encode(PROMPT)
    tokens = torch.tensor([[*start, *written.tokens]])
    with torch.no_grad():
        plain = quickest(tokens).log_softmax(-1)
        with al.steer(quickest, vector, prompt_lengths=len(start)):
            steered = quickest(tokens).log_softmax(-1)
    by_hand = [
        float(steered[0, len(start) + at - 1, token] - plain[0, len(start) + at - 1, token])
        for at, token in enumerate(written.tokens)
    ]
    assert np.allclose(found.shifts, by_hand, atol=1e-4)
    assert "".join(found.texts).strip() == written.text.strip()


def test_the_terminal_colours_what_became_likelier_and_nothing_without_a_terminal() -> None:
    answer = Answer((" so", " happy", "<|end|>"), np.array([0.2, 7.5, 3.0]))
    assert _coloured(answer, "+") == "so\x1b[38;5;35m happy\x1b[0m\x1b[38;5;71m\x1b[0m"
    assert _coloured(answer, "") == "so happy"


def test_other_models_have_no_demonstration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--model", "gpt2"]) == 2
    assert "actadd steer" in capsys.readouterr().err


def test_an_effect_on_the_side_that_was_not_expected_has_a_large_p(capsys: pytest.CaptureFixture[str]) -> None:
    steered, unsteered = np.linspace(-1.1, -0.9, 8)[:, None], np.zeros((8, 1))
    effect = paired_effect(steered, unsteered).with_nulls(np.linspace(-0.1, 0.1, 19))
    _print_rank(effect, "greater")
    assert capsys.readouterr().out.strip() == "greater than 0 of 19 null vectors of equal norms (p = 1)"
