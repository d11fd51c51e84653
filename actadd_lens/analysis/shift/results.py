"""The results of a next-token shift, and how they are shown."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from actadd_lens.statistics import LEVEL, Effect
from actadd_lens.vectors.naming import html_token, signed_shade

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class ShiftedToken:
    """What steering does to one token after the prompts; numbers are means over prompts.

    Attributes:
        token: Token id.
        text: The token.
        unsteered: Its probability, unsteered.
        steered: The same, steered.
        change: Change of its log-probability in nats; `exp(change)` is the factor.
        kl_part: Its part in KL(steered || unsteered), in nats; the parts of all tokens add up to it.
        rank_before: Its rank by mean unsteered log-probability, 1 for the likeliest.
        rank_after: Its rank by mean steered log-probability.
        z: (change - mean change under nulls) / their standard deviation; NaN with fewer than two.
        adjusted_p: P-value adjusted for the selection from all tokens, and over the three lists (min-P: each null
            selects its own largest by the same rule); for a followed token, adjusted over the followed tokens; NaN
            without nulls.
    """

    token: int
    text: str
    unsteered: float
    steered: float
    change: float
    kl_part: float
    rank_before: int
    rank_after: int
    z: float
    adjusted_p: float = math.nan

    @property
    def significant(self) -> bool:
        """Whether it is significant after correction: `adjusted_p` is at most 0.05."""
        return self.adjusted_p <= LEVEL


@dataclass(frozen=True, eq=False)
class NextTokenShift:
    """The shift of the next-token distribution after prompts.

    Attributes:
        prompts: The prompts.
        rises: Tokens whose log-probability rises most, the largest rise first.
        falls: Tokens whose log-probability falls most.
        kl_parts: Tokens with the largest parts in the KL divergence.
        followed: The tokens requested by `tokens=`.
        kl: KL(steered || unsteered) in nats, with its interval over prompts, and the nulls'.
        changes: Mean change of every token's log-probability.
        least: Only tokens of at least this probability, steered or unsteered, are listed.
        name: A short label of the vectors.
    """

    prompts: tuple[str, ...]
    rises: tuple[ShiftedToken, ...]
    falls: tuple[ShiftedToken, ...]
    kl_parts: tuple[ShiftedToken, ...]
    followed: tuple[ShiftedToken, ...]
    kl: Effect
    changes: Float[np.ndarray, " d_vocab"]
    least: float
    name: str

    def frame(self) -> "pd.DataFrame":
        """One line per listed token, list by list."""
        import pandas as pd

        lists = {"rises": self.rises, "falls": self.falls, "KL": self.kl_parts, "followed": self.followed}
        columns = ["list", "token", "text", "unsteered", "steered", "change", "factor", "KL part", "rank before",
                   "rank after", "z", "adjusted p"]  # fmt: skip
        lines = [
            (name, one.token, one.text, one.unsteered, one.steered, one.change, float(np.exp(one.change)), one.kl_part,
             one.rank_before, one.rank_after, one.z, one.adjusted_p)
            for name, tokens in lists.items()
            for one in tokens
        ]  # fmt: skip
        return pd.DataFrame(lines, columns=columns)

    @property
    def significant(self) -> tuple[ShiftedToken, ...]:
        """The listed tokens that are significant after correction (a null has one in at most 5 % of runs)."""
        return tuple(one for one in (*self.rises, *self.falls, *self.kl_parts) if one.significant)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Bars of the largest rises and falls."""
        from actadd_lens.plots.analysis import plot_shift

        return plot_shift(self, ax=ax)

    def __repr__(self) -> str:
        return f"NextTokenShift({self.name}: KL(steered || unsteered) {self.kl.steered:.3g} nats)"

    def _repr_html_(self) -> str:
        from html import escape

        largest = max((abs(token.change) for token in (*self.rises, *self.falls)), default=0.0)
        cells = ""
        for tokens in (self.rises, self.falls, self.kl_parts):
            lines = "".join(
                f"<div>{html_token(one.text, shade=signed_shade(one.change, largest))} "
                f"<small>{one.unsteered:.2g} → {one.steered:.2g} (×{np.exp(one.change):.2g}"
                f"{'' if math.isnan(one.adjusted_p) else f'; p = {one.adjusted_p:.2g}'})</small></div>"
                for one in tokens
            )
            cells += f"<td style='text-align:left; vertical-align:top'>{lines}</td>"
        head = "".join(f"<th>{name}</th>" for name in ("rises", "falls", "largest parts in the KL"))
        caption = f"{escape(self.name)}: KL(steered || unsteered) = {self.kl.steered:.3g} nats"
        return f"<table><caption>{caption}</caption><tr>{head}</tr><tr>{cells}</tr></table>"
