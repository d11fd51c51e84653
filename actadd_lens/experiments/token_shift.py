"""Next-token shift of a topic vector: after prompts, and over texts (section 2c of the paper's facts)."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens import storybook
from actadd_lens.analysis.shift import NextTokenShift, next_token_shift, read_occurrences
from actadd_lens.checks import check_run, is_count, require
from actadd_lens.errors import SettingError
from actadd_lens.experiments.evidence import TENTH, Estimate, Experiment, Finding, resampled
from actadd_lens.experiments.inputs import topic_of
from actadd_lens.identity.digests import digest
from actadd_lens.measuring.measure import Condition, null_conditions
from actadd_lens.measuring.metrics import Metric, Reading, kl_divergence, token_set_logprob
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.methods.actadd import compute_steering_vector
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair, as_pair
from actadd_lens.prompts.texts import as_texts, each_once, encode_prompts, token_id
from actadd_lens.sweeps.sweep import sweep
from actadd_lens.vectors.naming import visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_RISE = 2.5
"""The paper's rise of ' wedding', in nats."""

_TOP = 10
"""Rises among which topic tokens are counted."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenShift(Experiment):
    """What a topic vector does to the tokens of its topic, and to all others.

    Attributes:
        tokens: The topic's tokens, as texts.
        token_ids: Their ids.
        after_prompts: The shift after prompts, with its lists of tokens.
        rise: Change of the log-probability of the topic's tokens together, in nats, over prompts.
        place: Share of the vocabulary that rises less than a topic token, mean over topic tokens; 0.5 is chance.
        kl_share: Part of KL(steered || unsteered) that is due to the topic's tokens.
        skewness: Skewness of the tokens' mean changes over texts; above 0 with a heavy positive tail.
        bulk: Correlation of the middle 90 % of those changes with the quantiles of a normal distribution.
        seen: The tokens of the texts that occur often enough, as ids.
        seen_texts: The same, as texts.
        changes: Mean change of each one's log-probability: the steering vector first, then the nulls.
    """

    name: ClassVar[str] = "token-shift"
    title: ClassVar[str] = "Shift of the next token"

    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    after_prompts: NextTokenShift
    rise: Estimate
    place: Estimate
    kl_share: Estimate
    skewness: Estimate
    bulk: float
    seen: Int[np.ndarray, " tokens"]
    seen_texts: tuple[str, ...]
    changes: Float[np.ndarray, "conditions tokens"]

    @property
    def among_top(self) -> int:
        """Topic tokens among the ten largest rises after the prompts."""
        return sum(token.token in self.token_ids for token in self.after_prompts.rises[:_TOP])

    def frame(self) -> "pd.DataFrame":
        """The lists of tokens after the prompts: rises, falls, parts in the KL divergence, topic tokens."""
        return self.after_prompts.frame()

    def text_frame(self) -> "pd.DataFrame":
        """Mean change of each token over the texts, the largest rise first, with the nulls."""
        import pandas as pd

        table = pd.DataFrame({"token": self.seen, "text": self.seen_texts, "change": self.changes[0]})
        table["topic"] = np.isin(self.seen, self.token_ids)
        if len(self.changes) > 1:
            table["null mean"] = self.changes[1:].mean(axis=0)
        return table.sort_values("change", ascending=False, ignore_index=True)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Q-Q picture of the tokens' mean changes over the texts, above those of the nulls."""
        from actadd_lens.plots.experiments_reading import plot_token_shift

        return plot_token_shift(self, ax=ax)

    def findings(self) -> tuple[Finding, ...]:
        """Claim 4."""
        settings = self.settings
        at = f"layer {settings['layer']} of {settings['n_layers']}, coefficient {settings['coefficient']:g}"
        few = "" if settings["texts"] > 1 else "one text cannot be resampled"
        return (
            Finding.of_move(4, f"log-probability of the topic's tokens after prompts, {at}", self.rise, "greater",
                            "' wedding' times 12.6, ' br' times 13.95, which is 2.5 and 2.6 nats",
                            margin=TENTH * _RISE),
            Finding.of_move(4, f"share of the vocabulary that rises less than a topic token, {at}; .5 for no order; "
                            f"among the {_TOP} largest rises are {self.among_top} topic tokens", self.place, "greater",
                            "topic tokens lead the rises", margin=TENTH * 0.5),
            Finding.of_move(4, f"part of KL(steered || unsteered) of topic tokens, {at}", self.kl_share, "greater",
                            "' wedding' alone .78 nats, the next token .024"),
            Finding.of_move(4, f"skewness of the tokens' mean changes over texts, {at}", self.skewness, "greater",
                            "a heavy positive tail", few),
            Finding(4, f"normality of the bulk of the tokens' mean changes, {at}", "not testable here",
                    paper="normal in the bulk",
                    reason=f"the paper gives no number; the middle 90 % follow a normal's with r = {self.bulk:.4f}"),
        )  # fmt: skip

    def summary(self) -> str:
        """What was done and what was found."""
        rises = ", ".join(
            f"{visible(token.text)} ×{np.exp(token.change):.3g}" for token in self.after_prompts.rises[:5]
        )
        return (
            f"With {self.settings['pair']} at layer {self.settings['layer']}, coefficient "
            f"{self.settings['coefficient']:g}, the log-prob of the topic's {len(self.tokens)} tokens changes by "
            f"{self.rise} nats; a topic token rises more than a share {self.place} of the vocabulary, and the topic's "
            f"tokens have {self.kl_share} of KL(steered || unsteered), {self.after_prompts.kl.steered:.3g} nats. "
            f"Largest rises: {rises}. Over texts, the skewness of the changes of {len(self.seen)} tokens is "
            f"{self.skewness}; their middle 90 % follow a normal distribution with r = {self.bulk:.4f}."
        )


