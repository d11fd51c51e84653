"""What a model makes of a continuation: how surprising it is, and how much it depends on its prompt.

Both are read from plain, unsteered forward passes over existing text, whoever wrote it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from actadd_lens.checks import check_run
from actadd_lens.errors import ModelDownloadError, SettingError
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.steering.clean import unsteered

Texts = Sequence[Sequence[str]]
"""For each prompt, its samples."""

Relevance = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""Prompts and as many continuations to one number each: how related a continuation is to its prompt."""

EMBEDDINGS = "sentence-transformers/all-MiniLM-L6-v2"
"""The sentence embeddings of the paper (section 2e)."""


def surprise(
    model: LensModel, prompts: Sequence[str], continuations: Texts, *, batch_size: int = 64
) -> Float[np.ndarray, "prompts samples"]:
    """Mean nats per token of continuations after their prompts; its exponential is their perplexity, the disfluency.

    Prompt and continuation are read as one text, so that any model can judge what another one wrote. What exceeds the
    model's context is left out; an empty continuation has no value (NaN).

    Args:
        model: The model that judges; steering that is open around the call is ignored.
        prompts: One prompt for each row of continuations.
        continuations: Continuations of each prompt, as many for one as for another.
        batch_size: Maximum number of rows per pass.

    Raises:
        SettingError: There are not as many rows of continuations as prompts.
    """
    check_run(batch_size=batch_size)
    backend = backend_of(model)
    spans = _spans(backend, prompts, continuations)
    return -_mean_logprobs(backend, spans, batch_size).reshape(len(prompts), -1)


def dependence(
    model: LensModel, prompts: Sequence[str], continuations: Texts, *, batch_size: int = 64
) -> Float[np.ndarray, "prompts samples"]:
    """How much likelier a continuation is after its prompt than after BOS alone, in nats per token.

    The mean over its tokens of log p(token | prompt, tokens before) - log p(token | BOS, tokens before): a pointwise
    mutual information. It measures relevance without another model.

    Args:
        model: The model that judges; steering that is open around the call is ignored.
        prompts: One prompt for each row of continuations.
        continuations: Continuations of each prompt, as many for one as for another.
        batch_size: Maximum number of rows per pass.

    Raises:
        SettingError: The model has no BOS token, or there are not as many rows of continuations as prompts.
    """
    check_run(batch_size=batch_size)
    backend = backend_of(model)
    bos = tuple(backend.encode(""))
    if not bos:
        raise SettingError(f"{backend.name} has no BOS token to read continuations after: pass relevance= instead.")
    spans = _spans(backend, prompts, continuations)
    alone = [_Span(bos, span.tokens) for span in spans]
    values = _mean_logprobs(backend, [*spans, *alone], batch_size)
    after_prompt, after_bos = values.reshape(2, len(prompts), -1)
    return np.asarray(after_prompt - after_bos)


def embedding_relevance(name: str = EMBEDDINGS) -> Relevance:
    """Cosine similarity of sentence embeddings of prompt and continuation, the paper's measure of relevance.

    Args:
        name: Name or local folder of a model for sentence-transformers.

    Raises:
        SettingError: sentence-transformers is not installed.
        ModelDownloadError: The model is not here and could not be fetched.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise SettingError(
            "Relevance by sentence embeddings needs sentence-transformers: pip install 'actadd-lens[relevance]', or "
            "leave relevance= out for the dependence on the prompt, which needs no other model."
        ) from error
    try:
        encoder: Any = SentenceTransformer(name)
    except (OSError, ValueError) as error:
        raise ModelDownloadError(
            f"The sentence embeddings {name!r} are not here and could not be fetched: pass a local folder, or leave "
            "relevance= out."
        ) from error

    def relevance(prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        first, second = (
            np.asarray(encoder.encode(list(texts), normalize_embeddings=True)) for texts in (prompts, continuations)
        )
        return [float(value) for value in (first * second).sum(axis=1)]

    relevance.__name__ = f"relevance (cosine, {name})"
    return relevance


# -- passes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Span:
    """Tokens to be predicted, behind others that are read only."""

    context: tuple[int, ...]
    tokens: tuple[int, ...]


def _spans(backend: Backend, prompts: Sequence[str], continuations: Texts) -> list[_Span]:
    """Each continuation behind its prompt, prompts first."""
    counts = {len(row) for row in continuations}
    if len(prompts) != len(continuations) or len(counts) > 1:
        raise SettingError(
            f"{len(prompts)} prompts and {len(continuations)} rows of {sorted(counts)} continuations do not "
            "match: give a row for each prompt, all of one length."
        )
    found = []
    for prompt, row in zip(prompts, continuations, strict=True):
        context = backend.encode(prompt)
        found += [_span(context, backend.encode(prompt + text), backend.n_ctx) for text in row]
    return found


def _span(context: Sequence[int], whole: Sequence[int], n_ctx: int) -> _Span:
    """What the continuation adds; where it grows together with the prompt's last token, that token counts as its own.

    >>> _span([0, 5, 6], [0, 5, 6, 7, 8], 4)
    _Span(context=(0, 5, 6), tokens=(7,))
    >>> _span([0, 5, 6], [0, 5, 9, 8], 10)
    _Span(context=(0, 5), tokens=(9, 8))
    """
    shared = 0
    while shared < min(len(context), len(whole)) and context[shared] == whole[shared]:
        shared += 1
    return _Span(tuple(whole[:shared]), tuple(whole[shared:n_ctx]))


def _mean_logprobs(backend: Backend, spans: Sequence[_Span], batch_size: int) -> Float[np.ndarray, " spans"]:
    """Mean log-probability of each span's tokens; rows of like length share passes, padded on the right."""
    found = np.full(len(spans), np.nan)
    filler = backend.pad_token_id or 0
    order = [index for index in range(len(spans)) if spans[index].context and spans[index].tokens]
    order.sort(key=lambda index: len(spans[index].context) + len(spans[index].tokens))
    with torch.no_grad(), unsteered(backend):
        for first in range(0, len(order), batch_size):
            members = order[first : first + batch_size]
            rows = [[*spans[index].context, *spans[index].tokens] for index in members]
            longest = max(map(len, rows))
            tokens = torch.tensor([row + [filler] * (longest - len(row)) for row in rows], device=backend.device)
            logprobs = backend.logits(tokens)[:, :-1].float().log_softmax(dim=-1)
            picked = logprobs.gather(-1, tokens[:, 1:, None].to(logprobs.device))[..., 0].cpu().numpy()
            for line, index in enumerate(members):
                start, end = len(spans[index].context) - 1, len(rows[line]) - 1
                found[index] = picked[line, start:end].mean()
    return found
