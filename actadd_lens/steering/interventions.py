"""Interventions other than adding: setting and removing a projection, scaling, replacing, gating, one for each prompt.

Each is a small frozen class that says where it acts and gives one pure operation; the engine knows none by name.
"""

import dataclasses
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import require
from actadd_lens.errors import CoefficientError, LayerError, SettingError, VectorError
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.models.protocol import Site, Spot, check_site
from actadd_lens.prompts.positions import Position, check_position
from actadd_lens.vectors.interventions import CleanReads, Intervention
from actadd_lens.vectors.operations import Blend, Multiply, Operation, Overwrite, Project
from actadd_lens.vectors.provenance import Provenance
from actadd_lens.vectors.vector import (
    SteeringVector,
    as_interventions,
    as_numbers,
    as_rows,
    check_coefficient,
    check_interventions,
)


@dataclass(frozen=True, eq=False)
class ProjectionSet(Intervention):
    """Set the stream's projection on a direction to a value; see `set_projection` and `project_out`.

    Attributes:
        direction: A steering vector of one row; only its direction and the sign of its coefficient count.
        value: The projection afterwards, in the stream's own units: one for all tokens, or one per row.
        position: Where it acts.
    """

    direction: SteeringVector
    value: Float[Tensor, " rows"]
    position: Position | None = None

    @property
    def layer(self) -> int:
        """The direction's."""
        return self.direction.layer

    @property
    def provenance(self) -> Provenance:
        """The direction's."""
        return self.direction.provenance

    @property
    def rows(self) -> int:
        """One per value."""
        return len(self.value)

    @property
    def label(self) -> str:
        """The direction and its value."""
        if not bool(self.value.any()):
            return f"project out ({self.direction.label})"
        told = f"{float(self.value[0]):g}" if self.rows == 1 else f"{self.rows} values"
        return f"set the projection on ({self.direction.label}) to {told}"

    def operation(self, backend: Backend, clean: CleanReads | None) -> Operation:
        """X + (z - x·u) u."""
        direction = self.direction.injection
        return Project(direction / direction.norm(), self.value.to(direction)[:, None])

    def check(self, backend: Backend) -> None:
        """Check that the direction matches the model, and that its coordinates are processed as when it was read."""
        self.direction.check(backend)
        check_coordinates(backend, self)

    @property
    def vector(self) -> SteeringVector:
        """The direction."""
        return self.direction

    def with_vector(self, vector: SteeringVector) -> "ProjectionSet":
        """The same for another direction."""
        return dataclasses.replace(self, direction=vector)

    def at_layer(self, layer: int) -> "ProjectionSet":
        """The same at another layer."""
        return dataclasses.replace(self, direction=self.direction.at_layer(layer))


def set_projection(direction: Any, value: Any, *, layer: int | None = None) -> ProjectionSet:
    """Set the stream's projection on a direction: x + (z - x·u) u, with u of unit norm.

    Args:
        direction: A steering vector of one row; or a tensor or array [d_model], with `layer`.
        value: The projection z afterwards, in the stream's own units; or one per token, for tokens from a place on.
        layer: The layer, if the direction does not have one.

    Raises:
        VectorError: The direction has several rows, or is zero.
        SettingError: The value is not finite numbers.
    """
    vector = _direction(direction, layer)
    values = as_numbers(value, "value", SettingError).float().reshape(-1)
    position = vector.position
    return ProjectionSet(dataclasses.replace(vector, position=None), values, position)


def project_out(direction: Any, *, layer: int | None = None) -> ProjectionSet:
    """Remove a direction from the stream: x - (x·u) u (directional ablation, arXiv 2406.11717).

    Args:
        direction: A steering vector of one row; or a tensor or array [d_model], with `layer`.
        layer: The layer, if the direction does not have one.

    Raises:
        VectorError: The direction has several rows, or is zero.
    """
    return set_projection(direction, 0.0, layer=layer)


def _direction(direction: Any, layer: int | None) -> SteeringVector:
    if not isinstance(direction, SteeringVector):
        if layer is None:
            raise LayerError("A direction that is a tensor needs layer=.")
        vector = SteeringVector.from_tensor(direction, layer=layer, source="direction")
    elif layer is None:
        vector = direction
    else:
        raise LayerError(f"The direction {direction.label} has a layer of its own: use .at_layer({layer}).")
    if vector.rows != 1:
        raise VectorError(
            f"{vector.label} has {vector.rows} rows, but a direction has one: "
            "choose a row with .row(i), or average them with .mean_rows()."
        )
    if not bool(vector.injection.any()) and not vector.activations.requires_grad:
        raise VectorError(f"{vector.label} is zero, so it has no direction.")
    return vector


