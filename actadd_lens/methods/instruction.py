"""Instruction following: what an instruction adds to a prompt (arXiv 2410.12877)."""

from collections.abc import Sequence
from dataclasses import dataclass

from actadd_lens.errors import VectorError
from actadd_lens.methods.layers import one_layer
from actadd_lens.methods.reading import BATCH_SIZE, Prompt, Read, mean_difference, provenance_of, read_pairs, told_read
from actadd_lens.models import LensModel, backend_of
from actadd_lens.models.protocol import Spot
from actadd_lens.steering.interventions import ProjectionSet, set_projection
from actadd_lens.vectors.vector import SteeringVector


@dataclass(frozen=True, eq=False)
class Instruction:
    """An instruction's direction, and the projection of prompts with the instruction on it.

    Attributes:
        direction: One row of unit norm, at every token, BOS and generated ones too.
        mean_projection: The mean projection on it of prompts with the instruction, in the stream's own units.
        mean_projection_without: The same for prompts without it.
    """

    direction: SteeringVector
    mean_projection: float
    mean_projection_without: float

    @property
    def difference(self) -> SteeringVector:
        """The mean difference itself: the direction with its norm."""
        return self.direction.with_norm(self.mean_projection - self.mean_projection_without)

    def add(self, weight: float) -> SteeringVector:
        """Add the direction times a coefficient at every token: for lengths and words; negative to avoid a word."""
        return weight * self.direction

    def set(self, projection: float | None = None) -> ProjectionSet:
        """Set every token's projection on the direction: for formats.

        Args:
            projection: What it becomes; by default the mean of prompts with the instruction.
        """
        return set_projection(self.direction, self.mean_projection if projection is None else projection)


def instruction(
    model: LensModel,
    pairs: Sequence[tuple[Prompt, Prompt]],
    *,
    layer: int | None = None,
    paper_layer: int | None = None,
    read: Read = -1,
    prepend_bos: bool = True,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> Instruction:
    """The direction of an instruction: prompts with it minus the same prompts without it, at the last token.

    Read: the last token of both prompts, each in the model's template up to where its answer begins. Lands: on every
    token, including BOS, template and generated ones. Does: x + w u, or sets the projection x·u to what it is with the
    instruction.

    Args:
        model: The model to read; if it is being steered, the unsteered model is read.
        pairs: (with the instruction, without it): texts, chat prompts, or token ids.
        layer: In this package's count: the stream that enters this block.
        paper_layer: The paper's l, the output of block l, which is our l + 1.
        read: The token that is read.
        prepend_bos: Whether texts start with BOS; token ids are read as they are.
        batch_size: Maximum number of prompts per pass.
        progress: Whether to show a bar.

    Raises:
        PromptError: There is no pair, or one cannot be read.
        LayerError: Both layers or neither were given, or the model has no such layer.
        VectorError: The instruction changes nothing there.
    """
    backend = backend_of(model)
    number, translated = one_layer(backend, layer, paper_layer)
    spot = Spot(number)
    having, lacking = read_pairs(
        backend, pairs, [spot], read=read, prepend_bos=prepend_bos, batch_size=batch_size, progress=progress
    )
    difference = mean_difference(having, lacking, spot)
    if not bool(difference.any()):
        raise VectorError("Prompts with and without the instruction are the same at that token: read a later one.")
    unit = difference / difference.norm()
    steps = (*translated, told_read("mean difference of pairs", read, having, lacking), "unit norm")
    told = provenance_of(backend, f"instruction from {len(having.rows)} pairs", layer=number, steps=steps)
    return Instruction(
        SteeringVector(unit.float()[None], number, position="all+bos", provenance=told),
        float((having.of_prompts(spot) @ unit).mean()),
        float((lacking.of_prompts(spot) @ unit).mean()),
    )
