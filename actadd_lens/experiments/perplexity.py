"""Perplexity on and off a topic: by layer, by coefficient, by share of topic words (section 2a of the facts)."""

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from actadd_lens import storybook
from actadd_lens.checks import check_run, is_count, require
from actadd_lens.errors import PromptError, SettingError
from actadd_lens.experiments.evidence import TENTH, Estimate, Experiment, Finding, moves, resampled, stays
from actadd_lens.experiments.inputs import topic_of
from actadd_lens.identity.digests import digest
from actadd_lens.measuring.metrics import Metric, Reading, predictions, token_nll
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.measuring.scorers import Scorer, word_share
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair, as_pair
from actadd_lens.statistics import FEWEST_TO_SPLIT, first_places, split_prompts
from actadd_lens.sweeps.sweep import sweep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Texts = Sequence[str | Sequence[str]]
"""Sentences, or documents of several sentences each; every sentence is read on its own, with its own BOS."""

MARGIN = 0.01
"""How far the perplexity of unrelated text may move and still count as staying: the paper's "about a percent"."""

_PER_POINT = 1.3
"""The paper's fall of perplexity for each percentage point of topic words, in percent: 95.95 % where they are 3 %."""

_EARLY = 4 / 48
"""Depth up to which the paper's vector does harm to other text: 1.125 at layer 4 of 48."""

_SENTENCE_END = re.compile(r"(?<=\w\w[.!?])\s+|(?<=[.!?][\"'”’)])\s+|\s*\n\s*")


def sentences_of(text: str) -> tuple[str, ...]:
    r"""Running text, such as an essay, as sentences: cut after `.`, `!`, `?` and at line ends.

    >>> sentences_of('It works. "Does it?" she asked.\n\nA heading')
    ('It works.', '"Does it?"', 'she asked.', 'A heading')
    """
    return tuple(sentence.strip() for sentence in _SENTENCE_END.split(text) if sentence.strip())