@dataclass(frozen=True, eq=False)
class Scaled(Intervention):
    """Activations times a factor; see `scale`.

    Attributes:
        factor: [rows, width] or [rows, 1].
        layer: The block.
        site: Where in it.
        position: Where it acts.
    """

    factor: Float[Tensor, "rows width"]
    layer: int
    site: Site = "resid_pre"
    position: Position | None = None
    provenance: Provenance = field(default_factory=lambda: Provenance("factor"))

    @property
    def rows(self) -> int:
        """One where every token gets the same factor."""
        return int(self.factor.shape[0])

    @property
    def label(self) -> str:
        """The site and its factor."""
        told = f"{float(self.factor):g}" if self.factor.numel() == 1 else f"{tuple(self.factor.shape)} factors"
        return f"{self.site} × {told}"

    def operation(self, backend: Backend, clean: CleanReads | None) -> Operation:
        """S x."""
        factor = self.factor
        if self.site == "head" and factor.shape[1] == int(backend.model.cfg.n_heads):
            factor = factor.repeat_interleave(int(backend.model.cfg.d_head), dim=1)
        return Multiply(factor)

    def check(self, backend: Backend) -> None:
        """Check that the model has the layer, and that the factor fits the width of the site."""
        backend.check_layer(self.layer, site=self.site)
        widths = {1, backend.width(self.site)} | ({int(backend.model.cfg.n_heads)} if self.site == "head" else set())
        if self.factor.shape[1] not in widths:
            raise VectorError(
                f"A factor of shape {tuple(self.factor.shape)} does not fit {self.site} of {backend.name}, which has "
                f"{backend.width(self.site)} elements: give a number, [rows, 1] for one per token, or one per element."
            )
        self.provenance.check_model(backend)
        if self.factor.shape[1] > 1:
            check_coordinates(backend, self)


def scale(
    factor: Any, *, layer: int, site: Site = "resid_pre", model: LensModel | None = None, source: str = "factor"
) -> Scaled:
    """Multiply activations: by a number, by one per token, or by one per element.

    Args:
        factor: A number; [rows, 1] for one factor per token; [width] or [1, width] for one per element (for heads also
            one per head); [rows, width] for both. A tensor that requires a gradient keeps its graph.
        layer: The block.
        site: Where in it: `resid_pre`, `attn_out`, `mlp_out`, `head` (`hook_z`), `neuron` (`hook_post`), or
            `neuron_pre` (`hook_pre`).
        model: The model that single elements belong to; if given, other models and other weight processing are refused.
        source: Where the factor comes from, in your words.

    Raises:
        VectorError: The factor is not finite, or has another number of dimensions.
    """
    if isinstance(factor, numbers.Real) and not isinstance(factor, bool):
        rows = torch.tensor([[check_coefficient(factor)]])
    else:
        rows = as_rows(as_numbers(factor, "factor", VectorError)[None] if getattr(factor, "ndim", 1) == 0 else factor)
    return Scaled(_checked(rows, "factor"), _layer(layer), check_site(site), None, _told(model, source))


@dataclass(frozen=True, eq=False)
class Replaced(Intervention):
    """Activations overwritten; see `replace`.

    Attributes:
        values: [rows, width]; None for the values of an unsteered pass over the same prompt.
        layer: The block.
        site: Where in it.
        position: Where it acts.
    """

    values: Float[Tensor, "rows width"] | None
    layer: int
    site: Site = "resid_pre"
    position: Position | None = None
    provenance: Provenance = field(default_factory=lambda: Provenance("values"))

    @property
    def follows_prompt(self) -> bool:
        """Clean values are those of the prompt's own tokens."""
        return self.values is None

    @property
    def rows(self) -> int:
        """One where every token gets the same values, or its own."""
        return 1 if self.values is None else int(self.values.shape[0])

    @property
    def label(self) -> str:
        """The site and what goes there."""
        return f"{self.site} replaced by {'clean values' if self.values is None else self.provenance.label}"

    @property
    def reads(self) -> tuple[Spot, ...]:
        """The same spot, unsteered, if clean values are used."""
        return (self.spot,) if self.values is None else ()

    def operation(self, backend: Backend, clean: CleanReads | None) -> Operation:
        """The values."""
        if self.values is not None:
            return Overwrite(self.values)
        assert clean is not None
        return Overwrite(clean.values[self.spot])

    def check(self, backend: Backend) -> None:
        """Check that the model has the layer, and that the values fit the width of the site."""
        backend.check_layer(self.layer, site=self.site)
        self.provenance.check_model(backend)
        if self.values is None:
            return
        if self.values.shape[1] != backend.width(self.site):
            raise VectorError(
                f"Values of shape {tuple(self.values.shape)} do not fit {self.site} of {backend.name}, which has "
                f"{backend.width(self.site)} elements."
            )
        check_coordinates(backend, self)


