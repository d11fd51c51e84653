"""With all attention frozen: does a vector act through what heads read, or through where they attend?

Cheng, Wiegreffe and Manocha 2026, "What Drives Representation Steering? A Mechanistic Case Study on Steering Refusal"
(arXiv 2604.08524): freezing all attention scores removes 8.75 % of the effect of refusal vectors, which are added to
every token. Activation addition puts its rows on the first tokens, so both places are measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from actadd_lens import storybook
from actadd_lens.analysis.freezing import PARTS, AttentionOrValue, attention_or_value
from actadd_lens.checks import check_run
from actadd_lens.experiments.direction import first_difference
from actadd_lens.experiments.evidence import Estimate, Experiment, Finding, Verdict, moves
from actadd_lens.measuring.metrics import as_metric
from actadd_lens.methods.actadd import compute_steering_vector
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair, as_pair
from actadd_lens.prompts.texts import as_texts
from actadd_lens.statistics import LEVEL, verdict_p
from actadd_lens.vectors.vector import check_coefficient

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST = 0.5
"""Share of an effect that has to be left for most of it to act through values."""

PLACES = ("front", "all")


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionFrozen(Experiment):
    """What is left of an effect with all attention patterns frozen at the unsteered ones.

    Attributes:
        places: Where the vector was added: `front`, as activation addition does, and `all`, as refusal vectors are.
        found: The parts of the effect there.
    """

    name: ClassVar[str] = "attention"
    title: ClassVar[str] = "By attention or by value"

    places: tuple[str, ...]
    found: tuple[AttentionOrValue, ...]

    def left(self, place: str) -> Estimate:
        """Share of the effect that is left with attention frozen, over prompts; one half is neutral.

        Args:
            place: `front` or `all`.
        """
        parts = self.found[self.places.index(place)]
        share, low, high = parts.share("by values")
        return Estimate(share, low, high, len(parts.prompts), "prompts", neutral=MOST)

    def verdict(self, place: str) -> Verdict:
        """Whether most of the effect acts through values, as that paper found; needs an effect larger than the nulls'.

        The effect may have either sign, so its p-value is two-sided.

        Args:
            place: `front` or `all`.
        """
        whole = Estimate.from_effect(self.found[self.places.index(place)].effect("whole"))
        past = whole.low > 0 or whole.high < 0
        if not past or (whole.nulls and verdict_p(whole.value, np.array(whole.nulls), "two-sided") > LEVEL):
            return "not testable here"
        return moves(self.left(place), "greater")

    def frame(self) -> "pd.DataFrame":
        """One row per place and part."""
        import pandas as pd

        frames = []
        for place, parts in zip(self.places, self.found, strict=True):
            frame = parts.frame()
            frame.insert(0, "position", place)
            frame["verdict"] = [self.verdict(place) if part == "by values" else "" for part in PARTS]
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The parts at each place, above those of the nulls."""
        from actadd_lens.plots.measuring import plot_effects

        named = {
            f"{place}: {part}": parts.effect(part)
            for place, parts in zip(self.places, self.found, strict=True)
            for part in PARTS
        }
        return plot_effects(named, unit=self.settings["metric"], title=f"{self.model}: {self.settings['pair']}", ax=ax)

    def findings(self) -> tuple[Finding, ...]:
        """None: it bears on another paper's claim, with verdicts of its own."""
        return ()

    def summary(self) -> str:
        """What was done and what was found."""
        told = [
            f"position {place}: effect {parts.effect('whole').mean:+.3g}, {self.left(place)} of it left with attention "
            f"frozen ({self.verdict(place)})"
            for place, parts in zip(self.places, self.found, strict=True)
        ]
        claim = (
            "The claim is that of arXiv 2604.08524, where 91 % of the effect of refusal vectors on every token is "
            f"left: that most of it is left, above {MOST:.0%}."
        )
        return f"With {self.settings['pair']} at layer {self.settings['layer']}: {'; '.join(told)}. {claim}"


def attention_frozen(
    model: LensModel,
    pair: PromptPair | tuple[str, str | None] = (" wedding", ""),
    *,
    metric: Any = None,
    prompts: str | Sequence[str] | None = None,
    layer: int | None = None,
    coefficient: float = 3.0,
    everywhere: float = 0.3,
    nulls: int = 99,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
) -> AttentionFrozen:
    """Freeze all attention: at the front, and with the pair's last row on every token.

    Args:
        model: The model.
        pair: Prompt pair.
        metric: What the vector is meant to raise after a prompt; by default the log-probability of the first token in
            which the pair differs, positive prompt first.
        prompts: Prompts; the package's neutral ones by default.
        layer: Injection layer; a third of the way up by default.
        coefficient: Injection coefficient at the front.
        everywhere: Coefficient of the last row on every token.
        nulls: Null vectors.
        seed: Seed of the nulls.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A prompt or the pair cannot be used.
        PositionError: The vector does not fit onto a prompt.
        LayerError: There is no such layer.
        ModelError: The model does not expose its attention.
        SettingError: Another setting is out of range.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend, checked = backend_of(model), as_pair(pair)
    scales = (check_coefficient(coefficient), check_coefficient(everywhere))
    target = first_difference(model, checked) if metric is None else as_metric(metric)
    texts = as_texts(storybook.neutral_prompts() if prompts is None else prompts)
    vector = compute_steering_vector(model, checked, layer=round(backend.n_layers / 3) if layer is None else layer)
    found = tuple(
        attention_or_value(
            model, texts, added, target, position=place, nulls=nulls, seed=seed, batch_size=batch_size,
            progress=progress,
        )
        for place, added in zip(PLACES, (scales[0] * vector, scales[1] * vector.row(-1)), strict=True)
    )  # fmt: skip
    sizes = [float(np.linalg.norm(parts.vectors[0].injection.float().cpu().numpy())) for parts in found]
    return AttentionFrozen(
        model=backend.name, places=PLACES, found=found,
        settings={
            "pair": checked.label, "metric": target.name, "layer": vector.layer, "n_layers": backend.n_layers,
            "coefficient": scales[0], "everywhere": scales[1], "injection norms": sizes, "nulls": nulls,
            "null_kind": "unrelated_pairs", "seed": seed, "prompts": list(texts),
        },
        notes=(f"“By values” is the effect with all patterns unsteered; the claim is that above {MOST:.0%} is left.",),
    )  # fmt: skip