@dataclass(frozen=True, eq=False, kw_only=True)
class PerplexityOnTopic(Experiment):
    """Perplexity ratios, steered over unsteered; below 1 is better.

    A unit is what is independent of the others: a sentence, or a document of several. The perplexity of a set of units
    is exp(negative log-likelihood of all its predictions / their number).

    Attributes:
        sets: Names of the sets of texts; the first is on the topic.
        layers: Injection layers.
        coefficients: Injection coefficients.
        of: What the units are, in the plural.
        set_of: Which set each unit belongs to.
        share: Share of topic words among each unit's words.
        predictions: Predictions that count, in each unit.
        unsteered: Negative log-likelihood of each unit, unsteered, in nats.
        change: Steered minus unsteered; the steering vector first, then the nulls.
        edges: Ends of the bins of the share of topic words, in addition to the bin of no topic words.
    """

    name: ClassVar[str] = "perplexity"
    title: ClassVar[str] = "Perplexity on and off the topic"

    sets: tuple[str, ...]
    layers: tuple[int, ...]
    coefficients: tuple[float, ...]
    of: str
    set_of: Int[np.ndarray, " units"]
    share: Float[np.ndarray, " units"]
    predictions: Float[np.ndarray, " units"]
    unsteered: Float[np.ndarray, " units"]
    change: Float[np.ndarray, "conditions layers coefficients units"]
    edges: tuple[float, ...]

    # -- numbers -----------------------------------------------------------------------------------------------

    def ratio(self, texts: str, *, layer: int, coefficient: float) -> Estimate:
        """The perplexity ratio of one set in one cell, over all of its units, with its nulls.

        Args:
            texts: Name of the set.
            layer: Injection layer.
            coefficient: Injection coefficient.

        Raises:
            SettingError: There is no such set or cell.
        """
        for name, value, known in (
            ("texts", texts, self.sets), ("layer", layer, self.layers), ("coefficient", coefficient, self.coefficients)
        ):  # fmt: skip
            require(value in known, name, value, "one of " + ", ".join(map(str, known)))
        place = self.layers.index(layer), self.coefficients.index(coefficient)
        return self._ratio(self.set_of == self.sets.index(texts), [place] * len(self.change))

    def log_contrast(self, *, layer: int, coefficient: float, against: str | None = None) -> Estimate:
        """Log ratio on the topic minus log ratio off it, over all units; below 0 where on-topic text gains more.

        Args:
            layer: Injection layer.
            coefficient: Injection coefficient.
            against: A set off the topic; all of them by default.
        """
        off = self.set_of > 0 if against is None else self.set_of == self.sets.index(against)
        place = self.layers.index(layer), self.coefficients.index(coefficient)
        return self._contrast(self.set_of == 0, off, [place] * len(self.change))

    @cached_property
    def halves(self) -> tuple[Bool[np.ndarray, " units"], Bool[np.ndarray, " units"]]:
        """Units to choose a cell on, and units to report on; both are all of them where there is one cell."""
        everything = np.ones(len(self.set_of), dtype=bool)
        if len(self.layers) * len(self.coefficients) == 1:
            return everything, everything
        choose = ~everything
        for number in range(len(self.sets)):
            members = np.flatnonzero(self.set_of == number)
            choose[members[list(split_prompts(len(members), seed=self.settings["seed"])[0])]] = True
        return choose, ~choose

    @property
    def chosen(self) -> tuple[int, float]:
        """Layer and coefficient, as chosen on one half of the texts."""
        layer, coefficient = self._choices[0]
        return self.layers[layer], self.coefficients[coefficient]

    @cached_property
    def _choices(self) -> list[tuple[int, int]]:
        """The cell that each condition chooses, by its place: every null by the same rule on the same half."""
        return [self._choice(change) for change in self.change]

    def _choice(self, change: Float[np.ndarray, "layers coefficients units"]) -> tuple[int, int]:
        """Lowest on-topic ratio where other text stays within the margin; if nowhere, the cell that changes it least.

        A cell without a number is not chosen.
        """
        choose = self.halves[0]
        on, off = (
            (change[..., kept].sum(axis=-1) / self.predictions[kept].sum())
            for kept in (choose & (self.set_of == 0), choose & (self.set_of > 0))
        )
        moved = np.where(np.isfinite(on) & np.isfinite(off), np.abs(np.exp(off) - 1), np.inf)
        score = np.where(moved <= MARGIN, on, np.inf) if (moved <= MARGIN).any() else moved
        layer, coefficient = np.unravel_index(int(score.argmin()), score.shape)
        return int(layer), int(coefficient)

    def _ratio(self, kept: Bool[np.ndarray, " units"], places: Sequence[tuple[int, int]]) -> Estimate:
        """Ratio over some units, each condition in a cell of its own."""
        tables = [
            np.stack([self.change[condition, *place, kept], self.predictions[kept]], axis=1)
            for condition, place in enumerate(places)
        ]
        return resampled(_exp_mean, tables[0], of=self.of, nulls=[_exp_mean(table) for table in tables[1:]], neutral=1)

    def _contrast(
        self, on: Bool[np.ndarray, " units"], off: Bool[np.ndarray, " units"], places: Sequence[tuple[int, int]]
    ) -> Estimate:
        """Log ratio of some units minus that of others, each condition in a cell of its own."""
        kept = on | off
        tables = [
            np.stack([self.change[condition, *place], self.predictions, on, off], axis=1)[kept]
            for condition, place in enumerate(places)
        ]
        return resampled(_log_contrast, tables[0], of=self.of, nulls=[_log_contrast(table) for table in tables[1:]])

    # -- at the chosen cell, on the other half -----------------------------------------------------------------

    @cached_property
    def on_topic(self) -> Estimate:
        """Ratio of on-topic text."""
        return self._ratio(self.halves[1] & (self.set_of == 0), self._choices)

    @cached_property
    def off_topic(self) -> Estimate:
        """Ratio of all other text."""
        return self._ratio(self.halves[1] & (self.set_of > 0), self._choices)

    @cached_property
    def contrast(self) -> Estimate:
        """Log ratio on the topic minus log ratio off it."""
        report = self.halves[1]
        return self._contrast(report & (self.set_of == 0), report & (self.set_of > 0), self._choices)

    @cached_property
    def slope(self) -> Estimate:
        """Change of log perplexity with the share of topic words: percent per percentage point, over all sets."""
        kept = self.halves[1]
        tables = [
            np.stack([self.change[condition, *place], self.predictions, self.share], axis=1)[kept]
            for condition, place in enumerate(self._choices)
        ]
        return resampled(_slope, tables[0], of=self.of, nulls=[_slope(table) for table in tables[1:]])

    @cached_property
    def by_share(self) -> tuple[tuple[float, Estimate], ...]:
        """Ratio in bins of the share of topic words: mean share, and ratio; bins without a unit are left out."""
        ends = (-math.inf, 0.0, *self.edges)
        bins = [(self.share > low) & (self.share <= high) & self.halves[1] for low, high in pairwise(ends)]
        return tuple(
            (float(np.average(self.share[kept], weights=self.predictions[kept])), self._ratio(kept, self._choices))
            for kept in bins
            if kept.any()
        )

    def _last_layer(self) -> tuple[Estimate, Estimate]:
        """On-topic ratio at the last layer; and the log ratio at the chosen layer minus that at the last."""
        kept, last = self.halves[1] & (self.set_of == 0), int(np.argmax(self.layers))
        ends = [(last, coefficient) for _, coefficient in self._choices]
        tables = [
            np.stack(
                [self.change[condition, *place, kept] - self.change[condition, *end, kept], self.predictions[kept]],
                axis=1,
            )
            for condition, (place, end) in enumerate(zip(self._choices, ends, strict=True))
        ]
        beside = resampled(_mean, tables[0], of=self.of, nulls=[_mean(table) for table in tables[1:]])
        return self._ratio(kept, ends), beside

    # -- showing -----------------------------------------------------------------------------------------------

    def frame(self) -> "pd.DataFrame":
        """One line per set, layer and coefficient, over all units of the set."""
        import pandas as pd

        cells = [(name, layer, c) for name in self.sets for layer in self.layers for c in self.coefficients]
        lines = [
            {"texts": name, "layer": layer, "coefficient": c, **_told(self.ratio(name, layer=layer, coefficient=c))}
            for name, layer, c in cells
        ]
        return pd.DataFrame(lines)

    def share_frame(self) -> "pd.DataFrame":
        """One line per bin of the share of topic words, at the chosen layer, on the half that had no part in it."""
        import pandas as pd

        return pd.DataFrame([{"topic words": share, **_told(ratio)} for share, ratio in self.by_share])

    def contrast_frame(self) -> "pd.DataFrame":
        """Log ratio on the topic minus log ratio off it, in every cell: below 0 where on-topic text gains more."""
        import pandas as pd

        cells = [(layer, c) for layer in self.layers for c in self.coefficients]
        lines = [
            {"layer": layer, "coefficient": c, **_told(self.log_contrast(layer=layer, coefficient=c), "contrast")}
            for layer, c in cells
        ]
        return pd.DataFrame(lines)

    @cached_property
    def lower_at(self) -> tuple[int, ...]:
        """Layers where on-topic text gains more, all of the interval below 0, at the chosen coefficient."""
        coefficient = self.chosen[1]
        contrasts = [self.log_contrast(layer=layer, coefficient=coefficient) for layer in self.layers]
        return tuple(layer for layer, found in zip(self.layers, contrasts, strict=True) if found.high < 0)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Ratio over layers: a line for each set, at the chosen coefficient, with intervals and nulls."""
        from actadd_lens.plots.experiments_reading import plot_perplexity

        return plot_perplexity(self, ax=ax)

    def plot_share(self, ax: "Axes | None" = None) -> "Axes":
        """Ratio over the share of topic words, with the paper's values."""
        from actadd_lens.plots.experiments_reading import plot_perplexity_share

        return plot_perplexity_share(self, ax=ax)

    def findings(self) -> tuple[Finding, ...]:
        """Claims 1 and 2."""
        return (*self._about_topic(), *self._about_layers())

    def _about_topic(self) -> tuple[Finding, ...]:
        at = self._at
        found = [
            Finding.of_move(1, f"perplexity ratio of on-topic text, {at}", self.on_topic, "less",
                            ".917 on a wedding essay at layer 16 of 48, coefficient 1", margin=MARGIN),
            Finding(1, f"perplexity ratio of other text, {at}; staying means within {MARGIN:.0%}",
                    stays(self.off_topic, MARGIN), self.off_topic,
                    "1.003 on a shipping essay at layer 16 of 48, coefficient 1"),
            Finding.of_move(1, f"log ratio on the topic minus log ratio off it, {at}", self.contrast, "less",
                            "a wedding essay's ratio is below a shipping essay's at every layer that was read",
                            margin=MARGIN),
        ]  # fmt: skip
        about = f"percent of perplexity per percentage point of topic words, {at}"
        if np.ptp(self.share[self.halves[1]]) > 0:
            paper = "100 % without topic words, 95.95 % where they are 3 % of all words: about -1.3 per point"
            return (*found, Finding.of_move(1, about, self.slope, "less", paper, margin=TENTH * _PER_POINT))
        reason = "all texts have the same share of topic words"
        return (*found, Finding(1, about, "not testable here", reason=reason))

    def _about_layers(self) -> tuple[Finding, ...]:
        n_layers, last = self.settings["n_layers"], max(self.layers)
        if last != n_layers - 1 or len(self.layers) < 2:
            reason = f"the last layer, {n_layers - 1}, was not measured, or it was the only one"
            return (Finding(2, "perplexity ratio by layer", "not testable here", reason=reason),)
        at_last, beside = self._last_layer()
        gone, reason = stays(at_last, MARGIN), ""
        if moves(self.on_topic, "less") != "same direction" or self.on_topic.value >= 1 - MARGIN:
            gone, reason = "not testable here", f"no fall above {MARGIN:.0%} at the chosen layer that could vanish"
        stronger, alike = moves(beside, "less", margin=MARGIN), ""
        if self.chosen[0] == last:
            stronger, alike = "not testable here", "the chosen layer is the last"
        return (
            Finding(2, f"log ratio of on-topic text, {self._at}, minus that at the last layer, {last}",
                    stronger, beside, "strongest early to middle: .8793 at layer 4 of 48, .9993 at 47", alike, MARGIN),
            Finding(2, f"perplexity ratio of on-topic text at the last layer, {last}; gone means within {MARGIN:.0%}",
                    gone, at_last, ".9993 at layer 47 of 48", reason),
            self._about_first(),
        )  # fmt: skip

    def _about_first(self) -> Finding:
        """That injection too early harms other text; on the half that the coefficient was not chosen on."""
        first, n_layers, coefficient = min(self.layers), self.settings["n_layers"], self.chosen[1]
        place = self.layers.index(first), self.coefficients.index(coefficient)
        harm = self._ratio(self.halves[1] & (self.set_of > 0), [place] * len(self.change))
        told = f"; nulls of equal row norms there: {np.mean(harm.nulls):.3g}" if harm.nulls else ""
        alone = replace(harm, nulls=())
        about = f"perplexity ratio of other text at layer {first}, coefficient {coefficient:g}{told}"
        verdict = moves(alone, "greater", margin=MARGIN)
        reason = "judged by its interval alone: that any vector does harm there is part of the claim"
        if first > round(_EARLY * n_layers):
            verdict = "not testable here"
            reason = f"layer {first} of {n_layers} is not as early as the layers that do harm in the paper"
        elif verdict == "undecided":
            reason = ""
        paper = "1.167 at layer 0, 1.256 at layer 1, 1.125 at layer 4 of 48"
        return Finding(2, about, verdict, alone, paper, reason, MARGIN)

    @property
    def _at(self) -> str:
        layer, coefficient = self.chosen
        return f"layer {layer} of {self.settings['n_layers']}, coefficient {coefficient:g}"

    def summary(self) -> str:
        """What was done and what was found."""
        chosen = "" if self.halves[0].all() else " (chosen on one half of the texts, reported on the other)"
        told = (
            f"With {self.settings['pair']} at {self._at}{chosen}, the perplexity of on-topic text is {self.on_topic} "
            f"times the unsteered one, that of other text {self.off_topic} times. Log ratio on the topic minus off it: "
            f"{self.contrast}."
        )
        if len(self.layers) > 1:
            layers = ", ".join(map(str, self.lower_at)) or "none"
            told += f" Its whole interval is below 0 at layers {layers}, uncorrected for their number."
        if math.isfinite(self.slope.value):
            told += f" Each percentage point of topic words changes perplexity by {self.slope} percent."
        return told