def replace(
    values: Any, *, layer: int, site: Site = "resid_pre", model: LensModel | None = None, source: str = "values"
) -> Replaced:
    """Overwrite activations, as in activation patching.

    Args:
        values: One row, or one per token from a place on: a tensor or an array [width] or [rows, width]. Or `"clean"`:
            what the unsteered model has there on the same prompt, which undoes changes by earlier layers. Clean values
            exist for tokens of the prompt; generated tokens are left unchanged.
        layer: The block.
        site: Where in it: `resid_pre`, `attn_out`, `mlp_out`, `head` (`hook_z`, heads side by side), `neuron`, or
            `neuron_pre`.
        model: The model that the values were read from; if given, other models and weight processing are refused.
        source: Where the values come from, in your words.

    Raises:
        VectorError: The values are not finite, or have another number of dimensions.
    """
    if isinstance(values, str):
        require(values == "clean", "values", values, "a tensor, an array, or 'clean'")
        return Replaced(None, _layer(layer), check_site(site), None, _told(model, "clean values"))
    rows = as_rows(values)
    rows = rows.flatten(1) if rows.ndim == 3 else rows
    return Replaced(_checked(rows, "values"), _layer(layer), check_site(site), None, _told(model, source))


@dataclass(frozen=True, eq=False)
class Gate:
    """Open or closed for a prompt, decided by one of its tokens in an unsteered pass; see `gate`.

    Attributes:
        direction: A steering vector of one row; the score is the dot product with its injection.
        threshold: The gate opens above it.
        token: Which token of the prompt is read; -1 is the last.
    """

    direction: SteeringVector
    threshold: float
    token: int = -1

    def scores(self, model: LensModel, prompts: Any, *, prepend_bos: bool = True) -> Float[Tensor, " prompts"]:
        """The score of each prompt; the gate opens where it is above the threshold.

        Args:
            model: The model.
            prompts: One text or several.
            prepend_bos: Whether prompts start with BOS.
        """
        from actadd_lens.prompts.texts import as_texts, encode_prompts
        from actadd_lens.steering.clean import read_clean

        backend = backend_of(model)
        self.direction.check(backend)
        tokens = encode_prompts(backend, as_texts(prompts), prepend_bos=prepend_bos)
        return self.of(read_clean(backend, tokens, [self.direction.spot]))

    def of(self, clean: CleanReads) -> Float[Tensor, " batch"]:
        """The score of each row of a batch."""
        stream = clean.values[self.direction.spot]
        columns = [length + self.token if self.token < 0 else self.token for length in clean.lengths]
        for column, length in zip(columns, clean.lengths, strict=True):
            require(0 <= column < length, "token", self.token, f"a token of a prompt of {length}")
        picked = stream[torch.arange(len(columns), device=stream.device), torch.tensor(columns, device=stream.device)]
        scores: Tensor = picked.float() @ self.direction.injection[0].to(picked.device).float()
        return scores

    def weights(self, clean: CleanReads) -> Float[Tensor, " batch"]:
        """1 where the gate is open, 0 where it is closed."""
        return (self.of(clean) > self.threshold).float()


def gate(direction: Any, threshold: float, *, layer: int | None = None, token: int = -1) -> Gate:
    """A gate that opens if a prompt's activation exceeds a threshold along a direction.

    It is read once per prompt, in an unsteered pass, and kept during generation.

    Args:
        direction: A steering vector of one row, whose dot product with the activation is the score; or a tensor, with
            `layer`.
        threshold: The gate opens above it.
        layer: Where it is read, if the direction has no layer.
        token: Which token of the prompt; -1 is the last.

    Raises:
        VectorError: The direction has several rows, or is zero.
        SettingError: The threshold is not a finite number, or the token is not an integer.
    """
    number = check_coefficient(threshold)
    require(isinstance(token, numbers.Integral) and not isinstance(token, bool), "token", token, "an integer")
    return Gate(_direction(direction, layer), number, int(token))


