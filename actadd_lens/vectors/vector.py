"""Steering vectors: frozen, with an algebra, and the files that hold them."""

import dataclasses
import math
import numbers
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import as_integer
from actadd_lens.errors import ActAddError, CoefficientError, LayerError, SettingError, VectorError
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.positions import Position, check_position, own_position
from actadd_lens.vectors.interventions import CleanReads, Intervention
from actadd_lens.vectors.operations import Add, Operation
from actadd_lens.vectors.provenance import Fingerprint, Provenance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actadd_lens.vectors.exchange import ExchangeFormat


@dataclass(frozen=True, eq=False)
class SteeringVector(Intervention):
    """Difference of `resid_pre` activations, one row per token of the prompt pair, and where to add it.

    Scalars change `coefficient` only; the tensor stays as it was read. Nothing is changed in place: every operation
    returns a new vector.

    Attributes:
        activations: h_A = h+ - h-, one row per token; row 0 is BOS and exactly zero for a pair.
        layer: Injection layer: the block whose input is changed, 0-based.
        coefficient: Injection coefficient c, kept apart from the tensor.
        position: Where row 0 lands, or, for one row, a span of tokens; None leaves it to `steer` and the other tools
            (`front` by default).
        provenance: What the vector was made of.

    A vector made from a tensor that requires a gradient keeps its graph, so it can be learnt through `steer`.

    >>> vector = SteeringVector.from_tensor(torch.ones(2, 4), layer=3, source="example")
    >>> (5 * vector / 2).coefficient, (-vector).coefficient
    (2.5, -1.0)
    >>> (vector + vector).norms
    tensor([4., 4.])
    """

    activations: Float[Tensor, "pos d_model"]
    layer: int
    coefficient: float = 1.0
    position: Position | None = None
    provenance: Provenance = dataclasses.field(default_factory=lambda: Provenance("tensor"))

    def __post_init__(self) -> None:
        if not isinstance(self.activations, Tensor) or self.activations.ndim != 2 or 0 in self.activations.shape:
            shape = getattr(self.activations, "shape", type(self.activations).__name__)
            raise VectorError(f"Activations of shape {shape} are not a steering vector: expected [pos, d_model].")
        if not self.activations.is_floating_point():
            raise VectorError(
                f"Activations of type {self.activations.dtype} are not a steering vector: expected floats."
            )
        if not bool(torch.isfinite(self.activations).all()):
            raise VectorError("The activations hold NaN or infinite numbers: look at how they were made.")
        if isinstance(self.layer, bool) or not isinstance(self.layer, numbers.Integral) or self.layer < 0:
            raise LayerError(f"Layer {self.layer!r} is not a layer: expected an integer from 0.")
        object.__setattr__(self, "layer", int(self.layer))
        object.__setattr__(self, "coefficient", check_coefficient(self.coefficient))
        if self.position is not None:
            object.__setattr__(self, "position", check_position(self.position, rows=self.rows))

    @classmethod
    def from_tensor(
        cls,
        rows: Any,
        *,
        layer: int,
        source: str,
        model: LensModel | None = None,
    ) -> "SteeringVector":
        """A steering vector from any direction: a probe, an SAE feature, a difference of means, a learnt one.

        Args:
            rows: One direction, or one row per token: a tensor or a numpy array of floats. A tensor that requires a
                gradient is used as it is, not copied, so that the vector changes with it.
            layer: Injection layer.
            source: Where the direction comes from, in your words; kept in the provenance.
            model: The model that it belongs to; if given, the vector refuses other models.

        Raises:
            VectorError: The tensor has another shape or type, is not finite, or does not match the model.
            LayerError: It is not a layer, or the model has no such layer.
            SettingError: The source is not text.
        """
        if not isinstance(source, str):
            raise SettingError(f"source is {source!r}: expected a text that says where the direction comes from.")
        provenance = Provenance(source) if model is None else Provenance.of_model(backend_of(model), source=source)
        if not isinstance(source, str):
            raise VectorError(f"source is {source!r}: say in words where the direction comes from.")
        vector = cls(as_rows(rows), layer, provenance=provenance)
        if model is not None:
            check_vectors(backend_of(model), vector)
        return vector

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Number of rows, one per token of the prompt pair."""
        return int(self.activations.shape[0])

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.activations.shape[1])

    @property
    def injection(self) -> Float[Tensor, "pos d_model"]:
        """What is added: coefficient x activations."""
        return self.coefficient * self.activations

    @property
    def norms(self) -> Float[Tensor, " pos"]:
        """L2 norm of each row of the activations; the coefficient is not counted."""
        norms: Tensor = torch.linalg.vector_norm(self.activations.float(), dim=-1)
        return norms

    @property
    def label(self) -> str:
        """The vector as a short label, for axes and tables."""
        return self.provenance.label

    @property
    def told(self) -> str:
        """Coefficient, label and layer, for captions."""
        return f"{self.coefficient:g} × ({self.label}) at layer {self.layer}"

    @property
    def has_bos_row(self) -> bool:
        """Whether row 0 was read at BOS, according to the provenance."""
        moved = any(step.startswith(("row(", "mean_rows(")) for step in self.provenance.steps)
        told = [term for _, term in self.provenance.terms] or [self.provenance]
        return not moved and any(term.prepend_bos is True and term.positive_tokens is not None for term in told)

    @property
    def vector(self) -> "SteeringVector":
        """Itself."""
        return self

    def with_vector(self, vector: "SteeringVector") -> "SteeringVector":
        """The other vector."""
        return vector

    def operation(self, backend: Backend, clean: CleanReads | None) -> Operation:
        """The operation x + c v."""
        return Add(self.injection)

    def times(self, coefficient: float) -> "SteeringVector":
        """The same as multiplying by it."""
        return coefficient * self

    def check(self, backend: Backend) -> None:
        """Check that the vector matches a model.

        Raises:
            VectorError: It has another `d_model`, or comes from another model.
            LayerError: The model has no such layer.
            CoefficientError: The injection is beyond the largest number of its own precision, or of the model's.
        """
        backend.check_layer(self.layer)
        self.provenance.check_model(backend)
        if self.d_model != backend.d_model:
            raise VectorError(
                f"The vector {self.label} has d_model {self.d_model}, but {backend.name} has {backend.d_model}."
            )
        injection = self.injection.detach()
        for dtype in (injection.dtype, backend.dtype):
            if not bool(torch.isfinite(injection.to(dtype)).all()):
                raise CoefficientError(
                    f"The coefficient {self.coefficient:g} makes the injection of {self.label} infinite in "
                    f"{dtype}: use a smaller one."
                )

    # -- algebra -----------------------------------------------------------------------------------------------

    def __mul__(self, factor: float) -> "SteeringVector":
        if not _is_number(factor):
            return NotImplemented
        return dataclasses.replace(self, coefficient=self.coefficient * check_coefficient(factor))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "SteeringVector":
        if not _is_number(divisor):
            return NotImplemented
        if divisor == 0:
            raise CoefficientError("A steering vector cannot be divided by 0.")
        return dataclasses.replace(self, coefficient=self.coefficient / check_coefficient(divisor))

    def __neg__(self) -> "SteeringVector":
        return dataclasses.replace(self, coefficient=-self.coefficient)

    def __add__(self, other: Any) -> "SteeringVector":
        if _is_number(other) and other == 0:  # so that sum(vectors) works
            return self
        if not isinstance(other, SteeringVector):
            return NotImplemented
        _check_terms(self, other)
        rows = max(self.rows, other.rows)
        activations = _grown(self.injection, rows) + _grown(other.injection, rows).to(self.activations)
        terms = (*_terms(self), *_terms(other))
        mine, theirs = self.provenance, other.provenance
        provenance = Provenance(
            "sum",
            model=mine.model or theirs.model,
            fingerprint=mine.fingerprint or theirs.fingerprint,
            weight_processing=mine.weight_processing or theirs.weight_processing,
            dtype=mine.dtype or theirs.dtype,
            terms=terms,
        )
        return SteeringVector(activations, self.layer, 1.0, self.position, provenance)

    __radd__ = __add__

    def __sub__(self, other: "SteeringVector") -> "SteeringVector":
        if not isinstance(other, SteeringVector):
            return NotImplemented
        return self + (-other)

    # -- the same vector, elsewhere or in part -----------------------------------------------------------------

    def at_layer(self, layer: int) -> "SteeringVector":
        """The vector, added at another layer than the one where it was read (a transplant)."""
        return self._changed(f"at_layer({layer})", layer=layer)

    def at(self, *, position: Any, bos: bool | None = None) -> "SteeringVector":
        """The vector with a position of its own, which takes precedence over the one passed to a tool.

        Args:
            position: Token index of row 0, or `front`, `mid`, `back`; for one row also a span: `all`, `prompt`,
                `generated`, `last`, `since(index)`, `after(mark)`, `first(n)`, a slice, or a boolean mask. None takes
                the vector's own position away, so that the tool's applies.
            bos: For `all` and `prompt`: whether BOS receives the row too; `all+bos` says the same.

        Raises:
            PositionError: It is none of these, or a span for a vector of several rows.
        """
        return dataclasses.replace(self, position=own_position(position, rows=self.rows, bos=bos))

    def row(self, index: int) -> "SteeringVector":
        """One row alone; negative indices count from the end.

        Raises:
            VectorError: There is no such row.
        """
        number = as_integer(index)
        if number is None or not -self.rows <= number < self.rows:
            raise VectorError(f"Row {index!r} does not exist: this vector has rows 0 to {self.rows - 1}.")
        return self._changed(f"row({number})", activations=self.activations[number][None].clone(), position=None)

    def without_rows(self, *indices: int) -> "SteeringVector":
        """The vector with some rows set to zero, so that the others still land on their tokens.

        `mean_rows` ignores zero rows, and the nulls of zero rows are zero. Use this to leave massive rows out.

        Args:
            *indices: Rows; negative indices count from the end.

        Raises:
            VectorError: There is no such row, or none would be left.
        """
        for index in indices:
            if (
                isinstance(index, bool)
                or not isinstance(index, numbers.Integral)
                or not -self.rows <= index < self.rows
            ):
                raise VectorError(f"Row {index!r} does not exist: this vector has rows 0 to {self.rows - 1}.")
        kept = self.activations.clone()
        kept[[int(index) for index in indices]] = 0.0
        if not bool(kept.any()) and bool(self.activations.any()):
            raise VectorError(f"Without rows {list(indices)} nothing is left of {self.label}: keep one of its rows.")
        told = ", ".join(str(int(index)) for index in indices)
        return self._changed(f"without_rows({told})", activations=kept)

    def mean_rows(self) -> "SteeringVector":
        """One row: the mean of the rows that are not zero, so that a pair's zero BOS row does not dilute it."""
        nonzero = self.activations[self.norms > 0]
        mean = nonzero.mean(dim=0) if len(nonzero) else self.activations[0]
        return self._changed("mean_rows()", activations=mean[None].clone(), position=None)

    def with_norm(self, norm: float | Float[Tensor, " pos"]) -> "SteeringVector":
        """The vector with rows rescaled to a norm, one for all or one per row; zero rows and the coefficient stay.

        Raises:
            VectorError: A norm is negative or not finite, or there are not as many as rows.
        """
        target = as_numbers(norm, "The norm", VectorError).to(self.activations.device, torch.float32)
        if target.ndim > 1 or (target.ndim == 1 and len(target) != self.rows):
            raise VectorError(f"{tuple(target.shape)} norms do not match {self.rows} rows: give one, or one per row.")
        if not bool((target >= 0).all()):
            raise VectorError(f"The norm {norm!r} is not a valid size: expected numbers from 0.")
        scale = torch.where(self.norms > 0, target / self.norms.clamp_min(1e-30), 0.0)
        told = f"{float(target):g}" if target.ndim == 0 else f"{self.rows} norms"
        rescaled = (self.activations.float() * scale[:, None]).to(self.activations)
        return self._changed(f"with_norm({told})", activations=rescaled)

    def relative(
        self, model: LensModel, prompts: Any, amount: float, *, position: Any = "front", prepend_bos: bool = True
    ) -> "SteeringVector":
        """The vector with its coefficient set in units of the stream that it lands on.

        The coefficient is chosen so that the injection's row is `amount` times as long as the unsteered stream at the
        token that it lands on: in the median over all nonzero rows, tokens and prompts, which a few massive tokens do
        not affect. A negative coefficient stays negative: `(-v).relative(...)` steers backwards.

        Args:
            model: The model.
            prompts: One text or several; one pass is made over them, up to the layer.
            amount: Norm of the injection in units of the stream's; 1 means as long as the stream.
            position: Where row 0 lands, for a vector without a position of its own.
            prepend_bos: Whether prompts start with BOS.

        Raises:
            CoefficientError: The amount is not a finite number, or the vector is zero or has coefficient 0.
            PromptError: A prompt is not text, or is longer than the context.
            PositionError: The vector does not fit onto a prompt, or lands on none of its tokens.
        """
        from actadd_lens.steering.sizes import relative_sizes

        wanted = check_coefficient(amount)
        if not bool(self.injection.any()):
            raise CoefficientError(f"{self.label} is zero, so no coefficient gives it a size.")
        now = relative_sizes(model, dataclasses.replace(self, coefficient=1.0), prompts, position, prepend_bos)
        return dataclasses.replace(self, coefficient=math.copysign(1.0, self.coefficient) * wanted / now)

    def keep_dimensions(self, dimensions: Any) -> "SteeringVector":
        """The vector with only some dimensions of the residual stream kept, and the others set to zero.

        Args:
            dimensions: A slice, indices, or a boolean mask with one entry per dimension.

        Raises:
            VectorError: A dimension does not exist, or a mask has another length.
        """
        dimensions = self._from_mask(dimensions)
        try:
            picks = dimensions if isinstance(dimensions, slice) else [_dimension(item) for item in dimensions]
            is_kept = torch.zeros(self.d_model, dtype=torch.bool, device=self.activations.device)
            is_kept[picks] = True
        except (IndexError, TypeError) as error:
            raise VectorError(f"Dimensions {dimensions!r} do not exist: d_model is {self.d_model}.") from error
        if not bool(is_kept.any()):
            raise VectorError(f"{dimensions!r} keeps no dimension of {self.d_model}: name at least one.")
        return self._changed(f"keep_dimensions({dimensions})", activations=self.activations * is_kept)

    def _from_mask(self, dimensions: Any) -> Any:
        """Indices for a boolean mask; anything else as it is."""
        values = dimensions.tolist() if hasattr(dimensions, "tolist") else dimensions
        if not isinstance(values, list | tuple) or not values or not all(isinstance(item, bool) for item in values):
            return values
        if len(values) != self.d_model:
            raise VectorError(f"The mask has {len(values)} entries, but d_model is {self.d_model}: give one for each.")
        return [index for index, is_kept in enumerate(values) if is_kept]

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "SteeringVector":
        """The vector on another device, or in another precision."""
        return dataclasses.replace(self, activations=self.activations.to(device=device, dtype=dtype))

    def for_model(self, other: LensModel) -> "SteeringVector":
        """The vector, allowed on another model than the one that it was read from; the provenance records it.

        Raises:
            VectorError: The other model has another `d_model`.
            LayerError: The other model has no such layer.
        """
        backend = backend_of(other)
        backend.check_layer(self.layer)
        if backend.d_model != self.d_model:
            raise VectorError(
                f"This vector has d_model {self.d_model}, but {backend.name} has {backend.d_model}: "
                "it cannot be added there."
            )
        provenance = dataclasses.replace(
            self.provenance.after(f"for_model({backend.name})"), fingerprint=Fingerprint.of(backend)
        )
        return dataclasses.replace(self, provenance=provenance)

    def _changed(self, step: str, **changes: Any) -> "SteeringVector":
        return dataclasses.replace(self, provenance=self.provenance.after(step), **changes)

    # -- files -------------------------------------------------------------------------------------------------

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        measurements: Sequence[Any] = (),
        licence: str | None = None,
        base_model: str | None = None,
    ) -> None:
        """Write a safetensors file with the whole provenance; it appears complete or not at all.

        With `hf://owner/name`, the folder that `export` writes is put on the Hugging Face Hub, with a card.

        Args:
            path: The file, or `hf://owner/name`.
            measurements: For the Hub's card, results of `measure` and `measure_completions` for this vector.
            licence: For the card, the licence's identifier, such as `mit`.
            base_model: For the card, the model's name on the Hub.

        Raises:
            VectorFileError: The file cannot be written, or the Hub cannot be reached.
            SettingError: A measurement is of another vector, or something for a card was given with a file.
        """
        from actadd_lens.vectors.exchange import save_one

        save_one(self, path, measurements=measurements, licence=licence, base_model=base_model)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        format: "ExchangeFormat | None" = None,  # noqa: A002  (the word that people look for)
        measurements: Sequence[Any] = (),
        licence: str | None = None,
        base_model: str | None = None,
    ) -> None:
        """Write the vector for another library; what its format cannot hold is an error or an `ExchangeWarning`.

        | format | path | what it holds |
        |---|---|---|
        | `gguf` | `.gguf` | llama.cpp and repeng: one row at every token, BOS too; layer L as `direction.{L - 1}` |
        | `vllm-lens` | `.json` | rows and the tokens that they are for, or one row at every token |
        | `remote-bridge` | by `format=` | TransformerLens's RemoteBridge: `intervene` of `forward` |
        | `folder` | a folder | what the Hugging Face Hub holds: the vector, a card, and the first two where they can |

        Args:
            path: The file or folder; its ending determines the format.
            format: The format, if the ending does not determine it.
            measurements: For a folder's card, results of `measure` and `measure_completions` for this vector.
            licence: For the card, the licence's identifier, such as `mit`.
            base_model: For the card, the model's name on the Hub.

        Raises:
            LayerError: The format has no such layer.
            PositionError: The format has no such position.
            VectorError: The format does not hold several rows.
            VectorFileError: The file cannot be written.
            SettingError: The format is not known, a package is missing, or a measurement is of another vector.
        """
        from actadd_lens.vectors.exchange import export_vector

        export_vector(self, path, format=format, measurements=measurements, licence=licence, base_model=base_model)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, layer: int | None = None, name: str | None = None
    ) -> "SteeringVector":
        """Read a file from `save`, `export` or another library; nothing in a file is ever run.

        Files of llama.cpp, repeng, steering-vectors, CAA, vllm-lens, RemoteBridge and numpy are recognised by their
        contents. Their layers are converted to the count used here; an `ExchangeWarning` reports what was converted and
        what the files do not say.

        Args:
            path: The file; a folder that `export` wrote; or `hf://owner/name`.
            layer: Which of several layers to read, counted as here; or the layer of a file that does not say it.
            name: Which of several named arrays to read.

        Raises:
            VectorFileError: The file is damaged, of another kind, of a newer format, or holds several vectors.
        """
        from actadd_lens.vectors.exchange import load_one

        return load_one(path, layer=layer, name=name)

    # -- showing itself ----------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        place = "" if self.position is None else f", position={self.position!r}"
        norms = ", ".join(f"{norm:.3g}" for norm in self.norms.detach().tolist()[:8]) + (", …" if self.rows > 8 else "")
        return (
            f"SteeringVector({self.label}, layer={self.layer}, coefficient={self.coefficient:g}{place}, "
            f"rows={self.rows}, d_model={self.d_model}, norms=[{norms}])"
        )

    def _repr_html_(self) -> str:
        place = "at the tool's position (front)" if self.position is None else escape(str(self.position))
        facts = {
            "prompt pair": escape(self.label),
            "injection": f"{self.coefficient:g} × {self.rows} rows at <code>{self.hook_name}</code>, {place}",
            "row norms": ", ".join(f"{norm:.3g}" for norm in self.norms.detach().tolist()),
            "model": escape(str(self.provenance.model or "not recorded")),
        }
        if self.provenance.steps:
            facts["steps"] = escape(", ".join(self.provenance.steps))
        cells = "".join(
            f"<tr><th style='text-align:left'>{key}</th><td>{value}</td></tr>" for key, value in facts.items()
        )
        return f"<table><caption>steering vector</caption>{cells}</table>"

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Bar chart of the row norms."""
        from actadd_lens.plots.vectors import plot_norms

        return plot_norms(self, ax=ax)


def check_coefficient(value: Any) -> float:
    """The coefficient as a float.

    Raises:
        CoefficientError: It is not a number, NaN or infinite.
    """
    if not _is_number(value):
        raise CoefficientError(f"The coefficient {value!r} is not a number.")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not math.isfinite(number):
        raise CoefficientError(f"The coefficient {value!r} is not finite, so nothing can be added with it.")
    return number


def _dimension(value: Any) -> int:
    """An index; a mask of booleans would be taken for the indices 0 and 1."""
    number = as_integer(value)
    if number is None:
        raise TypeError
    return number


def as_interventions(vectors: Any) -> tuple[Intervention, ...]:
    """One steering vector or other intervention, or a sequence of them, as a tuple.

    Raises:
        VectorError: There is none, or something else is among them.
    """
    found = (vectors,) if isinstance(vectors, Intervention) else vectors
    try:
        found = tuple(found)
    except TypeError:
        raise VectorError(
            f"A {type(vectors).__name__} is not a steering vector: use compute_steering_vector."
        ) from None
    if not found:
        raise VectorError("No steering vector was given: pass one or several.")
    for vector in found:
        if not isinstance(vector, Intervention):
            raise VectorError(f"A {type(vector).__name__} is not a steering vector: use compute_steering_vector.")
    return found


def check_interventions(backend: Backend, vectors: Any) -> tuple[Intervention, ...]:
    """Interventions as a tuple, after checking that they match the model.

    Raises:
        VectorError: One has another width, or comes from another model.
        LayerError: The model has no such layer.
        CoefficientError: An injection is beyond the largest number of its precision.
    """
    found = as_interventions(vectors)
    for vector in found:
        vector.check(backend)
    return found


def as_vectors(vectors: Any, *, what: str = "this") -> tuple[SteeringVector, ...]:
    """One steering vector or a sequence of them, as a tuple, for a tool that reads rows.

    Raises:
        VectorError: There is none, or one is another kind of intervention, which has no rows to read.
    """
    found = []
    for vector in as_interventions(vectors):
        if not isinstance(vector, SteeringVector):
            raise VectorError(
                f"{vector.label} has no rows to read, which {what} needs: pass the vector that it is made from."
            )
        found.append(vector)
    return tuple(found)


def check_vectors(backend: Backend, vectors: Any, *, what: str = "this") -> tuple[SteeringVector, ...]:
    """Steering vectors as a tuple, after checking that they match the model.

    Raises:
        VectorError: One has another `d_model`, comes from another model, or is another kind of intervention.
        LayerError: The model has no such layer.
        CoefficientError: An injection is beyond the largest number of its precision.
    """
    found = as_vectors(vectors, what=what)
    for vector in found:
        vector.check(backend)
    return found


def as_rows(values: Any) -> Tensor:
    """One row or several as a new tensor [pos, width], or with its graph if it requires a gradient.

    Raises:
        VectorError: It is neither a tensor nor a numpy array of floats.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "fiu":
            raise VectorError(f"An array of type {values.dtype} holds no rows: expected floats.")
        values = torch.from_numpy(values.copy())
    if not isinstance(values, Tensor):
        raise VectorError(f"A {type(values).__name__} holds no rows: pass a tensor or a numpy array of floats.")
    rows = values[None] if values.ndim == 1 else values
    return rows if rows.requires_grad else rows.clone()