def token_shift(
    model: LensModel,
    pair: PromptPair | tuple[str, str | None] = (" wedding", ""),
    *,
    words: Sequence[str] | None = None,
    tokens: Sequence[str | int] | None = None,
    prompts: str | Sequence[str] | None = None,
    texts: str | Sequence[str] | None = None,
    layer: int | None = None,
    coefficient: float = 1.0,
    k: int = _TOP,
    least: float = 1e-4,
    least_count: int = 5,
    nulls: int = 99,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    batch_size: int = 64,
    path: str | os.PathLike[str] | None = None,
    executor: Any = None,
    progress: bool = True,
) -> TokenShift:
    """Measure which tokens a topic vector makes likelier: after prompts, and over texts.

    Args:
        model: The model.
        pair: Prompt pair of the topic.
        words: Topic words, by default those of the package's topic that the pair names; the ones that are a single
            token count.
        tokens: Topic tokens instead, as texts of one token or ids.
        prompts: Prompts whose next token is read; the package's neutral ones by default.
        texts: Texts whose tokens are read; the package's sentences about all topics by default.
        layer: Injection layer; a third of the way up by default, as in the paper.
        coefficient: Injection coefficient.
        k: Tokens in each list.
        least: List only tokens of at least this mean probability, steered or unsteered.
        least_count: Leave out tokens that occur less often in the texts.
        nulls: Null vectors.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        batch_size: Maximum number of rows per pass.
        path: As in `sweep`; what is read over texts is not stored.
        executor: As in `sweep`.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A text cannot be used, or a topic token is not one.
        SettingError: The pair is about no topic of the package and neither words nor tokens are given, no topic word is
            a single token, or a setting is out of range.
        LayerError: There is no such layer.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend, checked = backend_of(model), as_pair(pair)
    require(is_count(least_count), "least_count", least_count, "an integer from 1")
    wanted = round(backend.n_layers / 3) if layer is None else layer
    vector = coefficient * compute_steering_vector(model, checked, layer=wanted)
    ids = _topic_tokens(backend, checked, words, tokens)
    after = each_once(as_texts(storybook.neutral_prompts() if prompts is None else prompts))
    over = each_once(as_texts(_all_sentences() if texts is None else texts))
    rows = [row for row in encode_prompts(backend, over) if len(row) > vector.rows + 1]
    short = len(over) - len(rows)
    require(
        bool(rows), "texts", list(over), f"texts of {vector.rows + 2} tokens or more, two more than the vector has rows"
    )
    after_prompts = next_token_shift(
        model, after, vector, k=k, least=least, tokens=ids, nulls=nulls, null_kind=null_kind, seed=seed,
        batch_size=batch_size, progress=progress,
    )  # fmt: skip
    measured = sweep(
        model, vector, layers=vector.layer, coefficients=1.0, prompts=after, nulls=nulls, null_kind=null_kind,
        metric=[token_set_logprob(ids), kl_divergence(), _part_in_kl(ids), place_among_rises(ids)], seed=seed,
        batch_size=batch_size, path=path, executor=executor, progress=progress,
    )  # fmt: skip
    conditions = np.concatenate(
        [measured.steered[:, None, 0, 0, 0, 0, :, 0], measured.nulls[:, :, 0, 0, 0, 0, :]], axis=1
    )
    plain = measured.unsteered[:, 0, 0, :, 0]
    drawn = null_conditions(model, (vector,), nulls, null_kind, seed)
    shift = _shift_over_texts(backend, rows, [(vector,), *drawn], least_count, batch_size, progress)
    return TokenShift(
        model=backend.name, tokens=tuple(backend.token_strings(ids)), token_ids=tuple(ids), after_prompts=after_prompts,
        rise=_over_prompts(_mean, conditions[0] - plain[0]), place=_over_prompts(_mean, conditions[3], neutral=0.5),
        kl_share=_over_prompts(_ratio, conditions[2], conditions[1]), **shift,
        settings={
            "pair": checked.label, "layer": vector.layer, "n_layers": backend.n_layers, "coefficient": coefficient,
            "tokens": backend.token_strings(ids), "prompts": list(after), "texts": len(rows),
            "texts hash": digest(rows).hex(), "nulls": nulls, "null_kind": null_kind, "seed": seed, "k": k,
            "least": least, "least count": least_count,
        },
        notes=(f"{short} texts were left out: all their predictions are made from injected positions.",) * (short > 0),
    )  # fmt: skip


# -- topic tokens ----------------------------------------------------------------------------------------------


def _topic_tokens(
    backend: Backend, pair: PromptPair, words: Sequence[str] | None, tokens: Sequence[str | int] | None
) -> list[int]:
    """Ids of the topic's tokens, each once."""
    for name, value in (("words", words), ("tokens", tokens)):
        require(not isinstance(value, str), name, value, "a list")
    if tokens is not None:
        require(bool(tokens), "tokens", tokens, "one token or more")
        return list(dict.fromkeys(token_id(backend, token) for token in tokens))
    chosen = topic_of(pair, words).words
    found = [token for word in chosen if (token := single_token(backend, word)) is not None]
    if not found:
        raise SettingError(f"None of the words {list(chosen)} is a single token for {backend.name}: pass tokens=.")
    return list(dict.fromkeys(found))


