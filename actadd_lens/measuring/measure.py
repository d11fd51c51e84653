"""Measuring over prompts: a metric of the logits or a score of the texts; steered, unsteered, and every null."""

import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from actadd_lens.checks import check_run, why_not_finite
from actadd_lens.errors import NonFiniteError, SettingError
from actadd_lens.measuring.metrics import BoundMetric, Metric, Reading, as_metric
from actadd_lens.measuring.nulls import NullKind, check_nulls, null_vectors
from actadd_lens.measuring.scorers import Scorer, as_scorers, scorer_name
from actadd_lens.measuring.values import with_value
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.models.protocol import Spot, Start
from actadd_lens.progress import progress_bar
from actadd_lens.prompts.positions import Position, as_position, plain_position
from actadd_lens.prompts.texts import as_texts, encode_prompts, notice_repeats
from actadd_lens.statistics import Effect, merged, paired_effect
from actadd_lens.steering.clean import check_fits, prompts_of, resolved, unsteered
from actadd_lens.steering.hooks import injected
from actadd_lens.steering.interventions import by_prompt
from actadd_lens.steering.landings import Assignment, assign, touched
from actadd_lens.vectors.interventions import Intervention, distinct
from actadd_lens.workers import Job, check_executor, done
from actadd_lens.writing.completions import Completions, as_stops, score_texts
from actadd_lens.writing.decoding import Cell, Continuation, DecodeSettings, continuation_texts, decode_cells
from actadd_lens.writing.sampling import Sampling

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Condition = tuple[Intervention, ...]
"""What is done together; nothing means the unsteered condition."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """A metric over prompts.

    Attributes:
        metric: What was measured.
        prompts: The prompts.
        steered: The metric of each prompt, steered.
        unsteered: The same, unsteered.
        nulls: The same under each null; no rows if none was run.
        null_kind: The kind of the nulls.
        vectors: What was added.
        position: Where, for vectors without a position of their own.
    """

    metric: Metric
    prompts: tuple[str, ...]
    steered: Float[np.ndarray, " prompts"]
    unsteered: Float[np.ndarray, " prompts"]
    nulls: Float[np.ndarray, "nulls prompts"]
    null_kind: str | None
    vectors: tuple[Intervention, ...]
    position: Position

    @property
    def effect(self) -> Effect:
        """Steered minus unsteered, with interval and nulls; prompts with no value (NaN) are left out."""
        kept = self._kept
        prompts = [prompt for prompt, is_kept in zip(self.prompts, kept, strict=True) if is_kept]
        steered, unsteered = (merged(condition[kept], prompts) for condition in (self.steered, self.unsteered))
        nulls = merged((self.nulls[:, kept] - self.unsteered[kept]).T, prompts).T
        return paired_effect(steered[:, None], unsteered[:, None], zeros="numbers").with_nulls(
            nulls.mean(axis=1), nulls
        )

    @property
    def ratio(self) -> float:
        """Mean steered over mean unsteered, as the paper reports perplexities."""
        return float(self.steered[self._kept].mean() / self.unsteered[self._kept].mean())

    @property
    def _kept(self) -> Bool[np.ndarray, " prompts"]:
        """Which prompts have a value."""
        return with_value(self.metric.name, np.stack([self.steered, self.unsteered]))

    def frame(self) -> "pd.DataFrame":
        """One row per prompt."""
        import pandas as pd

        columns: dict[str, Any] = {
            "prompt": self.prompts,
            "unsteered": self.unsteered,
            "steered": self.steered,
        }
        columns["effect"] = self.steered - self.unsteered
        if len(self.nulls):
            columns["null mean"] = (self.nulls - self.unsteered).mean(axis=0)
        return pd.DataFrame(columns)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The effect with its interval, above the effects of its nulls."""
        from actadd_lens.plots.measuring import plot_measurement

        return plot_measurement(self, ax=ax)

    def __repr__(self) -> str:
        return f"Measurement({self.metric.name}: {self.effect})"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(self.metric.name)}: {escape(str(self.effect))}</p>" + self.frame().to_html(index=False)