@dataclass(frozen=True, eq=False)
class Gated(Intervention):
    """Another intervention, applied if a gate is open for the prompt; see `gated`.

    Attributes:
        inner: What is done where the gate is open.
        gate: What opens it: a `Gate`, or a function of the prompts' clean reads that gives one weight per prompt.
        gate_reads: What such a function is given.
    """

    inner: Intervention
    gate: "Gate | Callable[[CleanReads], Tensor]"
    gate_reads: tuple[Spot, ...] = ()

    @property
    def layer(self) -> int:
        """That of the inner intervention."""
        return self.inner.layer

    @property
    def site(self) -> Site:
        """That of the inner intervention."""
        return self.inner.site

    @property
    def position(self) -> Position | None:
        """That of the inner intervention."""
        return self.inner.position

    @property
    def provenance(self) -> Provenance:
        """That of the inner intervention."""
        return self.inner.provenance

    @property
    def follows_prompt(self) -> bool:
        """As the inner intervention does."""
        return self.inner.follows_prompt

    @property
    def rows(self) -> int:
        """Those of the inner intervention."""
        return self.inner.rows

    @property
    def label(self) -> str:
        """The inner intervention, gated."""
        return f"gated ({self.inner.label})"

    @property
    def reads(self) -> tuple[Spot, ...]:
        """What the gate reads, and what the inner intervention does."""
        own = (self.gate.direction.spot,) if isinstance(self.gate, Gate) else self.gate_reads
        return (*own, *self.inner.reads)

    def operation(self, backend: Backend, clean: CleanReads | None) -> Operation:
        """The inner operation, weighted by the gate."""
        assert clean is not None
        weights = self.gate.weights(clean) if isinstance(self.gate, Gate) else self.gate(clean)
        if not isinstance(weights, Tensor) or weights.shape != (len(clean.lengths),):
            raise SettingError(f"The gate gave {weights!r}: expected a tensor of one weight per prompt.")
        return Blend(self.inner.operation(backend, clean), weights[:, None, None])

    def check(self, backend: Backend) -> None:
        """Check that both match the model."""
        self.inner.check(backend)
        if isinstance(self.gate, Gate):
            self.gate.direction.check(backend)
            check_coordinates(backend, self.gate.direction)
        for spot in self.gate_reads:
            backend.check_layer(spot.layer, site=spot.site)

    @property
    def vector(self) -> SteeringVector | None:
        """That of the inner intervention."""
        found: SteeringVector | None = self.inner.vector
        return found

    def with_vector(self, vector: SteeringVector) -> "Gated":
        """The same with another vector behind the gate."""
        return dataclasses.replace(self, inner=self.inner.with_vector(vector))

    def times(self, coefficient: float) -> "Gated":
        """The inner intervention, scaled by the coefficient."""
        return dataclasses.replace(self, inner=self.inner.times(coefficient))

    def at(self, *, position: Any, bos: bool | None = None) -> "Gated":
        """The inner intervention there."""
        return dataclasses.replace(self, inner=self.inner.at(position=position, bos=bos))

    def at_layer(self, layer: int) -> "Gated":
        """The inner intervention there; the gate is read where it was."""
        return dataclasses.replace(self, inner=self.inner.at_layer(layer))


def gated(intervention: Intervention, gate: Any, *, reads: Sequence[tuple[int, Site] | int] = ()) -> Gated:
    """An intervention that acts only on prompts for which a gate is open (as InferAligner does, arXiv 2401.11206).

    Args:
        intervention: A steering vector or any other intervention.
        gate: A `gate(direction, threshold)`; or a function that is given the unsteered activations of the prompts
            (`CleanReads`) and returns a weight per prompt, 0 for closed and 1 for open.
        reads: For such a function: the layers, or (layer, site), whose activations it is given.

    Raises:
        VectorError: The intervention or the gate is something else.
        SettingError: A function has nothing to read.
    """
    (inner,) = as_interventions(intervention)
    if not isinstance(gate, Gate) and not callable(gate):
        raise VectorError(f"A {type(gate).__name__} is not a gate: use gate(direction, threshold), or a function.")
    spots = tuple(Spot(*item) if isinstance(item, tuple) else Spot(item) for item in reads)
    if not isinstance(gate, Gate) and not spots:
        raise SettingError("The gate is a function, but reads= names no layer for it to read.")
    return Gated(inner, gate, spots)


