"""The result of `compare`: a ranking that says which differences are significant."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from actadd_lens.measuring.measure import Condition
from actadd_lens.measuring.passes import Cost
from actadd_lens.statistics import LEVEL, Alternative, Effect, benjamini_hochberg, paired_effect, sign_flip_p

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Entry:
    """One contender.

    Attributes:
        name: What it is called.
        kind: `steering` or `prompting`.
        condition: What was done, calibrated; nothing for prompting.
        factor: The calibrated factor on what was given; None if there is no coefficient.
        is_top: Whether the largest factor that was tried is still within the budget.
        effect: Effect on the task, with its nulls.
        damage: Damage to other text, on the held-out half.
        making: What it cost to read or train; zero if it was passed ready-made.
        calibrating: What its own calibration cost.
        extra_tokens: Tokens added to each prompt.
    """

    name: str
    kind: Literal["steering", "prompting"]
    condition: Condition
    factor: float | None
    is_top: bool
    effect: Effect
    damage: Effect
    making: Cost
    calibrating: Cost
    extra_tokens: int


@dataclass(frozen=True, eq=False)
class Between:
    """The difference of two contenders on the same prompts.

    Attributes:
        first: The one that ranks higher.
        second: The other.
        difference: Effect of the first minus that of the second, with its interval.
        p: P-value by flips of each prompt's sign, adjusted over all pairs of contenders.
    """

    first: str
    second: str
    difference: Effect
    p: float

    @property
    def is_shown(self) -> bool:
        """Whether the difference is significant; otherwise it is undecided."""
        return self.p <= LEVEL

    def __str__(self) -> str:
        outcome = "significant" if self.is_shown else "undecided"
        found = self.difference
        told = f"{found.mean:+.3g} [{found.low:.3g}, {found.high:.3g}]"
        return f"{self.first} − {self.second}: {told}, {outcome} (adjusted p = {self.p:.2g})"


def between(entries: Sequence[Entry], *, seed: int = 0) -> tuple[Between, ...]:
    """All pairs of contenders, in the order of the ranking.

    Args:
        entries: The contenders, ranked.
        seed: Seed of the flips of signs.
    """
    pairs = list(itertools.combinations(entries, 2))
    if not pairs:
        return ()
    differences = [paired_effect(_samples(first), _samples(second), zeros=first.effect.kind) for first, second in pairs]
    p_values = sign_flip_p(np.array([found.by_prompt for found in differences]), seed=seed)
    return tuple(
        Between(first.name, second.name, found, float(p))
        for (first, second), found, p in zip(pairs, differences, p_values, strict=True)
    )


def _samples(entry: Entry) -> np.ndarray:
    return entry.effect.by_prompt[:, None] if entry.effect.conditions is None else entry.effect.conditions[0]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Contenders on one task at equal damage, ranked by their effect.

    Attributes:
        entries: The contenders, the largest wanted effect first.
        pairs: All pairs of them, with their difference.
        measure: What counts as effect.
        damage: What counts as damage.
        at_most: The budget of damage.
        alternative: Which effects are wanted.
        nulls: Number of nulls requested for each.
        prompts: Prompts of the task.
        chosen_on: Texts that coefficients were chosen on.
        reported_on: Texts that damage is reported on.
    """

    entries: tuple[Entry, ...]
    pairs: tuple[Between, ...]
    measure: str
    damage: str
    at_most: float
    alternative: Alternative
    nulls: int
    prompts: tuple[str, ...]
    chosen_on: tuple[str, ...]
    reported_on: tuple[str, ...]

    def __getitem__(self, name: str) -> Entry:
        return next(entry for entry in self.entries if entry.name == name)

    @property
    def q_values(self) -> tuple[float, ...]:
        """Each contender's p-value against its own nulls, adjusted for the false discovery rate; NaN without nulls."""
        p_values = np.array([entry.effect.p_value(self.alternative) for entry in self.entries])
        found, has = np.full(len(p_values), np.nan), np.isfinite(p_values)
        if has.any():
            found[has] = benjamini_hochberg(p_values[has])
        return tuple(map(float, found))

    def frame(self) -> "pd.DataFrame":
        """One row per contender, ranked."""
        import pandas as pd

        rows = []
        for entry, q_value in zip(self.entries, self.q_values, strict=True):
            effect, damage = entry.effect, entry.damage
            has_nulls = len(effect.nulls) > 0
            rows.append({
                "contender": entry.name, "kind": entry.kind, "effect": effect.mean, "low": effect.low,
                "high": effect.high, "null mean": effect.nulls.mean() if has_nulls else np.nan,
                "nulls": len(effect.nulls), "p": effect.p_value(self.alternative), "q": q_value,
                "factor": np.nan if entry.factor is None else entry.factor, "at the top": entry.is_top,
                "damage": damage.mean, "damage low": damage.low, "damage high": damage.high,
                "passes to make": entry.making.passes, "passes to calibrate": entry.calibrating.passes,
                "seconds to make": entry.making.seconds, "seconds to calibrate": entry.calibrating.seconds,
                "extra tokens": entry.extra_tokens,
            })  # fmt: skip
        return pd.DataFrame(rows)

    def pairs_frame(self) -> "pd.DataFrame":
        """One row per pair of contenders."""
        import pandas as pd

        return pd.DataFrame(
            {
                "first": pair.first, "second": pair.second, "difference": pair.difference.mean,
                "low": pair.difference.low, "high": pair.difference.high, "adjusted p": pair.p,
                "outcome": "shown" if pair.is_shown else "undecided",
            }
            for pair in self.pairs
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        tables = {"contenders": self.frame(), "pairs": self.pairs_frame()}
        told = {
            "measure": self.measure, "damage": self.damage, "at_most": self.at_most, "alternative": self.alternative,
            "rule": self.rule, "prompts": list(self.prompts), "chosen_on": list(self.chosen_on),
            "reported_on": list(self.reported_on),
        }  # fmt: skip
        return told | {
            name: [
                {key: None if value != value else value for key, value in row.items()}  # noqa: PLR0124 - only NaN differs from itself
                for row in table.to_dict(orient="records")
            ]
            for name, table in tables.items()
        }

    @property
    def rule(self) -> str:
        """How sizes were chosen."""
        return (
            f"the largest factor with {self.damage} of at most {self.at_most:g} as a mean over {len(self.chosen_on)} "
            f"texts; damage is reported on {len(self.reported_on)} others, effects on {len(self.prompts)} prompts"
        )

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Each contender's effect with its interval, above its nulls, the largest on top."""
        from actadd_lens.plots.measuring import plot_effects

        effects = {entry.name: entry.effect for entry in self.entries}
        return plot_effects(effects, unit=self.measure, title=f"at {self.damage} ≤ {self.at_most:g}", ax=ax)

    def __str__(self) -> str:
        lines = [f"{self.measure}; {self.rule}", ""]
        width = max(len(entry.name) for entry in self.entries)
        for entry, q_value in zip(self.entries, self.q_values, strict=True):
            effect, damage = entry.effect, entry.damage
            nulls = f"nulls {effect.nulls.mean():+.2f}, q = {q_value:.2g}" if len(effect.nulls) else "no nulls"
            size = "as given" if entry.factor is None else f"x {entry.factor:.3g}{' (top)' if entry.is_top else ''}"
            lines.append(
                f"{entry.name:<{width}}  {effect.mean:+.2f} [{effect.low:.2f}, {effect.high:.2f}]  {nulls}  "
                f"damage {damage.mean:.2f} [{damage.low:.2f}, {damage.high:.2f}]  {size}"
            )
        return "\n".join([*lines, "", *map(str, self.pairs)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        pairs = "".join(f"<li>{escape(str(pair))}</li>" for pair in self.pairs)
        shown = self.frame().to_html(index=False, float_format="{:.3g}".format)
        return f"<p>{escape(self.measure)}; {escape(self.rule)}</p>{shown}<ul>{pairs}</ul>"
