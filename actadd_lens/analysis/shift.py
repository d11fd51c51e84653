"""Next-token shift: which tokens a steering vector makes likelier, after a prompt and over texts (section 2c)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.checks import check_run, is_count, require
from actadd_lens.errors import SettingError
from actadd_lens.measuring.measure import Arm, ArmRows, null_arms
from actadd_lens.measuring.metrics import Reading, token_nll
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.progress import tracked
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import as_texts, each_once, encode_prompts, token_ids
from actadd_lens.statistics import (
    FEWEST_PROMPTS,
    LEVEL,
    Effect,
    adjusted_over_lists,
    max_t_p,
    on_one_scale,
    paired_effect,
    statistic_interval,
)
from actadd_lens.vectors.naming import html_token, signed_shade, vector_names
from actadd_lens.vectors.vector import check_interventions

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class ShiftedToken:
    """What steering does to one token after the prompts; numbers are means over prompts.

    Attributes:
        token: Token id.
        text: The token.
        unsteered: Its probability, unsteered.
        steered: The same, steered.
        change: Change of its log-probability in nats; `exp(change)` is the factor.
        kl_part: Its part in KL(steered || unsteered), in nats; the parts of all tokens add up to it.
        rank_before: Its rank by mean unsteered log-probability, 1 for the likeliest.
        rank_after: Its rank by mean steered log-probability.
        z: (change - mean change under nulls) / their standard deviation; NaN with fewer than two.
        adjusted_p: P-value adjusted for being picked from all tokens, and over the three lists (min-P: each null picks
            its own largest by the same rule); for a followed token, over those that are followed; NaN without nulls.
    """

    token: int
    text: str
    unsteered: float
    steered: float
    change: float
    kl_part: float
    rank_before: int
    rank_after: int
    z: float
    adjusted_p: float = math.nan

    @property
    def stands(self) -> bool:
        """Whether it is larger than what a null vector lists, in all but 5 % of runs."""
        return self.adjusted_p <= LEVEL


@dataclass(frozen=True, eq=False)
class NextTokenShift:
    """The shift of the next-token distribution after prompts.

    Attributes:
        prompts: The prompts.
        rises: Tokens whose log-probability rises most, the first one first.
        falls: Tokens whose log-probability falls most.
        kl_parts: Tokens with the largest parts in the KL divergence.
        followed: The tokens that were asked for.
        kl: KL(steered || unsteered) in nats, with its interval over prompts, beside the nulls'.
        changes: Mean change of every token's log-probability.
        least: Only tokens of at least this probability in one of the arms are listed.
        name: The vectors in a few characters.
    """

    prompts: tuple[str, ...]
    rises: tuple[ShiftedToken, ...]
    falls: tuple[ShiftedToken, ...]
    kl_parts: tuple[ShiftedToken, ...]
    followed: tuple[ShiftedToken, ...]
    kl: Effect
    changes: Float[np.ndarray, " d_vocab"]
    least: float
    name: str

    def frame(self) -> "pd.DataFrame":
        """One line per listed token, list by list."""
        import pandas as pd

        lists = {"rises": self.rises, "falls": self.falls, "KL": self.kl_parts, "followed": self.followed}
        columns = ["list", "token", "text", "unsteered", "steered", "change", "factor", "KL part", "rank before",
                   "rank after", "z", "adjusted p"]  # fmt: skip
        lines = [
            (name, one.token, one.text, one.unsteered, one.steered, one.change, float(np.exp(one.change)), one.kl_part,
             one.rank_before, one.rank_after, one.z, one.adjusted_p)
            for name, tokens in lists.items()
            for one in tokens
        ]  # fmt: skip
        return pd.DataFrame(lines, columns=columns)

    @property
    def standing(self) -> tuple[ShiftedToken, ...]:
        """The listed tokens that stand; a null vector has one in at most 5 % of runs. None without nulls."""
        return tuple(one for one in (*self.rises, *self.falls, *self.kl_parts) if one.stands)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Bars of the largest rises and falls."""
        from actadd_lens.plots.analysis import plot_shift

        return plot_shift(self, ax=ax)

    def __repr__(self) -> str:
        return f"NextTokenShift({self.name}: KL(steered || unsteered) {self.kl.steered:.3g} nats)"

    def _repr_html_(self) -> str:
        from html import escape

        largest = max((abs(token.change) for token in (*self.rises, *self.falls)), default=0.0)
        cells = ""
        for tokens in (self.rises, self.falls, self.kl_parts):
            lines = "".join(
                f"<div>{html_token(one.text, shade=signed_shade(one.change, largest))} "
                f"<small>{one.unsteered:.2g} → {one.steered:.2g} (×{np.exp(one.change):.2g}"
                f"{'' if math.isnan(one.adjusted_p) else f'; p = {one.adjusted_p:.2g}'})</small></div>"
                for one in tokens
            )
            cells += f"<td style='text-align:left; vertical-align:top'>{lines}</td>"
        head = "".join(f"<th>{name}</th>" for name in ("rises", "falls", "largest parts in the KL"))
        caption = f"{escape(self.name)}: KL(steered || unsteered) = {self.kl.steered:.3g} nats"
        return f"<table><caption>{caption}</caption><tr>{head}</tr><tr>{cells}</tr></table>"


