"""Pictures of the reading experiments: each function takes a result and returns the Axes; none runs a model."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from actadd_lens.plots.style import NULL, STEERED, UNSTEERED, as_written, colours, new_axes, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actadd_lens.experiments.direction import NullComparison
    from actadd_lens.experiments.evidence import Estimate
    from actadd_lens.experiments.knowledge import Knowledge
    from actadd_lens.experiments.norms import Norms
    from actadd_lens.experiments.overhead import Overhead
    from actadd_lens.experiments.perplexity import PerplexityOnTopic
    from actadd_lens.experiments.token_shift import TokenShift

PAPER = "#000000"
"""Colour of what the paper found."""

_ESSAYS = {
    "wedding": (
        .9948, .9665, .9230, .8793, .8938, .9198, .9094, .9132, .9157, .9170, .9132, .9406, .9546, .9713, .9859, .9947,
        .9993,
    ),
    "shipping": (
        1.1671, 1.2557, 1.2162, 1.1250, 1.0444, 1.0214, .9971, .9971, .9987, 1.0033, 1.0055, 1.0003, 1.0053, 1.0040,
        1.0040, 1.0016, .9997,
    ),
}  # fmt: skip
"""The authors' perplexity ratios of their two essays, coefficient 1, at the layers below (their notebook)."""

_ESSAY_LAYERS = (0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 17, 20, 24, 30, 36, 42, 47)

_BY_FREQUENCY = ((0, 0.5, 1, 1.5, 2, 2.5, 3), (1.0, 0.987, 0.978, 0.9725, 0.969, 0.963, 0.9595))
"""Percentage of wedding words, and perplexity ratio, read off the paper's figure."""

_NAMED = 5
"""Tokens that are named at each end of a Q-Q picture."""


# -- perplexity ------------------------------------------------------------------------------------------------


@as_written
def plot_perplexity(result: "PerplexityOnTopic", *, ax: "Axes | None" = None) -> "Axes":
    """Ratio of each set over layers at the chosen coefficient, above the nulls of the set on the topic."""
    ax = new_axes(ax, figsize=(max(6.4, 3.4 + 0.35 * len(result.layers)), 4.0))
    layer, coefficient = result.chosen
    order = np.argsort(result.layers)
    layers = [result.layers[index] for index in order]
    for number, (name, colour) in enumerate(zip(result.sets, colours(len(result.sets)), strict=True)):
        found = [result.ratio(name, layer=item, coefficient=coefficient) for item in layers]
        if found[0].nulls:
            _null_band(ax, layers, found, colour, f"nulls, {name}")
        _line(ax, layers, found, color=colour, marker="os^Dv"[number % 5], label=f"{name} ({found[0].n} {found[0].of})")
    if coefficient == 1 and len(layers) > 1:
        depth = (result.settings["n_layers"] - 1) / _ESSAY_LAYERS[-1]
        for (name, ratios), style in zip(_ESSAYS.items(), ("--", ":"), strict=True):
            ax.plot(np.array(_ESSAY_LAYERS) * depth, ratios, style, color=PAPER, linewidth=0.9,
                    label=f"paper: {name} essay, GPT-2-XL by depth")  # fmt: skip
    ax.axhline(1, color="black", linewidth=0.8)
    if len(layers) > 1:
        ax.axvline(layer, color=NULL, linewidth=0.8, linestyle=":")
    ax.set_xticks(layers)
    ax.set_xlabel("injection layer (dotted: chosen on one half)")
    ax.set_ylabel("perplexity, steered / unsteered")
    ax.set_title(_plain(f"{result.model}: {result.settings['pair']}, coefficient {coefficient:g}"), fontsize=9)
    _legend_beside(ax)
    return _open(ax)


