"""Trace: which heads and MLPs read an injection, and what each of them adds to a metric."""

from collections.abc import Sequence
from typing import Any

from actadd_lens.analysis.trace.results import Trace, TraceCondition
from actadd_lens.analysis.trace.tracing import Freeze, Tracer
from actadd_lens.checks import check_choice, check_run
from actadd_lens.errors import SettingError
from actadd_lens.measuring.measure import ConditionRows, null_conditions
from actadd_lens.measuring.metrics import as_metric
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import LensModel, backend_of
from actadd_lens.models.readout import readout_of
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import encode_prompts
from actadd_lens.vectors.vector import SteeringVector, check_vectors


def trace_injection(
    model: LensModel,
    prompt: str,
    vectors: SteeringVector | Sequence[SteeringVector],
    *,
    metric: Any,
    position: Position = "front",
    at: TraceCondition = "unsteered",
    freeze: Freeze | None = None,
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 32,
) -> Trace:
    """Find out which heads and MLPs read an injection, and what each of them adds to a metric directly.

    A component's direct contribution is the change of its output times the gradient of the metric at the residual
    stream after the last block, with the final norm's scale *frozen* at its steered or unsteered value (`at`). For a
    logit or a difference of logits that is exact. Any other metric is taken to first order, and the rest is reported as
    `higher_orders`; the effect of the final norm's scale is reported as `final_norm`. All parts sum to the change.

    A component that the injection reaches through others counts with the whole change of its output. Where a norm lies
    between attention and the stream, a head's output is its part of what the norm scales, by each run's scale.

    Args:
        model: The model.
        prompt: One text.
        vectors: One steering vector or several.
        metric: A metric, or a function of the last token's logits; it must have a gradient.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        at: Whether the final norm's scale and the gradient are the `steered` or the `unsteered` model's. A KL
            divergence has no gradient in the unsteered model, where it is 0.
        freeze: `attention` keeps every head's attention pattern unsteered, in the nulls too: what is left of the change
            is what the injection does through the values that heads move, and through MLPs.
        nulls: Number of null vectors to trace for comparison.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether the prompt starts with BOS.
        batch_size: Maximum number of rows per pass.

    Raises:
        PromptError: The prompt is not text, or is longer than the context.
        PositionError: A vector does not fit onto the prompt.
        VectorError: A vector does not match the model.
        SettingError: The metric has no gradient, or a setting is out of range.
        ModelError: The model's stream is not the sum of what its heads and MLPs write (norms that include the stream
            itself), it is not known how it computes its logits, it does not expose its attention, or attention cannot
            be frozen in it.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend, chosen = backend_of(model), as_metric(metric)
    found = check_vectors(backend, vectors, what="the trace of an injection")
    check_choice(at, "at", "unsteered", "steered")
    if freeze is not None and not (isinstance(freeze, str) and freeze == "attention"):
        raise SettingError(f"freeze is {freeze!r}: expected 'attention' or None.")
    if not isinstance(prompt, str):
        raise SettingError(f"trace_injection takes one text, not {prompt!r}: use trace_layers for several prompts.")
    tokens = encode_prompts(backend, (prompt,), prepend_bos=prepend_bos)[0]
    ConditionRows(backend, [tokens], [found], found, position)
    conditions = [found, *null_conditions(model, found, nulls, null_kind, seed)]
    tracer = Tracer(backend, readout_of(backend), chosen, chosen.bound_to(backend), tokens, found, position, at, freeze)
    step = max(1, batch_size - 1)
    passes = [tracer.run(conditions[first : first + step]) for first in range(0, len(conditions), step)]
    first_pass, parts = passes[0], [item for run in passes for item in run.contributions]
    return Trace(
        prompt=prompt, tokens=tuple(backend.token_strings(tokens)), vectors=found, metric=chosen, at=at,
        freeze=freeze,
        contributions=parts[0], nulls=tuple(parts[1:]), **first_pass.shown(),
    )  # fmt: skip
