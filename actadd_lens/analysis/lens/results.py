"""What a lens found: tokens, rows, and whole lenses."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from actadd_lens.statistics import LEVEL, adjusted_over_lists
from actadd_lens.vectors.naming import html_token, signed_shade

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LensReading = Literal["direction", "anchored"]
LensOrder = Literal["value", "z"]


@dataclass(frozen=True)
class LensToken:
    """One token in the lens of one row.

    Attributes:
        token: Token id.
        text: The token.
        rank: 1 for the most promoted token of the vocabulary, in the order asked for.
        value: `direction`: the centred logit before the final norm's scale; `anchored`: the change of the logit.
        z: The value in standard deviations of random directions of the same size (closed form).
        adjusted_p: P-value of a listed token, adjusted for the selection from the vocabulary and over all lists of the
            call (min-P: each null selects its own for each list); NaN without nulls, and for followed tokens.
    """

    token: int
    text: str
    rank: int
    value: float
    z: float
    adjusted_p: float = float("nan")

    @property
    def significant(self) -> bool:
        """Whether it is significant after correction: `adjusted_p` is at most 0.05."""
        return self.adjusted_p <= LEVEL


@dataclass(frozen=True, eq=False)
class LensRow:
    """The lens of one row. For a row of zeros, all values are 0 and no tokens are listed.

    Attributes:
        vector: Which vector, by its index among those given.
        name: A short label of the vector.
        layer: The layer at which it is read.
        row: Row of the vector; None for a carried stream.
        row_name: The row, named by its tokens.
        norm: Norm of what is read, centred as the final norm does.
        promoted: The k most promoted tokens, the most promoted first.
        demoted: The k most demoted tokens, the lowest first.
        followed: The tokens requested by `tokens=`.
        values: The value of every token.
        z: The z-score of every token.
        order: What tokens are ranked by: `value` or `z`.
        null_promoted: The k-th largest value, or z-score, of each null vector's row.
        null_demoted: The k-th smallest.
        null_largest: The largest value, or z-score, of each null vector's row.
        null_smallest: The smallest.
    """

    vector: int
    name: str
    layer: int
    row: int | None
    row_name: str
    norm: float
    promoted: tuple[LensToken, ...]
    demoted: tuple[LensToken, ...]
    followed: tuple[LensToken, ...]
    values: Float[Tensor, " d_vocab"]
    z: Float[Tensor, " d_vocab"]
    order: LensOrder
    null_promoted: Float[np.ndarray, " nulls"]
    null_demoted: Float[np.ndarray, " nulls"]
    null_largest: Float[np.ndarray, " nulls"] = field(default_factory=lambda: np.zeros(0))
    null_smallest: Float[np.ndarray, " nulls"] = field(default_factory=lambda: np.zeros(0))

    @property
    def promoted_share(self) -> float:
        """Share of null vectors whose k-th promoted token is as extreme as the row's; NaN without nulls."""
        if not self.promoted or not len(self.null_promoted):
            return float("nan")
        return float((self.null_promoted >= getattr(self.promoted[-1], self.order)).mean())

    @property
    def demoted_share(self) -> float:
        """Share of null vectors whose k-th demoted token is as extreme as the row's; NaN without nulls."""
        if not self.demoted or not len(self.null_demoted):
            return float("nan")
        return float((self.null_demoted <= getattr(self.demoted[-1], self.order)).mean())


