"""What methods read: activations of many prompts at chosen tokens, unsteered, and their means."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.checks import check_flags, check_run
from actadd_lens.errors import PromptError, SettingError
from actadd_lens.models import Backend
from actadd_lens.models.protocol import Spot
from actadd_lens.progress import tracked
from actadd_lens.steering.clean import read_clean
from actadd_lens.vectors.provenance import Provenance

Prompt = str | Sequence[int] | Int[Tensor, " pos"]
"""A text, a chat prompt (`chat`), or token ids, which are read as they are."""

Read = int | Literal["all"] | Sequence[Sequence[bool]]
"""Which tokens of a prompt are read: an index, negative ones from its end; all; or a mask for each prompt."""

BATCH_SIZE = 16
"""Prompts in a pass: few, since several sites of all layers may be kept at once."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Activations of prompts, summed over the tokens that were read.

    Attributes:
        sums: At each spot a row for each prompt, in double precision: means over many tokens lose nothing then.
        counts: How many tokens of each prompt were read.
        rows: Token ids of the prompts.
    """

    sums: Mapping[Spot, Float[Tensor, "prompts width"]]
    counts: Int[Tensor, " prompts"]
    rows: tuple[tuple[int, ...], ...]

    def of_prompts(self, spot: Spot) -> Float[Tensor, "prompts width"]:
        """Each prompt's mean over its tokens."""
        return self.sums[spot] / self.counts[:, None]

    def mean(self, spot: Spot) -> Float[Tensor, " width"]:
        """The mean over all tokens of all prompts, in which a long prompt weighs more."""
        return self.sums[spot].sum(dim=0) / self.counts.sum()

    def part(self, start: int, stop: int | None = None) -> "Reading":
        """Some of the prompts."""
        some = slice(start, stop)
        return Reading({spot: table[some] for spot, table in self.sums.items()}, self.counts[some], self.rows[some])


