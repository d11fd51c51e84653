"""What an injection has become at later layers of a prompt, read through the unembedding."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.analysis.lens.reading import Lens
from actadd_lens.analysis.lens.results import CarriedLens, LensOrder, LogitLens, adjusted
from actadd_lens.checks import check_run, is_count, require
from actadd_lens.errors import PositionError
from actadd_lens.measuring.measure import Condition, ConditionRows, null_conditions
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import encode_prompts
from actadd_lens.steering.landings import Prompts, touched
from actadd_lens.vectors.naming import vector_names
from actadd_lens.vectors.vector import SteeringVector, check_vectors


@torch.no_grad()
def logit_lens_carried(
    model: LensModel,
    vectors: SteeringVector | Sequence[SteeringVector],
    prompt: str,
    *,
    at: int | None = None,
    k: int = 5,
    order: LensOrder = "value",
    tokens: Sequence[str | int] = (),
    position: Position = "front",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 64,
) -> CarriedLens:
    """Read what an injection has become at each later layer of a prompt: the steered minus the unsteered stream there.

    Args:
        model: The model.
        vectors: One steering vector or several, all injected together.
        prompt: One text.
        at: The prompt token at which the stream is read, BOS counted; None for the last.
        k: Tokens in each list.
        order: Rank tokens by their `value`, or by their `z` score, which discounts what any vector of that size does.
        tokens: Tokens to follow, as texts of one token or ids.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        nulls: Number of null vectors that are run through the same prompt.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether the prompt starts with BOS.
        batch_size: Maximum number of rows per pass.

    Raises:
        SettingError: A setting is out of range.
        PromptError: The prompt is not text, or is longer than the context, or a followed text is not one token.
        PositionError: A vector does not fit onto the prompt, or `at` is not a token of it.
        VectorError: A vector does not match the model.
        ModelError: It is not known how the model computes its logits.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend = backend_of(model)
    found = check_vectors(backend, vectors, what="the logit lens")
    lens = Lens.of(backend, k, tokens, order)
    require(is_count(batch_size), "batch_size", batch_size, "an integer from 1")
    (ids,) = encode_prompts(backend, (prompt,), prepend_bos=prepend_bos)
    column = _check_at(at, len(ids))
    pass_rows = ConditionRows(backend, [ids], [found], found, position)
    conditions = [(), found, *null_conditions(model, found, nulls, null_kind, seed)]
    streams = _streams(backend, ids, conditions, column, measured=found, position=position, batch_size=batch_size)
    first = min(vector.layer for vector in found)
    plain, changes = streams[first:, 0], streams[first:, 1:] - streams[first:, :1]
    changes[: _reached(backend, found, position, pass_rows.prompts, column) - first] = 0.0
    text = backend.token_strings(ids)[column]
    names = [f"layer {layer}" for layer in range(first, backend.n_layers)] + ["the end"]
    told = [
        {"vector": 0, "name": name, "layer": first + index, "row": None, "row_name": f"at {column}: {text}"}
        for index, name in enumerate(names)
    ]
    null_rows = changes[:, 1:].transpose(0, 1) if nulls else None
    where = f"carried to token {column} {text!r} of {prompt!r}: " + " and ".join(vector_names(found))
    direction = lens.read(changes[:, 0], None, null_rows, told, rescale=False)
    anchored = lens.read(changes[:, 0], plain, null_rows, told, rescale=False)
    both = adjusted([*direction, *anchored])
    direction, anchored = both[: len(direction)], both[len(direction) :]
    relative = (changes[:, 0].norm(dim=-1) / plain.norm(dim=-1)).tolist()
    return CarriedLens(
        LogitLens("direction", direction, k, prompt, nulls, f"direction reading, {where}"),
        LogitLens("anchored", anchored, k, prompt, nulls, f"anchored reading, {where}"),
        prompt,
        column,
        text,
        tuple(relative),
    )


def _streams(
    backend: Backend,
    ids: Sequence[int],
    conditions: Sequence[Condition],
    column: int,
    *,
    measured: Condition,
    position: Position,
    batch_size: int,
) -> Float[Tensor, "depths conditions d_model"]:
    """The stream at one token of a prompt in each condition, at every depth."""
    found = []
    for first in range(0, len(conditions), batch_size):
        some = conditions[first : first + batch_size]
        rows = ConditionRows(backend, [ids] * len(some), some, measured, position)
        columns = torch.full((len(some), 1), column, device=backend.device)
        found.append(rows.streams(columns)[:, :, 0])
    return torch.cat(found, dim=1)


def _reached(
    backend: Backend, vectors: Sequence[SteeringVector], position: Position, prompts: Prompts, column: int
) -> int:
    """The first depth at which the stream of a column can differ: where a row lands on it, or after one lands before.

    Up to there causality makes the difference zero, and rounding must not be read as a direction.
    """
    depths = [backend.n_layers + 1]
    for vector in vectors:
        lands = (vector.injection != 0).any(dim=-1).nonzero().flatten().tolist()
        places = touched(vector, position, prompts.facts(0, backend))
        columns = [token for row, token in places if row in lands]
        if not lands or column < min(columns, default=column + 1):
            continue
        depths.append(vector.layer + (column not in columns))
    return min(depths)


def _check_at(at: Any, length: int) -> int:
    """The column at which a stream is read.

    Raises:
        PositionError: It is not a token of the prompt.
    """
    if at is None:
        return length - 1
    if isinstance(at, bool) or not isinstance(at, int) or not 0 <= at < length:
        raise PositionError(
            f"at is {at!r}, but the prompt has tokens 0 to {length - 1} (BOS counted): use None for the last."
        )
    return at