# -- the run ---------------------------------------------------------------------------------------------------


def perplexity_on_topic(
    model: LensModel,
    pair: PromptPair | tuple[str, str | None] = (" wedding", ""),
    *,
    words: Sequence[str] | None = None,
    on_topic: Texts | Mapping[str, Texts] | None = None,
    off_topic: Texts | Mapping[str, Texts] | None = None,
    layers: Iterable[int] | None = None,
    coefficients: Iterable[float] = (1.0,),
    bins: Sequence[float] | None = None,
    n: int = 200,
    nulls: int = 19,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    batch_size: int | None = None,
    path: str | os.PathLike[str] | None = None,
    executor: Any = None,
    progress: bool = True,
) -> PerplexityOnTopic:
    """Measure what a topic vector does to the perplexity of text on and off its topic.

    Every sentence is read on its own; predictions made from injected positions are left out, steered and unsteered
    alike. A cell of the grid is chosen on one half of the texts: the lowest on-topic ratio where other text stays
    within a percent, or, if that is nowhere, the cell that changes it least. Findings are from the other half.

    Args:
        model: The model.
        pair: Prompt pair of the topic.
        words: Topic words; by default those of the package's topic that the pair names.
        on_topic: Texts on the topic, or {name: texts}; by default the package's sentences on the topic that the pair
            names, unless words are given.
        off_topic: Texts off it, or {name: texts} with any number of sets; the package's other topics by default.
        layers: Injection layers; all by default.
        coefficients: Injection coefficients.
        bins: Upper ends of the bins of the share of topic words, from above 0 to 1; by default thirds of what there is.
        n: Maximum number of texts of each set, taken evenly.
        nulls: Null vectors; each runs through the whole grid, and chooses for itself.
        null_kind: As in `null_vectors`.
        seed: Seed of nulls and halves.
        batch_size: As in `sweep`.
        path: As in `sweep`.
        executor: As in `sweep`.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A text or the pair cannot be used.
        SettingError: A set is too small to choose and report on, the pair is about no topic of the package and words or
            texts are not given, or another setting is out of range.
        LayerError: A layer does not exist.
    """
    check_run(seed=seed, batch_size=1 if batch_size is None else batch_size)
    backend, checked, topic = backend_of(model), as_pair(pair), topic_of(pair, words)
    require(is_count(n), "n", n, "an integer from 1")
    scorer = word_share(topic.words)
    sets = _sets(topic_of(pair, None).sentences if on_topic is None else on_topic, off_topic, scorer)
    units = _Units(backend, sets, len(checked.tokens(model).positive), n)
    grid_layers = tuple(range(backend.n_layers) if layers is None else layers)
    scales = tuple(coefficients)
    units.check_halves(len(grid_layers) * len(scales) > 1)
    share = np.array(scorer([" ".join(unit) for unit in units.sentences]))
    edges = _edges(share, bins)
    found = sweep(
        model, checked, layers=grid_layers, coefficients=scales, prompts=units.flat,
        metric=[_SUMMED, _PREDICTIONS], nulls=nulls, null_kind=null_kind, seed=seed, batch_size=batch_size, path=path,
        executor=executor, progress=progress,
    )  # fmt: skip
    unsteered = found.unsteered[:, 0, 0, :, 0]
    conditions = np.concatenate([found.steered[0, 0, None, ..., 0, :, 0], found.nulls[0, :, 0, :, :, 0, :]])
    return PerplexityOnTopic(
        model=backend.name, sets=tuple(sets), layers=found.grid.layers, coefficients=found.grid.coefficients,
        of=units.of, set_of=units.set_of, share=share, predictions=units.totals(unsteered[1]),
        unsteered=units.totals(unsteered[0]), change=units.totals(conditions - unsteered[0]), edges=edges,
        settings={
            "pair": checked.label, "layers": list(found.grid.layers), "coefficients": list(found.grid.coefficients),
            "n_layers": backend.n_layers, "words": list(topic.words), "n": n,
            "texts": {name: int((units.set_of == index).sum()) for index, name in enumerate(sets)},
            "texts hash": digest(units.sentences).hex(), "unit": units.of, "bins": list(edges),
            "nulls": nulls, "null_kind": null_kind, "seed": seed,
            "choice": "lowest on-topic ratio where other text stays within a percent, on one half of the texts",
        },
        notes=units.notes,
    )  # fmt: skip


