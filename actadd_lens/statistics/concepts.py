"""Several pairs of one concept: for a claim about happiness rather than about one pair of words."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from actadd_lens.errors import SettingError
from actadd_lens.statistics.quantiles import t_quantile


@dataclass(frozen=True, eq=False)
class ConceptEffect:
    """The mean effect over prompts and over pairs of a concept, which are taken as a sample of such pairs.

    Attributes:
        mean: Mean over pairs and prompts.
        low: Lower end of the interval.
        high: Upper end.
        level: Coverage of the interval.
        by_pair: Each pair's own effect.
        by_prompt: Each prompt's own, over pairs.
    """

    mean: float
    low: float
    high: float
    level: float
    by_pair: Float[np.ndarray, " pairs"] = field(repr=False)
    by_prompt: Float[np.ndarray, " prompts"] = field(repr=False)

    def __str__(self) -> str:
        told = f"{self.mean:+.3g} [{self.low:.3g}, {self.high:.3g}] ({self.level:.0%} interval over "
        return f"{told}{len(self.by_pair)} pairs and {len(self.by_prompt)} prompts)"

    __repr__ = __str__


def concept_effect(table: Float[np.ndarray, "pairs prompts"], *, level: float = 0.95) -> ConceptEffect:
    """Mean effect of pairs of one concept; pairs and prompts are crossed random effects.

    The variance of the mean is that of pair means over pairs plus that of prompt means over prompts, minus the residual
    variance that both contain, with the degrees of freedom of Welch and Satterthwaite.

    Args:
        table: The effect of each pair on each prompt.
        level: Coverage.

    Raises:
        SettingError: There are fewer than two pairs or prompts, or a number is missing.

    >>> concept_effect(np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])).mean
    2.5
    """
    values = np.asarray(table, dtype=float)
    if values.ndim != 2 or min(values.shape) < 2 or not np.isfinite(values).all():
        raise SettingError(f"Effects of shape {values.shape}: expected [pairs, prompts], two or more of each, no NaN.")
    pairs, prompts = values.shape
    by_pair, by_prompt, mean = values.mean(axis=1), values.mean(axis=0), float(values.mean())
    rest = values - by_pair[:, None] - by_prompt + mean
    both = float((rest**2).sum()) / ((pairs - 1) * (prompts - 1) * pairs * prompts)
    parts = np.array([by_pair.var(ddof=1) / pairs, by_prompt.var(ddof=1) / prompts, -both])
    freedom = np.array([pairs - 1, prompts - 1, (pairs - 1) * (prompts - 1)])
    variance = max(float(parts.sum()), float(parts[:2].max()))
    degrees = float(variance**2 / (parts**2 / freedom).sum()) if variance > 0 else float("inf")
    half = t_quantile((1 + level) / 2, max(1.0, degrees)) * variance**0.5
    return ConceptEffect(mean, mean - half, mean + half, level, by_pair, by_prompt)