def single_token(backend: Backend, word: str) -> int | None:
    """Id of a word within a text, if it is one token; SentencePiece puts the space before it by itself."""
    for text in (f" {word}", word):
        ids = backend.encode(text, prepend_bos=False)
        if len(ids) == 1:
            return ids[0]
    return None


def _all_sentences() -> tuple[str, ...]:
    return tuple(sentence for topic in storybook.topics().values() for sentence in topic.sentences)


# -- after prompts ---------------------------------------------------------------------------------------------


def place_among_rises(tokens: Sequence[int]) -> Metric:
    """Share of the vocabulary whose log-probability rises less than a token's, mean over tokens; equals count half.

    Args:
        tokens: Token ids.
    """
    chosen = list(tokens)

    def places(reading: Reading) -> Float[Tensor, " rows"]:
        steered, plain = (logits.float().log_softmax(dim=-1) for logits in (reading.logits, reading.unsteered_logits))
        change = steered - plain
        mine = change[:, chosen]
        ordered = change.sort(dim=-1).values
        below = torch.searchsorted(ordered, mine.contiguous())
        upto = torch.searchsorted(ordered, mine.contiguous(), right=True)
        return ((below + upto - 1).float() / 2 / (change.shape[1] - 1)).mean(dim=1)

    return Metric("place among rises", "", "last", lambda backend: places)


