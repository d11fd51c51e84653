"""The demonstration on a chat model: which tokens steering made likelier, and how the terminal shows them."""

from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens.cli import main
from actadd_lens.cli.demo import _coloured
from actadd_lens.experiments.chat_demonstration import Answer, token_shifts
from actadd_lens.models import backend_of

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
