"""Metrics: logits to one number per row. Log-probs are in nats; a KL divergence has its direction in its name.

A metric is made without a model and bound to one when it is measured; that is when texts become tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from actadd_lens.checks import check_choice, is_count, many, require, takes
from actadd_lens.errors import SettingError
from actadd_lens.extending import finder
from actadd_lens.models import Backend
from actadd_lens.prompts.texts import token_id

KLDirection = Literal["steered || unsteered", "unsteered || steered"]


@dataclass(frozen=True, eq=False)
class Reading:
    """What a metric reads: one condition of a batch, padded on the right, with everything on the logits' device.

    Attributes:
        logits: At the last token of each row ([rows, d_vocab]) or at all columns ([rows, pos, d_vocab]).
        tokens: Token ids.
        lengths: Tokens of each row.
        injected: Which columns an injection of the measured vectors lands on, in both conditions.
        unsteered_logits: The unsteered condition's logits of the same rows.
    """

    logits: Float[Tensor, "rows d_vocab"] | Float[Tensor, "rows pos d_vocab"]
    tokens: Int[Tensor, "rows pos"]
    lengths: Int[Tensor, " rows"]
    injected: Bool[Tensor, "rows pos"]
    unsteered_logits: Float[Tensor, "rows d_vocab"] | Float[Tensor, "rows pos d_vocab"]

    def __post_init__(self) -> None:
        for name in ("tokens", "lengths", "injected", "unsteered_logits"):
            object.__setattr__(self, name, getattr(self, name).to(self.logits.device))

    def copy(self) -> "Reading":
        """The same with copied tensors, so that changing them in place affects nothing else."""
        return Reading(**{item.name: getattr(self, item.name).clone() for item in fields(self)})


BoundMetric = Callable[[Reading], Float[Tensor, " rows"]]


@dataclass(frozen=True)
class Metric:
    """A metric: what it is called, what it reads, and how it is bound to a model.

    Attributes:
        name: The name in axes and tables.
        unit: Unit of the number.
        reads: `last` for the logits after the last token only, `all` for every column.
        bind: Makes the function from the model's interface; this is where texts become tokens.
        is_named: Whether the user named it with `named`: in a store the name then stands for what cannot be hashed.
    """

    name: str
    unit: str
    reads: Literal["last", "all"]
    bind: Callable[[Backend], BoundMetric]
    is_named: bool = False

    def __post_init__(self) -> None:
        require(isinstance(self.name, str) and bool(self.name), "A metric's name", self.name, "a text")
        require(isinstance(self.unit, str), "A metric's unit", self.unit, "a text")
        check_choice(self.reads, "What a metric reads", "last", "all")
        require(takes(self.bind, 1), "A metric's bind", self.bind, "a function of the model's interface")

    def bound_to(self, backend: Backend) -> BoundMetric:
        """The metric for a model; what it returns is checked, and a user's own metric reads a copy.

        Args:
            backend: The model.

        Raises:
            PromptError: A text in it is not a token of the model.
        """
        measure = self.bind(backend)
        if not callable(measure):
            raise SettingError(f"The bind of metric {self.name!r} gave {measure!r}: expected a function of a Reading.")
        is_ours = isinstance(self.bind, FunctionType) and self.bind.__module__ == __name__

        def guarded(reading: Reading) -> Tensor:
            values = measure(reading if is_ours else reading.copy())
            if not isinstance(values, Tensor) or values.shape != reading.lengths.shape or values.is_complex():
                told = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
                raise SettingError(
                    f"The metric {self.name!r} returned {told} for {len(reading.lengths)} rows: expected a tensor of "
                    "one real number for each row."
                )
            return values

        return guarded


def as_metric(metric: Any) -> Metric:
    """A `Metric`, made from any function of the last token's logits [rows, d_vocab] if need be.

    Raises:
        SettingError: It is neither, or it makes a metric and was not called.
    """
    if isinstance(metric, Metric):
        return metric
    home, name = getattr(metric, "__module__", None), str(getattr(metric, "__name__", type(metric).__name__))
    if globals().get(name) is metric:
        raise SettingError(f"metrics.{name} makes a metric: call it, metrics.{name}(...).")
    if home == "actadd_lens.measuring.scorers":
        raise SettingError(f"The scorer {name!r} reads texts, not logits: use one of actadd_lens.metrics here.")
    if not takes(metric, 1):
        raise SettingError(
            f"{metric!r} is not a metric: use one of actadd_lens.metrics, or a function of the last logits alone."
        )
    return Metric(name, "", "last", _Foreign(metric))


@dataclass(frozen=True, eq=False)
class _Foreign:
    """Binds a function of the last logits, which is not of this module."""

    function: Callable[[Tensor], Any]

    def __call__(self, backend: Backend) -> BoundMetric:
        return lambda reading: self.function(reading.logits)


def named(name: str, metric: Any, *, unit: str | None = None) -> Metric:
    """A metric under a name of your own, for axes, tables and stores.

    A store distinguishes metrics by their code and everything that it uses. What cannot be hashed, such as an open
    file, is refused there, unless the metric is named: then the name stands for it, so change the name whenever it
    changes. Everything else is still hashed: an edited function never gets old numbers, whatever its name.

    Args:
        name: The name.
        metric: A metric, or a function of the last token's logits.
        unit: Unit of the number; by default the metric's own.

    Raises:
        SettingError: It is not a metric, or the name is not text.

    >>> named("first logit", lambda logits: logits[:, 0], unit="logits").name
    'first logit'
    """
    found = as_metric(metric)
    return replace(found, name=name, unit=found.unit if unit is None else unit, is_named=True)


def next_token_logprob(token: str | int) -> Metric:
    """Log-probability of one token after the prompt, in nats.

    Args:
        token: A text that is one token, or an id.
    """

    def bind(backend: Backend) -> BoundMetric:
        index = token_id(backend, token)
        return lambda reading: reading.logits.float().log_softmax(dim=-1)[:, index]

    return Metric(f"log-prob of {token!r}", "nats", "last", bind)


def next_token_logit(token: str | int) -> Metric:
    """Logit of one token after the prompt; adding a constant to all logits changes it, but no probability."""

    def bind(backend: Backend) -> BoundMetric:
        index = token_id(backend, token)
        return lambda reading: reading.logits[:, index].float()

    return Metric(f"logit of {token!r}", "logits", "last", bind)


def logit_difference(token: str | int, other: str | int) -> Metric:
    """Logit of one token minus that of another, after the prompt."""

    def bind(backend: Backend) -> BoundMetric:
        index, against = token_id(backend, token), token_id(backend, other)
        return lambda reading: reading.logits[:, index].float() - reading.logits[:, against].float()

    return Metric(f"logit of {token!r} − {other!r}", "logits", "last", bind)


def token_set_logprob(tokens: Sequence[str | int]) -> Metric:
    """Log of the summed probability of a set of tokens after the prompt, in nats."""
    chosen = tuple(many(tokens))
    if len(chosen) == 1 and chosen[0] is tokens:
        raise SettingError(f"{tokens!r} is not a set of tokens: pass a list, such as [{tokens!r}].")
    if not chosen:
        raise SettingError("A token set needs a token: pass texts or ids.")

    def bind(backend: Backend) -> BoundMetric:
        indices = sorted({token_id(backend, token) for token in chosen})
        return lambda reading: reading.logits.float().log_softmax(dim=-1)[:, indices].logsumexp(dim=-1)

    shown = ", ".join(repr(token) for token in chosen[:3]) + (", …" if len(chosen) > 3 else "")
    return Metric(f"log-prob of {{{shown}}}", "nats", "last", bind)


def kl_divergence(direction: KLDirection = "steered || unsteered") -> Metric:
    """KL divergence of the next-token distributions after the prompt, in nats.

    Args:
        direction: `steered || unsteered` is the paper's shift, `unsteered || steered` measures damage.

    Raises:
        SettingError: The direction is neither.
    """
    if not isinstance(direction, str) or direction not in ("steered || unsteered", "unsteered || steered"):
        raise SettingError(
            f"KL direction {direction!r} is not known: 'steered || unsteered' or 'unsteered || steered'."
        )

    def bind(backend: Backend) -> BoundMetric:
        def divergence(reading: Reading) -> Tensor:
            steered = reading.logits.float().log_softmax(dim=-1)
            plain = reading.unsteered_logits.float().log_softmax(dim=-1)
            first, second = (steered, plain) if direction.startswith("steered") else (plain, steered)
            return (first.exp() * (first - second)).sum(dim=-1)

        return divergence

    return Metric(f"KL({direction})", "nats", "last", bind)


def precision_at(k: int, answers: Mapping[str, str]) -> Metric:
    """1 where the first token of a prompt's right answer is among the k likeliest after it, else 0; its mean is P@K.

    Args:
        k: How many of the likeliest tokens count.
        answers: The right answer of each prompt, with the space that it starts with.

    Raises:
        SettingError: k is not an integer from 1, or there are no answers.
    """
    if not is_count(k) or not answers:
        raise SettingError(f"P@{k} of {len(answers)} answers cannot be measured: give k of at least 1, and answers.")

    def bind(backend: Backend) -> BoundMetric:
        right = {
            tuple(backend.encode(prompt)): backend.encode(answer, prepend_bos=False)[0]
            for prompt, answer in answers.items()
        }

        def hits(reading: Reading) -> Tensor:
            top = reading.logits.topk(min(k, reading.logits.shape[-1]), dim=-1).indices
            rows = [tuple(row[:length]) for row, length in zip(reading.tokens.tolist(), reading.lengths, strict=True)]
            missing = [row for row in rows if row not in right]
            if missing:
                raise SettingError(f"There is no answer for the prompt {backend.decode(missing[0])!r}.")
            wanted = torch.tensor([right[row] for row in rows], device=top.device)
            return (top == wanted[:, None]).any(dim=-1).float()

        return hits

    return Metric(f"P@{k}", "", "last", bind)


def entropy() -> Metric:
    """Entropy of the next-token distribution after the prompt, in nats."""

    def measure(reading: Reading) -> Tensor:
        log_probs = reading.logits.float().log_softmax(dim=-1)
        return -(log_probs.exp() * log_probs).sum(dim=-1)

    return Metric("entropy", "nats", "last", lambda backend: measure)


def perplexity() -> Metric:
    """Perplexity of the text; predictions made from injected positions are left out, steered and unsteered alike.

    The prediction made from a column is that of the token after it. A text with no prediction left after an injected
    position gives NaN, because what comes before an injection cannot change.
    """
    return Metric("perplexity", "", "all", lambda backend: lambda reading: mean_nll(reading).exp())


def cross_entropy() -> Metric:
    """Mean negative log-likelihood of the text's tokens in nats: the log of the perplexity."""
    return Metric("cross-entropy", "nats", "all", lambda backend: mean_nll)