@dataclass(frozen=True)
class PerPrompt:
    """Interventions of each prompt; see `per_prompt`.

    Attributes:
        items: For each prompt, its interventions; none for an unsteered one.
    """

    items: tuple[tuple[Intervention, ...], ...]

    def __len__(self) -> int:
        return len(self.items)

    def at(self, *, position: Any, bos: bool | None = None) -> "PerPrompt":
        """All of them, with this position as their own."""
        moved = tuple(tuple(found.at(position=position, bos=bos) for found in row) for row in self.items)
        return PerPrompt(moved)

    def check(self, backend: Backend) -> None:
        """Check that each matches the model."""
        for row in self.items:
            for found in row:
                found.check(backend)


def per_prompt(items: Sequence[Any]) -> PerPrompt:
    """A separate intervention for each prompt, or each row of a batch: other vectors, or other coefficients.

    Args:
        items: One for each prompt: a vector or another intervention, several of them, or None for an unsteered one.

    Raises:
        VectorError: There is none, or something else is among them.
    """
    if isinstance(items, Intervention | str) or not isinstance(items, Sequence) or not items:
        raise VectorError("per_prompt takes a list with an entry for each prompt: a vector, several, or None.")
    found = tuple(() if item is None or item == () else as_interventions(item) for item in items)
    if not any(found):
        raise VectorError("per_prompt was given no vector at all: pass at least one.")
    return PerPrompt(found)


def by_prompt(backend: Backend, vectors: Any, prompts: int) -> list[tuple[Intervention, ...]]:
    """What is done to each prompt, after checking that all of it matches the model.

    Args:
        backend: The model.
        vectors: Steering vectors or other interventions, for all prompts; or `per_prompt`.
        prompts: Number of prompts.

    Raises:
        VectorError: One does not match the model, or there are not as many as prompts.
    """
    if not isinstance(vectors, PerPrompt):
        return [check_interventions(backend, vectors)] * prompts
    if len(vectors) != prompts:
        raise VectorError(f"per_prompt has {len(vectors)} entries for {prompts} prompts: give one for each.")
    vectors.check(backend)
    return list(vectors.items)


def check_coordinates(backend: Backend, intervention: Intervention) -> None:
    """Check that a model's weights are processed as they were when an intervention was read.

    On LayerNorm models, centring changes projections and single elements; folding value biases changes what heads mix.
    On other models, and where nothing is recorded, there is nothing to compare.

    Raises:
        VectorError: They were processed differently.
    """
    told = intervention.provenance.weight_processing
    here = backend.weight_processing
    if told is None or backend.normalization != "LN":
        return
    if ("not centred" in told or told == "raw") == ("not centred" in here or here == "raw"):
        return
    raise VectorError(
        f"{intervention.label} was read with {told}, but {backend.name} here has {here}: projections and single "
        "elements differ between the two. Read it again from this model, or load the model in the same way."
    )


def _layer(layer: Any) -> int:
    if isinstance(layer, bool) or not isinstance(layer, numbers.Integral) or layer < 0:
        raise LayerError(f"Layer {layer!r} is not a layer: expected an integer from 0.")
    return int(layer)


def _checked(rows: Tensor, what: Literal["factor", "values"]) -> Tensor:
    if rows.ndim != 2 or 0 in rows.shape or not rows.is_floating_point():
        raise VectorError(
            f"A tensor of shape {tuple(rows.shape)} and type {rows.dtype} cannot be {'a ' * (what == 'factor')}{what}: "
            "expected floats, [width] or [rows, width]."
        )
    if not bool(torch.isfinite(rows).all()):
        raise CoefficientError(f"The {what} hold NaN or infinite numbers: look at how they were made.")
    return rows


def _told(model: LensModel | None, source: str) -> Provenance:
    return Provenance(source) if model is None else Provenance.of_model(backend_of(model), source=source)


def placed(intervention: Intervention, position: Any) -> Position:
    """Where an intervention goes: its own position, or the one given.

    Raises:
        PositionError: The position is invalid, or does not fit the number of rows.
    """
    own = intervention.position
    return check_position(position if own is None else own, rows=intervention.rows)
