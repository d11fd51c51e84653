"""The results of a trace: where the change of a metric comes from, component by component."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from actadd_lens.measuring.metrics import Metric
from actadd_lens.statistics import max_t_p, on_one_scale
from actadd_lens.vectors.vector import SteeringVector

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes

TraceCondition = Literal["unsteered", "steered"]

ARMS: tuple[TraceCondition, TraceCondition] = ("steered", "unsteered")


@dataclass(frozen=True, eq=False)
class Contributions:
    """Where the change of a metric comes from, in the metric's units; the parts sum to the change.

    Attributes:
        heads: Each head's direct contribution.
        mlps: Each MLP's.
        carried: That of the injection itself, carried along the stream; 0 where it lands on no token that is read.
        higher_orders: What the metric's curvature in the logits adds to its first order; 0 for logits and their
            differences.
        final_norm: What the final norm adds by changing its scale.
        attention: What each head would add if only its attention pattern had changed and the values were unsteered; NaN
            where a model's head outputs are not patterns times values.
        values: What it would add if only the values had changed and the pattern were unsteered; NaN likewise.
    """

    heads: Float[np.ndarray, "layers heads"]
    mlps: Float[np.ndarray, " layers"]
    carried: float
    higher_orders: float
    final_norm: float
    attention: Float[np.ndarray, "layers heads"]
    values: Float[np.ndarray, "layers heads"]

    @property
    def together(self) -> Float[np.ndarray, "layers heads"]:
        """What each head adds only where pattern and values change together; with both it makes `heads`."""
        return np.asarray(self.heads - self.attention - self.values)

    @property
    def direct(self) -> float:
        """The sum over heads, MLPs and the carried injection: the change with the final norm frozen, to first order."""
        return float(self.heads.sum() + self.mlps.sum() + self.carried)

    @property
    def total(self) -> float:
        """The sum of all parts: the change of the metric."""
        return self.direct + self.higher_orders + self.final_norm

    @property
    def by_layer(self) -> Float[np.ndarray, " layers"]:
        """Heads and MLP of each layer together."""
        return np.asarray(self.heads.sum(axis=1) + self.mlps)


@dataclass(frozen=True, eq=False)
class Trace:
    """Which components read an injection, on one prompt.

    Changes are steered minus unsteered. Layers below the injection cannot see it, so their changes are exactly zero.
    Norms are of what can be read: on LayerNorm models without the mean over `d_model`.

    Attributes:
        prompt: The prompt.
        tokens: Its tokens as texts.
        vectors: What was added.
        metric: What was measured.
        at: Whether the contributions use the `steered` or the `unsteered` final norm scale and gradient of the metric.
        injected: Tokens on which a row that is not zero lands.
        steered: The metric, steered.
        unsteered: The metric, unsteered.
        contributions: Where the difference comes from.
        head_change: Norm of the change of what each head writes, at each token.
        mlp_change: The same for MLPs.
        attention_steered: Attention that each token pays to injected tokens before it, by head.
        attention_unsteered: The same, unsteered.
        arrived: Norm of the change of the stream after the last block, at each token.
        nulls: Contributions of each null; empty if none was run.
        freeze: `attention` if all attention patterns were frozen at the unsteered ones, else None.
    """

    prompt: str
    tokens: tuple[str, ...]
    vectors: tuple[SteeringVector, ...]
    metric: Metric
    at: TraceCondition
    injected: tuple[int, ...]
    steered: float
    unsteered: float
    contributions: Contributions
    head_change: Float[np.ndarray, "layers heads pos"]
    mlp_change: Float[np.ndarray, "layers pos"]
    attention_steered: Float[np.ndarray, "layers heads pos"]
    attention_unsteered: Float[np.ndarray, "layers heads pos"]
    arrived: Float[np.ndarray, " pos"]
    nulls: tuple[Contributions, ...]
    freeze: Literal["attention"] | None = None

    @property
    def change(self) -> float:
        """Steered minus unsteered."""
        return self.steered - self.unsteered

    @property
    def first_layer(self) -> int:
        """The lowest layer that can read the injection: the one that it is added at."""
        return min(vector.layer for vector in self.vectors)

    @property
    def later(self) -> tuple[int, ...]:
        """Tokens after the first injected one on which nothing lands."""
        if not self.injected:
            return ()
        return tuple(index for index in range(self.injected[0], len(self.tokens)) if index not in self.injected)

    def attention(self, condition: TraceCondition = "steered") -> Float[np.ndarray, "layers heads"]:
        """Attention that later tokens pay to the injected ones, averaged over later tokens; NaN if there are none."""
        shown = self.attention_steered if condition == "steered" else self.attention_unsteered
        return shown[:, :, list(self.later)].mean(axis=2) if self.later else np.full(shown.shape[:2], np.nan)

    def frame(self) -> "pd.DataFrame":
        """One row per part of the change; with nulls, each part's standardised contribution.

        `by attention` and `by values` are what a head would add if only its pattern or only its values had changed.
        `adjusted p` is two-sided and adjusted over all parts, each in units of the common spread with its nulls
        (max-T): the largest of many parts is large in a null vector's trace too.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        steered, unsteered = self.attention("steered"), self.attention("unsteered")
        for layer in range(self.first_layer, len(self.mlp_change)):
            rows += [
                {
                    "layer": layer,
                    "component": f"head {head}",
                    "change norm": np.linalg.norm(self.head_change[layer, head]),
                    "change norm at last token": self.head_change[layer, head, -1],
                    "attention steered": steered[layer, head],
                    "attention unsteered": unsteered[layer, head],
                }
                for head in range(steered.shape[1])
            ]
            norms = self.mlp_change[layer]
            rows.append({"layer": layer, "component": "MLP", "change norm": np.linalg.norm(norms),
                         "change norm at last token": norms[-1]})  # fmt: skip
        rows += [{"component": name} for name in ("carried injection", "higher orders", "final norm")]
        frame = pd.DataFrame(rows).astype({"layer": "Int64"})
        frame.insert(2, "contribution", _listed(self.contributions, self.first_layer))
        for name, parts in (("by attention", self.contributions.attention), ("by values", self.contributions.values)):
            by_layer = np.concatenate([parts, np.full((len(parts), 1), np.nan)], axis=1)[self.first_layer :]
            frame[name] = np.concatenate([by_layer.flatten(), [np.nan] * 3])
        if len(self.nulls) > 1:
            frame["adjusted p"] = self._adjusted(np.array(frame["contribution"]))
            nulls = np.stack([_listed(null, self.first_layer) for null in self.nulls])
            mean, spread = nulls.mean(axis=0), nulls.std(axis=0, ddof=1)
            frame.insert(3, "null mean", mean)
            frame.insert(4, "null sd", spread)
            is_noise = spread <= 1e-5 * np.abs(frame["contribution"]).max()
            frame.insert(5, "standardised", (frame["contribution"] - mean) / np.where(is_noise, np.nan, spread))
        return frame

    def _adjusted(self, parts: Float[np.ndarray, " parts"]) -> Float[np.ndarray, " parts"]:
        """Adjusted p-values of all parts; differences that are only rounding count as zero."""
        conditions = np.stack([parts, *(_listed(null, self.first_layer) for null in self.nulls)])
        conditions[:, conditions.std(axis=0) <= 1e-5 * np.abs(conditions).max()] = 0.0
        scaled = on_one_scale(conditions)
        return max_t_p(scaled[0], scaled[1:], "two-sided")

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Heat map of the contributions of heads and MLPs, by layer."""
        from actadd_lens.plots.tracing import plot_trace

        return plot_trace(self, ax=ax)

    def plot_attention(self, ax: "Axes | None" = None) -> "Axes":
        """Heat map of the attention that later tokens pay to the injected ones, steered, by layer and head."""
        from actadd_lens.plots.tracing import plot_trace_attention

        return plot_trace_attention(self, ax=ax)

    def page(self, path: "str | os.PathLike[str]", *, title: str = "A trace") -> "Path":
        """Write one self-contained HTML file, to be mailed or put on the web: it needs no server or network.

        Args:
            path: The file.
            title: Its heading.

        Raises:
            SettingError: It cannot be written there.
        """
        from actadd_lens.pages.html import write_page
        from actadd_lens.pages.tracing import trace_page

        return write_page(trace_page(self, title=title), path)

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {_rounded(part(self.contributions)):+.3g}" for name, part in PARTS.items())
        frozen = "" if self.freeze is None else f", {self.freeze} frozen"
        return f"Trace({self.metric.name}: {self.change:+.3g} = {told}; at the {self.at} model{frozen})"

    def _repr_html_(self) -> str:
        frame = self.frame()
        largest = frame.reindex(frame["contribution"].abs().sort_values(ascending=False).index).head(10)
        return f"<p>{escape(repr(self))}</p>" + largest.to_html(index=False, na_rep="", float_format="{:.3g}".format)


def _rounded(value: float) -> float:
    """Without what float32 leaves where there is nothing."""
    return value if abs(value) > 1e-5 else 0.0


def _listed(parts: Contributions, first: int) -> Float[np.ndarray, " parts"]:
    """All parts in the order of the frame."""
    by_layer = np.concatenate([parts.heads[first:], parts.mlps[first:, None]], axis=1).flatten()
    return np.concatenate([by_layer, [parts.carried, parts.higher_orders, parts.final_norm]])


PARTS: dict[str, Callable[[Contributions], float]] = {
    "heads": lambda parts: float(parts.heads.sum()),
    "MLPs": lambda parts: float(parts.mlps.sum()),
    "carried injection": lambda parts: parts.carried,
    "higher orders": lambda parts: parts.higher_orders,
    "final norm": lambda parts: parts.final_norm,
}
