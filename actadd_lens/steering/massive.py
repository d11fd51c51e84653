"""Massive activations: rows and tokens that one coordinate makes far larger than others (arXiv 2402.17762).

Some models give a few tokens, above all BOS, a stream that is tens or hundreds of times as long as all others, nearly
all of it in one coordinate. Heads attend to it when they have nothing else to do; it says nothing about the text.

A row counts as massive if two conditions hold, both of them arithmetic. One coordinate outweighs all others together
(it has more than half of the squared norm), so that the row points along an axis. And its norm is more than √10 times
that of its neighbours. Added to an ordinary stream, such a row leaves it less than a tenth of the sum's squared norm,
so the stream is overwritten; and an ordinary row that is added to a massive token is lost.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from actadd_lens.models import Backend
from actadd_lens.models.protocol import Spot
from actadd_lens.steering.clean import read_clean

FAR = math.sqrt(10)
"""A norm this many times that of its neighbours leaves them less than a tenth of the squared norm of a sum."""

_OUTWEIGHS = 0.5
"""Share of the squared norm above which one coordinate outweighs all others together."""


class MassiveActivationWarning(UserWarning):
    """A row is massive, or lands on a massive token: see `actadd_lens.steering.massive`."""


@dataclass(frozen=True)
class Massive:
    """A row of a vector, or a token of a prompt, whose norm is far from its neighbours'.

    Attributes:
        index: The row, or the token, BOS counted.
        text: Its token; empty where the row has none.
        layer: The layer at which it was found.
        ratio: Its norm in units of the median norm of its neighbours.
        coordinate: The coordinate of the stream that is largest there.
        share: That coordinate's share of the squared norm.
    """

    index: int
    text: str
    layer: int
    ratio: float
    coordinate: int
    share: float

    def __str__(self) -> str:
        text = f" ({self.text!r})" if self.text else ""
        return (
            f"{self.index}{text} at layer {self.layer}: {self.ratio:.3g} times as large as its neighbours, "
            f"{self.share:.0%} of the squared norm in coordinate {self.coordinate}"
        )


def outweighed(rows: Float[Tensor, "rows d_model"]) -> Bool[Tensor, " rows"]:
    """Rows in which one coordinate outweighs all others together, as in every massive row."""
    energy = rows.detach().float().square()
    found: Tensor = energy.amax(dim=-1) > _OUTWEIGHS * energy.sum(dim=-1)
    return found


def massive(
    rows: Float[Tensor, "rows d_model"], ordinary: float, *, layer: int, texts: Sequence[str] = ()
) -> tuple[Massive, ...]:
    """The massive ones among rows of a vector, or among the tokens of a stream.

    Args:
        rows: The rows.
        ordinary: Norm of their neighbours.
        layer: Where they were read.
        texts: The token of each row, where there is one.
    """
    rows = rows.detach().float()
    energy, norms = rows.square(), rows.norm(dim=-1)
    found = outweighed(rows) & (norms > FAR * ordinary)
    return tuple(
        Massive(
            index, texts[index] if texts else "", layer, float(norms[index]) / ordinary, int(energy[index].argmax()),
            float(energy[index].max() / energy[index].sum()),
        )
        for index in found.nonzero().flatten().tolist()
    )  # fmt: skip


def massive_tokens(stream: Float[Tensor, "pos d_model"], *, layer: int, texts: Sequence[str]) -> tuple[Massive, ...]:
    """The massive tokens of a prompt, compared with the median of all its tokens."""
    return massive(stream, ordinary_of(stream), layer=layer, texts=texts)


def ordinary_of(stream: Float[Tensor, "pos d_model"]) -> float:
    """The median norm of a prompt's tokens; of two tokens the smaller one."""
    return float(stream.detach().float().norm(dim=-1).median())


def ordinary_norms(backend: Backend, layers: Iterable[int]) -> dict[int, float]:
    """The median norm of the unsteered stream at each layer, on a few sentences; their first tokens left out.

    Args:
        backend: The model.
        layers: The layers; one pass is made up to the highest.
    """
    from actadd_lens import storybook

    wanted = sorted(set(layers))
    tokens = [backend.encode(text) for text in storybook.neutral_prompts()[:4]]
    clean = read_clean(backend, tokens, [Spot(layer) for layer in wanted])
    found = {}
    for layer in wanted:
        stream = clean.values[Spot(layer)].float().norm(dim=-1)
        sizes = [stream[row, 1:length] for row, length in enumerate(clean.lengths)]
        found[layer] = float(torch.cat(sizes).median())
    return found


def massive_coordinates(row: Float[Tensor, " d_model"], ordinary: float) -> list[int]:
    """Coordinates without which a massive row is an ordinary one, the largest first; none for an ordinary row.

    >>> massive_coordinates(torch.tensor([0.1, 50.0, -0.2, 0.1]), ordinary=1.0)
    [1]
    """
    energy = row.detach().float().square()
    rest = float(energy.sum())
    if float(energy.max()) <= _OUTWEIGHS * rest or rest <= (FAR * ordinary) ** 2:
        return []
    found = []
    for coordinate in energy.argsort(descending=True).tolist():
        left = float(energy[coordinate])
        if rest <= (FAR * ordinary) ** 2 and left <= max(_OUTWEIGHS * rest, ordinary**2):
            break
        found.append(int(coordinate))
        rest -= left
    return found


def warn_of_rows(found: Sequence[tuple[str, Massive]], *, stacklevel: int) -> None:
    """One warning for all massive rows of some vectors; none where there is none.

    Args:
        found: Label of the vector, and its row.
        stacklevel: As in `warnings.warn`.
    """
    if found:
        warnings.warn(
            f"{_listed([f'({label}), row {item}' for label, item in found])}. Such massive activations say nothing "
            "about the text: added, they overwrite the tokens that they land on, and their norm is no guide to a "
            "coefficient. Leave the row out (vector.without_rows(i)), read without BOS (PromptPair(..., "
            "prepend_bos=False)), or choose other words or another layer.",
            MassiveActivationWarning,
            stacklevel=stacklevel + 1,
        )


def warn_of_landings(rows: Sequence[tuple[str, Massive]], tokens: Sequence[Massive], *, stacklevel: int) -> None:
    """One warning for massive rows and for massive tokens that something lands on; none where there is neither.

    Args:
        rows: Label of the vector, and its row.
        tokens: The tokens.
        stacklevel: As in `warnings.warn`.
    """
    told = [f"({label}), row {item}" for label, item in dict.fromkeys(rows)]
    told += [f"token {item}" for item in dict.fromkeys(tokens)]
    if told:
        warnings.warn(
            f"{_listed(told)}. A massive row overwrites the tokens that it lands on; what is added to a massive token "
            "has almost no effect there, at any ordinary coefficient. Choose another position, or leave such rows out "
            "(vector.without_rows(i)).",
            MassiveActivationWarning,
            stacklevel=stacklevel + 1,
        )


def _listed(told: Sequence[str], most: int = 4) -> str:
    more = f"; and {len(told) - most} more" if len(told) > most else ""
    text = "; ".join(told[:most]) + more
    return text[0].upper() + text[1:]