def as_numbers(values: Any, name: str, error: type[ActAddError]) -> Tensor:
    """A number, or a list or array of them, as a tensor of finite floats; a tensor keeps its graph.

    Args:
        values: What a caller passed.
        name: What it is, to begin a message with.
        error: What is raised.

    Raises:
        ActAddError: It holds something else: texts, booleans, complex numbers, NaN or infinity.
    """
    found = values if isinstance(values, Tensor) else _as_floats(values)
    is_real = found is not None and found.dtype != torch.bool and not found.is_complex()
    if found is None or not is_real or found.numel() == 0 or not bool(torch.isfinite(found).all()):
        raise error(f"{name} is {values!r}: expected finite numbers.")
    return found


def _as_floats(values: Any) -> Tensor | None:
    """Numbers that are not in a tensor yet; None where they are not numbers, or too large for a float."""
    try:
        array = np.asarray(values)
        return torch.tensor(array.astype(np.float32)) if array.dtype.kind in "iuf" else None
    except (TypeError, ValueError, OverflowError):
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check_terms(left: SteeringVector, right: SteeringVector) -> None:
    for name in ("layer", "d_model", "position"):
        ours, theirs = getattr(left, name), getattr(right, name)
        if ours != theirs:
            raise VectorError(
                f"Vectors with {name} {ours!r} and {theirs!r} cannot be added to one: pass both to steer instead."
            )
    prints = left.provenance.fingerprint, right.provenance.fingerprint
    if prints[0] is not None and prints[1] is not None and not prints[0].matches(prints[1]):
        raise VectorError(
            f"Vectors of {left.provenance.model} and {right.provenance.model} cannot be added: "
            "use vector.for_model(model) if that is intended."
        )


def _terms(vector: SteeringVector) -> tuple[tuple[float, Provenance], ...]:
    """The vector as terms of a sum; an unmodified sum is expanded."""
    provenance = vector.provenance
    if provenance.terms and not provenance.steps:
        return tuple((vector.coefficient * coefficient, term) for coefficient, term in provenance.terms)
    return ((vector.coefficient, provenance),)


def _grown(rows: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, 0, 0, length - rows.shape[0]))
