"""Every occurrence of every token in texts, and what steering does to its prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from actadd_lens.analysis.shift.passes import passes
from actadd_lens.measuring.measure import Condition
from actadd_lens.measuring.metrics import Reading, token_nll
from actadd_lens.models import Backend
from actadd_lens.progress import tracked
from actadd_lens.prompts.positions import Position
from actadd_lens.statistics import FEWEST_PROMPTS, Effect, family_effect, statistic_interval


@dataclass(frozen=True, eq=False)
class Occurrences:
    """Every prediction that counts.

    Attributes:
        tokens: The token to be predicted.
        texts: Which text it is in.
        log_probs: Its log-probability in each condition, the unsteered one first.
    """

    tokens: Int[np.ndarray, " occurrences"]
    texts: Int[np.ndarray, " occurrences"]
    log_probs: Float[np.ndarray, "conditions occurrences"]

    @property
    def changes(self) -> Float[np.ndarray, "conditions occurrences"]:
        """Change of every condition but the first."""
        return np.asarray(self.log_probs[1:] - self.log_probs[0])

    def effect(self) -> Effect:
        """Mean change by text, with its interval over texts, and the nulls'."""
        which, place = np.unique(self.texts, return_inverse=True)
        counts = np.bincount(place, minlength=len(which))
        means = np.stack(
            [np.bincount(place, weights=condition, minlength=len(which)) / counts for condition in self.log_probs]
        )
        return family_effect(means[1:], means[0])


def read_occurrences(
    backend: Backend,
    texts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    measured: Condition,
    position: Position,
    batch_size: int,
    progress: bool,
) -> Occurrences:
    """Log-probabilities of the texts' own tokens in each condition; texts of similar length share passes."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    step = max(1, batch_size // len(conditions))
    tokens, places, table = [], [], []
    for first in tracked(range(0, len(order), step), what="text shift", unit="batch", shown=progress):
        members = order[first : first + step]
        logs = []
        for numbers, rows in passes(
            backend, [texts[index] for index in members], conditions, measured, position, batch_size
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


def token_intervals(
    seen: Occurrences, place: Int[np.ndarray, " occurrences"], count: int
) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
    """Intervals of each token's mean change: over the texts that it is in, or over occurrences if there are few texts.

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
