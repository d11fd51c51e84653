"""Tokens selected from the vocabulary by what steering does to them, and p-values that account for the selection."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from actadd_lens.analysis.shift.results import ShiftedToken
from actadd_lens.models import Backend
from actadd_lens.statistics import adjusted_over_lists, max_t_p, on_one_scale


class Picker:
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
        """What is reported about some tokens."""
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