def _part_in_kl(tokens: Sequence[int]) -> Metric:
    """Part of KL(steered || unsteered) that tokens have, in nats."""
    chosen = list(tokens)

    def part(reading: Reading) -> Float[Tensor, " rows"]:
        steered, plain = (
            logits.float().log_softmax(dim=-1)[:, chosen] for logits in (reading.logits, reading.unsteered_logits)
        )
        return (steered.exp() * (steered - plain)).sum(dim=1)

    return Metric("part in KL(steered || unsteered)", "nats", "last", lambda backend: part)


def _over_prompts(
    statistic: Callable[[Float[np.ndarray, "units columns"]], float],
    *columns: Float[np.ndarray, "conditions prompts"],
    neutral: float = 0.0,
) -> Estimate:
    """A statistic of the steering vector's columns over prompts, beside that of each null's."""
    tables = np.stack(columns, axis=-1)
    return resampled(
        statistic, tables[0], of="prompts", nulls=[statistic(table) for table in tables[1:]], neutral=neutral
    )


def _mean(table: Float[np.ndarray, "units columns"]) -> float:
    return float(table.mean())


def _ratio(table: Float[np.ndarray, "units columns"]) -> float:
    total = float(table[:, 1].sum())
    return float(table[:, 0].sum()) / total if total > 0 else float("nan")


# -- over texts ------------------------------------------------------------------------------------------------


@torch.no_grad()
def _shift_over_texts(
    backend: Backend,
    rows: Sequence[tuple[int, ...]],
    conditions: Sequence[Condition],
    least_count: int,
    batch_size: int,
    progress: bool,
) -> dict[str, Any]:
    """Mean change of each token's log-probability over the texts, and the shape of their distribution."""
    found = read_occurrences(backend, rows, [(), *conditions], conditions[0], "front", batch_size, progress)
    which, token, counts = np.unique(found.tokens, return_inverse=True, return_counts=True)
    often = counts >= least_count
    if often.sum() < 3:
        raise SettingError(
            f"{int(often.sum())} tokens occur {least_count} times or more in the texts: a distribution takes more. "
            "Give more texts, or a smaller least_count."
        )
    table = np.zeros((2, len(rows), len(which)))
    np.add.at(table[0], (found.texts, token), found.changes[0])
    np.add.at(table[1], (found.texts, token), 1)
    sums, occurrences = table[:, :, often]
    changes = np.stack([np.bincount(token, weights=condition) / counts for condition in found.changes])[:, often]

    def skewness_of(texts: Float[np.ndarray, "units columns"]) -> float:
        weights = np.bincount(texts[:, 0].astype(int), minlength=len(rows))
        total = weights @ occurrences
        return skewness((weights @ sums)[total > 0] / total[total > 0])

    indices = np.arange(len(rows), dtype=float)[:, None]
    return {
        "skewness": resampled(skewness_of, indices, of="texts", nulls=[skewness(change) for change in changes[1:]]),
        "bulk": normality(changes[0]),
        "seen": which[often],
        "seen_texts": tuple(backend.token_strings([int(token) for token in which[often]])),
        "changes": changes,
    }


def skewness(values: Float[np.ndarray, " values"]) -> float:
    """Third central moment in units of the standard deviation cubed; 0 for what is symmetric.

    >>> skewness(np.array([-1.0, 0.0, 1.0]))
    0.0
    """
    centred = values - values.mean()
    spread = float(np.sqrt((centred**2).mean()))
    return float((centred**3).mean()) / spread**3 if spread > 0 else float("nan")


def normality(values: Float[np.ndarray, " values"]) -> float:
    """Correlation of the middle 90 % of values with the quantiles of a normal distribution; 1 for a normal bulk.

    >>> normal = NormalDist()
    >>> round(normality(np.array([normal.inv_cdf((place + 0.5) / 50) for place in range(50)])), 6)
    1.0
    """
    shares = (np.arange(len(values)) + 0.5) / len(values)
    middle = (shares > 0.05) & (shares < 0.95)
    normal = NormalDist()
    expected = np.array([normal.inv_cdf(share) for share in shares[middle]])
    return float(np.corrcoef(expected, np.sort(values)[middle])[0, 1]) if middle.sum() > 1 else float("nan")