def read_prompts(
    backend: Backend,
    prompts: Sequence[Prompt],
    spots: Sequence[Spot],
    *,
    read: Read = -1,
    bos: bool = True,
    prepend_bos: bool = True,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> Reading:
    """Read prompts of any lengths, whatever steering is open, in one pass for each batch.

    Args:
        backend: The model.
        prompts: Texts, chat prompts, or token ids.
        spots: Layers and sites; a pass stops after the highest.
        read: An index, negative ones from the end; `all`; or a boolean mask for each prompt.
        bos: Whether BOS counts among all tokens.
        prepend_bos: Whether texts start with BOS; token ids are read as they are.
        batch_size: Maximum number of prompts per pass.
        progress: Whether to show a bar.

    Raises:
        PromptError: There is no prompt, one cannot be read, or one has no such token.
        SettingError: `read` is none of these.
    """
    rows = token_rows(backend, prompts, prepend_bos=prepend_bos)
    check_flags(bos=bos)
    check_run(batch_size=batch_size)
    picks = [_picks(backend, row, read, bos=bos, number=number, of=len(rows)) for number, row in enumerate(rows)]
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    kept: dict[Spot, dict[int, Tensor]] = {spot: {} for spot in spots}
    for members in tracked(batches, what="reading", unit="pass", shown=progress):
        values = read_clean(backend, [rows[number] for number in members], list(spots)).values
        for spot, table in values.items():
            for place, number in enumerate(members):
                kept[spot][number] = table[place, picks[number]].double().sum(dim=0).cpu()
    sums = {spot: torch.stack([found[number] for number in range(len(rows))]) for spot, found in kept.items()}
    return Reading(sums, torch.tensor([len(pick) for pick in picks]), tuple(rows))


def read_pairs(
    backend: Backend, pairs: Sequence[Any], spots: Sequence[Spot], *, read: Read = -1, **settings: Any
) -> tuple[Reading, Reading]:
    """Both sides of pairs, read together; they may have different lengths, since tokens are not compared one by one.

    Args:
        backend: The model.
        pairs: Two prompts each: texts, chat prompts, or token ids.
        spots: Layers and sites.
        read: As in `read_prompts`.
        **settings: Those of `read_prompts`.

    Raises:
        PromptError: There is no pair, one is not a pair, or a prompt cannot be read.
    """
    checked = check_pairs(pairs)
    sides = [side[0] for side in checked] + [side[1] for side in checked]
    found = read_prompts(backend, sides, spots, read=read, **settings)
    return found.part(0, len(checked)), found.part(len(checked))


def mean_difference(plus: Reading, minus: Reading, spot: Spot) -> Float[Tensor, " width"]:
    """The mean over pairs of the first prompt's activation minus the second's."""
    difference: Tensor = (plus.of_prompts(spot) - minus.of_prompts(spot)).mean(dim=0)
    return difference


def check_pairs(pairs: Any) -> list[Sequence[Any]]:
    """Pairs of prompts, after checking each of them.

    Raises:
        PromptError: There is none, or one is something else.
    """
    if isinstance(pairs, str) or not isinstance(pairs, Sequence) or not pairs:
        raise PromptError("No pairs were given: pass a list of (prompt, other prompt).")
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise PromptError(
                f"{str(pair)[:60]!r} is not a pair of prompts: pass two texts, chat prompts, or lists of token ids."
            )
    return list(pairs)


def token_rows(backend: Backend, prompts: Any, *, prepend_bos: bool = True) -> list[tuple[int, ...]]:
    """Token ids of prompts, after checking that each fits into the context.

    Args:
        backend: The model.
        prompts: Texts, chat prompts, or token ids: lists or tensors.
        prepend_bos: Whether texts start with BOS.

    Raises:
        PromptError: There is none, one is empty or too long, or holds ids that the model does not have.
    """
    check_flags(prepend_bos=prepend_bos)
    if isinstance(prompts, str) or not isinstance(prompts, Sequence | Tensor) or len(prompts) == 0:
        raise PromptError(f"{str(prompts)[:60]!r} is not a list of prompts: pass texts or token ids, one or more.")
    rows = [
        tuple(backend.encode(prompt, prepend_bos=prepend_bos)) if isinstance(prompt, str) else _ids(backend, prompt)
        for prompt in prompts
    ]
    for number, row in enumerate(rows):
        if not row:
            raise PromptError(f"Prompt {number} is empty and has no BOS, so there is nothing to read: give it a text.")
        if len(row) > backend.n_ctx:
            raise PromptError(
                f"Prompt {number} has {len(row)} tokens, but {backend.name} reads at most {backend.n_ctx}."
            )
    return rows


def _ids(backend: Backend, prompt: Any) -> tuple[int, ...]:
    values = prompt.tolist() if hasattr(prompt, "tolist") else prompt
    size = int(backend.model.cfg.d_vocab)
    if not isinstance(values, list | tuple) or not all(
        isinstance(item, Integral) and not isinstance(item, bool) and 0 <= int(item) < size for item in values
    ):
        raise PromptError(
            f"The prompt {str(values)[:60]!r} is neither a text nor a list of token ids of {backend.name}, which go "
            f"from 0 to {size - 1}."
        )
    return tuple(map(int, values))


def _picks(backend: Backend, row: Sequence[int], read: Any, *, bos: bool, number: int, of: int) -> list[int]:
    """Indices of the tokens that are read in one prompt."""
    if isinstance(read, str) and read == "all":
        found = list(range(int(not bos and row[0] == backend.bos_token_id), len(row)))
        if not found:
            raise PromptError(f"Prompt {number} is BOS alone, which bos=False leaves out: give it a text.")
        return found
    if isinstance(read, Integral) and not isinstance(read, bool):
        index = int(read) + len(row) if read < 0 else int(read)
        if not 0 <= index < len(row):
            raise PromptError(f"Prompt {number} has {len(row)} tokens (BOS counted), so there is no token {int(read)}.")
        return [index]
    masks = read.tolist() if hasattr(read, "tolist") else read
    if not isinstance(masks, list | tuple) or len(masks) != of:
        raise SettingError(f"read is {read!r}: expected an index, 'all', or one boolean mask for each of {of} prompts.")
    mask = masks[number].tolist() if hasattr(masks[number], "tolist") else masks[number]
    if not isinstance(mask, list | tuple) or not all(isinstance(item, bool) for item in mask):
        raise SettingError(f"The mask of prompt {number} is {str(mask)[:40]!r}: expected booleans, one for each token.")
    found = [index for index, is_read in enumerate(mask) if is_read]
    if not found or found[-1] >= len(row):
        raise PromptError(f"The mask of prompt {number} marks no token, or one beyond its {len(row)} tokens.")
    return found


def provenance_of(backend: Backend, source: str, *, layer: int | None, steps: Sequence[str]) -> Provenance:
    """Where a method's direction comes from: the model and the way its weights were processed, and how it was read.

    Args:
        backend: The model that was read.
        source: The method and what it was given, in a few words.
        layer: Where it was read; None for several places.
        steps: How it was made, in order.
    """
    told = Provenance.of_model(backend, source=source)
    return replace(told, read_layer=layer, steps=tuple(steps))


def told_read(what: str, read: Read, *readings: Reading) -> str:
    """What was read, for a provenance: how many prompts, at which tokens, and a hash of the token ids."""
    rows = [list(row) for reading in readings for row in reading.rows]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
    where = "masked tokens" if not isinstance(read, int | str) else "all tokens" if read == "all" else f"token {read}"
    return f"{what} at {where} of {len(rows)} prompts (token ids {digest})"