@dataclass(frozen=True, eq=False)
class LogitLens:
    """The logit lens of steering vectors, row by row.

    Attributes:
        reading: `direction` or `anchored`.
        rows: The rows of all vectors, in order.
        k: Tokens in each list.
        prompt: The prompt that the rows land on, where the reading is `anchored`.
        nulls: Number of null vectors.
        title: What was read, in words.
    """

    reading: LensReading
    rows: tuple[LensRow, ...]
    k: int
    prompt: str | None
    nulls: int
    title: str

    def frame(self) -> "pd.DataFrame":
        """One line per row and token: the promoted, then the demoted."""
        return _frame((row, list_name, token) for row in self.rows for list_name, token in _listed(row))

    @property
    def significant(self) -> tuple[LensToken, ...]:
        """The listed tokens that are significant after correction (a null has one in at most 5 % of calls)."""
        return tuple(token for row in self.rows for _, token in _listed(row) if token.significant)

    def followed_frame(self) -> "pd.DataFrame":
        """One line per row and token requested by `tokens=`."""
        return _frame((row, "followed", token) for row in self.rows for token in row.followed)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The k tokens of each row that is not zero, promoted above and demoted below, coloured by z-score."""
        from actadd_lens.plots.analysis import plot_logit_lens

        return plot_logit_lens(self, ax=ax)

    def __repr__(self) -> str:
        return f"LogitLens({self.title}: {len(self.rows)} rows, {self.reading} reading, k={self.k})"

    def __str__(self) -> str:
        lines = [self.title]
        for row in self.rows:
            told = f"{row.name}, {row.row_name}"
            lines.append(f"{told} (zero)" if not row.promoted else told)
            for sign, tokens in (("+", row.promoted), ("-", row.demoted)):
                if tokens:
                    lines.append(f"  {sign} " + "  ".join(f"{token.text!r} {token.z:+.1f}" for token in tokens))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        largest = max((abs(token.z) for row in self.rows for _, token in _listed(row)), default=0.0)
        style = "style='text-align:left; vertical-align:top'"
        body = ""
        for row in self.rows:
            cells = [f"{escape(row.name)}<br><small>{escape(row.row_name)}</small>"]
            for tokens, share in ((row.promoted, row.promoted_share), (row.demoted, row.demoted_share)):
                shown = "".join(
                    html_token(token.text, title=f"z = {token.z:+.2f}", shade=signed_shade(token.z, largest))
                    for token in tokens
                )
                note = f"<br><small>{share:.0%} of {self.nulls} nulls as extreme</small>" if np.isfinite(share) else ""
                cells.append(shown + note if tokens else "<i>zero row</i>")
            body += "<tr>" + "".join(f"<td {style}>{cell}</td>" for cell in cells) + "</tr>"
        head = "".join(f"<th {style}>{name}</th>" for name in ("row", "promoted", "demoted"))
        return f"<table><caption>{escape(self.title)}</caption><tr>{head}</tr>{body}</table>"


@dataclass(frozen=True, eq=False)
class CarriedLens:
    """What an injection has become at each later layer of a prompt: the steered minus the unsteered stream.

    Attributes:
        direction: The lens of the difference at each layer; the last entry is the end of the model, where `layer` is
            the number of layers.
        anchored: The change of the lens of the stream there; at the end of the model, of the logits themselves, before
            any soft cap on them.
        prompt: The prompt.
        at: The prompt token at which the stream is read.
        token: That token.
        relative_norms: Norm of the difference in units of the unsteered stream's, at each layer.
    """

    direction: LogitLens
    anchored: LogitLens
    prompt: str
    at: int
    token: str
    relative_norms: tuple[float, ...]

    def frame(self) -> "pd.DataFrame":
        """One line per reading, layer and token."""
        import pandas as pd

        readings = {"direction": self.direction.frame(), "anchored": self.anchored.frame()}
        return pd.concat(readings, names=["reading"]).reset_index(level=0).reset_index(drop=True)

    def plot(self, ax: "Axes | None" = None, *, reading: LensReading = "anchored") -> "Axes":
        """The k tokens at each layer, promoted above and demoted below, coloured by z-score."""
        return (self.direction if reading == "direction" else self.anchored).plot(ax=ax)

    def __repr__(self) -> str:
        return f"CarriedLens({self.anchored.title})"

    def _repr_html_(self) -> str:
        return self.anchored._repr_html_() + self.direction._repr_html_()


def adjusted(rows: Sequence[LensRow]) -> tuple[LensRow, ...]:
    """The same with adjusted p-values, over both lists of every row that is not zero."""
    members = [index for index, row in enumerate(rows) if row.promoted and len(row.null_largest)]
    if not members:
        return tuple(rows)
    lists, best = [], []
    for row in (rows[index] for index in members):
        for sign, tokens, ends in ((1, row.promoted, row.null_largest), (-1, row.demoted, row.null_smallest)):
            lists.append(sign * np.array([getattr(token, row.order) for token in tokens]))
            best.append(sign * ends)
    found = adjusted_over_lists(lists, np.stack(best).astype(float))
    changed = list(rows)
    for place, index in enumerate(members):
        row = rows[index]
        promoted, demoted = (
            tuple(replace(token, adjusted_p=float(p)) for token, p in zip(tokens, p_values, strict=True))
            for tokens, p_values in ((row.promoted, found[2 * place]), (row.demoted, found[2 * place + 1]))
        )
        changed[index] = replace(row, promoted=promoted, demoted=demoted)
    return tuple(changed)


def _listed(row: LensRow) -> list[tuple[str, LensToken]]:
    return [("promoted", token) for token in row.promoted] + [("demoted", token) for token in row.demoted]


def _frame(lines: Any) -> "pd.DataFrame":
    import pandas as pd

    columns = ["vector", "layer", "row", "tokens of the row", "list", "rank", "token", "text", "value", "z",
               "share of nulls as extreme", "adjusted p"]  # fmt: skip
    shares = {"promoted": "promoted_share", "demoted": "demoted_share"}
    table = [
        (row.name, row.layer, row.row, row.row_name, list_name, token.rank, token.token, token.text, token.value,
         token.z, getattr(row, shares[list_name]) if list_name in shares else float("nan"), token.adjusted_p)
        for row, list_name, token in lines
    ]  # fmt: skip
    return pd.DataFrame(table, columns=columns).astype({"row": "Int64"})
