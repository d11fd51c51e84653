"""Shift over texts: which of their tokens are predicted better or worse."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from actadd_lens.analysis.shift.occurrences import Occurrences, read_occurrences, token_intervals
from actadd_lens.analysis.shift.passes import beside_nulls
from actadd_lens.checks import check_run, is_count, require
from actadd_lens.errors import SettingError
from actadd_lens.measuring.measure import Condition, ConditionRows, null_conditions
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import as_texts, encode_prompts
from actadd_lens.statistics import FEWEST_PROMPTS, Effect, max_t_p, on_one_scale
from actadd_lens.vectors.naming import vector_names
from actadd_lens.vectors.vector import check_interventions

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class TextToken:
    """What steering does to the prediction of one token, over all its occurrences in texts.

    Attributes:
        token: Token id.
        text: The token.
        count: Number of occurrences that count: not predicted from an injected position.
        change: Mean change of its log-probability there, in nats.
        low: Lower end of the 95 % interval; NaN where there is no interval.
        high: Upper end.
        z: (change - mean change under nulls) / their standard deviation; NaN with fewer than two.
        adjusted_p: Two-sided p-value of the change, adjusted over all listed tokens, each in units of the common spread
            with its nulls (max-T); NaN without nulls.
    """

    token: int
    text: str
    count: int
    change: float
    low: float
    high: float
    z: float
    adjusted_p: float = math.nan


@dataclass(frozen=True, eq=False)
class TextShift:
    """The shift of the tokens of texts.

    Attributes:
        tokens: Every token that occurs, the largest rise first.
        effect: Mean change over the predictions of a text, with its interval over texts, and the nulls'.
        covers: What the intervals of single tokens are over: `texts`, or `occurrences` with fewer than 10 texts.
        name: A short label of the vectors.
    """

    tokens: tuple[TextToken, ...]
    effect: Effect
    covers: Literal["texts", "occurrences"]
    name: str

    def frame(self) -> "pd.DataFrame":
        """One line per token, the largest rise first."""
        import pandas as pd

        columns = ["token", "text", "count", "change", "low", "high", "z", "adjusted_p"]
        lines = [[getattr(one, name) for name in columns] for one in self.tokens]
        return pd.DataFrame(lines, columns=[name.replace("_", " ") for name in columns])

    @property
    def quantiles(self) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
        """Of a normal distribution, and of the tokens' mean changes, both in ascending order."""
        count, normal = len(self.tokens), NormalDist()
        expected = [normal.inv_cdf((place + 0.5) / count) for place in range(count)]
        return np.array(expected), np.sort([token.change for token in self.tokens])

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Q-Q picture: the tokens' mean changes against a normal distribution; the tails are named."""
        from actadd_lens.plots.analysis import plot_text_shift

        return plot_text_shift(self, ax=ax)

    def __repr__(self) -> str:
        return f"TextShift({self.name}: {len(self.tokens)} tokens; {self.effect})"

    def _repr_html_(self) -> str:
        from html import escape

        shown = self.frame()
        shown = shown if len(shown) <= 20 else shown.iloc[[*range(10), *range(len(shown) - 10, len(shown))]]
        table = shown.to_html(index=False, float_format="{:.3g}".format)
        return f"<p>{escape(self.name)}: {escape(str(self.effect))}</p>{table}"


@torch.no_grad()
def text_shift(
    model: LensModel,
    texts: str | Sequence[str],
    vectors: Any,
    *,
    least_count: int = 1,
    position: Position = "front",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 16,
    progress: bool = True,
) -> TextShift:
    """Show which tokens of texts are predicted better or worse, wherever they occur.

    Predictions made from injected positions are left out, steered and unsteered alike.

    Args:
        model: The model; steering that is open around the call is ignored.
        texts: One text or several, each within the context.
        vectors: One steering vector or several, all added together.
        least_count: Leave out tokens that occur less often.
        position: Token that receives row 0, for vectors without a position of their own.
        nulls: Number of null vectors to run for comparison.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether texts start with BOS.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A text is not a string, or is longer than the context.
        PositionError: A vector does not fit onto a text.
        VectorError: A vector does not match the model.
        SettingError: A setting is out of range, or no prediction is left after an injected position.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend = backend_of(model)
    found = check_interventions(backend, vectors)
    require(is_count(least_count), "least_count", least_count, "an integer from 1")
    require(is_count(batch_size), "batch_size", batch_size, "an integer from 1")
    given = as_texts(texts)
    ids = encode_prompts(backend, given, prepend_bos=prepend_bos)
    ConditionRows(backend, ids, [()] * len(ids), found, position)  # do they fit?
    conditions: list[Condition] = [(), found, *null_conditions(model, found, nulls, null_kind, seed)]
    seen = read_occurrences(backend, ids, conditions, found, position, batch_size, progress)
    if not len(seen.tokens):
        raise SettingError(
            "No prediction is left after an injected token, but those made from one: use longer texts, fewer "
            "rows, or a position such as 'front'."
        )
    return TextShift(
        _text_tokens(backend, seen, least_count),
        seen.effect(),
        "texts" if len(ids) >= FEWEST_PROMPTS else "occurrences",
        " and ".join(vector_names(found)),
    )


def _text_tokens(backend: Backend, seen: Occurrences, least_count: int) -> tuple[TextToken, ...]:
    """Mean change of each token, the largest rise first."""
    which, place, counts = np.unique(seen.tokens, return_inverse=True, return_counts=True)
    means = np.stack(
        [np.bincount(place, weights=condition, minlength=len(which)) / counts for condition in seen.changes]
    )
    z = beside_nulls(means)
    low, high = token_intervals(seen, place, len(which))
    order = [int(index) for index in np.argsort(-means[0], kind="stable") if counts[index] >= least_count]
    adjusted = np.full(len(which), np.nan)
    if len(means) > 1 and order:
        scaled = on_one_scale(means[:, order].astype(float))
        adjusted[order] = max_t_p(scaled[0], scaled[1:], "two-sided")
    texts = backend.token_strings([int(which[index]) for index in order]) if order else []
    return tuple(
        TextToken(
            int(which[index]), text, int(counts[index]), float(means[0, index]), float(low[index]), float(high[index]),
            float(z[index]), float(adjusted[index]),
        )
        for index, text in zip(order, texts, strict=True)
    )  # fmt: skip
