"""Topic words in completions, by layer (section 2b of the paper)."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from actadd_lens import storybook
from actadd_lens.checks import check_run
from actadd_lens.experiments.continuations import paired_estimate, prompt_estimate, writing_options
from actadd_lens.experiments.evidence import TENTH, Estimate, Experiment, Finding, moves, stays
from actadd_lens.experiments.inputs import topic_of
from actadd_lens.measuring import scorers
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.texts import as_texts, each_once
from actadd_lens.statistics import split_prompts
from actadd_lens.sweeps.choosing import BestCell
from actadd_lens.sweeps.results import CompletionSweep
from actadd_lens.sweeps.texts import sweep_completions

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SHARE, COUNT = 0, 1
"""Places of the two scorers in the sweep."""

_RISE = {"share": 0.9 - 0.02, "words": 1.77 - 0.025}
"""The paper's rise at its best layer: share of completions with a topic word, and topic words per completion."""

_GONE = 0.1
"""Share of the effect at the chosen layer that may remain if it counts as gone; ours, as the paper gives none."""

Place = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TopicWords(Experiment):
    """Topic words in completions, by layer.

    Attributes:
        sweep: Share of completions with any topic word, and words per completion, in every cell.
        best: The cell that was chosen by the share on one half of the prompts.
        report: The held-out half, by their places.
        n_layers: Layers of the model.
    """

    name: ClassVar[str] = "topic-words"
    title: ClassVar[str] = "Topic words in completions, by layer"

    sweep: CompletionSweep
    best: BestCell
    report: tuple[int, ...]
    n_layers: int

    def frame(self) -> "pd.DataFrame":
        """One row per measure and cell, over all prompts."""
        table = self.sweep.frame()
        measures = dict(zip(self.sweep.metrics, ("share of completions", "words per completion"), strict=True))
        table["metric"] = table["metric"].map(measures)
        table.insert(list(table.columns).index("effect"), "steered", table["unsteered"] + table["effect"])
        return table.rename(columns={"metric": "measure"})

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Topic words per completion over layers, with the paper's values."""
        from actadd_lens.plots.experiments_writing import plot_topic_words

        return plot_topic_words(self, COUNT, ax=ax)

    def pictures(self) -> "dict[str, Callable[[], Axes]]":
        """Words per completion, and the share of completions with any."""
        from actadd_lens.plots.experiments_writing import plot_topic_words

        return {"": self.plot, "share": lambda: plot_topic_words(self, SHARE)}

    @property
    def share(self) -> Estimate:
        """Share of completions with a topic word at the chosen layer, on the held-out half.

        Each null reports from the cell that it chose itself.
        """
        effect = self.best.effect
        return Estimate.from_effect(effect)

    @property
    def words(self) -> Estimate:
        """Topic words per completion in the same cell, on the same half; each null in the cell that it chose."""
        return self._estimate(lambda table, place: table[place])

    @property
    def last(self) -> Estimate:
        """Topic words per completion at the last layer measured, with the same coefficient, on the same half."""
        return self._estimate(lambda table, place: table[self._at_last(place)])

    @property
    def beyond_last(self) -> Estimate:
        """How many more there are at the chosen layer than at the last one."""
        return self._estimate(lambda table, place: table[place] - table[self._at_last(place)])

    def _estimate(self, take: "Callable[[np.ndarray, Place], np.ndarray]") -> Estimate:
        """What is taken of a condition's words, by cell and prompt, given the cell that the condition chose."""
        report, grid = list(self.report), self.sweep.grid
        chosen = (0, grid.layers.index(self.best.layer), grid.coefficients.index(self.best.coefficient), 0)
        own = take(self.sweep.by_prompt[COUNT], chosen)[report]
        tables = zip(self.sweep.null_by_prompt[COUNT], self._null_places(), strict=True)
        return prompt_estimate(own[:, None], [take(table, place)[report] for table, place in tables])

    def _null_places(self) -> list[Place]:
        """The cell that each null chooses by its share on the half that the vector's was chosen on."""
        choose = [index for index in range(len(self.sweep.grid.prompts)) if index not in self.report]
        shares = self.sweep.null_by_prompt[SHARE][..., choose].mean(axis=-1)
        places = [np.unravel_index(int(np.argmax(share)), share.shape) for share in shares]
        return [(int(pair), int(layer), int(scale), int(position)) for pair, layer, scale, position in places]

    @property
    def _last_layer(self) -> int:
        return max(self.sweep.grid.layers)

    def _at_last(self, place: Place) -> Place:
        pair, _, coefficient, position = place
        return pair, self.sweep.grid.layers.index(self._last_layer), coefficient, position

    def findings(self) -> tuple[Finding, ...]:
        """Claims 2 and 3."""
        effect, where = self.best.effect, self._where(self.best.layer)
        shares = f"{effect.unsteered:.3f} → {effect.steered:.3f}"
        takes_up = Finding.of_move(
            3, f"share of completions with a topic word, {shares}, {where}", self.share, "greater",
            "about 2 % unsteered, over 90 % at the best layer", margin=TENTH * _RISE["share"],
        )  # fmt: skip
        words = Finding.of_move(
            3, f"topic words per completion, steered − unsteered, {where}", self.words, "greater",
            ".025 unsteered, 1.77 at layer 5 of 48", margin=TENTH * _RISE["words"],
        )  # fmt: skip
        return takes_up, words, *self._layer_findings(can_go=words.verdict == "same direction")

    def _layer_findings(self, *, can_go: bool) -> tuple[Finding, Finding]:
        """That the effect vanishes at the last layers is testable only if they were measured and there was one."""
        best, last = self.best.layer, self._last_layer
        about = (
            f"topic words per completion at layer {best} − at layer {last}",
            f"topic words per completion, steered − unsteered, {self._where(last)}, gone if "
            f"at most {_GONE:.0%} of the effect at layer {best} is left (our margin)",
        )
        paper = ("1.77 at layer 5 of 48, about .02 from layer 40", "about .02 from layer 40 of 48, .025 unsteered")
        estimates, reason = (self.beyond_last, self.last), ""
        if not can_go:
            reason = "There is no effect at the chosen layer that could vanish at the last."
        elif last < round(40 / 48 * self.n_layers) and last < self.n_layers - 1:
            reason = f"The last layer measured is {last} of {self.n_layers}: too early to be among the last."
        margins = (TENTH * _RISE["words"], _GONE * self.words.value)
        verdicts = (moves(estimates[0], "greater", margin=margins[0]), stays(estimates[1], margins[1]))
        first, second = (
            Finding(2, told, "not testable here" if reason else verdict, estimate, figure, reason, margin)
            for told, verdict, estimate, figure, margin in zip(about, verdicts, estimates, paper, margins, strict=True)
        )
        return first, second

    def _where(self, layer: int) -> str:
        return f"{self.best.coefficient:g} × ({self.sweep.grid.labels[0]}) at layer {layer} of {self.n_layers}"

    def summary(self) -> str:
        """What was done and what was found."""
        effect = self.best.effect
        return (
            f"{100 * effect.steered:.0f} % of the completions of {self.model} hold a topic word with "
            f"{self._where(self.best.layer)}, {100 * effect.unsteered:.0f} % unsteered (change of the share "
            f"{self.share}); the cell was chosen among {self.sweep.grid.cells} on the other half of the prompts. Words "
            f"per completion change by {self.words} there, by {self.last} at layer {self._last_layer}."
        )


