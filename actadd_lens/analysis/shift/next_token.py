"""Next-token shift: which tokens a steering vector makes likelier after a prompt."""

from collections.abc import Sequence
from typing import Any

import torch

from actadd_lens.analysis.shift.passes import Sums
from actadd_lens.analysis.shift.picking import Picker
from actadd_lens.analysis.shift.results import NextTokenShift, ShiftedToken
from actadd_lens.checks import check_run, is_count, require
from actadd_lens.measuring.measure import Condition, ConditionRows, null_conditions
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import as_texts, each_once, encode_prompts, token_ids
from actadd_lens.vectors.naming import vector_names
from actadd_lens.vectors.vector import check_interventions

__all__ = ["NextTokenShift", "ShiftedToken", "next_token_shift"]


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
    """Show which tokens become more or less likely after prompts, and what each adds to the KL divergence.

    Args:
        model: The model; steering that is open around the call is ignored.
        prompts: One text or several; numbers are means over them.
        vectors: One steering vector or several, all added together.
        k: Tokens in each list.
        least: List only tokens of at least this mean probability, steered or unsteered.
        tokens: Tokens to follow, as texts of one token or ids, wherever they rank.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        nulls: Number of null vectors to run for comparison.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether prompts start with BOS.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A prompt is not text, or is longer than the context, or a followed text is not one token.
        PositionError: A vector does not fit onto a prompt.
        VectorError: A vector does not match the model.
        SettingError: A setting is out of range.
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
    ConditionRows(backend, ids, [()] * len(ids), found, position)  # do they fit?
    conditions: list[Condition] = [(), found, *null_conditions(model, found, nulls, null_kind, seed)]
    sums = Sums(backend, conditions, ids, found, position, batch_size, progress)
    facts = sums.facts()
    pick = Picker(backend, facts, least)
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
