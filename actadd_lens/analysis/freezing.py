"""By attention or by value: what is left of an effect when attention patterns, or everything else, stay unsteered."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from actadd_lens.analysis.swapping import one_head, shape_of, swap, swapped_values
from actadd_lens.checks import check_flags, check_run
from actadd_lens.measuring.measure import null_conditions
from actadd_lens.measuring.metrics import Metric, as_metric
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import as_texts, encode_prompts, notice_repeats
from actadd_lens.statistics import Effect, effect_columns, family_effect, max_t_p, on_one_scale, statistic_interval
from actadd_lens.steering.clean import check_fits, prompts_of
from actadd_lens.vectors.vector import SteeringVector, check_vectors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

PARTS = ("whole", "by values", "by attention", "together")
HEAD_PARTS = ("attention", "values", "both")


@dataclass(frozen=True, eq=False)
class AttentionOrValue:
    """The effect of an injection, divided between where heads look and what they find there.

    Attributes:
        metric: What was measured.
        prompts: The prompts.
        vectors: What was added.
        values: The metric by family (the vectors, then each null), condition and prompt; the conditions are unsteered,
            steered, steered with unsteered patterns, and unsteered with steered patterns.
        first_layer: The lowest layer that can read the injection.
        heads: What the effect loses on each prompt when one head keeps its unsteered pattern, its unsteered values, or
            both, by family; None if it was not requested.
    """

    metric: Metric
    prompts: tuple[str, ...]
    vectors: tuple[SteeringVector, ...]
    values: Float[np.ndarray, "families 4 prompts"]
    first_layer: int
    heads: Float[np.ndarray, "families 3 layers heads prompts"] | None = None

    def effect(self, part: str) -> Effect:
        """One part of the effect over the prompts, with the same part of each null.

        `by values` is the effect with all patterns frozen at the unsteered ones; `by attention` is that of the steered
        patterns alone, without the injection; `together` is what only both at once do, so that the three add up to the
        `whole`.

        Args:
            part: `whole`, `by values`, `by attention` or `together`.
        """
        return family_effect(self._parts(part))

    def _parts(self, part: str) -> Float[np.ndarray, "families prompts"]:
        plain, steered, frozen, patterns = (self.values[:, condition] for condition in range(4))
        parts = {"whole": steered - plain, "by values": frozen - plain, "by attention": patterns - plain}
        parts["together"] = parts["whole"] - parts["by values"] - parts["by attention"]
        return np.asarray(parts[part])

    def share(self, part: str) -> tuple[float, float, float]:
        """The part as a share of the whole, with its jackknife interval over prompts (95 %).

        It means little if the whole is near zero, and it can be below 0 or above 1.
        """
        table = np.stack([self._parts(part)[0], self._parts("whole")[0]], axis=1)
        return (_ratio(table), *statistic_interval(_ratio, table))

    def frame(self) -> "pd.DataFrame":
        """One row per part: the effect, its share of the whole, and its nulls."""
        import pandas as pd

        lines = []
        for part in PARTS:
            effect, (share, low, high) = self.effect(part), self.share(part)
            columns = effect_columns(effect)
            shown = {name: columns.pop(name) for name in ("effect", "low", "high")}
            lines.append({"part": part, **shown, "share": share, "share low": low, "share high": high, **columns})
        return pd.DataFrame(lines)

    def head_frame(self) -> "pd.DataFrame":
        """One row per head: what the effect loses when only this head keeps its unsteered pattern, values, or both.

        `adjusted p` is two-sided and adjusted over all heads and all three ways (max-T).

        Raises:
            SettingError: Heads were not measured one by one.
        """
        import pandas as pd

        found = self._heads().mean(axis=-1)
        families, ways, layers, heads = found.shape
        lines: dict[str, Any] = {
            "layer": np.repeat(np.arange(layers), heads), "head": np.tile(np.arange(heads), layers),
            **{f"lost, {way}": found[0, number].flatten() for number, way in enumerate(HEAD_PARTS)},
        }  # fmt: skip
        if families > 2:
            scaled = on_one_scale(found[:, :, self.first_layer :].reshape(families, -1))
            p = max_t_p(scaled[0], scaled[1:], "two-sided").reshape(ways, -1)
            below = np.full((ways, self.first_layer * heads), np.nan)
            p = np.concatenate([below, p], axis=1)
            lines |= {f"adjusted p, {way}": p[number] for number, way in enumerate(HEAD_PARTS)}
        frame = pd.DataFrame(lines)
        return frame[frame["layer"] >= self.first_layer].reset_index(drop=True)

    def _heads(self) -> Float[np.ndarray, "families 3 layers heads prompts"]:
        from actadd_lens.errors import SettingError

        if self.heads is None:
            raise SettingError("Heads were not measured one by one: call attention_or_value with by_head=True.")
        return self.heads

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The parts with their intervals, above the same parts of the nulls."""
        from actadd_lens.plots.second_look import plot_attention_or_value

        return plot_attention_or_value(self, ax=ax)

    def plot_heads(self, ax: "Axes | None" = None, *, way: str = "attention") -> "Axes":
        """Heat map of what the effect loses when one head keeps its pattern, its values, or both."""
        from actadd_lens.plots.second_look import plot_frozen_heads

        return plot_frozen_heads(self, way=way, ax=ax)

    def __repr__(self) -> str:
        told = ", ".join(f"{part} {self.effect(part).mean:+.3g}" for part in PARTS)
        return f"AttentionOrValue({self.metric.name}: {told}; {len(self.prompts)} prompts)"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>" + self.frame().to_html(index=False, float_format="{:.3g}".format)