def measure(
    model: LensModel,
    prompts: str | Sequence[str],
    vectors: Any,
    metric: Any,
    *,
    position: Any = "front",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 64,
    executor: Any = None,
    progress: bool = True,
) -> Measurement:
    """Measure what steering does to a metric, prompt by prompt.

    Args:
        model: The model; steering that is open around the call is ignored.
        prompts: One text or several, of any lengths.
        vectors: One steering vector or other intervention, or several that act together; or `per_prompt([...])`, with
            those of each prompt.
        metric: A metric, or a function of the last token's logits.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        nulls: Number of null vectors to run for comparison.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether prompts start with BOS.
        batch_size: Maximum number of rows per pass.
        executor: Who runs it, as in `sweep`; by default it runs here.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A prompt is not text, or is longer than the context.
        PositionError: A vector does not fit onto a prompt.
        VectorError: A vector does not match the model.
        SettingError: A setting is out of range.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend, position = backend_of(model), as_position(position)
    check_executor(backend, executor)
    chosen, texts = as_metric(metric), as_texts(prompts)
    notice_repeats(texts)
    found = by_prompt(backend, vectors, len(texts))
    tokens = encode_prompts(backend, texts, prepend_bos=prepend_bos)
    unsteered_condition: list[Condition] = [()] * len(texts)
    conditions = [unsteered_condition, found, *_null_conditions_by_prompt(model, found, nulls, null_kind, seed)]
    values = measure_conditions(
        backend, tokens, conditions, chosen, measured=found, position=position, batch_size=batch_size,
        executor=executor,
        progress=progress,
    )  # fmt: skip
    kind, told = null_kind if nulls else None, distinct(found)
    return Measurement(chosen, texts, values[1], values[0], values[2:], kind, told, position)


def _null_conditions_by_prompt(
    model: LensModel, found: Sequence[Condition], nulls: int, kind: NullKind, seed: int
) -> list[list[Condition]]:
    """One condition per null, with what it does to every prompt; prompts that share a condition share its nulls."""
    drawn: dict[int, list[Condition]] = {}
    for condition in found:
        if id(condition) not in drawn:
            drawn[id(condition)] = null_conditions(model, condition, nulls, kind, seed)
    return [[drawn[id(condition)][null] for condition in found] for null in range(nulls)]


def measure_conditions(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition | Sequence[Condition]],
    metric: Metric,
    *,
    measured: Condition | Sequence[Condition],
    position: Position,
    batch_size: int = 64,
    executor: Any = None,
    progress: bool = True,
) -> Float[np.ndarray, "conditions prompts"]:
    """A metric of prompts under any number of conditions, which share passes.

    Args:
        backend: The model.
        prompts: Token ids of each prompt.
        conditions: The vectors of each condition, for all prompts or for each; the first is the unsteered one, `()`.
        metric: What is measured.
        measured: Vectors whose landing places count as injected, in every condition; for all prompts or for each.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        batch_size: Maximum number of rows per pass.
        executor: Who runs it, as in `sweep`; by default it runs here.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PositionError: A measured vector does not fit onto a prompt; nothing has run then.
    """
    by_condition = [_for_each(condition, len(prompts)) for condition in conditions]
    marked = _for_each(measured, len(prompts))
    for number, condition in enumerate(marked):
        known = prompts_of(backend, [prompts[number]], numbers=[number])
        check_fits(backend, condition, position, known)
    recipe = MeasureRecipe(metric, tuple(map(tuple, prompts)), tuple(by_condition), tuple(marked), position, batch_size)
    values = np.empty((len(conditions), len(prompts)))
    step = max(1, batch_size // len(conditions))
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    tasks = (tuple(order[first : first + step]) for first in range(0, len(order), step))
    with (
        progress_bar(total=len(prompts), what=metric.name, unit="prompt", shown=progress) as bar,
        closing(done(Job(backend, recipe, len), tasks, bar.update, executor=executor)) as arriving,
    ):
        for members, found in arriving:
            values[:, list(members)] = found
    return values


def check_finite(backend: Backend, logits: Tensor) -> None:
    """Check that logits are finite.

    Raises:
        NonFiniteError: The model's numbers overflowed.
    """
    if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
        raise NonFiniteError(
            "Logits are not finite, so nothing can be measured with them. "
            f"{why_not_finite(backend.name, backend.dtype)}"
        )


def _for_each(condition: Condition | Sequence[Condition], prompts: int) -> Sequence[Condition]:
    """A condition for each prompt, from one for all or one each."""
    return [condition] * prompts if isinstance(condition, tuple) else list(condition)


def null_conditions(model: LensModel, vectors: Condition, nulls: int, kind: NullKind, seed: int) -> list[Condition]:
    """One condition per null, with a null for every vector; none for `nulls=0`.

    Raises:
        SettingError: The number is not an integer from 0.
    """
    check_run(seed=seed)
    check_nulls(nulls, kind)
    if not nulls:
        return []
    if not vectors:
        return [()] * nulls
    drawn = [_nulls_of(model, item, kind, nulls, seed + index) for index, item in enumerate(vectors)]
    return [tuple(condition) for condition in zip(*drawn, strict=True)]


def _nulls_of(model: LensModel, item: Intervention, kind: NullKind, nulls: int, seed: int) -> list[Intervention]:
    """The intervention with null vectors in place of the vector that it is made from."""
    if item.vector is None:
        raise SettingError(
            f"{item.label} is made from no steering vector, so there is no null vector to put in its place: use "
            "nulls=0, and measure other interventions of its kind for comparison."
        )
    return [item.with_vector(null) for null in null_vectors(model, item.vector, kind=kind, n=nulls, seed=seed)]


class ConditionRows:
    """Rows of a pass: one condition per row, prompts padded on the right, which a causal model never sees.

    Args:
        backend: The model.
        prompts: Token ids of each row.
        conditions: The vectors that each row gets.
        measured: Vectors whose landing places count as injected, in every row, or for each row.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        numbers: Which of the caller's prompts each row is; by default they are in order.

    Raises:
        PositionError: A measured vector does not fit onto a prompt.
    """

    def __init__(
        self,
        backend: Backend,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        measured: Condition | Sequence[Condition],
        position: Position,
        numbers: Sequence[int] | None = None,
    ) -> None:
        lengths = [len(prompt) for prompt in prompts]
        longest, filler = max(lengths), backend.pad_token_id or 0
        padded = [[*prompt, *[filler] * (longest - len(prompt))] for prompt in prompts]
        self.tokens = torch.tensor(padded, device=backend.device)
        self.lengths = torch.tensor(lengths, device=backend.device)
        self._backend = backend
        self.prompts = prompts_of(backend, prompts, numbers=numbers)
        assignments: dict[Spot, list[Assignment]] = {}
        for row, condition in enumerate(conditions):
            for spot, items in assign(condition, position, rows=(row,)).items():
                assignments.setdefault(spot, []).extend(items)
        self.injected = self._injected(_for_each(measured, len(prompts)), position)
        self.assignments = resolved(backend, assignments, self.prompts)

    @contextmanager
    def steered(self) -> Iterator[None]:
        """The model with each row's own injections, and no other steering."""
        with unsteered(self._backend), injected(self._backend, self.assignments, self.prompts):
            yield

    def last_logits(self) -> Float[Tensor, "rows d_vocab"]:
        """Logits after the last token of each row."""
        with self.steered():
            return self._backend.logits_at(self.tokens, self.lengths - 1)

    def logits(self) -> Float[Tensor, "rows pos d_vocab"]:
        """Logits at every column."""
        with self.steered():
            return self._backend.logits(self.tokens)

    def start(self, layer: int) -> Start:
        """What passes of these prompts that are steered from a layer on can begin with."""
        with self.steered():
            return self._backend.start(self.tokens, layer)

    def logits_from(
        self, start: Start, layer: int, reads: Literal["last", "all"]
    ) -> Float[Tensor, "rows *pos d_vocab"]:
        """Logits of a pass from a start, after the last token of each row or at every column."""
        columns = self.lengths - 1 if reads == "last" else None
        with self.steered():
            return self._backend.read_out(self._backend.ends_from(start, layer, columns))

    def streams(self, columns: Int[Tensor, "rows picks"]) -> Float[Tensor, "depths rows picks d_model"]:
        """The residual stream at some columns: `resid_pre` of every layer, steered, and `resid_post` of the last."""
        backend, last = self._backend, self._backend.n_layers - 1
        names = [backend.hook_name(layer) for layer in range(last + 2)]
        rows = torch.arange(len(columns), device=backend.device)[:, None]
        found: list[Tensor] = []

        def keep(stream: Tensor, hook: Any) -> None:
            found.append(stream[rows.to(stream.device), columns.to(stream.device)].float().to(backend.device))

        with self.steered(), ExitStack() as stack:
            for name in names:
                stack.callback(backend.add_hook(name, keep).remove)
            backend.logits_at(self.tokens, self.lengths - 1)
        return torch.stack(found)

    def _injected(self, conditions: Sequence[Condition], position: Position) -> Bool[Tensor, "rows pos"]:
        """Columns where the measured vectors land in any condition; rows that are all zero change nothing there."""
        marks = torch.zeros(self.tokens.shape, dtype=torch.bool)
        for row, condition in enumerate(conditions):
            for vector in condition:
                for _, token in touched(vector, position, self.prompts.facts(row, self._backend)):
                    marks[row, token] = True
        return marks.to(self.tokens.device)


