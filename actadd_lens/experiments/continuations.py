"""What is written after the same prompts in every condition, what is measured, and which cell of a grid is chosen.

The conditions: unsteered, steered, prompted (a lead before the prompt as plain text, unsteered), and each null.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from actadd_lens.checks import check_run, is_count, require
from actadd_lens.errors import SettingError
from actadd_lens.experiments.evidence import Estimate, Finding, Verdict, moves, resampled, stays
from actadd_lens.experiments.inputs import evenly
from actadd_lens.experiments.writing import Relevance, Texts, dependence, surprise
from actadd_lens.measuring.scorers import Scorer, scorer_name
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair, as_pair
from actadd_lens.prompts.texts import as_texts, encode_prompts
from actadd_lens.statistics import FEWEST_PROMPTS, paired_effect, split_prompts
from actadd_lens.sweeps.results import CompletionSweep
from actadd_lens.sweeps.texts import CompletionSweepPlan, sweep_completions
from actadd_lens.vectors.vector import SteeringVector, as_vectors, check_vectors
from actadd_lens.writing.completions import score_texts
from actadd_lens.writing.decoding import Cell, DecodeSettings, continuation_texts, decode_cells
from actadd_lens.writing.sampling import Sampling

Judge = Callable[[Sequence[str], Texts], Float[np.ndarray, "prompts samples"]]
"""Prompts and their continuations to one number for each continuation."""

Place = tuple[int, int, int]
"""A cell by the places of its pair, layer and coefficient."""

PAPER_LAYERS = (6, 12, 18, 24)
"""The paper's usual injection layers, of 48."""

RELEVANT = 0.5
"""The ratio of relevance, steered over unsteered, that counts as staying; ours, as the paper gives no margin."""

RELEVANCE_MARGIN = 1 - RELEVANT
"""The same as a distance from what all of it would be."""


def writing_options(n: int, max_new_tokens: int, seed: int, top_p: float | None, temperature: float) -> dict[str, Any]:
    """How text is written, as keywords of `sweep_completions` and `write_conditions`."""
    return {"n": n, "max_new_tokens": max_new_tokens, "seed": seed, "top_p": top_p, "temperature": temperature}


def early_to_middle(model: LensModel) -> tuple[int, ...]:
    """The layers at the same relative depths as the paper's usual ones of 48."""
    count = backend_of(model).n_layers
    return tuple(sorted({min(count - 1, round(layer / 48 * count)) for layer in PAPER_LAYERS}))


# -- the conditions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Conditions:
    """Continuations of the same prompts; sample i of every condition used the same random numbers, but for `prompted`.

    Attributes:
        prompts: The prompts.
        unsteered: The unsteered continuations.
        steered: The steered ones.
        nulls: Those under each null vector.
        prompted: Those after the lead and the prompt, unsteered; empty without a lead.
    """

    prompts: tuple[str, ...]
    unsteered: Texts
    steered: Texts
    nulls: tuple[Texts, ...] = ()
    prompted: Texts = ()

    @property
    def all(self) -> list[Texts]:
        """Every condition there is, in the order above."""
        return [self.unsteered, self.steered, *self.nulls, *([self.prompted] if self.prompted else [])]


