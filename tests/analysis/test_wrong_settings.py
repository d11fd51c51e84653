"""What the analysis tools refuse, with what was wrong in the message."""

from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch

import actadd_lens as al

LENS: dict[str, Callable[..., Any]] = {
    "lens": al.logit_lens,
    "carried": lambda model, v, **options: al.logit_lens_carried(model, v, "The old dog said", **options),
    "similarity": al.cosine_similarity,
    "norms": lambda model, v, **options: al.norm_profile(model, v, "The old dog said", **options),
    "shift": lambda model, v, **options: al.next_token_shift(model, "The old dog said", v, **options),
    "text": lambda model, v, **options: al.text_shift(model, "The old dog said", v, **options),
    "linearity": lambda model, v, **options: al.linearity(
        model, "The old dog said", v, **{"metric": al.metrics.entropy(), **options}
    ),
}


@pytest.mark.parametrize(
    ("tool", "options", "error", "message"),
    [
        ("lens", {"k": 0}, al.SettingError, "k is 0"),
        ("lens", {"k": 10**6}, al.SettingError, "k is 1000000"),
        ("lens", {"reading": "both"}, al.SettingError, "'direction' or 'anchored'"),
        ("lens", {"reading": "anchored"}, al.SettingError, "pass prompt="),
        ("lens", {"order": "p"}, al.SettingError, "'value' or 'z'"),
        ("lens", {"tokens": "dog"}, al.SettingError, "tokens is the text 'dog'"),
        ("lens", {"tokens": ["dogs and cats"]}, al.PromptError, "Give a text that is one"),
        ("lens", {"nulls": -1}, al.SettingError, "nulls is -1"),
        ("lens", {"nulls": 2, "null_kind": "noise"}, al.SettingError, "'noise' is not known"),
        ("lens", {"reading": "anchored", "prompt": "The"}, al.PositionError, "does not fit"),
        ("carried", {"at": 40}, al.PositionError, "at is 40"),
        ("carried", {"at": -1}, al.PositionError, "at is -1"),
        ("carried", {"position": "end"}, al.PositionError, "'end' is not known"),
        ("carried", {"batch_size": 0}, al.SettingError, "batch_size is 0"),
        ("similarity", {"by": "columns"}, al.SettingError, "'rows', 'aligned' or 'pooled'"),
        ("similarity", {"nulls": 1}, al.SettingError, "nulls is 1"),
        ("similarity", {"others": []}, al.VectorError, "No steering vector"),
        ("norms", {"position": 99}, al.PositionError, "does not fit"),
        ("shift", {"k": 0}, al.SettingError, "k is 0"),
        ("shift", {"least": 1.5}, al.SettingError, "least is 1.5"),
        ("shift", {"tokens": "dog"}, al.SettingError, "tokens is the text 'dog'"),
        ("shift", {"position": 99}, al.PositionError, "does not fit"),
        ("text", {"least_count": 0}, al.SettingError, "least_count is 0"),
        ("text", {"position": "back"}, al.SettingError, "too long|injected token"),
        ("linearity", {"coefficients": []}, al.SettingError, "one number or more"),
        ("linearity", {"coefficients": [float("nan")]}, al.CoefficientError, "nan is not finite"),
        ("linearity", {"metric": "entropy"}, al.SettingError, "'entropy' is not a metric"),
        ("linearity", {"metric": al.metrics.precision_at(1, {"The old dog said": " hi"})}, al.SettingError, "gradient"),
    ],
)
def test_wrong_settings_are_refused(
    small: Any,
    tool: str,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The runtime type checks of these tests would speak first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    v = al.compute_steering_vector(small, ("I love", "I hate"), layer=1)
    if tool == "text":  # rows that cover the whole text, where they fit at the back
        length = len(small.to_tokens("The old dog said")[0])
        v = al.SteeringVector.from_tensor(v.activations[:1].repeat(length, 1), layer=1, source="long")
    with pytest.raises(error, match=message):
        LENS[tool](small, v, **options)


@pytest.mark.parametrize("tool", list(LENS))
def test_vectors_of_another_size_or_layer_are_refused(small: Any, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(al.VectorError, match="d_model"):
        LENS[tool](small, al.SteeringVector.from_tensor(torch.ones(5), layer=0, source="other"))
    with pytest.raises(al.LayerError, match="does not exist"):
        LENS[tool](small, al.SteeringVector.from_tensor(torch.ones(small.cfg.d_model), layer=90, source="other"))
    with pytest.raises(al.VectorError, match="not a steering vector"):
        LENS[tool](small, [3])
