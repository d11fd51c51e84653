"""InferAligner: an aligned model's direction, added where the target model itself notices harm (arXiv 2401.11206)."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import require
from actadd_lens.errors import LayerError, VectorError
from actadd_lens.methods.layers import several_layers
from actadd_lens.methods.reading import BATCH_SIZE, Prompt, Reading, provenance_of, read_prompts, token_rows, told_read
from actadd_lens.methods.together import Together
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.models.protocol import Spot
from actadd_lens.steering.interventions import Gate, PerPrompt, check_coordinates, gated
from actadd_lens.steering.steer import steer
from actadd_lens.vectors.interventions import CleanReads, Intervention
from actadd_lens.vectors.vector import SteeringVector, check_coefficient

Threshold = Literal["midpoint", "mean"]
GateRule = Literal["best", "each"]


@dataclass(frozen=True, eq=False)
class InferAligner(Together):
    """The aligned model's vectors, and the target's gates.

    Attributes:
        vectors: What is added at each layer and every token, with its coefficient.
        gates: A gate for each layer at which one was fitted, by this package's numbers: the target's own direction of
            unit norm.
        accuracy: Share of the prompts that each gate classifies correctly.
        rule: `best`: the most accurate gate opens all layers; `each`: each layer has its own, also read unsteered.
    """

    vectors: tuple[SteeringVector, ...]
    gates: Mapping[int, Gate]
    accuracy: Mapping[int, float]
    rule: GateRule

    @property
    def best_layer(self) -> int:
        """The layer of the most accurate gate, by this package's numbers; the lowest of several."""
        return max(self.accuracy, key=lambda layer: self.accuracy[layer])

    @property
    def gate(self) -> Gate:
        """The most accurate gate."""
        return self.gates[self.best_layer]

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """Each layer's vector behind its gate."""
        return tuple(
            gated(vector, self.gate if self.rule == "best" else self.gates[vector.layer]) for vector in self.vectors
        )

    @property
    def ungated(self) -> tuple[SteeringVector, ...]:
        """The vectors alone, as with a gate that is always open."""
        return self.vectors

    def at(self, *, position: Any, bos: bool | None = None) -> "InferAligner":
        """The same on other tokens."""
        return replace(self, vectors=tuple(vector.at(position=position, bos=bos) for vector in self.vectors))

    def times(self, coefficient: float) -> "InferAligner":
        """The same, scaled by a factor behind the same gates."""
        return replace(self, vectors=tuple(coefficient * vector for vector in self.vectors))

    @torch.no_grad()
    def running(self, model: LensModel, prompts: Sequence[Prompt], *, prepend_bos: bool = True) -> PerPrompt:
        """A third rule, for known prompts: each layer's gate reads the stream as lower layers have already changed it.

        Args:
            model: The target.
            prompts: Texts, chat prompts, or token ids; as many passes as prompts and layers.
            prepend_bos: Whether texts start with BOS.

        Returns:
            For each prompt the vectors of the layers whose gates opened.
        """
        backend = backend_of(model)
        found: list[tuple[SteeringVector, ...]] = []
        for row in token_rows(backend, prompts, prepend_bos=prepend_bos):
            opened: tuple[SteeringVector, ...] = ()
            for vector in sorted(self.vectors, key=lambda vector: vector.layer):
                gate = self.gates[vector.layer]
                with steer(model, *opened) if opened else nullcontext():
                    values = backend.read(torch.tensor([row], device=backend.device), [gate.direction.spot])
                if bool(gate.weights(CleanReads(values, (len(row),))).any()):
                    opened = (*opened, vector)
            found.append(opened)
        return PerPrompt(tuple(found))

    def with_vectors(self, vectors: Sequence[SteeringVector]) -> "InferAligner":
        """Other vectors behind the same gates, such as null vectors.

        Raises:
            LayerError: They have other layers.
        """
        if [vector.layer for vector in vectors] != [vector.layer for vector in self.vectors]:
            raise LayerError(f"These vectors have other layers than {[vector.layer for vector in self.vectors]}.")
        return replace(self, vectors=tuple(vectors))


