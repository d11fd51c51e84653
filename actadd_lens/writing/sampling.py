"""Choosing the next token: settings, penalties, and sampling from one uniform number per step."""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.checks import is_count, require
from actadd_lens.errors import SettingError

_BESIDE = ("position", "n", "nulls", "max_new_tokens", "seed", "stop", "batch_size", "progress")
"""Keywords that are passed next to sampling options in most calls, and may be misspelt."""

_COLDEST = float(torch.finfo(torch.float32).tiny)
"""Smallest temperature above 0: the smallest float32 that is not rounded away."""

_LARGEST_UNIFORM = 1 - 2**-23
"""Below 1 in float32, so that the last token is never overshot."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: Logits are divided by it; 0 means greedy.
        top_k: Only the k likeliest tokens.
        top_p: Only the likeliest tokens that together reach this probability.
        frequency_penalty: Subtracted from a token's logit for each time it occurs in prompt and continuation, after
            division by the temperature (as in TransformerLens).
        repetition_penalty: Divides positive and multiplies negative logits of tokens that have occurred (as in Hugging
            Face); 1 means none.

    Raises:
        SettingError: A value is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        require(
            _finite(self.temperature) and (self.temperature == 0 or self.temperature >= _COLDEST),
            "temperature",
            self.temperature,
            f"a number from 0, and from {_COLDEST:.2g} where it is not 0 (below that, use 0 for greedy)",
        )
        require(self.top_k is None or is_count(self.top_k), "top_k", self.top_k, "an integer from 1, or None")
        require(
            self.top_p is None or (_finite(self.top_p) and 0 < self.top_p <= 1),
            "top_p",
            self.top_p,
            "a number above 0 and up to 1, or None",
        )
        require(_finite(self.frequency_penalty), "frequency_penalty", self.frequency_penalty, "a finite number")
        require(
            _finite(self.repetition_penalty) and self.repetition_penalty > 0,
            "repetition_penalty",
            self.repetition_penalty,
            "a number above 0",
        )

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> "Sampling":
        """Sampling from keywords.

        Raises:
            SettingError: A keyword is not known.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                meant = [*known, *_BESIDE]
                near = difflib.get_close_matches(name.replace("freq_", "frequency_"), meant, n=1, cutoff=0.6)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                if name == "coefficient":
                    hint = " Multiply the vector by it: 5 * vector."
                raise SettingError(f"There is no sampling option {name!r}.{hint} Known are {', '.join(known)}.")
        return cls(**options)

    @property
    def counts_tokens(self) -> bool:
        """Whether the tokens so far matter."""
        return self.frequency_penalty != 0 or self.repetition_penalty != 1


def _finite(value: Any) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def choose_tokens(
    logits: Float[Tensor, "rows d_vocab"],
    sampling: Sampling,
    uniforms: Float[Tensor, " rows"] | None,
    counts: Float[Tensor, "rows d_vocab"] | None = None,
) -> Int[Tensor, " rows"]:
    """The next token of each row: the likeliest, or the one at which the summed probabilities pass a uniform number.

    Args:
        logits: One row of logits each.
        sampling: How to choose.
        uniforms: One number from [0, 1) per row; not read at temperature 0.
        counts: How often each token has occurred in the row, where a penalty asks for it.
    """
    scores = logits.float()
    if counts is not None and sampling.repetition_penalty != 1:
        penalised = torch.where(scores > 0, scores / sampling.repetition_penalty, scores * sampling.repetition_penalty)
        scores = torch.where(counts > 0, penalised, scores)
    if sampling.temperature > 0 and sampling.temperature != 1:
        # The largest score becomes 0, so that dividing by a small number overflows to minus infinity only.
        scores = (scores - scores.amax(dim=-1, keepdim=True)) / sampling.temperature
    if counts is not None and sampling.frequency_penalty != 0:
        scores = scores - sampling.frequency_penalty * counts
    if sampling.temperature == 0 or uniforms is None:
        return scores.argmax(dim=-1)
    cumulative = _kept_probabilities(scores, sampling).cumsum(dim=-1)
    targets = uniforms.to(cumulative).clamp_max(_LARGEST_UNIFORM)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp_max(logits.shape[1] - 1)


def _kept_probabilities(scores: Float[Tensor, "rows d_vocab"], sampling: Sampling) -> Float[Tensor, "rows d_vocab"]:
    """Probabilities with those outside top_k and top_p set to zero; not normalised again."""
    probabilities = scores.softmax(dim=-1)
    if sampling.top_k is not None:
        smallest = scores.topk(min(sampling.top_k, scores.shape[1]), dim=-1).values[:, -1:]
        probabilities = torch.where(scores < smallest, 0.0, probabilities)
    if sampling.top_p is not None and sampling.top_p < 1:
        smallest_kept = _nucleus_edge(probabilities, sampling.top_p)
        probabilities = torch.where(probabilities < smallest_kept, 0.0, probabilities)
    return probabilities


_FIRST_LOOK = 256
"""A nucleus is rarely larger; sorting only so many of a vocabulary is several times as fast as sorting all of it."""


def _nucleus_edge(probabilities: Float[Tensor, "rows d_vocab"], top_p: float) -> Float[Tensor, "rows 1"]:
    """Smallest probability in each row's nucleus: the token that reaches `top_p` is the last one in."""
    largest = probabilities.topk(min(_FIRST_LOOK, probabilities.shape[1]), dim=-1).values
    wanted = top_p * probabilities.sum(dim=-1, keepdim=True)
    edge = _edge_among(largest, wanted)
    wider = (largest.sum(dim=-1, keepdim=True) <= wanted).squeeze(-1)
    if bool(wider.any()):
        edge[wider] = _edge_among(probabilities[wider].sort(dim=-1, descending=True).values, wanted[wider])
    return edge


def _edge_among(descending: Float[Tensor, "rows some"], wanted: Float[Tensor, "rows 1"]) -> Float[Tensor, "rows 1"]:
    before = descending.cumsum(dim=-1) - descending
    return torch.where(before > wanted, torch.inf, descending).amin(dim=-1, keepdim=True)