@as_written
def plot_perplexity_share(result: "PerplexityOnTopic", *, ax: "Axes | None" = None) -> "Axes":
    """Ratio in bins of the share of topic words, at the chosen cell, on the half that had no part in the choice."""
    ax = new_axes(ax, figsize=(6.4, 3.8))
    layer, coefficient = result.chosen
    shares = [100 * share for share, _ in result.by_share]
    found = [ratio for _, ratio in result.by_share]
    if found and found[0].nulls:
        _null_band(ax, shares, found, NULL, "nulls")
    _line(ax, shares, found, color=STEERED, marker="o", label="steering vector")
    ax.plot(*_BY_FREQUENCY, "--", color=PAPER, linewidth=0.9, label="paper: GPT-2-XL, OpenWebText documents")
    for share, ratio in zip(shares, found, strict=True):
        ax.annotate(f"n={ratio.n}", (share, ratio.value), xytext=(5, 5), textcoords="offset points", fontsize=7)
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_xlabel("share of topic words, % of words")
    ax.set_ylabel("perplexity, steered / unsteered")
    ax.set_title(
        _plain(f"{result.model}: {result.settings['pair']}, layer {layer}, coefficient {coefficient:g}"), fontsize=9
    )
    _legend_beside(ax)
    return _open(ax)


# -- tokens ----------------------------------------------------------------------------------------------------


@as_written
def plot_token_shift(result: "TokenShift", *, ax: "Axes | None" = None) -> "Axes":
    """Q-Q picture of the tokens' mean changes over texts, above those of the nulls; topic tokens stand out."""
    ax = new_axes(ax, figsize=(6.0, 4.4))
    order = np.argsort(result.changes[0])
    changes, normal = result.changes[0][order], NormalDist()
    expected = np.array([normal.inv_cdf((place + 0.5) / len(changes)) for place in range(len(changes))])
    if len(result.changes) > 1:
        nulls = np.sort(result.changes[1:], axis=1)
        ax.fill_between(expected, nulls.min(axis=0), nulls.max(axis=0), color=NULL, alpha=0.3, linewidth=0,
                        label=f"{len(nulls)} nulls, smallest to largest")  # fmt: skip
    middle, spread = float(np.median(changes)), float(np.subtract(*np.quantile(changes, [0.75, 0.25]))) / 1.349
    ax.plot(expected, middle + spread * expected, color="black", linewidth=0.8, label="normal, of the same middle half")
    topic = np.isin(result.seen[order], result.token_ids)
    ax.scatter(expected[~topic], changes[~topic], s=9, color=UNSTEERED, linewidths=0, label="tokens")
    ax.scatter(expected[topic], changes[topic], s=26, color=STEERED, linewidths=0, label="tokens of the topic")
    texts = [result.seen_texts[index] for index in order]
    _name_ends(ax, expected, changes, texts)
    ax.axhline(0, color=NULL, linewidth=0.6)
    ax.set_xlabel("quantile of a normal distribution")
    ax.set_ylabel("mean change of log-prob over texts, nats")
    skew = result.skewness
    told = f"skewness {skew.value:.2f} [{skew.low:.2f}, {skew.high:.2f}], middle 90 %: r = {result.bulk:.3f}"
    settings = result.settings
    at = f"{result.model}: {settings['pair']}, layer {settings['layer']}, coefficient {settings['coefficient']:g}"
    ax.set_title(_plain(f"{at}\n{told}"), fontsize=9)
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    return _open(ax)