def _summed_nll(reading: Reading) -> Float[Tensor, " rows"]:
    nll, counted = token_nll(reading)
    return (nll * counted).sum(dim=1)


def _count(reading: Reading) -> Float[Tensor, " rows"]:
    return predictions(reading).sum(dim=1).float()


_SUMMED = Metric("summed negative log-likelihood", "nats", "all", lambda backend: _summed_nll)
_PREDICTIONS = Metric("predictions", "", "all", lambda backend: _count)


class _Units:
    """Texts as units of sentences; sentences of which nothing is predicted outside the injected rows are left out."""

    def __init__(self, backend: Backend, sets: Mapping[str, Texts], rows: int, n: int) -> None:
        self.sentences: list[tuple[str, ...]] = []
        places, self.left_out, self.names = [], 0, tuple(sets)
        for number, (name, texts) in enumerate(sets.items()):
            picks = np.unique(np.linspace(0, len(texts) - 1, min(n, len(texts))).round().astype(int))
            for text in (texts[pick] for pick in picks):
                unit = (text,) if isinstance(text, str) else tuple(text)
                kept = tuple(sentence for sentence in unit if _fits(backend, sentence, rows))
                self.left_out += len(unit) - len(kept)
                if kept:
                    self.sentences.append(kept)
                    places.append(number)
            if number not in places:
                raise PromptError(f"No text of {name!r} has more tokens than the {rows} rows and one: use longer ones.")
        self.set_of = np.array(places)
        self.flat = [sentence for unit in self.sentences for sentence in unit]
        self._unit_of = np.repeat(np.arange(len(self.sentences)), [len(unit) for unit in self.sentences])
        self.of = "sentences" if len(self.flat) == len(self.sentences) else "documents"

    def check_halves(self, is_chosen: bool) -> None:
        """Raise SettingError where a cell is to be chosen and a set is too small for it."""
        for number, name in enumerate(self.names):
            count = int((self.set_of == number).sum())
            if is_chosen and count < FEWEST_TO_SPLIT:
                raise SettingError(
                    f"{name!r} has {count} {self.of}: a layer is chosen on one half and reported on the other, which "
                    f"takes {FEWEST_TO_SPLIT} or more. Give more, or one layer and one coefficient."
                )

    def totals(self, by_sentence: Float[np.ndarray, "*cells sentences"]) -> Float[np.ndarray, "*cells units"]:
        """Sums over the sentences of each unit."""
        found = np.zeros((*by_sentence.shape[:-1], len(self.sentences)))
        for sentence, unit in enumerate(self._unit_of):
            found[..., unit] += by_sentence[..., sentence]
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out."""
        if not self.left_out:
            return ()
        left_out = "1 sentence was" if self.left_out == 1 else f"{self.left_out} sentences were"
        return (f"{left_out} left out: all predictions there are made from injected positions.",)


def _fits(backend: Backend, sentence: Any, rows: int) -> bool:
    if not isinstance(sentence, str):
        raise PromptError(f"The text {sentence!r} is not a string: pass sentences, or documents as lists of sentences.")
    return len(backend.encode(sentence)) >= rows + 2


def _sets(
    on_topic: Texts | Mapping[str, Texts], off_topic: Texts | Mapping[str, Texts] | None, share: Scorer
) -> dict[str, Texts]:
    """Sets by name, the one on the topic first."""
    if off_topic is None:
        named = on_topic.values() if isinstance(on_topic, Mapping) else [on_topic]
        others = [text for topic in storybook.topics().values() for text in topic.sentences]
        shares = share(others)
        off_topic = tuple(
            text
            for text, found in zip(others, shares, strict=True)
            if not found and all(text not in on for on in named)
        )
    on = dict(on_topic) if isinstance(on_topic, Mapping) else {"on topic": on_topic}
    off = dict(off_topic) if isinstance(off_topic, Mapping) else {"off topic": off_topic}
    if len(on) != 1 or not off or set(on) & set(off):
        raise SettingError(f"Sets on the topic are {list(on)}, off it {list(off)}: give one, and one or more others.")
    for name, texts in {**on, **off}.items():
        if isinstance(texts, str) or not isinstance(texts, Sequence) or not len(texts):
            raise PromptError(f"{name!r} is not a list of texts: pass sentences; `sentences_of` cuts running text.")
    return {name: _once(texts) for name, texts in {**on, **off}.items()}


def _once(texts: Texts) -> Texts:
    """Without repeats: a sentence, or a document, that stands there twice is one."""
    return [texts[place] for place in first_places([text if isinstance(text, str) else tuple(text) for text in texts])]


def _edges(share: Float[np.ndarray, " units"], bins: Sequence[float] | None) -> tuple[float, ...]:
    """Upper ends of the bins above no topic words at all."""
    if bins is not None:
        ends = tuple(float(end) for end in bins)
        if not ends or any(low >= high for low, high in pairwise((0.0, *ends))):
            raise SettingError(f"bins is {bins!r}: expected ascending shares above 0, such as (0.05, 0.1, 0.2).")
        return ends
    positive = share[share > 0]
    if not len(positive):
        return (1.0,)
    return tuple(sorted({float(end) for end in np.quantile(positive, [1 / 3, 2 / 3, 1])}))


# -- statistics of tables of units -----------------------------------------------------------------------------


def _mean(table: Float[np.ndarray, "units 2"]) -> float:
    """Change per prediction; columns are change and predictions."""
    return float(table[:, 0].sum() / table[:, 1].sum())


def _exp_mean(table: Float[np.ndarray, "units 2"]) -> float:
    return math.exp(_mean(table))


def _log_contrast(table: Float[np.ndarray, "units 4"]) -> float:
    """Columns are change, predictions, whether on the topic, whether off it."""
    on, off = (table[table[:, column] > 0, :2] for column in (2, 3))
    return _mean(on) - _mean(off) if len(on) and len(off) else math.nan


def _slope(table: Float[np.ndarray, "units 3"]) -> float:
    """Weighted regression of change per prediction on the share; columns are change, predictions, share."""
    change, weight, share = table.T
    centred = share - np.average(share, weights=weight)
    spread = float((weight * centred**2).sum())
    return float((centred * change).sum()) / spread if spread > 0 else math.nan


def _told(estimate: Estimate, value: str = "ratio") -> dict[str, Any]:
    """An estimate as columns of a table."""
    told: dict[str, Any] = {value: estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
    if estimate.nulls:
        told |= {"null mean": float(np.mean(estimate.nulls)), "null low": min(estimate.nulls)}
        told |= {"null high": max(estimate.nulls), "p": estimate.p_value("less")}
    return told
