"""Pictures of the writing experiments. Each takes a result and returns the Axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actadd_lens.plots.style import NULL, STEERED, UNSTEERED, as_written, colours, new_axes
from actadd_lens.plots.sweeps import plot_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actadd_lens.experiments.evidence import Estimate
    from actadd_lens.experiments.examples import Examples
    from actadd_lens.experiments.parts import Parts
    from actadd_lens.experiments.sentiment import Sentiment
    from actadd_lens.experiments.topic_words import TopicWords
    from actadd_lens.experiments.topics import Topics
    from actadd_lens.experiments.toxicity import Toxicity

_PAPER_WORDS = ((0, 1.0), (5, 1.77), (10, 1.34), (16, 1.16), (20, 0.65), (30, 0.12), (40, 0.02))
"""Wedding words per completion on GPT-2-XL by layer, coefficient 1 (section 2b); unsteered 0.025."""

_PAPER_POSITIONS = {"front": 0.70, "mid": 0.81, "back": 0.87}
"""Wedding words per completion on GPT-2-XL by position (section 2j)."""


@as_written
def plot_topic_words(result: "TopicWords", metric: int, *, ax: "Axes | None" = None) -> "Axes":
    """Effect on topic words over layers, a line for each coefficient, with intervals, nulls and the paper's figures.

    Args:
        result: The result.
        metric: Place of the scorer: share of completions, or words per completion.
        ax: Where to draw.
    """
    ax = plot_lines(result.sweep, metric, 0, 0, ax=ax)
    what = ("share of completions with a topic word", "topic words per completion")[metric]
    if metric == 1:
        layers, words = zip(*_PAPER_WORDS, strict=True)
        depths = np.array(layers) / 48 * result.n_layers
        ax.plot(
            depths, np.array(words) - 0.025, ":", color="black", linewidth=1.2, label="GPT-2-XL, paper:\n1, by depth"
        )
        ax.legend(title="coefficient", frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_ylabel(f"{what},\nsteered − unsteered")
    prompts = len(result.sweep.grid.prompts)
    ax.set_title(
        f"Topic words by layer, {_plain(result.sweep.grid.labels[0])}, {prompts} prompts\nbands: 95 %",
        fontsize="small",
    )
    return ax


@as_written
def plot_topics(result: "Topics", *, ax: "Axes | None" = None) -> "Axes":
    """Rise of each topic and of their mean, with the nulls and the paper's range.

    Args:
        result: The result.
        ax: Where to draw.
    """
    estimates = {name: result.rise(name) for name in result.names} | {"mean over topics": result.mean_rise}
    ax = new_axes(ax, figsize=(6.6, 1.4 + 0.36 * len(estimates)))
    ax.axvspan(5, 20, color=UNSTEERED, alpha=0.25, linewidth=0, label="paper: +5 to +20 points")
    _estimates(ax, estimates)
    ax.set_xlabel("completions with a word of the topic, steered − unsteered (percentage points)")
    ax.set_title(f"Topics, {result.settings['cell']}, {len(result.sweep.grid.prompts)} prompts", fontsize="small")
    return ax


@as_written
def plot_toxicity(result: "Toxicity", *, ax: "Axes | None" = None) -> "Axes":
    """Change of each score, with the nulls.

    Args:
        result: The result.
        ax: Where to draw.
    """
    estimates = {f"{score.name}\n{score.told()}": score.change() for score in result.scores}
    ax = new_axes(ax, figsize=(6.8, 1.5 + 0.6 * len(estimates)))
    _estimates(ax, estimates)
    ax.set_xlabel("steered − unsteered (the paper's toxicity: −.006 to −.026)")
    ax.set_title(
        f"Hostile prompts, {_plain(result.settings['cell'])}, perplexity × {result.disfluency.change().value:.2f}",
        fontsize="small",
    )
    return ax


@as_written
def plot_sentiment(result: "Sentiment", *, ax: "Axes | None" = None) -> "Axes":
    """Share of continuations of the wanted sentiment in each condition, with the paper's where it has one.

    Args:
        result: The result.
        ax: Where to draw.
    """
    paper = {"positive to negative": (0.207, 0.395), "negative to positive": (0.200, 0.349)}
    ax = new_axes(ax, figsize=(7.0, 3.8))
    for place, shift in enumerate(result.shifts):
        first, success = place == 0, shift.success
        change = success.change()
        plain = success.mean("unsteered")
        nulls = plain + np.array(change.nulls)
        ax.scatter(np.full(len(nulls), place - 0.08), nulls, s=14, color=NULL, alpha=0.7, linewidths=0,
                   label="null vectors, each in\nthe cell that it chose" if first else None)  # fmt: skip
        ax.plot(place - 0.24, plain, "s", color=UNSTEERED, label="unsteered" if first else None)
        ax.plot(place + 0.24, success.mean("prompted"), "^", color="#009E73", label="prompted" if first else None)
        errors = [[change.value - change.low], [change.high - change.value]]
        ax.errorbar([place + 0.08], [plain + change.value], yerr=errors, fmt="o", color=STEERED, capsize=3,
                    label="steered (95 % of the change)" if first else None)  # fmt: skip
        for figure, shade in zip(paper.get(shift.label, ()), (UNSTEERED, STEERED), strict=False):
            ax.plot([place - 0.36, place + 0.36], [figure, figure], ":", color=shade, linewidth=1.2)
    ax.plot([], [], ":", color="black", label="paper (dotted)")
    ax.set_xticks(range(len(result.shifts)), [shift.label.replace(" to ", "\nto ") for shift in result.shifts])
    ax.set_ylabel("share of continuations\nof the wanted sentiment")
    ax.set_ylim(bottom=0)
    ax.set_title(f"Sentiment, {_plain(result.settings['cell'])}", fontsize="small")
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


@as_written
def plot_parts(result: "Parts", *, ax: "Axes | None" = None) -> "Axes":
    """Effect of each part with its interval and nulls.

    Args:
        result: The result.
        ax: Where to draw.
    """
    ax = new_axes(ax, figsize=(5.6, 3.6))
    is_number = all(isinstance(part, float | int) for part in result.parts)
    places: Sequence[float] = list(result.parts) if is_number else list(range(len(result.parts)))
    found = [result.effect(part) for part in result.parts]
    nulls = np.array([estimate.nulls for estimate in found]).T
    for index, null in enumerate(nulls):
        ax.plot(
            places,
            null,
            "o",
            color=NULL,
            alpha=0.5,
            markersize=3.5,
            label=None if index else "null vectors, each in its own cell",
        )
    values = np.array([estimate.value for estimate in found])
    ends = np.array([(estimate.low, estimate.high) for estimate in found]).T
    errors = np.abs(np.stack([values - ends[0], ends[1] - values]))
    ax.errorbar(places, values, yerr=errors, fmt="o-" if is_number else "o", color=STEERED, capsize=3,
                label="steering vector (95 %)")  # fmt: skip
    if not is_number:
        ax.set_xticks(places, [str(part) for part in result.parts])
        known = [(place, _PAPER_POSITIONS[part]) for place, part in enumerate(result.parts) if part in _PAPER_POSITIONS]
        for index, (place, figure) in enumerate(known):
            ax.plot(place, figure, "D", markerfacecolor="none", color="black", markersize=5,
                    label=None if index else "paper, steered")  # fmt: skip
        ax.margins(x=0.15)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xlabel(f"{result.axis} (counted from the first)" if is_number else result.axis)
    ax.set_ylabel("topic words per completion,\nsteered − unsteered")
    title = f"{result.title}, {_plain(result.settings['cell'])}, {len(result.sweep.grid.prompts)} prompts"
    ax.set_title(title, fontsize="small")
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


@as_written
def plot_examples(result: "Examples", *, ax: "Axes | None" = None) -> "Axes":
    """Next-token divergence of each example, with its nulls, on a logarithmic axis.

    Args:
        result: The result.
        ax: Where to draw.
    """
    shown = [item for item in result.shown if item.divergence is not None]
    ax = new_axes(ax, figsize=(8.4, 1.2 + 0.34 * len(shown)))
    for row, item in enumerate(shown):
        height, found = len(shown) - 1 - row, item.divergence
        if found is None:
            continue
        ax.plot(found.nulls, [height - 0.1] * len(found.nulls), "o", color=NULL, alpha=0.6, markersize=3.5,
                label=None if row else "null vectors")  # fmt: skip
        failed = item.example.failed
        ax.plot(found.value, height + 0.1, "X" if failed else "o", color=colours(2)[1] if failed else STEERED)
    ax.plot([], [], "o", color=STEERED, label="steering vector")
    ax.plot([], [], "X", color=colours(2)[1], label="a failure in the paper")
    ax.set_xscale("log")
    ax.set_yticks(range(len(shown)), [_short(item.label) for item in reversed(shown)], fontsize="small")
    ax.set_xlabel("KL(steered || unsteered) of the next token, nats")
    ax.set_title(f"The paper's examples on {_plain(result.model)}", fontsize="small")
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _plain(text: str) -> str:
    """Without mathematics in dollars."""
    return text.replace("$", r"\$")


def _short(label: str, most: int = 56) -> str:
    label = _plain(label)
    return label if len(label) <= most else label[: most - 1] + "…"


def _estimates(ax: "Axes", estimates: "dict[str, Estimate]") -> None:
    """Estimates with their intervals, drawn from the top, each above its nulls."""
    for row, estimate in enumerate(estimates.values()):
        height = len(estimates) - 1 - row
        ax.plot(estimate.nulls, [height - 0.15] * len(estimate.nulls), "o", color=NULL, alpha=0.6, markersize=3.5,
                label=None if row else "null vectors of equal norms,\neach in the cell that it chose")  # fmt: skip
        errors = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
        ax.errorbar([estimate.value], [height + 0.1], xerr=errors, fmt="o", color=STEERED, capsize=3,
                    label=None if row else "steering vector (95 %)")  # fmt: skip
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(estimates)), list(estimates)[::-1])
    ax.set_ylim(-0.6, len(estimates) - 0.4)
    ax.locator_params(axis="x", nbins=5)
    ax.tick_params(axis="x", labelsize="small")
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.spines[["top", "right", "left"]].set_visible(False)
