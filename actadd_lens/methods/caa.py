"""Contrastive activation addition: the mean difference of many answered questions (arXiv 2312.06681)."""

from collections.abc import Sequence
from typing import Any

from actadd_lens.errors import VectorError
from actadd_lens.methods.layers import one_layer
from actadd_lens.methods.reading import BATCH_SIZE, Prompt, Read, mean_difference, provenance_of, read_pairs, told_read
from actadd_lens.models import LensModel, backend_of
from actadd_lens.models.protocol import Spot
from actadd_lens.prompts.spans import after
from actadd_lens.vectors.vector import SteeringVector, as_vectors

PAPER = "arXiv 2312.06681"


def caa(
    model: LensModel,
    pairs: Sequence[tuple[Prompt, Prompt]],
    *,
    layer: int | None = None,
    paper_layer: int | None = None,
    read: Read = -2,
    mark: str | Sequence[int] | None = None,
    prepend_bos: bool = True,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> SteeringVector:
    """The mean over pairs of the matching answer's activation minus the other's, at one token (section 3 of the paper).

    Read: question and answer, at the letter of an answer such as "(A)", the second to last token. Lands: on the last
    token of the mark that ends the instruction, and on all later tokens, generated ones too. Does: x + c v.

    Args:
        model: The model to read; if it is being steered, the unsteered model is read.
        pairs: (with the matching answer, with the other one): texts, chat prompts, or token ids.
        layer: In this package's count: the stream that enters this block.
        paper_layer: The paper's l, the output of block l, which is our l + 1.
        read: The token that is read; or a mask for each prompt, those of the matching answers first.
        mark: What ends an instruction, such as "[/INST]": a text or token ids. Without it, the vector lands on the
            prompt's last token and on generated ones, which is the same if the prompt ends with the mark.
        prepend_bos: Whether texts start with BOS; token ids are read as they are.
        batch_size: Maximum number of prompts per pass.
        progress: Whether to show a bar.

    Returns:
        A vector of one row, with its position. The paper's multiples go from -2 to 2.

    Raises:
        PromptError: There is no pair, or one cannot be read.
        LayerError: Both layers or neither were given, or the model has no such layer.
        PositionError: The mark is empty.
    """
    backend = backend_of(model)
    number, translated = one_layer(backend, layer, paper_layer)
    position = "last" if mark is None else after(mark)
    plus, minus = read_pairs(
        backend, pairs, [Spot(number)], read=read, prepend_bos=prepend_bos, batch_size=batch_size, progress=progress
    )
    row = mean_difference(plus, minus, Spot(number)).float()
    steps = (*translated, told_read("mean difference of pairs", read, plus, minus))
    told = provenance_of(backend, f"CAA of {len(plus.rows)} pairs", layer=number, steps=steps)
    return SteeringVector(row[None], number, position=position, provenance=told)


def common_norm(vectors: Any) -> list[SteeringVector]:
    """Vectors of one layer, each rescaled to their mean norm, as the paper does with its behaviours.

    Args:
        vectors: One vector or several, of one row each.

    Raises:
        VectorError: They have several rows or different layers, or one is zero.
    """
    found = as_vectors(vectors, what="common_norm")
    if len({vector.layer for vector in found}) > 1 or any(vector.rows != 1 for vector in found):
        raise VectorError("common_norm takes vectors of one row at one layer: norms of others do not compare.")
    if any(float(vector.norms) == 0 for vector in found):
        raise VectorError("One of the vectors is zero, so it has no direction to be rescaled.")
    mean = sum(float(vector.norms) for vector in found) / len(found)
    return [vector.with_norm(mean) for vector in found]