@dataclass(frozen=True)
class TextToken:
    """What steering does to the prediction of one token, over all its occurrences in texts.

    Attributes:
        token: Token id.
        text: The token.
        count: Number of occurrences that count: not predicted from an injected position.
        change: Mean change of its log-probability there, in nats.
        low: Lower end of the 95 % interval; NaN where nothing can be resampled.
        high: Upper end.
        z: (change - mean change under nulls) / their standard deviation; NaN with fewer than two.
        adjusted_p: Two-sided p-value of the change, adjusted over all tokens that are listed, each on one scale with
            its nulls (max-T); NaN without nulls.
    """

    token: int
    text: str
    count: int
    change: float
    low: float
    high: float
    z: float
    adjusted_p: float = math.nan


@dataclass(frozen=True, eq=False)
class TextShift:
    """The shift of the tokens of texts.

    Attributes:
        tokens: Every token that occurs, the largest rise first.
        effect: Mean change over the predictions of a text, with its interval over texts, beside the nulls'.
        covers: What the intervals of single tokens are over: `texts`, or `occurrences` where there are fewer
            than 10 texts.
        name: The vectors in a few characters.
    """

    tokens: tuple[TextToken, ...]
    effect: Effect
    covers: Literal["texts", "occurrences"]
    name: str

    def frame(self) -> "pd.DataFrame":
        """One line per token, the largest rise first."""
        import pandas as pd

        columns = ["token", "text", "count", "change", "low", "high", "z", "adjusted_p"]
        lines = [[getattr(one, name) for name in columns] for one in self.tokens]
        return pd.DataFrame(lines, columns=[name.replace("_", " ") for name in columns])

    @property
    def quantiles(self) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
        """Of a normal distribution, and of the tokens' mean changes, both in ascending order."""
        count, normal = len(self.tokens), NormalDist()
        expected = [normal.inv_cdf((place + 0.5) / count) for place in range(count)]
        return np.array(expected), np.sort([token.change for token in self.tokens])

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Q-Q picture: the tokens' mean changes against a normal distribution; the tails are named."""
        from actadd_lens.plots.analysis import plot_text_shift

        return plot_text_shift(self, ax=ax)

    def __repr__(self) -> str:
        return f"TextShift({self.name}: {len(self.tokens)} tokens; {self.effect})"

    def _repr_html_(self) -> str:
        from html import escape

        shown = self.frame()
        shown = shown if len(shown) <= 20 else shown.iloc[[*range(10), *range(len(shown) - 10, len(shown))]]
        table = shown.to_html(index=False, float_format="{:.3g}".format)
        return f"<p>{escape(self.name)}: {escape(str(self.effect))}</p>{table}"


# -- after a prompt --------------------------------------------------------------------------------------------