@dataclass(frozen=True, eq=False)
class MeasureRecipe:
    """What a worker needs of a measurement.

    Attributes:
        metric: What is measured.
        prompts: Token ids of each prompt.
        conditions: What each condition does to each prompt; the unsteered condition comes first.
        measured: What counts as injected in each prompt, in every condition.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        batch_size: Maximum number of rows per pass.
    """

    metric: Metric
    prompts: tuple[tuple[int, ...], ...]
    conditions: tuple[Sequence[Condition], ...]
    measured: tuple[Condition, ...]
    position: Position
    batch_size: int

    def desk(self, backend: Backend) -> "MeasureDesk":
        """The measurement on a model."""
        return MeasureDesk(self, backend, self.metric.bound_to(backend))


@dataclass(frozen=True, eq=False)
class MeasureDesk:
    """A measurement on one model, a few prompts at a time.

    Attributes:
        recipe: What is measured.
        backend: The model.
        bound: The metric, bound to it.
    """

    recipe: MeasureRecipe
    backend: Backend
    bound: BoundMetric

    def parts(
        self, numbers: tuple[int, ...], tick: Callable[[int], Any]
    ) -> Generator[Float[np.ndarray, "conditions prompts"], None, None]:
        """The metric of every condition on a few prompts; their passes begin at the lowest layer of a vector."""
        recipe = self.recipe
        prompts = [recipe.prompts[number] for number in numbers]
        per_pass = max(1, recipe.batch_size // len(prompts))
        layers = {
            item.spot.layer for condition in recipe.conditions[1:] for number in numbers for item in condition[number]
        }
        lowest = min(layers, default=0)
        values, plain = [], None
        with torch.no_grad():
            start = self._rows(prompts, numbers, recipe.conditions[:1]).start(lowest)
            for first in range(0, len(recipe.conditions), per_pass):
                conditions = recipe.conditions[first : first + per_pass]
                rows = self._rows(prompts, numbers, conditions)
                picks = torch.arange(len(prompts)).repeat(len(conditions))
                logits = rows.logits_from(start[picks], lowest, recipe.metric.reads)
                check_finite(self.backend, logits)
                plain = logits[: len(prompts)] if plain is None else plain
                repeats = (len(conditions),) + (1,) * (plain.ndim - 1)
                reading = Reading(logits, rows.tokens, rows.lengths, rows.injected, plain.repeat(repeats))
                values.append(self.bound(reading).float().cpu().numpy().reshape(-1, len(prompts)))
        yield np.concatenate(values)
        tick(len(prompts))

    def _rows(
        self, prompts: Sequence[tuple[int, ...]], numbers: Sequence[int], conditions: Sequence[Sequence[Condition]]
    ) -> "ConditionRows":
        """The prompts under some conditions."""
        by_row = [condition[number] for condition in conditions for number in numbers]
        marked = [self.recipe.measured[number] for number in numbers] * len(conditions)
        return ConditionRows(
            self.backend,
            [*prompts] * len(conditions),
            by_row,
            marked,
            self.recipe.position,
            [*numbers] * len(conditions),
        )


@dataclass(frozen=True, eq=False)
class CompletionMeasurement:
    """A scorer over completions: steered, unsteered, and under each null.

    Attributes:
        scorer: What was scored, in words.
        completions: The steered and unsteered texts.
        effect: Steered minus unsteered, with interval and nulls.
    """

    scorer: str
    completions: Completions
    effect: Effect

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The effect with its interval, above the effects of its nulls."""
        from actadd_lens.plots.measuring import plot_measurement

        return plot_measurement(self, ax=ax)

    def __repr__(self) -> str:
        return f"CompletionMeasurement({self.scorer}: {self.effect})"


def measure_completions(
    model: LensModel,
    prompts: str | Sequence[str],
    vectors: Any,
    scorers: Scorer | Sequence[Scorer],
    *,
    position: Any = "front",
    n: int = 4,
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    max_new_tokens: int = 40,
    stop: str | Sequence[str] = (),
    batch_size: int = 256,
    executor: Any = None,
    progress: bool = True,
    **sampling: Any,
) -> list[CompletionMeasurement]:
    """Measure what steering does to the texts that a model writes; unsteered texts are written once for all nulls.

    Args:
        model: The model.
        prompts: One text or several.
        vectors: One steering vector or other intervention, or several that act together; or `per_prompt([...])`, with
            those of each prompt.
        scorers: One callable on texts or several; each gives a result of its own from the same texts.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        n: Samples per prompt and condition.
        nulls: Number of null vectors.
        null_kind: As in `null_vectors`.
        seed: Seed of sampling and nulls.
        max_new_tokens: Maximum number of tokens to add.
        stop: Texts that end a continuation.
        batch_size: Maximum number of rows that decode together.
        executor: Who writes the texts, as in `sweep`; they are scored here.
        progress: Whether to show a progress bar if it takes more than a moment.
        **sampling: As in `complete`.

    Returns:
        One result per scorer.

    Raises:
        PromptError: A prompt is not text, or is longer than the context.
        PositionError: A vector does not fit onto a prompt.
        VectorError: A vector does not match the model.
        SettingError: A setting is out of range.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend, position = backend_of(model), as_position(position)
    check_executor(backend, executor)
    texts = as_texts(prompts)
    found = by_prompt(backend, vectors, len(texts))
    chosen = as_scorers(scorers)
    settings = DecodeSettings(
        n=n,
        max_new_tokens=max_new_tokens,
        seed=seed,
        stop=as_stops(stop),
        sampling=Sampling.from_options(sampling),
    )
    notice_repeats(texts)
    tokens = encode_prompts(backend, texts, room=settings.max_new_tokens)
    unsteered_condition: list[Condition] = [()] * len(texts)
    conditions = [found, unsteered_condition, *_null_conditions_by_prompt(model, found, nulls, null_kind, seed)]
    cells = [Cell(row, condition[number], number) for condition in conditions for number, row in enumerate(tokens)]
    written = decode_cells(
        backend, cells, settings, position=position, batch_size=batch_size, executor=executor, progress=progress
    )
    by_condition = [tuple(written[first : first + len(tokens)]) for first in range(0, len(written), len(tokens))]
    told = {"position": plain_position(position), "prepend_bos": True, **dataclasses.asdict(settings)}
    completions = Completions(texts, by_condition[0], by_condition[1], distinct(found), told)
    return [_scored(scorer, completions, by_condition[2:]) for scorer in chosen]


def _scored(
    scorer: Scorer, completions: Completions, null_conditions: Sequence[tuple[tuple[Continuation, ...], ...]]
) -> CompletionMeasurement:
    plain = score_texts(scorer, completions.unsteered)
    shifts = [
        (score_texts(scorer, continuation_texts(condition)) - plain).mean(axis=1) for condition in null_conditions
    ]
    nulls = merged(np.array(shifts).reshape(len(shifts), len(plain)).T, completions.prompts).T
    effect = completions.score(scorer).with_nulls(nulls.mean(axis=1), nulls)
    return CompletionMeasurement(scorer_name(scorer), completions, effect)
