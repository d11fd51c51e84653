"""Which prompts a metric has a value on, and what is raised where that is too few."""

import numpy as np
from jaxtyping import Bool, Float

from actadd_lens.errors import SettingError

_WHY = (
    "A metric such as perplexity leaves out predictions made from injected tokens and needs one after them; none is "
    "left if every token is injected, or the last one. metrics.kl_divergence() reads the prediction from the last "
    "token, injected or not."
)


def with_value(name: str, values: Float[np.ndarray, "*conditions prompts"]) -> Bool[np.ndarray, " prompts"]:
    """Which prompts have a value in every condition.

    Args:
        name: The metric.
        values: Its values; NaN where it has none.

    Raises:
        SettingError: None has.
    """
    kept = np.isfinite(values).reshape(-1, values.shape[-1]).all(axis=0)
    if not kept.any():
        raise SettingError(f"{name} has no value on any prompt. {_WHY}")
    return np.asarray(kept)


def check_values(name: str, values: Float[np.ndarray, "*conditions prompts"]) -> None:
    """Check that every prompt has a value in every condition, where none can be left out.

    Raises:
        SettingError: One has not.
    """
    missing = int((~with_value(name, values)).sum())
    if missing:
        raise SettingError(f"{name} has no value on {missing} of {values.shape[-1]} prompts: leave them out. {_WHY}")