def topic_words(
    model: LensModel,
    pair: Any = (" wedding", ""),
    *,
    words: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    layers: Iterable[int] | None = None,
    coefficients: Iterable[float] | float = (1.0, 4.0),
    n: int = 1,
    max_new_tokens: int = 40,
    nulls: int = 19,
    top_p: float | None = 0.9,
    temperature: float = 1.0,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    executor: Any = None,
    progress: bool = True,
) -> TopicWords:
    """Count topic words in completions at every layer, with nulls that run through all layers.

    Args:
        model: The model.
        pair: Prompt pair, or a vector.
        words: The topic's words, whole and in small letters; by default those of the package's topic that the pair
            names.
        prompts: 8 or more; by default neutral prompts of the package.
        layers: Injection layers; by default all.
        coefficients: Injection coefficients.
        n: Samples per prompt and cell.
        max_new_tokens: Maximum number of tokens to add.
        nulls: Null vectors.
        top_p: As in `complete`.
        temperature: As in `complete`.
        seed: Seed of samples, halves and nulls.
        path: As in `sweep_completions`.
        executor: As in `sweep`.
        progress: Whether to show a bar.

    Raises:
        SettingError: A setting is out of range, there are fewer than 8 prompts, or the pair is about no topic of the
            package and words are not given; otherwise the errors of `sweep_completions`.
    """
    check_run(seed=seed)
    texts = storybook.neutral_prompts()[:40] if prompts is None else each_once(as_texts(prompts))
    chosen = topic_of(pair, words).words
    n_layers = backend_of(model).n_layers
    _, report = split_prompts(len(texts), seed=seed)
    written = writing_options(n, max_new_tokens, seed, top_p, temperature)
    sweep = sweep_completions(
        model, [pair], layers=range(n_layers) if layers is None else layers, coefficients=coefficients, prompts=texts,
        scorers=[scorers.contains_word(chosen), scorers.word_count(chosen)], nulls=nulls, path=path,
        executor=executor, progress=progress,
        **written,
    )  # fmt: skip
    best, grid = sweep.best(SHARE, seed=seed), sweep.grid
    settings = {
        "pair": grid.labels[0], "words": list(chosen), "layers": list(grid.layers),
        "coefficients": list(grid.coefficients), "layer": best.layer, "coefficient": best.coefficient,
        "choice": f"chosen on one half of the prompts among {grid.cells} cells by the share of completions with a "
        f"topic word (there {best.chosen.mean:+.3f}), as each null's was on the same prompts",
        **written, "nulls": nulls, "null_kind": "unrelated_pairs", "prompts": list(texts),
    }  # fmt: skip
    return TopicWords(
        model=backend_of(model).name, settings=settings, sweep=sweep, best=best, report=report, n_layers=n_layers
    )


def cell_estimate(sweep: CompletionSweep, metric: int, place: Place, prompts: Sequence[int]) -> Estimate:
    """The effect in one cell on some prompts, with its nulls.

    Args:
        sweep: The sweep.
        metric: The scorer's place.
        place: The cell, by its places on the axes.
        prompts: The prompts, by their places.
    """
    some = list(prompts)
    steered, plain = sweep.steered[(metric, *place)], sweep.unsteered[metric, place[0], place[3]]
    nulls = sweep.null_by_prompt[(metric, slice(None), *place)]
    return paired_estimate(steered[some], plain[some], list(np.asarray(nulls)[:, some]))