def _name_ends(ax: "Axes", expected: np.ndarray, changes: np.ndarray, texts: Sequence[str]) -> None:
    """Names of the largest and smallest changes, moved apart."""
    count, gap = min(_NAMED, len(texts) // 2), 0.055 * float(np.ptp(changes) or 1)
    for side in (1, -1):
        height = np.inf
        for rank in range(count):
            index = len(texts) - 1 - rank if side > 0 else rank
            height = min(side * float(changes[index]), height - gap)
            spot = (expected[index] - 0.35 * side, side * height)
            ax.annotate(visible(texts[index]), (expected[index], changes[index]), xytext=spot, fontsize=7, va="center",
                        ha="right" if side > 0 else "left",
                        arrowprops={"arrowstyle": "-", "color": NULL, "linewidth": 0.5})  # fmt: skip


# -- knowledge -------------------------------------------------------------------------------------------------


@as_written
def plot_knowledge(result: "Knowledge", *, ax: "Axes | None" = None) -> "Axes":
    """P@K over K, steered and unsteered, above the nulls, with the paper's values."""
    from actadd_lens.experiments.knowledge import PAPER as THEIRS

    ax = new_axes(ax, figsize=(6.4, 3.8))
    steered, plain = ([number(k) for k in result.ks] for number in (result.steered, result.unsteered))
    if steered[0].nulls:
        _null_band(ax, result.ks, steered, NULL, f"{len(steered[0].nulls)} nulls, smallest to largest")
    _line(ax, result.ks, plain, color="#0072B2", marker="s", label="unsteered", linestyle="--")
    _line(ax, result.ks, steered, color=STEERED, marker="o", label="steered")
    for condition, marker in ((0, "s"), (1, "o")):
        name = f"paper, {('unsteered', 'steered')[condition]}: GPT-2-XL, ConceptNet"
        ax.plot(list(THEIRS), [pair[condition] for pair in THEIRS.values()], marker, color=PAPER, fillstyle="none",
                markersize=6, label=name)  # fmt: skip
    ax.set_xscale("log")
    ax.set_xticks(result.ks, [str(k) for k in result.ks])
    ax.minorticks_off()
    ax.set_ylim(0, 1)
    ax.set_xlabel("K")
    ax.set_ylabel("P@K")
    settings = result.settings
    at = f"{settings['pair']}, layer {settings['layer']}, coefficient {settings['coefficient']:g}"
    ax.set_title(_plain(f"{result.model}: {at}, {len(result.facts)} facts"), fontsize=9)
    _legend_beside(ax)
    return _open(ax)


# -- norms and nulls -------------------------------------------------------------------------------------------


@as_written
def plot_norms_by_layer(result: "Norms", *, ax: "Axes | None" = None) -> "Axes":
    """Relative norm of each row that is not zero over layers, above that of rows of unrelated pairs."""
    ax = new_axes(ax, figsize=(6.4, 3.8))
    rows = [row for row in range(len(result.rows)) if result.relative[:, row].any()]
    for row, colour in zip(rows, colours(len(rows)), strict=True):
        found = [result.relative_norm(row, layer=layer) for layer in result.layers]
        if found[0].nulls and row == rows[-1]:
            _null_band(ax, result.layers, found, NULL, f"{len(found[0].nulls)} unrelated pairs, last row")
        _line(ax, result.layers, found, color=colour, marker="o", label=_plain(result.rows[row]))
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_ylim(bottom=0)
    ax.set_xticks(result.layers)
    ax.set_xlabel("layer at which the pair is read and added")
    ax.set_ylabel("row norm / stream norm, coefficient 1")
    told = "paper: about 1.0 at layer 6, .75 to .95 at 20, .38 at 47 of 48"
    ax.set_title(_plain(f"{result.model}: {result.settings['pair']}\n{told}"), fontsize=9)
    _legend_beside(ax)
    return _open(ax)


@as_written
def plot_nulls(result: "NullComparison", *, ax: "Axes | None" = None) -> "Axes":
    """Change of the target at each coefficient, above the nulls of each kind."""
    kinds, scales = result.kinds, result.coefficients
    ax = new_axes(ax, figsize=(7.2, 1.4 + 0.55 * len(kinds) * len(scales)))
    names, spread = [], np.random.default_rng(0)
    for row, (kind, coefficient) in enumerate((kind, c) for kind in kinds for c in scales):
        found = result.on_target(kind, coefficient=coefficient)
        height = -row
        jitter = height - 0.2 + spread.uniform(-0.08, 0.08, len(found.nulls))
        ax.scatter(found.nulls, jitter, s=14, color=NULL, alpha=0.8, linewidths=0,
                   label="null vectors of equal norms" if row == 0 else None)  # fmt: skip
        ax.errorbar([found.value], [height + 0.1], xerr=_conditions([found]), fmt="o", color=STEERED, capsize=3,
                    label="steering vector" if row == 0 else None)  # fmt: skip
        share = result.gentler(kind, coefficient=coefficient).value
        names.append(f"{kind.replace('_', ' ')}, c = {coefficient:g}\ngentler on {share:.0%} of prompts")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks([-row for row in range(len(names))], names, fontsize=8)
    ax.set_xlabel(_plain(f"change of {result.target}, nats" if "log-prob" in result.target else result.target))
    told = "gentler: less KL / entropy than nulls; paper: 55 of 58 prompts at c = 10"
    ax.set_title(
        _plain(f"{result.model}: {result.settings['pair']}, layer {result.settings['layer']}\n{told}"), fontsize=9
    )
    _legend_beside(ax)
    return _open(ax)


# -- time ------------------------------------------------------------------------------------------------------


@as_written
def plot_overhead(result: "Overhead", *, ax: "Axes | None" = None) -> "Axes":
    """Premium over the number of parameters; the difference of two unsteered runs is drawn as well."""
    from actadd_lens.experiments.overhead import MARGIN, WHATS

    ax = new_axes(ax, figsize=(6.4, 3.8))
    ax.axhspan(0, 100 * MARGIN, color=PAPER, alpha=0.12, linewidth=0, label="paper: 0 to 0.4 %")
    for what, colour, marker, shift in zip(WHATS, (STEERED, "#0072B2"), "os", (0.97, 1.03), strict=True):
        timings = result.of(what)
        sizes = [shift * timing.parameters / 1e6 for timing in timings]
        premiums = [_scaled(timing.premium, 100) for timing in timings]
        ax.errorbar(sizes, [one.value for one in premiums], yerr=_conditions(premiums), color=colour, marker=marker,
                    markersize=5, capsize=3, linewidth=1.2, label=what)  # fmt: skip
        ax.plot(sizes, [one.nulls[0] for one in premiums], "x", color=colour, markersize=6,
                label=f"{what}: unsteered against itself")  # fmt: skip
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xscale("log")
    sizes = sorted({timing.parameters / 1e6 for timing in result.timings})
    ax.set_xticks(sizes, [f"{size:.3g}" for size in sizes])
    ax.minorticks_off()
    ax.set_xlabel("parameters, million")
    ax.set_ylabel("time premium of steering, %")
    ax.set_title(f"medians of {result.settings['repeats']} repeats in turns, 95 % of the median", fontsize=9)
    _legend_beside(ax)
    return _open(ax)


def _scaled(estimate: "Estimate", factor: float) -> "Estimate":
    import dataclasses

    values = {name: factor * getattr(estimate, name) for name in ("value", "low", "high", "neutral")}
    return dataclasses.replace(estimate, nulls=tuple(factor * null for null in estimate.nulls), **values)


# -- parts -----------------------------------------------------------------------------------------------------


def _line(ax: "Axes", places: Sequence[float], found: "Sequence[Estimate]", **style: Any) -> None:
    """Numbers with their intervals."""
    if not found:
        return
    ax.errorbar(
        places, [one.value for one in found], yerr=_conditions(found), markersize=4, capsize=2.5, linewidth=1.4, **style
    )


def _conditions(found: "Sequence[Estimate]") -> np.ndarray | None:
    """Lengths of the error bars; none where nothing could be resampled."""
    conditions = np.array([[one.value - one.low for one in found], [one.high - one.value for one in found]])
    return None if np.isnan(conditions).any() else conditions.clip(min=0)


def _null_band(ax: "Axes", places: Sequence[float], found: "Sequence[Estimate]", colour: str, label: str) -> None:
    """From the smallest to the largest null."""
    low, high = ([end(one.nulls) for one in found] for end in (min, max))
    ax.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0, label=label)


def _legend_beside(ax: "Axes") -> None:
    ax.legend(frameon=False, fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))


def _open(ax: "Axes") -> "Axes":
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _plain(text: str) -> str:
    """Text without mathematics in dollars."""
    return text.replace("$", r"\$")
