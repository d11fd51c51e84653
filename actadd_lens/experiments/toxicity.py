"""Toxicity of continuations after hostile prompts, with a vector away from it (section 2e of the paper)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from actadd_lens import storybook
from actadd_lens.checks import check_run
from actadd_lens.experiments.continuations import (
    Cells,
    Conditions,
    Measured,
    as_pairs,
    check_relevance,
    choice_settings,
    disfluency,
    early_to_middle,
    fluency_finding,
    halves,
    own_relevance,
    prompt_estimate,
    relevance_finding,
    relevance_name,
    relevance_of,
    scored,
    told_empty,
    try_cells,
    unless_empty,
    write_conditions,
    writing_options,
)
from actadd_lens.experiments.evidence import TENTH, Experiment, Finding
from actadd_lens.experiments.writing import Relevance
from actadd_lens.measuring import scorers
from actadd_lens.measuring.scorers import Scorer
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.texts import as_texts, each_once
from actadd_lens.sweeps.texts import plan_sweep_completions

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST_DISFLUENCY = 20.4 / 16.0
"""The paper's own, in its later revision."""

_FALL = 0.16
"""The paper's fall as a share of what there was, .134 → .112; other scorers have other scales."""

_PAPER = "toxicity .134 → .112 (OPT-6.7B), .114 → .108 (LLaMA-3-8B), later .127 → .101, by an API"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Toxicity(Experiment):
    """What a vector away from hostility does to continuations of hostile prompts.

    Attributes:
        conditions: What was written.
        scores: The scorers' numbers, by what they measure.
        disfluency: Perplexity after the prompt.
        relevance: How related a continuation is to its prompt.
        own_relevance: How much more it is related to its own prompt than to another.
    """

    name: ClassVar[str] = "toxicity"
    title: ClassVar[str] = "Hostility of continuations of hostile prompts"

    conditions: Conditions
    scores: tuple[Measured, ...]
    disfluency: Measured
    relevance: Measured
    own_relevance: Measured

    def frame(self) -> "pd.DataFrame":
        """One row per measure; the change in disfluency is a ratio."""
        import pandas as pd

        return pd.DataFrame(
            measured.row() for measured in (*self.scores, self.disfluency, self.relevance, self.own_relevance)
        )

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Change of each score relative to unsteered text, with the nulls."""
        from actadd_lens.plots.experiments_writing import plot_toxicity

        return plot_toxicity(self, ax=ax)

    def findings(self) -> tuple[Finding, ...]:
        """Claim 6 for each scorer, and claim 7."""
        where = self.settings["cell"]
        return (
            *(self._fall(score) for score in self.scores),
            fluency_finding(
                self.disfluency,
                MOST_DISFLUENCY,
                where,
                "disfluency 16.0 → 20.4",
                chosen_below=self.settings.get("most_disfluency", MOST_DISFLUENCY),
            ),
            relevance_finding(self.own_relevance, where, self.settings["relevance"]),
        )

    def _fall(self, score: Measured) -> Finding:
        """Not testable if even a fall to zero would not be significant."""
        change, about = score.change(), f"{score.name} of continuations, {score.told()}, {self.settings['cell']}"
        if not prompt_estimate(-score.unsteered).beyond("less"):
            reason = (
                f"Even a fall to zero would not be significant: the unsteered rate is {score.mean('unsteered'):.3g}."
            )
            return Finding(6, about, "not testable here", change, _PAPER, reason)
        limits, margin = "Scored by a word list or lexicon, not an API.", TENTH * _FALL * score.mean("unsteered")
        return Finding.of_move(6, about, change, "less", _PAPER, limits, margin=margin)

    def summary(self) -> str:
        """What was done and what was found."""
        told = "; ".join(f"{score.name} {score.told()} (change {score.change()})" for score in self.scores)
        return (
            f"{len(self.conditions.prompts)} prompts continued on {self.model} with {self.settings['cell']}, "
            f"{self.settings['choice']}: {told}; perplexity × {self.disfluency.change().value:.2f}."
        )


def toxicity(
    model: LensModel,
    pairs: Any = (("Love", "Hate"),),
    *,
    prompts: Sequence[str] | None = None,
    scored_by: Sequence[Scorer] | None = None,
    layers: Sequence[int] | None = None,
    coefficients: Sequence[float] = (2.0, 4.0),
    most_disfluency: float = MOST_DISFLUENCY,
    choose_on: int = 20,
    n: int = 4,
    max_new_tokens: int = 30,
    nulls: int = 19,
    top_p: float | None = 0.9,
    temperature: float = 1.0,
    seed: int = 0,
    judge: LensModel | None = None,
    relevance: Relevance | None = None,
    path: str | os.PathLike[str] | None = None,
    executor: Any = None,
    progress: bool = True,
) -> Toxicity:
    """Continue hostile prompts with a vector away from hostility, and score what is written.

    Pair, layer and coefficient are chosen on one half of the prompts by the fall of the last scorer; results are from
    the other half. Each null chooses its own by the same rule on the same prompts. Empty continuations have no score.

    Args:
        model: The model.
        pairs: One prompt pair or several, the friendly side first.
        prompts: 8 or more; by default the package's hostile prompts.
        scored_by: Scorers that should fall; by default profanity and negativity.
        layers: Layers to choose among; by default those at the paper's relative depths.
        coefficients: Coefficients to choose among.
        most_disfluency: Largest ratio of perplexities that a cell may have to be chosen.
        choose_on: Maximum number of prompts that the choice is made on, with one sample each.
        n: Samples per prompt and condition.
        max_new_tokens: Maximum number of tokens to add.
        nulls: Null vectors.
        top_p: As in `complete`.
        temperature: As in `complete`.
        seed: Seed of samples, halves and nulls.
        judge: The model that judges perplexity; by default the unsteered model itself.
        relevance: Prompts and continuations to numbers, such as `embedding_relevance()`; by default the dependence on
            the prompt.
        path: As in `sweep_completions`, for the choice.
        executor: As in `sweep`.
        progress: Whether to show bars.

    Raises:
        SettingError: A setting is out of range, or there are fewer than 8 prompts; else the errors of
            `sweep_completions`.
    """
    check_run(seed=seed)
    texts = storybook.hostile_prompts() if prompts is None else each_once(as_texts(prompts))
    judges = (scorers.profanity(), scorers.negativity()) if scored_by is None else tuple(scored_by)
    chosen = early_to_middle(model) if layers is None else tuple(layers)
    written = writing_options(n, max_new_tokens, seed, top_p, temperature)
    found = as_pairs(pairs)
    choose, report = halves(texts, seed, choose_on)
    plan = plan_sweep_completions(
        model, found, layers=chosen, coefficients=coefficients, prompts=texts, scorers=judges, nulls=nulls, **written
    )
    check_relevance(model, relevance)
    cells = Cells.planned(plan)
    tried = try_cells(
        model, cells, [unless_empty(judges[-1])], wanted=-1, prompts=choose, path=path,
        executor=executor, progress=progress,
        written=written,
    )  # fmt: skip
    vector, *drawn = [cells.vector(place, condition) for condition, place in enumerate(tried.places(most_disfluency))]
    conditions = write_conditions(model, report, vector, nulls=drawn, executor=executor, progress=progress, **written)
    return Toxicity(
        model=backend_of(model).name,
        settings={
            **choice_settings(cells, tried, most_disfluency, scorers.scorer_name(judges[-1])), "choose_on": choose_on,
            **written, "nulls": nulls, "null_kind": "unrelated_pairs", "prompts": list(texts),
            "scored_by": [scorers.scorer_name(scorer) for scorer in judges],
            "judge": backend_of(judge or model).name, "relevance": relevance_name(relevance),
        },
        notes=("Profanity is by better-profanity's list, which holds mild words such as “stupid” too.",
               told_empty([conditions])),
        conditions=conditions,
        scores=tuple(scored(scorers.scorer_name(scorer), scorer, conditions) for scorer in judges),
        disfluency=disfluency(judge or model, conditions),
        relevance=relevance_of(model, conditions, relevance),
        own_relevance=own_relevance(model, conditions, relevance),
    )  # fmt: skip
