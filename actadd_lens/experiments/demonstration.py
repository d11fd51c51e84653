"""The demonstration: what ActAdd does, on any model, as one result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actadd_lens import storybook
from actadd_lens.checks import check_run
from actadd_lens.measuring import scorers
from actadd_lens.measuring.measure import CompletionMeasurement, measure_completions
from actadd_lens.methods.actadd import compute_steering_vector
from actadd_lens.models import LensModel
from actadd_lens.statistics import Alternative, split_prompts
from actadd_lens.steering.preview import Preview, preview
from actadd_lens.vectors.vector import SteeringVector
from actadd_lens.writing.completions import Completions, complete

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOP_P = 0.9
"""Nucleus of the samples; everything else is plain sampling."""


@dataclass(frozen=True, eq=False)
class Chapter:
    """One steering vector: where it lands, what the model writes with it, and how large its effect is.

    Attributes:
        name: What it steers towards.
        vector: The vector with its coefficient.
        landing: Its rows on the first prompt.
        completions: Steered and unsteered text.
        measurements: The measured effects, by name.
        expected: The side on which each effect was expected before it was measured; its p-value is of this side.
    """

    name: str
    vector: SteeringVector
    landing: Preview
    completions: Completions
    measurements: dict[str, CompletionMeasurement]
    expected: dict[str, Alternative]


@dataclass(frozen=True, eq=False)
class Demonstration:
    """A sentiment vector and a topic vector, shown and measured.

    Attributes:
        chapters: The vectors.
    """

    chapters: tuple[Chapter, ...]

    def plot(self, axes: "Sequence[Axes] | None" = None) -> "Sequence[Axes]":
        """Each chapter's effects with their intervals, beside the null vectors."""
        from actadd_lens.plots.measuring import plot_demonstration

        return plot_demonstration(self, axes=axes)


def demonstrate(
    model: LensModel,
    *,
    sentiment_pair: tuple[str, str] = ("I love it", "I hate it"),
    sentiment_layer: int = 4,
    sentiment_coefficient: float = 3.0,
    topic_pair: tuple[str, str] = (" wedding", ""),
    topic_layer: int = 3,
    topic_coefficient: float = 3.0,
    n: int = 4,
    nulls: int = 20,
    seed: int = 0,
    note: Callable[[str], None] = lambda text: None,
) -> Demonstration:
    """Show and measure a sentiment vector and a topic vector.

    The topic is the paper's own. Layers and coefficients were set for the embedded model on one half of the neutral
    prompts; the prompts here are from the other half, and the topic words from the package's list.

    Args:
        model: The model.
        sentiment_pair: Prompt pair of the sentiment vector.
        sentiment_layer: Its injection layer.
        sentiment_coefficient: Its coefficient; the negative is measured as well.
        topic_pair: Prompt pair of the topic vector.
        topic_layer: Its injection layer.
        topic_coefficient: Its coefficient.
        n: Samples per prompt.
        nulls: Null vectors per effect.
        seed: Seed of everything random.
        note: Called with what is about to be done.
    """
    check_run(seed=seed)
    everything = storybook.neutral_prompts()
    prompts = [everything[index] for index in split_prompts(len(everything))[1][:16]]
    love = sentiment_coefficient * compute_steering_vector(model, sentiment_pair, layer=sentiment_layer)
    wedding = topic_coefficient * compute_steering_vector(model, topic_pair, layer=topic_layer)
    mood, topic = scorers.sentiment(), scorers.contains_word(storybook.topics()["weddings"].words)

    def chapter(name: str, conditions: Sequence[SteeringVector], scorer: scorers.Scorer) -> Chapter:
        first = conditions[0]
        note(f"measuring {name}")
        measured = {
            _label(vector): measure_completions(
                model, prompts, vector, scorer, n=n, nulls=nulls, seed=seed, max_new_tokens=30, top_p=TOP_P
            )[0]
            for vector in conditions
        }
        expected: dict[str, Alternative] = {
            _label(vector): "greater" if vector.coefficient > 0 else "less" for vector in conditions
        }
        shown = complete(model, prompts[:3], first, n=1, seed=seed, max_new_tokens=30, top_p=TOP_P)
        return Chapter(name, first, preview(model, prompts[0], first), shown, measured, expected)

    return Demonstration(
        (
            chapter("sentiment", (love, -love), mood),
            chapter("topic", (wedding,), topic),
        )
    )


def _label(vector: SteeringVector) -> str:
    return f"{vector.coefficient:+g} × ({vector.label})"