@torch.no_grad()
def next_token_shift(
    model: LensModel,
    prompts: str | Sequence[str],
    vectors: Any,
    *,
    k: int = 10,
    least: float = 1e-4,
    tokens: Sequence[str | int] = (),
    position: Position = "front",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 64,
    progress: bool = True,
) -> NextTokenShift:
    """Show which tokens become likelier or less likely after prompts, and what each adds to the KL divergence.

    Args:
        model: The model; steering that is open around the call is left out of all arms.
        prompts: One text or several; numbers are means over them.
        vectors: One steering vector or several, all added together.
        k: Tokens in each list.
        least: List only tokens of at least this mean probability in one of the arms.
        tokens: Tokens to follow, as texts of one token or ids, wherever they rank.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        nulls: Number of null vectors to run beside it.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether prompts start with BOS.
        batch_size: Most rows in one pass.
        progress: Whether to show a bar when it takes more than a moment.

    Raises:
        PromptError: A prompt is not text or outgrows the context, or a followed text is not one token.
        PositionError: A vector does not fit onto a prompt.
        VectorError: A vector does not go with the model.
        SettingError: A setting is out of its range.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend = backend_of(model)
    found = check_interventions(backend, vectors)
    followed = token_ids(backend, tokens)
    require(is_count(k), "k", k, "an integer from 1")
    require(is_count(batch_size), "batch_size", batch_size, "an integer from 1")
    is_share = isinstance(least, int | float) and not isinstance(least, bool) and 0 <= least < 1
    require(is_share, "least", least, "a probability, from 0 to below 1")
    texts = each_once(as_texts(prompts))
    ids = encode_prompts(backend, texts, prepend_bos=prepend_bos)
    ArmRows(backend, ids, [()] * len(ids), found, position)  # do they fit?
    arms: list[Arm] = [(), found, *null_arms(model, found, nulls, null_kind, seed)]
    sums = _Sums(backend, arms, ids, found, position, batch_size, progress)
    facts = sums.facts()
    pick = _Picker(backend, facts, least)
    lists = [pick.order(values[0], k) for values in pick.scores]
    rises, falls, parts = (pick.tokens(*found) for found in zip(lists, pick.adjusted(lists), strict=True))
    return NextTokenShift(
        texts,
        rises=rises,
        falls=falls,
        kl_parts=parts,
        followed=pick.tokens(followed, pick.adjusted_followed(followed)),
        kl=sums.kl(),
        changes=facts["change"],
        least=least,
        name=" and ".join(vector_names(found)),
    )


class _Sums:
    """Means over prompts of what every arm does to every token, gathered prompt by prompt to spare memory."""

    def __init__(
        self,
        backend: Backend,
        arms: Sequence[Arm],
        prompts: Sequence[Sequence[int]],
        measured: Arm,
        position: Position,
        batch_size: int,
        progress: bool,
    ) -> None:
        self._count = len(prompts)
        self._logs: list[Tensor] = [torch.zeros(0)] * len(arms)
        self._probabilities: list[Tensor] = [torch.zeros(0)] * len(arms)
        self._parts: list[Tensor] = [torch.zeros(0)] * len(arms)
        self._kl = torch.zeros(len(arms), len(prompts), dtype=torch.float64)
        step = max(1, batch_size // len(arms))
        for first in tracked(range(0, len(prompts), step), what="next-token shift", unit="batch", shown=progress):
            some = prompts[first : first + step]
            plain = None
            for numbers, rows in _passes(backend, some, arms, measured, position, batch_size):
                by_arm = rows.last_logits().float().log_softmax(dim=-1).unflatten(0, (len(numbers), len(some)))
                plain = by_arm[0] if plain is None else plain
                for number, logs in zip(numbers, by_arm, strict=True):
                    self._add(number, logs, plain, slice(first, first + len(some)))

    def _add(self, number: int, logs: Tensor, plain: Tensor, where: slice) -> None:
        """One arm of a few prompts."""
        part = logs.exp() * (logs - plain)
        self._kl[number, where] = part.sum(dim=-1).double().cpu()
        self._logs[number] = _plus(self._logs[number], logs)
        self._probabilities[number] = _plus(self._probabilities[number], logs.exp())
        self._parts[number] = _plus(self._parts[number], part)

    def facts(self) -> dict[str, np.ndarray]:
        """Numbers of every token; `changes`, `probabilities` and `parts` hold them for each null too."""
        logs = torch.stack(self._logs) / self._count
        changes = (logs[1:] - logs[0]).cpu().numpy()
        nulls = changes[1:]
        z = np.full(changes.shape[1], np.nan)
        if len(nulls) > 1:
            spread = nulls.std(axis=0, ddof=1)
            z = np.where(spread > 0, (changes[0] - nulls.mean(axis=0)) / np.maximum(spread, 1e-30), np.nan)
        probabilities = (torch.stack(self._probabilities) / self._count).cpu().numpy()
        parts = (torch.stack(self._parts[1:]) / self._count).cpu().numpy()
        return {
            "change": changes[0],
            "z": z,
            "unsteered": probabilities[0],
            "steered": probabilities[1],
            "kl part": parts[0],
            "changes": changes,
            "probabilities": probabilities,
            "parts": parts,
            "before": logs[0].cpu().numpy(),
            "after": logs[1].cpu().numpy(),
        }

    def kl(self) -> Effect:
        """KL(steered || unsteered) over prompts, beside the nulls'."""
        values = self._kl.numpy()
        return paired_effect(values[1, :, None], values[0, :, None]).with_nulls(values[2:].mean(axis=1), values[2:])