def infer_aligner(
    target: LensModel,
    aligned: LensModel,
    harmful: Sequence[Prompt],
    harmless: Sequence[Prompt],
    *,
    layers: Any = None,
    paper_layers: Any = None,
    coefficient: float = 1.0,
    unit: bool = False,
    gate: GateRule = "best",
    threshold: Threshold = "midpoint",
    held_out: tuple[Sequence[Prompt], Sequence[Prompt]] | None = None,
    prepend_bos: bool = True,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> InferAligner:
    """Vectors of an aligned model, added in a target model on prompts at which the target's own gate opens.

    Read: harmful minus harmless prompts, at the last token of the filled template: in the aligned model for the vector,
    in the target for the gate's direction. Lands: on every token, BOS and generated ones too. Does: x + c g v, where g
    is 1 or 0 for a whole prompt and its continuation, from an unsteered pass over the prompt.

    The authors publish no code. The gate's threshold, whether there is one gate or one for each layer, and the
    coefficient are choices of this package; the page on the method shows how much they matter.

    Args:
        target: The model that is steered.
        aligned: The model whose refusals are borrowed, of the same shape; the target itself where there is no other.
        harmful: Prompts that ought to be refused: texts, chat prompts, or token ids.
        harmless: Prompts that ought to be answered.
        layers: Where vectors are added, in this package's count: the streams that enter these blocks.
        paper_layers: The paper's l, the outputs of blocks l, which are our l + 1.
        coefficient: The paper's alpha.
        unit: Whether the added vectors have unit norm.
        gate: `best`: the most accurate of all layers' gates, for all; `each`: each layer its own.
        threshold: `midpoint` between the two classes' mean projections; or `mean` of all prompts' projections, which
            differs if the classes differ in size.
        held_out: Harmful and harmless prompts by which the most accurate gate is chosen; by default those that it was
            fitted on, which flatters it.
        prepend_bos: Whether texts start with BOS; token ids are read as they are.
        batch_size: Maximum number of prompts per pass.
        progress: Whether to show a bar.

    Raises:
        PromptError: A class has no prompt, or one cannot be read.
        LayerError: Both layers or neither were given, or the models have no such layer.
        VectorError: The models differ in shape, or, with LayerNorm, in how their weights were processed.
        SettingError: A rule is not known.
    """
    require(gate in ("best", "each"), "gate", gate, "best or each")
    require(threshold in ("midpoint", "mean"), "threshold", threshold, "midpoint or mean")
    ours, theirs = backend_of(target), backend_of(aligned)
    _check_shapes(ours, theirs)
    shifted, translated = several_layers(ours, layers, paper_layers)
    alpha = check_coefficient(coefficient)
    everywhere = sorted({*range(1, ours.n_layers + 1), *shifted})

    def read(backend: Backend, texts: Sequence[Prompt], where: Sequence[int]) -> Reading:
        spots = [Spot(layer) for layer in where]
        return read_prompts(backend, texts, spots, prepend_bos=prepend_bos, batch_size=batch_size, progress=progress)

    sides = read(ours, harmful, everywhere), read(ours, harmless, everywhere)
    gates = {layer: _gate(ours, layer, *sides, threshold) for layer in everywhere}
    shown = sides if held_out is None else (read(ours, held_out[0], everywhere), read(ours, held_out[1], everywhere))
    accuracy = {layer: _accuracy(found, *shown) for layer, found in gates.items()}
    borrowed = sides if theirs is ours else (read(theirs, harmful, shifted), read(theirs, harmless, shifted))
    vectors = tuple(
        _vector(theirs, layer, *borrowed, steps=translated, unit=unit).at(position="all+bos") for layer in shifted
    )
    for vector in vectors:
        check_coordinates(ours, vector)
    moved = vectors if theirs is ours else tuple(vector.for_model(target) for vector in vectors)
    return InferAligner(tuple(alpha * vector for vector in moved), gates, accuracy, gate)


def _check_shapes(ours: Backend, theirs: Backend) -> None:
    shapes = [(backend.n_layers, backend.d_model) for backend in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise VectorError(
            f"{ours.name} has {shapes[0][0]} layers and d_model {shapes[0][1]}, {theirs.name} {shapes[1][0]} and "
            f"{shapes[1][1]}: the two must share a base model."
        )


def _vector(
    backend: Backend, layer: int, harmful: Reading, harmless: Reading, *, steps: tuple[str, ...] = (), unit: bool
) -> SteeringVector:
    """Harmful less harmless prompts at a layer of one model."""
    row = harmful.mean(Spot(layer)) - harmless.mean(Spot(layer))
    if not bool(row.any()):
        raise VectorError(f"At layer {layer} harmful and harmless prompts are the same, so there is no direction.")
    steps = (*steps, told_read("harmful", -1, harmful) + ", less " + told_read("harmless", -1, harmless))
    told = provenance_of(backend, "harmful − harmless", layer=layer, steps=(*steps, "unit norm") if unit else steps)
    return SteeringVector((row / row.norm() if unit else row).float()[None], layer, provenance=told)


def _gate(backend: Backend, layer: int, harmful: Reading, harmless: Reading, threshold: Threshold) -> Gate:
    direction = _vector(backend, layer, harmful, harmless, unit=True)
    scores = [_scores(direction, side) for side in (harmful, harmless)]
    middle = (scores[0].mean() + scores[1].mean()) / 2 if threshold == "midpoint" else torch.cat(scores).mean()
    return Gate(direction, float(middle))


def _accuracy(gate: Gate, harmful: Reading, harmless: Reading) -> float:
    opened = [_scores(gate.direction, side) > gate.threshold for side in (harmful, harmless)]
    return float(torch.cat([opened[0], ~opened[1]]).double().mean())


def _scores(direction: SteeringVector, side: Reading) -> Float[Tensor, " prompts"]:
    scores: Tensor = side.of_prompts(direction.spot) @ direction.activations[0].double()
    return scores
