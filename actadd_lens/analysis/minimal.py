"""Minimal sets: how few heads and MLPs have to change for most of an effect to remain."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from actadd_lens.analysis.swapping import Swap, one_head, shape_of, swap, swapped_values
from actadd_lens.checks import check_run
from actadd_lens.errors import SettingError
from actadd_lens.measuring.metrics import Metric, as_metric
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import as_texts, encode_prompts, notice_repeats
from actadd_lens.vectors.vector import SteeringVector, check_vectors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class MinimalSet:
    """Components, ordered by how much of the effect is lost without each, and how much the first of them keep.

    Attributes:
        metric: What was measured.
        vectors: What was added.
        components: Layer and name of each component; first those whose output the effect depends on most.
        lost: What the effect loses if that component's output is unsteered and all others are steered; mean over the
            prompts that determined the order.
        kept: The effect with the first components free to change and all others unsteered, for none to all of them, as
            a share of the whole, on the other prompts.
        ordered_by: Prompts that determined the order.
        measured_on: Prompts that the shares were measured on.
    """

    metric: Metric
    vectors: tuple[SteeringVector, ...]
    components: tuple[tuple[int, str], ...]
    lost: Float[np.ndarray, " components"]
    kept: Float[np.ndarray, " components_and_none"]
    ordered_by: tuple[str, ...]
    measured_on: tuple[str, ...]

    def size(self, share: float = 0.8) -> int:
        """How many of the first components keep that share of the effect, also when more are added.

        Sets in another order are not searched, so a smaller one may exist.

        Args:
            share: Share of the whole effect, above 0 and up to 1.
        """
        if not 0 < share <= 1:
            raise SettingError(f"share is {share!r}: expected a number above 0 and up to 1.")
        below = np.flatnonzero(self.kept < share - 1e-6)
        return int(below[-1]) + 1 if len(below) else 0

    def frame(self) -> "pd.DataFrame":
        """One row per component, in order: the effect lost without it, and the effect kept with all up to it."""
        import pandas as pd

        return pd.DataFrame(
            {
                "layer": [layer for layer, _ in self.components],
                "component": [name for _, name in self.components],
                "lost alone": self.lost,
                "kept up to it": self.kept[1:],
            }
        )

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The share of the effect by the number of components that are free to change."""
        from actadd_lens.plots.second_look import plot_minimal_set

        return plot_minimal_set(self, ax=ax)

    def __repr__(self) -> str:
        told = f"{self.size(0.8)} of {len(self.components)} components keep 80% of the effect"
        return f"MinimalSet({self.metric.name}: {told})"

    def _repr_html_(self) -> str:
        frame = self.frame().head(max(10, self.size(0.8)))
        return f"<p>{escape(repr(self))}</p>" + frame.to_html(index=False, float_format="{:.3g}".format)


def minimal_set(
    model: LensModel,
    prompts: Sequence[str],
    vectors: SteeringVector | Sequence[SteeringVector],
    metric: Any,
    *,
    position: Position = "front",
    prepend_bos: bool = True,
    batch_size: int = 64,
    progress: bool = True,
) -> MinimalSet:
    """Freeze heads and MLPs one by one, then all but the first few: which are sufficient, not only involved?

    A frozen component writes what it writes unsteered. Every second prompt determines the order, and what sets keep is
    measured on the others, so that a set is not rewarded for having been chosen.

    Args:
        model: The model; steering that is open around the call is ignored.
        prompts: Two texts or more.
        vectors: One steering vector or several, all added together.
        metric: A metric, or a function of the last token's logits.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        prepend_bos: Whether prompts start with BOS.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A prompt is not text, or is longer than the context.
        PositionError: A vector does not fit onto a prompt.
        VectorError: A vector does not match the model.
        SettingError: There are fewer than two prompts, there is no effect to keep, or a setting is out of range.
    """
    check_run(batch_size=batch_size)
    backend, chosen = backend_of(model), as_metric(metric)
    found = check_vectors(backend, vectors, what="a minimal set")
    texts = as_texts(prompts)
    notice_repeats(texts)
    if len(texts) < 2:
        raise SettingError("One prompt cannot both order components and measure sets of them: pass two or more.")
    ids = encode_prompts(backend, texts, prepend_bos=prepend_bos)
    parts = _parts(backend, min(vector.layer for vector in found))
    told: dict[str, Any] = {"measured": found, "position": position, "batch_size": batch_size, "progress": progress}
    alone = swapped_values(backend, ids[::2], [found], [_frozen(backend, [part]) for part in parts], chosen, **told)[0]
    sign = np.sign((alone[1] - alone[0]).mean())
    lost = (alone[1] - alone[2:]).mean(axis=1)
    order = np.argsort(-sign * lost, kind="stable")
    sets = [_frozen(backend, [parts[place] for place in order[count:]]) for count in range(len(parts) + 1)]
    values = swapped_values(backend, ids[1::2], [found], sets, chosen, **told)[0]
    whole = float((values[1] - values[0]).mean())
    if not whole:
        raise SettingError("The vectors change nothing on these prompts, so there is no effect to keep.")
    kept = (values[2:] - values[0]).mean(axis=1) / whole
    components = tuple(_named(parts[place]) for place in order)
    return MinimalSet(chosen, found, components, lost[order], kept, texts[::2], texts[1::2])


Part = tuple[int, int | None]
"""A layer and a head of it, or None for its MLP."""


def _parts(backend: Backend, first: int) -> list[Part]:
    layers, heads = shape_of(backend)
    return [(layer, part) for layer in range(first, layers) for part in (*range(heads), None)]


def _named(part: Part) -> tuple[int, str]:
    return part[0], "MLP" if part[1] is None else f"head {part[1]}"


def _frozen(backend: Backend, parts: Sequence[Part]) -> Swap:
    """The steered condition with these components unsteered."""
    layers, heads = shape_of(backend)
    outputs, mlps = np.zeros((layers, heads), dtype=bool), np.zeros(layers, dtype=bool)
    for layer, head in parts:
        if head is None:
            mlps[layer] = True
        else:
            outputs |= one_head(backend, layer, head)
    return swap(backend, steered=True, outputs=outputs, mlps=mlps)
