"""`compare`: interventions on one task, at equal damage, compared with their nulls and with prompting."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from actadd_lens.checks import check_run, is_count, require
from actadd_lens.errors import SettingError
from actadd_lens.measuring.budget import Ruler
from actadd_lens.measuring.calibrate import check_budget, with_nulls
from actadd_lens.measuring.comparison import Comparison, Entry, between
from actadd_lens.measuring.contenders import Contender, Prompted, contenders_of, prompted_of
from actadd_lens.measuring.measure import Condition, ConditionRows
from actadd_lens.measuring.metrics import Metric, Reading, as_metric, kl_divergence
from actadd_lens.measuring.nulls import NullKind, check_null_kind
from actadd_lens.measuring.passes import Cost, counted
from actadd_lens.measuring.scorers import Scorer, as_scorers, scorer_name
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.positions import as_position
from actadd_lens.prompts.texts import as_texts, encode_prompts, notice_repeats
from actadd_lens.statistics import Alternative, Effect, paired_effect, split_prompts
from actadd_lens.writing.completions import score_texts
from actadd_lens.writing.decoding import Cell, DecodeSettings, continuation_texts, decode_cells
from actadd_lens.writing.sampling import Sampling


def compare(
    model: LensModel,
    interventions: Mapping[str, Any],
    *,
    prompts: Sequence[str],
    texts: Sequence[str],
    metric: Any = None,
    scorer: Scorer | None = None,
    damage: Any = None,
    at_most: float = 1.0,
    prompting: Mapping[str, str] | None = None,
    alternative: Alternative = "greater",
    position: Any = "front",
    nulls: int = 19,
    null_kind: NullKind = "unrelated_pairs",
    n: int = 2,
    max_new_tokens: int = 30,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
    **sampling: Any,
) -> Comparison:
    """Compare interventions on one task, at equal damage to other text.

    The rule is fixed before anything runs. The texts are split into random halves. On one half, each contender with a
    coefficient gets the largest one whose mean damage is at most the budget, by the steps of `calibrate`; so does each
    of its nulls, which are of the same kind. Contenders without a coefficient are used as they are, and so are words in
    the prompt. Damage is reported on the other half, and the effect on the prompts, all of them held out. Two
    contenders differ significantly if the p-value of their difference, by sign flips and adjusted over all pairs, is at
    most .05.

    Args:
        model: The model.
        interventions: Contenders by name: an intervention, several that belong together, the result of a method, or a
            function that makes one of these from the model, whose cost is then counted.
        prompts: Prompts of the task.
        texts: Eight texts or more that steering is not meant for; they must not contain prompts of the task.
        metric: What counts as effect: a metric of the next token; or
        scorer: A score of the texts that the model writes.
        damage: What counts as damage; by default the KL divergence `unsteered || steered` of the next token.
        at_most: The budget, in the damage's unit, as a mean over texts.
        prompting: Words to put in front of each prompt, by name.
        alternative: `greater` or `less`: which effects are wanted.
        position: Where row 0 lands, for what has no position of its own.
        nulls: Nulls of each contender.
        null_kind: As in `null_vectors`.
        n: Samples per prompt, for a scorer.
        max_new_tokens: Maximum number of tokens to write, for a scorer.
        seed: Seed of the halves, the nulls and the samples.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show bars.
        **sampling: As in `complete`.

    Raises:
        SettingError: There is neither a metric nor a scorer, or both; texts and prompts overlap; or a setting is out of
            range.
        PositionError: An intervention does not fit onto a prompt.
    """
    check_run(seed=seed, batch_size=batch_size)
    check_budget(at_most)
    check_null_kind(null_kind)
    require(alternative in ("greater", "less"), "alternative", alternative, "'greater' or 'less'")
    require(nulls == 0 or is_count(nulls), "nulls", nulls, "an integer from 0")
    asked, others = as_texts(prompts), as_texts(texts)
    notice_repeats(asked)
    if set(asked) & set(others):
        raise SettingError("Some prompts are among the texts that damage is measured on: keep the two apart.")
    chosen_on, reported_on = (tuple(others[index] for index in half) for half in split_prompts(len(others), seed=seed))
    settings = DecodeSettings(n=n, max_new_tokens=max_new_tokens, seed=seed, sampling=Sampling.from_options(sampling))
    ruler = Ruler(model, as_position(position), True, batch_size, progress)
    hurt = as_metric(kl_divergence("unsteered || steered") if damage is None else damage)
    judge = _Judge(ruler, asked, _measure_of(metric, scorer), settings)
    found = contenders_of(ruler, interventions, chosen_on, nulls=nulls, kind=null_kind, seed=seed)
    words = prompted_of(model, prompting, nulls=nulls, seed=seed)
    entries = [_entry(ruler, judge, item, hurt, at_most, (chosen_on, reported_on)) for item in found]
    entries += [_prompted_entry(judge, item, hurt, reported_on) for item in words]
    order = sorted(entries, key=lambda entry: entry.effect.mean, reverse=alternative == "greater")
    return Comparison(
        tuple(order), between(order, seed=seed), judge.name, hurt.name, float(at_most), alternative, nulls,
        asked, chosen_on, reported_on,
    )  # fmt: skip


def _measure_of(metric: Any, scorer: Any) -> Metric | Scorer:
    if (metric is None) == (scorer is None):
        raise SettingError("Pass either metric=, which reads the next token, or scorer=, which reads written texts.")
    if metric is None:
        (chosen,) = as_scorers(scorer)
        return chosen
    return as_metric(metric)


@dataclasses.dataclass(frozen=True, eq=False)
class _Judge:
    """Measures effects on the prompts of the task, by a metric or by a scorer."""

    ruler: Ruler
    prompts: tuple[str, ...]
    measure: Metric | Scorer
    settings: DecodeSettings

    @property
    def name(self) -> str:
        return self.measure.name if isinstance(self.measure, Metric) else scorer_name(self.measure)

    def steered(self, conditions: Sequence[Condition]) -> list[Effect]:
        """Effects of conditions."""
        if isinstance(self.measure, Metric):
            return self.ruler.effects(self.prompts, self.measure, conditions, conditions[0])
        backend = backend_of(self.ruler.model)
        tokens = encode_prompts(backend, self.prompts, room=self.settings.max_new_tokens)
        cells = [Cell(row, condition, number) for condition in [(), *conditions] for number, row in enumerate(tokens)]
        return self._scored(self._written(cells))

    def prompted(self, words: Sequence[str]) -> list[Effect]:
        """Effects of words in front of the prompts."""
        if isinstance(self.measure, Metric):
            return [worded_effect(self.ruler, self.prompts, self.measure, some) for some in words]
        backend, room = backend_of(self.ruler.model), self.settings.max_new_tokens
        conditions = [
            encode_prompts(backend, [some + text for text in self.prompts], room=room) for some in ("", *words)
        ]
        return self._scored(
            self._written([Cell(row, (), number) for condition in conditions for number, row in enumerate(condition)])
        )

    def _written(self, cells: Sequence[Cell]) -> list[Any]:
        ruler = self.ruler
        return decode_cells(
            backend_of(ruler.model), cells, self.settings, position=ruler.position, batch_size=ruler.batch_size,
            progress=ruler.progress,
        )  # fmt: skip

    def _scored(self, written: Sequence[Any]) -> list[Effect]:
        assert not isinstance(self.measure, Metric)
        count = len(self.prompts)
        scores = [
            score_texts(self.measure, continuation_texts(tuple(written[first : first + count])))
            for first in range(0, len(written), count)
        ]
        return [paired_effect(steered, scores[0]) for steered in scores[1:]]


def _entry(
    ruler: Ruler, judge: _Judge, item: Contender, damage: Metric, at_most: float, halves: tuple[tuple[str, ...], ...]
) -> Entry:
    """One contender, calibrated where it can be."""
    chosen_on, reported_on = halves
    conditions, factor, is_top = [item.condition, *item.nulls], None, False
    calibrating = Cost()
    if item.dose is not None:
        with counted(backend_of(ruler.model)) as calibrating:
            (choice,) = ruler.choose(chosen_on, damage, at_most, [item.dose], item.factors)
        factor, is_top = choice.factor, choice.is_top
        others = ruler.choose(chosen_on, damage, at_most, item.null_doses, item.factors) if item.null_doses else []
        conditions = [item.dose(factor)]
        conditions += [dose(other.factor) for dose, other in zip(item.null_doses, others, strict=True)]
    (hurt,) = ruler.effects(reported_on, damage, conditions[:1], item.condition)
    own, *beside = judge.steered(conditions)
    effect = with_nulls(own, beside) if beside else own
    return Entry(item.name, "steering", conditions[0], factor, is_top, effect, hurt, item.making, calibrating, 0)


def _prompted_entry(judge: _Judge, item: Prompted, damage: Metric, texts: tuple[str, ...]) -> Entry:
    """Words in front of the prompt, as they are."""
    ruler = judge.ruler
    own, *beside = judge.prompted([item.words, *item.nulls])
    effect = with_nulls(own, beside) if beside else own
    hurt = worded_effect(ruler, texts, damage, item.words)
    tokens = len(backend_of(ruler.model).encode(item.words, prepend_bos=False))
    return Entry(item.name, "prompting", (), None, False, effect, hurt, Cost(), Cost(), tokens)


@torch.no_grad()
def worded_effect(ruler: Ruler, texts: Sequence[str], metric: Metric, words: str) -> Effect:
    """What words in front of texts do to a metric of the next token.

    Args:
        ruler: Knows the model.
        texts: The texts.
        metric: A metric that reads the last token.
        words: The words.

    Raises:
        SettingError: The metric reads more than the last token, so texts with and without the words do not compare.
    """
    if metric.reads != "last":
        raise SettingError(f"{metric.name} reads whole texts, which words in front change: use a next-token metric.")
    backend = backend_of(ruler.model)
    bound, values = metric.bound_to(backend), []
    for first in range(0, len(texts), max(1, ruler.batch_size // 2)):
        some = texts[first : first + max(1, ruler.batch_size // 2)]
        conditions = [encode_prompts(backend, [before + text for text in some]) for before in (words, "")]
        rows = [ConditionRows(backend, tokens, [()] * len(some), (), ruler.position) for tokens in conditions]
        logits = [condition.last_logits() for condition in rows]
        values.append(
            [
                bound(Reading(found, condition.tokens, condition.lengths, condition.injected, logits[1]))
                .float()
                .cpu()
                .numpy()
                for found, condition in zip(logits, rows, strict=True)
            ]
        )
    steered, plain = np.concatenate(values, axis=1)
    return paired_effect(steered[:, None], plain[:, None], zeros="numbers")
