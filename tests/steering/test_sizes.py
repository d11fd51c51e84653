"""Coefficients in units of the stream."""

from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens.models import backend_of

PROMPTS = ["The girl looked at the old dog.", "She felt that it was a good day and then she said"]


@pytest.mark.parametrize("amount", [0.7, 2, -0.5])
@pytest.mark.parametrize("position", ["front", "back", 2])
def test_one_row_gets_the_length_that_was_asked_for(small: Any, amount: float, position: Any) -> None:
    vector = al.compute_steering_vector(small, (" happy", " sad"), layer=2).row(-1)
    for given in (vector, 7 * vector, vector / 100):
        (touch,) = al.preview(small, PROMPTS[0], given.relative(small, PROMPTS[0], amount, position=position),
                              position=position).touches  # fmt: skip
        assert touch.relative == pytest.approx(abs(amount), rel=1e-5)


def test_it_is_the_median_over_rows_that_are_not_zero_tokens_and_prompts(small: Any) -> None:
    vector = al.compute_steering_vector(small, (" happy dog", " sad"), layer=2)
    wanted = vector.relative(small, PROMPTS, 0.7)
    sizes = [touch.relative for prompt in PROMPTS for touch in al.preview(small, prompt, wanted).touches if touch.norm]
    assert float(torch.tensor(sizes).median()) == pytest.approx(0.7, rel=1e-5)
    row = vector.row(-1).at(position="all")
    found = row.relative(small, PROMPTS, 0.7)
    backend = backend_of(small)
    streams = [backend.residuals(torch.tensor([backend.encode(prompt)]), [2])[2][0, 1:] for prompt in PROMPTS]
    by_hand = (float(row.norms[0]) / torch.cat(streams).detach().float().norm(dim=-1)).median()
    assert found.coefficient == pytest.approx(0.7 / float(by_hand), rel=1e-5)
    assert found.position == "all"


def test_the_sign_stays_and_steering_that_is_open_does_not_count(small: Any) -> None:
    vector = al.compute_steering_vector(small, (" happy", " sad"), layer=2)
    wanted = vector.relative(small, PROMPTS, 0.7)
    assert (-vector).relative(small, PROMPTS, 0.7).coefficient == -wanted.coefficient
    with al.steer(small, 50 * vector.at_layer(1)):
        assert vector.relative(small, PROMPTS, 0.7).coefficient == wanted.coefficient


def test_what_has_no_size_is_refused(small: Any) -> None:
    vector = al.compute_steering_vector(small, (" happy", " sad"), layer=2)
    for given in (0 * vector, al.SteeringVector.from_tensor(torch.zeros(2, 32), layer=2, source="zero")):
        with pytest.raises(al.CoefficientError, match="is zero"):
            given.relative(small, PROMPTS, 0.7)
    with pytest.raises(al.CoefficientError):
        vector.relative(small, PROMPTS, float("nan"))
    with pytest.raises(al.PositionError, match="lands on no token"):
        vector.row(-1).relative(small, PROMPTS, 0.7, position="generated")