def mean_nll(reading: Reading) -> Float[Tensor, " rows"]:
    """Mean negative log-likelihood over the predictions that count."""
    nll, counted = token_nll(reading)
    return (nll * counted).sum(dim=1) / counted.sum(dim=1)


def token_nll(reading: Reading) -> tuple[Float[Tensor, "rows predictions"], Bool[Tensor, "rows predictions"]]:
    """Negative log-likelihood of each next token, and which of them count, as in `predictions`."""
    log_probs = reading.logits[:, :-1].float().log_softmax(dim=-1)
    return -log_probs.gather(-1, reading.tokens[:, 1:, None])[..., 0], predictions(reading)


def predictions(reading: Reading) -> Bool[Tensor, "rows predictions"]:
    """Which predictions of a next token count: not from padding, and not from an injected position.

    None of a row counts if an injection lands there and no prediction after it is left: what comes before an injection
    cannot change, and would pass for text that steering leaves alone.
    """
    columns = torch.arange(1, reading.tokens.shape[1], device=reading.injected.device)
    landed = reading.injected[:, :-1]
    counted = (columns < reading.lengths[:, None]) & ~landed
    is_later = (counted & landed.cummax(dim=1).values).any(dim=1)
    return counted & (is_later | ~reading.injected.any(dim=1))[:, None]


if not TYPE_CHECKING:  # so that a wrong name stays wrong to type checkers
    __getattr__ = finder("metrics", __name__)