def _ratio(table: Float[np.ndarray, "prompts 2"]) -> float:
    whole = float(table[:, 1].sum())
    return float(table[:, 0].sum()) / whole if whole else float("nan")


def attention_or_value(
    model: LensModel,
    prompts: str | Sequence[str],
    vectors: SteeringVector | Sequence[SteeringVector],
    metric: Any,
    *,
    by_head: bool = False,
    position: Position = "front",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 64,
    progress: bool = True,
) -> AttentionOrValue:
    """Divide an effect: does the injection act by changing where heads look, or by what they find there?

    Two conditions lie between unsteered and steered: the injection with every attention pattern frozen at the unsteered
    one (as arXiv 2604.08524 freezes attention), and the steered patterns without the injection. All conditions of a
    prompt share their passes.

    Args:
        model: The model; steering that is open around the call is ignored.
        prompts: One text or several.
        vectors: One steering vector or several, all added together.
        metric: A metric, or a function of the last token's logits.
        by_head: Whether to freeze heads one by one as well: three more rows for each head.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        nulls: Number of null vectors that are measured in the same way.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether prompts start with BOS.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A prompt is not text, or is longer than the context.
        PositionError: A vector does not fit onto a prompt.
        VectorError: A vector does not match the model.
        SettingError: A setting is out of range.
        ModelError: The model does not expose its attention, or its heads' outputs are not patterns times values.
    """
    check_run(seed=seed, batch_size=batch_size)
    check_flags(by_head=by_head, prepend_bos=prepend_bos)
    backend, chosen = backend_of(model), as_metric(metric)
    found = check_vectors(backend, vectors, what="freezing attention")
    texts = as_texts(prompts)
    notice_repeats(texts)
    ids = encode_prompts(backend, texts, prepend_bos=prepend_bos)
    check_fits(backend, found, position, prompts_of(backend, ids))
    first = min(vector.layer for vector in found)
    swaps = [swap(backend, steered=True, patterns=True), swap(backend, steered=False, patterns=True)]
    layers, heads = shape_of(backend)
    if by_head:
        for layer in range(first, layers):
            for which in (one_head(backend, layer, head) for head in range(heads)):
                swaps += [
                    swap(backend, steered=True, patterns=which),
                    swap(backend, steered=True, values=which),
                    swap(backend, steered=True, outputs=which),
                ]
    families = [found, *null_conditions(model, found, nulls, null_kind, seed)]
    values = swapped_values(
        backend, ids, families, swaps, chosen, measured=found, position=position, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip
    table = _lost(values, first, layers, heads) if by_head else None
    return AttentionOrValue(chosen, texts, found, values[:, :4], first, table)


def _lost(
    values: Float[np.ndarray, "families conditions prompts"], first: int, layers: int, heads: int
) -> Float[np.ndarray, "families 3 layers heads prompts"]:
    """What the effect loses for each head; zero below the injection, by causality."""
    families, _, prompts = values.shape
    lost = np.zeros((families, 3, layers, heads, prompts))
    by_head = values[:, 4:].reshape(families, layers - first, heads, 3, prompts)
    lost[:, :, first:] = (values[:, 1, None, None, None] - by_head).transpose(0, 3, 1, 2, 4)
    return lost
