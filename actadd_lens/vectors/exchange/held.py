"""What a file of another library holds, and warnings about what it cannot hold."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from actadd_lens.errors import ActAddError, VectorFileError
from actadd_lens.prompts.positions import Position
from actadd_lens.vectors.provenance import Provenance
from actadd_lens.vectors.vector import SteeringVector


class ExchangeWarning(UserWarning):
    """Something that a file of another library cannot hold, or that has another meaning there."""


@dataclass(frozen=True)
class Held:
    """What a file holds.

    Attributes:
        vectors: One a layer, in the order of the layers.
        told: How the file's layers, tokens and sizes were interpreted, and what it does not say.
    """

    vectors: tuple[SteeringVector, ...]
    told: tuple[str, ...] = ()


def tell(path: Any, told: Sequence[str], *, above: int = 2) -> None:
    """Warn of what was lost or converted, in one warning per file, attributed to a line that many calls above."""
    if told:
        warnings.warn(ExchangeWarning(f"{path}: " + "; ".join(told) + "."), stacklevel=above + 2)


def layer_above(block: int) -> int:
    """The layer at whose input something acts that another library adds to a block's output."""
    return block + 1


def told_of_blocks(word: str, blocks: Sequence[int]) -> str:
    """The translation of layer numbers, in words.

    >>> told_of_blocks("direction", [11])
    'direction 11 is added to the output of block 11, which is layer 12 here'
    """
    if len(blocks) == 1:
        block = blocks[0]
        return f"{word} {block} is added to the output of block {block}, which is layer {layer_above(block)} here"
    low, high = min(blocks), max(blocks)
    return (
        f"{word}s {low} to {high} are added to the outputs of these blocks, "
        f"which are layers {layer_above(low)} to {layer_above(high)} here"
    )


def direction(
    values: Tensor, *, layer: int, source: str, path: Any, position: Position | None = None, coefficient: float = 1.0
) -> SteeringVector:
    """A vector from numbers that were found in a file; one row where they have one axis.

    Raises:
        VectorFileError: They are not rows of finite numbers.
    """
    rows = values[None] if values.ndim == 1 else values
    try:
        if not rows.is_floating_point():
            raise TypeError(
                f"its numbers are of type {str(rows.dtype).removeprefix('torch.')}, and floats are expected"
            )
        rows = rows.detach().cpu().contiguous()
        return SteeringVector(rows, layer, coefficient, position, Provenance(source))
    except (TypeError, OverflowError, RuntimeError, ActAddError) as error:
        raise VectorFileError(f"{path} holds no sound steering vector: {error}") from error


def need_layer(layer: int | None, path: Any, what: str) -> int:
    """The layer that the caller passed, for a file that does not say its layer.

    Raises:
        VectorFileError: None was passed.
    """
    if layer is None:
        raise VectorFileError(
            f"{path} holds {what}, and does not say at which layer: pass layer=, counted as here (the block whose "
            "input is changed; a library that adds to a block's output counts one less)."
        )
    return layer