def _passes(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    arms: Sequence[Arm],
    measured: Arm,
    position: Position,
    batch_size: int,
) -> Iterator[tuple[range, ArmRows]]:
    """A few prompts under all arms, as many arms in a pass as fit; with the numbers of those arms."""
    step = max(1, batch_size // len(prompts))
    for first in range(0, len(arms), step):
        some = arms[first : first + step]
        by_row = [arm for arm in some for _ in prompts]
        yield range(first, first + len(some)), ArmRows(backend, [*prompts] * len(some), by_row, measured, position)


def _plus(total: Tensor, rows: Tensor) -> Tensor:
    added = rows.double().sum(dim=0)
    return added if not total.numel() else total + added


class _Picker:
    """Tokens picked from the numbers of all; each null picks by the same rule."""

    def __init__(self, backend: Backend, facts: dict[str, np.ndarray], least: float) -> None:
        self._backend = backend
        self._facts = facts
        size = min(len(backend.tokenizer), len(facts["change"]))
        shares = facts["probabilities"][:, :size]
        self._listed = np.maximum(shares[0], shares[1:]) >= least
        self.scores = [facts["changes"][:, :size], -facts["changes"][:, :size], facts["parts"][:, :size]]
        """Of the vector and of each null: what the lists of rises, falls and parts in the KL are ordered by."""

    def order(self, values: np.ndarray, k: int) -> list[int]:
        """The k listed tokens with the largest values that are above zero."""
        listed = np.flatnonzero(self._listed[0])
        ranked = listed[np.argsort(-values[listed], kind="stable")][:k]
        return [int(token) for token in ranked if values[token] > 0]

    def adjusted(self, lists: Sequence[Sequence[int]]) -> list[Float[np.ndarray, " _"]]:
        """Adjusted p-values of what the lists hold; NaN without nulls."""
        if len(self._listed) < 2:
            return [np.full(len(tokens), np.nan) for tokens in lists]
        best = [np.where(self._listed[1:], scores[1:], -np.inf).max(axis=1) for scores in self.scores]
        values = [scores[0, tokens].astype(float) for scores, tokens in zip(self.scores, lists, strict=True)]
        return adjusted_over_lists(values, np.stack(best).astype(float))

    def adjusted_followed(self, tokens: Sequence[int]) -> Float[np.ndarray, " listed"]:
        """Adjusted p-values of the changes of tokens that were named beforehand, on one scale; NaN without nulls."""
        changes = self._facts["changes"][:, list(tokens)].astype(float)
        if not tokens or len(changes) < 2:
            return np.full(len(tokens), np.nan)
        scaled = on_one_scale(changes)
        return max_t_p(scaled[0], scaled[1:], "two-sided")

    def tokens(self, ids: Sequence[int], adjusted: Float[np.ndarray, " listed"]) -> tuple[ShiftedToken, ...]:
        """What is told of some tokens."""
        facts = self._facts
        texts = self._backend.token_strings(ids) if ids else []
        return tuple(
            ShiftedToken(
                token, text, float(facts["unsteered"][token]), float(facts["steered"][token]),
                float(facts["change"][token]), float(facts["kl part"][token]), self._rank("before", token),
                self._rank("after", token), float(facts["z"][token]), float(p_value),
            )
            for token, text, p_value in zip(ids, texts, adjusted, strict=True)
        )  # fmt: skip

    def _rank(self, name: str, token: int) -> int:
        values = self._facts[name]
        return 1 + int((values > values[token]).sum())


# -- over texts ------------------------------------------------------------------------------------------------


@torch.no_grad()
def text_shift(
    model: LensModel,
    texts: str | Sequence[str],
    vectors: Any,
    *,
    least_count: int = 1,
    position: Position = "front",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 16,
    progress: bool = True,
) -> TextShift:
    """Show which tokens of texts are foreseen better or worse, wherever they stand.

    Predictions made from injected positions are left out, in both arms.

    Args:
        model: The model; steering that is open around the call is left out of all arms.
        texts: One text or several, each within the context.
        vectors: One steering vector or several, all added together.
        least_count: Leave out tokens that occur less often.
        position: Token that receives row 0, for vectors without a position of their own.
        nulls: Number of null vectors to run beside it.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether texts start with BOS.
        batch_size: Most rows in one pass.
        progress: Whether to show a bar when it takes more than a moment.

    Raises:
        PromptError: A text is none or outgrows the context.
        PositionError: A vector does not fit onto a text.
        VectorError: A vector does not go with the model.
        SettingError: A setting is out of its range, or every prediction is made from an injected position.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend = backend_of(model)
    found = check_interventions(backend, vectors)
    require(is_count(least_count), "least_count", least_count, "an integer from 1")
    require(is_count(batch_size), "batch_size", batch_size, "an integer from 1")
    given = as_texts(texts)
    ids = encode_prompts(backend, given, prepend_bos=prepend_bos)
    ArmRows(backend, ids, [()] * len(ids), found, position)  # do they fit?
    arms: list[Arm] = [(), found, *null_arms(model, found, nulls, null_kind, seed)]
    seen = read_occurrences(backend, ids, arms, found, position, batch_size, progress)
    if not len(seen.tokens):
        raise SettingError("Every prediction is made from an injected position: use longer texts, or fewer rows.")
    return TextShift(
        _text_tokens(backend, seen, least_count),
        seen.effect(),
        "texts" if len(ids) >= FEWEST_PROMPTS else "occurrences",
        " and ".join(vector_names(found)),
    )


@dataclass(frozen=True, eq=False)
class Occurrences:
    """Every prediction that counts.

    Attributes:
        tokens: The token that was to come.
        texts: Which text it stands in.
        log_probs: Its log-probability under each arm, the unsteered one first.
    """

    tokens: Int[np.ndarray, " occurrences"]
    texts: Int[np.ndarray, " occurrences"]
    log_probs: Float[np.ndarray, "arms occurrences"]

    @property
    def changes(self) -> Float[np.ndarray, "arms occurrences"]:
        """Change of every arm but the first."""
        return np.asarray(self.log_probs[1:] - self.log_probs[0])

    def effect(self) -> Effect:
        """Mean change by text, with its interval over texts, beside the nulls'."""
        which, place = np.unique(self.texts, return_inverse=True)
        counts = np.bincount(place, minlength=len(which))
        means = np.stack([np.bincount(place, weights=arm, minlength=len(which)) / counts for arm in self.log_probs])
        return paired_effect(means[1, :, None], means[0, :, None]).with_nulls(
            (means[2:] - means[0]).mean(axis=1), means[2:] - means[0]
        )


def read_occurrences(
    backend: Backend,
    texts: Sequence[Sequence[int]],
    arms: Sequence[Arm],
    measured: Arm,
    position: Position,
    batch_size: int,
    progress: bool,
) -> Occurrences:
    """Log-probabilities of the texts' own tokens under each arm; texts of like length share passes."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    step = max(1, batch_size // len(arms))
    tokens, places, table = [], [], []
    for first in tracked(range(0, len(order), step), what="text shift", unit="batch", shown=progress):
        members = order[first : first + step]
        logs = []
        for numbers, rows in _passes(
            backend, [texts[index] for index in members], arms, measured, position, batch_size
        ):
            logits = rows.logits()
            nll, counted = token_nll(Reading(logits, rows.tokens, rows.lengths, rows.injected, logits))
            logs.append(-nll[counted].double().cpu().numpy().reshape(len(numbers), -1))
            if numbers.start == 0:
                counted = counted[: len(members)]
                tokens.append(rows.tokens[: len(members), 1:].to(counted.device)[counted].cpu().numpy())
                places.append(np.asarray(members)[counted.nonzero()[:, 0].cpu().numpy()])
        table.append(np.concatenate(logs))
    return Occurrences(np.concatenate(tokens), np.concatenate(places), np.concatenate(table, axis=1))


def _text_tokens(backend: Backend, seen: Occurrences, least_count: int) -> tuple[TextToken, ...]:
    """Mean change of each token, the largest rise first."""
    which, place, counts = np.unique(seen.tokens, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(place, weights=arm, minlength=len(which)) / counts for arm in seen.changes])
    z = np.full(len(which), np.nan)
    if len(means) > 2:
        spread = means[1:].std(axis=0, ddof=1)
        z = np.where(spread > 0, (means[0] - means[1:].mean(axis=0)) / np.maximum(spread, 1e-30), np.nan)
    low, high = _intervals(seen, place, len(which))
    order = [int(index) for index in np.argsort(-means[0], kind="stable") if counts[index] >= least_count]
    adjusted = np.full(len(which), np.nan)
    if len(means) > 1 and order:
        scaled = on_one_scale(means[:, order].astype(float))
        adjusted[order] = max_t_p(scaled[0], scaled[1:], "two-sided")
    texts = backend.token_strings([int(which[index]) for index in order]) if order else []
    return tuple(
        TextToken(
            int(which[index]), text, int(counts[index]), float(means[0, index]), float(low[index]), float(high[index]),
            float(z[index]), float(adjusted[index]),
        )
        for index, text in zip(order, texts, strict=True)
    )  # fmt: skip


def _intervals(
    seen: Occurrences, place: Int[np.ndarray, " occurrences"], count: int
) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
    """Intervals of each token's mean change: over the texts that it stands in, or over occurrences in a few texts.

    Over texts it is that of a ratio, changes over occurrences, by the jackknife.
    """
    names, text = np.unique(seen.texts, return_inverse=True)
    low, high = np.full(count, np.nan), np.full(count, np.nan)
    change = seen.changes[0]
    order = np.argsort(place, kind="stable")
    ends = np.searchsorted(place[order], np.arange(count + 1))
    for token in range(count):
        mine = order[ends[token] : ends[token + 1]]
        values, texts = change[mine].astype(float), text[mine]
        if len(names) >= FEWEST_PROMPTS:
            _, which = np.unique(texts, return_inverse=True)
            values = np.stack([np.bincount(which, weights=values), np.bincount(which)], axis=1)
        else:
            values = np.stack([values, np.ones(len(values))], axis=1)
        low[token], high[token] = statistic_interval(_ratio, values)
    return low, high


def _ratio(table: Float[np.ndarray, "units columns"]) -> float:
    """Sum of changes over number of occurrences."""
    return float(np.divide(*table.sum(axis=0)))