def write_conditions(
    model: LensModel,
    prompts: Sequence[str],
    vector: SteeringVector,
    *,
    lead: str = "",
    nulls: Sequence[SteeringVector] = (),
    batch_size: int = 512,
    executor: Any = None,
    progress: bool = True,
    n: int = 4,
    max_new_tokens: int = 40,
    seed: int = 0,
    **sampling: Any,
) -> Conditions:
    """Write all conditions in shared batches.

    Args:
        model: The model.
        prompts: The prompts.
        vector: The steering vector with its coefficient.
        lead: Text that stands before the prompt in the prompted condition; empty for no such condition.
        nulls: Null vectors with their coefficients.
        batch_size: Maximum number of rows that decode together.
        executor: As in `sweep`.
        progress: Whether to show a progress bar if it takes more than a moment.
        n: Samples per prompt and condition.
        max_new_tokens: Maximum number of tokens to add.
        seed: Seed of sampling.
        **sampling: As in `complete`.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend, texts = backend_of(model), as_texts(prompts)
    found = check_vectors(backend, [vector, *nulls])
    settings = DecodeSettings(n, max_new_tokens, seed, sampling=Sampling.from_options(sampling))
    conditions = [(), *((one,) for one in found)]
    tokens = encode_prompts(backend, texts, room=max_new_tokens)
    cells = [Cell(row, condition) for condition in conditions for row in tokens]
    if lead:
        led = encode_prompts(backend, [f"{lead.strip()} {text}" for text in texts], room=max_new_tokens)
        cells += [Cell(row, ()) for row in led]
    found_texts = decode_cells(backend, cells, settings, batch_size=batch_size, executor=executor, progress=progress)
    written = continuation_texts(tuple(found_texts))
    by_condition = [written[first : first + len(texts)] for first in range(0, len(written), len(texts))]
    return Conditions(
        texts,
        by_condition[0],
        by_condition[1],
        tuple(by_condition[2 : len(conditions)]),
        by_condition[len(conditions)] if lead else (),
    )


# -- what is measured of them ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Measured:
    """One number for every continuation; NaN where it has none.

    Attributes:
        name: What it is.
        unsteered: In the unsteered condition.
        steered: In the steered condition.
        nulls: Under each null.
        prompted: In the prompted condition; None where there is none.
        is_log: Whether the numbers are logarithms of what is told, so that changes are told as ratios.
    """

    name: str
    unsteered: Float[np.ndarray, "prompts samples"]
    steered: Float[np.ndarray, "prompts samples"]
    nulls: Float[np.ndarray, "nulls prompts samples"]
    prompted: Float[np.ndarray, "prompts samples"] | None = None
    is_log: bool = False

    def mean(self, condition: str) -> float:
        """Mean of a condition, over prompts of the means over samples; NaN where there is no such condition."""
        values = getattr(self, condition)
        return np.nan if values is None else self._shown(_mean_of(_sample_means(values)))

    def told(self) -> str:
        """Unsteered and steered mean, in words."""
        return f"{self.mean('unsteered'):.3f} → {self.mean('steered'):.3f}"

    def change(self, condition: str = "steered") -> Estimate:
        """A condition minus the unsteered one, or their ratio, over prompts; beside the nulls."""
        found = paired_estimate(
            getattr(self, condition), self.unsteered, [_sample_means(null - self.unsteered) for null in self.nulls]
        )
        if not self.is_log:
            return found
        value, low, high = map(self._shown, (found.value, found.low, found.high))
        nulls = tuple(map(self._shown, found.nulls))
        return Estimate(value, low, high, found.n, found.of, nulls, neutral=1.0, caution=found.caution)

    def level(self, condition: str) -> Estimate:
        """A condition by itself, over prompts."""
        return prompt_estimate(getattr(self, condition))

    def left(self) -> Estimate:
        """The steered mean over the unsteered mean, over the prompts that have both."""
        both = np.column_stack([_sample_means(self.steered), _sample_means(self.unsteered)])
        kept = both[np.isfinite(both).all(axis=1)]
        if not len(kept):
            return _nothing(neutral=1.0)
        return resampled(lambda table: float(np.divide(*table.sum(axis=0))), kept, of="prompts", neutral=1.0)

    def row(self) -> dict[str, Any]:
        """For a table."""
        change, nulls = self.change(), self.change().nulls or (np.nan,)
        return {
            "measure": self.name, "unsteered": self.mean("unsteered"), "steered": self.mean("steered"),
            "prompted": self.mean("prompted"), "change": change.value, "low": change.low, "high": change.high,
            "n": change.n, "null mean": float(np.mean(nulls)), "null least": min(nulls), "null most": max(nulls),
        }  # fmt: skip

    def _shown(self, value: float) -> float:
        return float(np.exp(value)) if self.is_log else value


def measured(name: str, judge: Judge, conditions: Conditions, *, is_log: bool = False) -> Measured:
    """What a judge says of every continuation, asked once for all conditions.

    Args:
        name: What it is called.
        judge: Prompts and their continuations to numbers.
        conditions: What was written.
        is_log: As in `Measured`.
    """
    rows = [row for condition in conditions.all for row in condition]
    values = judge(conditions.prompts * len(conditions.all), rows).reshape(
        len(conditions.all), len(conditions.prompts), -1
    )
    last = 2 + len(conditions.nulls)
    prompted = values[last] if conditions.prompted else None
    return Measured(name, values[0], values[1], values[2:last], prompted, is_log)


def scored(name: str, scorer: Scorer, conditions: Conditions) -> Measured:
    """What a scorer says of every continuation that is not empty."""
    judge = unless_empty(scorer)
    return measured(name, lambda prompts, texts: score_texts(judge, texts), conditions)


def unless_empty(scorer: Scorer) -> Scorer:
    """The scorer, with NaN for an empty text: silence is neither friendly nor clean.

    >>> unless_empty(lambda texts: [2.0 for _ in texts])(["a", " "])
    [2.0, nan]
    """

    def scores(texts: Sequence[str]) -> list[float]:
        found = score_texts(scorer, [texts])[0]
        return [float(score) if text.strip() else float("nan") for score, text in zip(found, texts, strict=True)]

    scores.__name__ = scorer_name(scorer)
    return scores


def told_empty(conditions: Sequence[Conditions]) -> str:
    """How many continuations are empty and so without a score, as a note."""
    shares = [
        float(np.mean([not text.strip() for one in conditions for row in getattr(one, condition) for text in row]))
        for condition in ("unsteered", "steered")
    ]
    return "Empty continuations have no score: {:.0%} of the unsteered, {:.0%} of the steered ones.".format(*shares)


def disfluency(model: LensModel, conditions: Conditions) -> Measured:
    """Perplexity of the continuations after their prompts, by a model that may be the one that wrote them."""
    return measured("disfluency", lambda prompts, texts: surprise(model, prompts, texts), conditions, is_log=True)


def relevance_of(model: LensModel, conditions: Conditions, relevance: Relevance | None = None) -> Measured:
    """How related the continuations are to their prompts: by the given measure, or their dependence; no nulls."""
    # no finding sets it with its nulls, and reading theirs costs as much as writing them
    return measured("relevance", _relevance_judge(model, relevance), replace(conditions, nulls=()))


def own_relevance(model: LensModel, conditions: Conditions, relevance: Relevance | None = None) -> Measured:
    """How much more the continuations are related to their own prompt than to the next one in the list; no nulls."""
    judge = _relevance_judge(model, relevance)

    def beyond(prompts: Sequence[str], texts: Texts) -> Float[np.ndarray, "prompts samples"]:
        next_ones = [*conditions.prompts[1:], conditions.prompts[0]] * (len(prompts) // len(conditions.prompts))
        both = judge([*prompts, *next_ones], [*texts, *texts])
        return np.asarray(both[: len(prompts)] - both[len(prompts) :])

    return measured("relevance beyond another prompt's", beyond, replace(conditions, nulls=()))


def relevance_name(relevance: Relevance | None) -> str:
    """How relevance is measured, in words."""
    if relevance is None:
        return "Relevance is the dependence on the prompt in nats per token, under the unsteered model."
    return f"Relevance is by {scorer_name(relevance)}."


def check_relevance(model: LensModel, relevance: Relevance | None) -> None:
    """Compute the relevance of one text, so that anything that does not work is reported before anything is written.

    Raises:
        SettingError: It gives no number for a text, or the model has no BOS token.
    """
    _relevance_judge(model, relevance)(["The dog"], [[" ran away."]])


def _relevance_judge(model: LensModel, relevance: Relevance | None) -> Judge:
    if relevance is None:
        return lambda prompts, texts: dependence(model, prompts, texts)

    def judge(prompts: Sequence[str], texts: Texts) -> Float[np.ndarray, "prompts samples"]:
        repeated = [prompt for prompt, row in zip(prompts, texts, strict=True) for _ in row]
        values = np.asarray(relevance(repeated, [text for row in texts for text in row]), dtype=float)
        if values.shape != (len(repeated),):
            raise SettingError(f"relevance= returned numbers of shape {values.shape} for {len(repeated)} texts.")
        return values.reshape(len(texts), -1)

    return judge


def prompt_estimate(
    differences: Float[np.ndarray, "prompts samples"], nulls: Sequence[Float[np.ndarray, " prompts"]] = ()
) -> Estimate:
    """Mean over prompts, which are resampled; a prompt without any value is left out of all conditions.

    Where none has one, there is nothing but NaN, over no prompts.

    Args:
        differences: What each prompt and sample contributes.
        nulls: For each null what each prompt contributes.
    """
    by_prompt = _sample_means(differences)
    kept = np.isfinite(by_prompt)
    found = [_mean_of(null[kept]) for null in nulls]
    if not kept.any():
        return _nothing(nulls=tuple(found))
    return resampled(lambda table: float(table.mean()), by_prompt[kept, None], of="prompts", nulls=found)


def paired_estimate(
    steered: Float[np.ndarray, "prompts samples"],
    unsteered: Float[np.ndarray, "prompts samples"],
    nulls: Sequence[Float[np.ndarray, " prompts"]] = (),
) -> Estimate:
    """Mean difference over prompts as `prompt_estimate` has it; of two shares where both hold hits and misses.

    Args:
        steered: One number for each prompt and sample; NaN where there is none.
        unsteered: As many.
        nulls: For each null what each prompt contributes.
    """
    found = prompt_estimate(steered - unsteered, nulls)
    is_whole = np.isfinite(steered) & np.isfinite(unsteered)
    rows = is_whole.any(axis=1)
    if not rows.any() or (is_whole[rows] != is_whole[rows][:1, :1]).any():
        return found
    effect = paired_effect(steered[rows].astype(float), unsteered[rows].astype(float))
    if effect.kind != "shares":
        return found
    return replace(found, low=effect.low, high=effect.high, caution=effect.caution)


def _sample_means(values: Float[np.ndarray, "prompts samples"]) -> Float[np.ndarray, " prompts"]:
    """Means over the samples that have a value; NaN where none has."""
    kept = np.isfinite(values)
    total = np.where(kept, values, 0.0).sum(axis=-1)
    return np.asarray(np.where(kept.any(axis=-1), total / np.maximum(kept.sum(axis=-1), 1), np.nan))


def _mean_of(values: Float[np.ndarray, " values"]) -> float:
    """Mean of the values that are there; NaN where none is."""
    return float(_sample_means(values[None])[0])


def _nothing(*, nulls: tuple[float, ...] = (), neutral: float = 0.0) -> Estimate:
    return Estimate(np.nan, np.nan, np.nan, 0, "prompts", nulls, neutral)


# -- what is concluded -----------------------------------------------------------------------------------------


def judged(claim: int, about: str, verdict: Verdict, estimate: Estimate, paper: str = "", limits: str = "") -> Finding:
    """A finding whose limits are told where it has a verdict; where it has none, it says itself what is lacking."""
    return Finding(claim, about, verdict, estimate, paper, "" if verdict == "undecided" else limits)


def fluency_finding(disfluency: Measured, most: float, where: str, paper: str, *, chosen_below: float) -> Finding:
    """Claim 7: that the cost in fluency is moderate; text that gets more fluent does not speak against it.

    A cell that was chosen for costing no more than that cannot show it; only a larger cost is informative then.

    Args:
        disfluency: Perplexity of continuations.
        most: Largest ratio that counts as moderate.
        where: The cell.
        paper: The paper's figures.
        chosen_below: Largest ratio that the cell was allowed when it was chosen.
    """
    ratio = disfluency.change()
    about = (
        "perplexity of continuations steered / unsteered (geometric means over prompts; the paper does not say how it "
        f"averages), moderate up to {most:.3g}, {where}"
    )
    verdict = stays(ratio, most - 1, against="greater")
    if verdict == "same direction" and chosen_below <= most:
        reason = f"the cell was chosen to have a ratio of at most {chosen_below:.3g}, so having one shows nothing"
        return Finding(7, about, "not testable here", ratio, paper, reason)
    return judged(7, about, verdict, ratio, paper)


def relevance_finding(own: Measured, where: str, measured_by: str) -> Finding:
    """Claim 7: that relevance stays; where the unsteered model has none, none can.

    Args:
        own: What continuations have to do with their own prompt, beyond another prompt.
        where: The cell.
        measured_by: How relevance is measured, in words.
    """
    left, plain = own.left(), own.level("unsteered")
    about = (
        f"relevance of continuations to their own prompt, beyond another prompt's, {own.told()}, steered / unsteered; "
        f"staying means that {RELEVANT:g} of it is left (our margin: the paper gives none), {where}"
    )
    if plain.n >= FEWEST_PROMPTS and moves(plain, "greater") != "same direction":
        reason = f"The unsteered continuations show no relation to their own prompt: {plain}."
        return Finding(7, about, "not testable here", left, "", reason)
    return judged(7, about, stays(left, RELEVANCE_MARGIN, against="less"), left, "", measured_by)


# -- choosing a cell -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells to choose among, and what is added in each of them: the steering vector, or one of its nulls.

    Attributes:
        layers: Injection layers.
        coefficients: Injection coefficients.
        conditions: By the places of pair and layer, the steering vector and then its nulls, without the coefficients.
    """

    layers: tuple[int, ...]
    coefficients: tuple[float, ...]
    conditions: dict[tuple[int, int], tuple[SteeringVector, ...]]

    @classmethod
    def planned(cls, plan: CompletionSweepPlan) -> "Cells":
        """Those of a sweep, with its nulls: null i comes from the same unrelated pair at every layer."""
        grid = plan.placed.grid
        found = plan.placed.vectors(range(len(grid.pairs)))
        return cls(
            grid.layers, grid.coefficients, {place: as_vectors(conditions) for place, conditions in found.items()}
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of conditions, pairs, layers and coefficients."""
        pairs = len(self.conditions) // len(self.layers)
        return len(self.conditions[0, 0]), pairs, len(self.layers), len(self.coefficients)

    def vector(self, place: Place, condition: int = 0) -> SteeringVector:
        """What a condition adds in a cell, with the coefficient."""
        pair, layer, coefficient = place
        return self.coefficients[coefficient] * self.conditions[pair, layer][condition]

    def told(self, place: Place) -> str:
        """Coefficient and layer of a cell."""
        return f"{self.coefficients[place[2]]:g} at layer {self.layers[place[1]]}"


@dataclass(frozen=True, eq=False)
class Tried:
    """What every condition did in every cell of a grid on the prompts that one chooses on; NaN where it wrote nothing.

    Attributes:
        gains: Wanted effect in each cell.
        ratios: Perplexity of what was written there over that of the unsteered text.
    """

    gains: Float[np.ndarray, "conditions pairs layers coefficients"]
    ratios: Float[np.ndarray, "conditions pairs layers coefficients"]

    def told(self, most: float, what: str) -> str:
        """How the steering vector's cell was chosen, in words.

        >>> tried = Tried(np.array([[[[0.1, 0.4]]]]), np.array([[[[2.0, 3.0]]]]))
        >>> tried.told(1.7, "the share")
        'chosen on other prompts among 2 cells as the most fluent, as none stayed within a perplexity ratio of 1.7
        (there 2.00; wanted change of the share +0.100)'
        """
        place = self.best(most)
        ratio, gain = self.ratios[0][place], f"wanted change of {what} {self.gains[0][place]:+.3f}"
        rule = f"by {what}, with a perplexity ratio of at most {most:.3g}"
        if not ratio <= most:
            rule = f"as the most fluent, as none stayed within a perplexity ratio of {most:.3g}"
        told = f"chosen on other prompts among {self.gains[0].size} cells {rule} (there {ratio:.2f}; {gain})"
        return f"{told}, as each null's was on the same prompts" if len(self.gains) > 1 else told

    def best(self, most: float, condition: int = 0) -> Place:
        """A condition's cell with the largest gain among those within the limit on the ratio; or else the most fluent.

        >>> tried = Tried(np.array([[[[0.1, 0.4, 0.9]]]]), np.array([[[[1.0, 1.5, 3.0]]]]))
        >>> tried.best(1.7), tried.best(0.5)
        ((0, 0, 1), (0, 0, 0))
        """
        gains, known = self.gains[condition], np.isfinite(self.gains[condition]) & np.isfinite(self.ratios[condition])
        ratios = np.where(known, self.ratios[condition], np.inf)
        allowed = ratios <= most
        score = np.where(allowed, gains, -np.inf) if allowed.any() else -ratios
        pair, layer, coefficient = np.unravel_index(int(np.argmax(score)), score.shape)
        return int(pair), int(layer), int(coefficient)

    def places(self, most: float) -> tuple[Place, ...]:
        """The cell that each condition chooses for itself by that rule: the steering vector, then every null."""
        return tuple(self.best(most, condition) for condition in range(len(self.gains)))


def try_cells(
    model: LensModel,
    cells: Cells,
    scorers: Sequence[Scorer],
    *,
    wanted: int,
    prompts: Sequence[str],
    path: str | os.PathLike[str] | None,
    executor: Any,
    progress: bool,
    written: dict[str, Any],
) -> Tried:
    """Write one sample in every cell for every condition, and see what it gains and what it costs.

    Args:
        model: The model.
        cells: The cells.
        scorers: What is to change: one scorer for each pair, or one for all.
        wanted: 1 where a higher score is wanted, -1 where a lower one is.
        prompts: The prompts to choose on.
        path: As in `sweep_completions`.
        executor: As in `sweep`.
        progress: Whether to show a progress bar if it takes more than a moment.
        written: Keywords of `sweep_completions` that say how text is written.
    """
    conditions, pairs, _, coefficients = cells.shape
    tried = Tried(np.empty(cells.shape), np.empty(cells.shape))
    for place, layer in enumerate(cells.layers):
        # nulls go in as vectors beside the steering vectors: a sweep keeps no texts of its own nulls
        sweep = sweep_completions(
            model, [vector for pair in range(pairs) for vector in cells.conditions[pair, place]], layers=layer,
            coefficients=cells.coefficients, prompts=prompts, scorers=scorers, path=path,
            executor=executor, progress=progress,
            **{**written, "n": 1},
        )  # fmt: skip
        effects = sweep.effects[..., 0, :, 0].reshape(len(scorers), pairs, conditions, coefficients)
        ratios = disfluency_ratios(model, sweep)[:, 0, :, 0].reshape(pairs, conditions, coefficients)
        for pair in range(pairs):
            tried.gains[:, pair, place] = wanted * effects[pair % len(scorers), pair]
            tried.ratios[:, pair, place] = ratios[pair]
    return tried


def choice_settings(cells: Cells, tried: Tried, most: float, what: str) -> dict[str, Any]:
    """What was chosen among what, by the steering vector and by its nulls.

    Args:
        cells: The cells.
        tried: What came out in them.
        most: Largest ratio of perplexities that was allowed.
        what: What was to change, in words.
    """
    own, *nulls = tried.places(most)
    vector = cells.vector(own)
    labels = [cells.conditions[pair, 0][0].label for pair in range(cells.shape[1])]
    return {
        "cell": f"{vector.coefficient:g} × ({vector.label}) at layer {vector.layer}", "choice": tried.told(most, what),
        "pair": vector.label, "layer": vector.layer, "coefficient": vector.coefficient,
        "pairs": labels, "layers": list(cells.layers),
        "coefficients": list(cells.coefficients), "most_disfluency": most,
        "null cells": [cells.told(null) + f", for {labels[null[0]]}" * (len(labels) > 1) for null in nulls],
    }  # fmt: skip


def beside_nulls(
    model: LensModel,
    sweep: CompletionSweep,
    nulls: Sequence[Sequence[SteeringVector]],
    *,
    scorers: Sequence[Scorer],
    path: str | os.PathLike[str] | None,
    executor: Any,
    progress: bool,
    written: dict[str, Any],
) -> CompletionSweep:
    """A sweep of one layer and coefficient, beside nulls that are each written in a cell of their own.

    Args:
        model: The model.
        sweep: The sweep, without nulls.
        nulls: Each null's vector in place of each pair of the sweep, with its coefficient.
        scorers: The sweep's scorers.
        path: As in `sweep_completions`.
        executor: As in `sweep`.
        progress: Whether to show a progress bar if it takes more than a moment.
        written: Keywords of `sweep_completions` that say how text is written.
    """
    grid, flat = sweep.grid, [vector for row in nulls for vector in row]
    scores = np.full((len(scorers), len(flat), len(grid.positions), len(grid.prompts)), np.nan)
    for layer in sorted({vector.layer for vector in flat}):
        members = [index for index, vector in enumerate(flat) if vector.layer == layer]
        found = sweep_completions(
            model, [flat[index] for index in members], layers=layer, coefficients=1.0, positions=grid.positions,
            prompts=grid.prompts, scorers=scorers, path=path, executor=executor, progress=progress, **written,
        )  # fmt: skip
        scores[:, members] = found.steered[:, :, 0, 0].mean(axis=-1)
    shape = (len(scorers), len(nulls), *grid.shape, len(grid.prompts))
    return replace(sweep, grid=replace(grid, nulls=len(nulls)), nulls=scores.reshape(shape))


def disfluency_ratios(
    model: LensModel, sweep: CompletionSweep
) -> Float[np.ndarray, "pairs layers coefficients positions"]:
    """Perplexity of what was written in each cell of a sweep over that of its unsteered text.

    Args:
        model: The model that judges.
        sweep: What was written.
    """
    prompts, samples = sweep.grid.prompts, sweep.unsteered_texts.shape
    cells = sweep.texts.reshape(-1, *samples)
    rows = [list(row) for table in (sweep.unsteered_texts, *cells) for row in table]
    values = surprise(model, prompts * (1 + len(cells)), rows).reshape(1 + len(cells), *samples)
    changes = [_mean_of(_sample_means(cell - values[0])) for cell in values[1:]]
    return np.asarray(np.exp(changes)).reshape(sweep.grid.shape)


def as_pairs(pairs: Any) -> list[PromptPair]:
    """One prompt pair or several, as a list.

    >>> [pair.positive for pair in as_pairs(("Love", "Hate"))]
    ['Love']
    """
    is_one = isinstance(pairs, PromptPair) or (len(pairs) == 2 and isinstance(pairs[0], str))
    return [as_pair(pair) for pair in ([pairs] if is_one else pairs)]


def halves(prompts: Sequence[str], seed: int, choose_on: int) -> tuple[list[str], list[str]]:
    """Two random halves: prompts to choose on, so many at most, and prompts to report on."""
    require(is_count(choose_on), "choose_on", choose_on, "an integer from 1")
    choose, report = split_prompts(len(prompts), seed=seed)
    return [prompts[index] for index in evenly(choose, choose_on)], [prompts[index] for index in report]
