"""Interventions of any kind as safetensors files: one, or several that act together. Nothing in a file is ever run."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from actadd_lens.errors import ActAddError, VectorError, VectorFileError
from actadd_lens.prompts.positions import Position, check_position
from actadd_lens.prompts.spans import Span, span_from_json, span_to_json
from actadd_lens.steering.interventions import (
    Gate,
    Gated,
    ProjectionSet,
    Replaced,
    Scaled,
    gate,
    gated,
    replace,
    scale,
    set_projection,
)
from actadd_lens.vectors.exchange import load_vectors
from actadd_lens.vectors.files import header_of, vector_of
from actadd_lens.vectors.interventions import Intervention
from actadd_lens.vectors.provenance import Provenance
from actadd_lens.vectors.tensor_files import kind_in, read_tensors, write_tensors
from actadd_lens.vectors.vector import SteeringVector, as_interventions

KIND = "interventions"
_ORDINARY = (TypeError, KeyError, ValueError, OverflowError, RecursionError, ActAddError)
"""What is raised if a header holds something unexpected."""


def save_interventions(vectors: Any, path: str | os.PathLike[str]) -> None:
    """Write interventions to one safetensors file, completely or not at all; `load_interventions` reads them back.

    Steering vectors, projections, factors, replacements, and any of them behind a gate can be saved, with positions and
    provenance. A method's result that consists of several is saved as these.

    Args:
        vectors: One intervention, or several that act together, in order.
        path: The file.

    Raises:
        VectorError: Something is not an intervention, or is of a kind that no file can hold: a gate that is a function.
        VectorFileError: The file cannot be written.
    """
    writer = _Writer()
    body = {"items": [writer.told(item) for item in as_interventions(vectors)]}
    for data in json.loads(json.dumps(body))["items"]:  # so that whatever is written can be read
        _Reader(writer.tensors, path).made(data)
    write_tensors(path, KIND, body, writer.tensors)


def load_interventions(path: str | os.PathLike[str]) -> tuple[Intervention, ...]:
    """The interventions of a file that `save_interventions` or `save` wrote, in order, equal to what was saved.

    Files of steering vectors are read too: this package's, and those that `load_vectors` knows.

    Args:
        path: The file.

    Raises:
        VectorFileError: The file is missing, damaged, of another kind, or of a newer format.
    """
    if kind_in(path) != KIND:
        return load_vectors(path)
    body, tensors = read_tensors(path, KIND)
    try:
        return as_interventions([_Reader(tensors, path).made(data) for data in body["items"]])
    except _ORDINARY as error:
        raise VectorFileError(f"{path} holds no sound {KIND}: {error}") from error


class _Writer:
    """Turns interventions into plain values, and keeps their tensors."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def told(self, item: Intervention) -> dict[str, Any]:
        """Plain values; tensors by their names."""
        match item:
            case SteeringVector():
                return {"kind": "add", "header": header_of(item), "rows": self._kept(item.activations)}
            case ProjectionSet():
                inner = {"direction": self.told(item.direction), "value": self._kept(item.value)}
                return {"kind": "set projection", **inner, "position": _place_told(item.position)}
            case Scaled():
                return {"kind": "scale", "factor": self._kept(item.factor), **_where(item)}
            case Replaced():
                values = None if item.values is None else self._kept(item.values)
                return {"kind": "replace", "values": values, **_where(item)}
            case Gated():
                return {"kind": "gated", "inner": self.told(item.inner), "gate": self._gate(item)}
        raise VectorError(
            f"{item.label} is a {type(item).__name__}, which has no file format here: save what it was made from."
        )

    def _gate(self, item: Gated) -> dict[str, Any]:
        if not isinstance(item.gate, Gate):
            raise VectorError(
                f"The gate of {item.label} is a function, which no file can hold: save the intervention without its "
                "gate, and gate it again after loading; or use gate(direction, threshold)."
            )
        return {"direction": self.told(item.gate.direction), "threshold": item.gate.threshold, "token": item.gate.token}

    def _kept(self, tensor: Tensor) -> str:
        name = str(len(self.tensors))
        self.tensors[name] = tensor.detach().cpu()
        return name


class _Reader:
    """The way back: each kind is made by the function that people make it by, so that its checks are theirs."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Any) -> None:
        self._tensors = tensors
        self._path = path

    def made(self, data: Any) -> Intervention:
        """An intervention from plain values."""
        kinds: dict[Any, Callable[[Any], Intervention]] = {
            "add": self._vector, "set projection": self._projection, "scale": self._scaled, "replace": self._replaced,
            "gated": lambda data: gated(self.made(data["inner"]), self._gate(data["gate"])),
        }  # fmt: skip
        if not isinstance(data, dict) or data.get("kind") not in kinds:
            told = data.get("kind") if isinstance(data, dict) else type(data).__name__
            raise TypeError(f"an intervention of kind {str(told)[:40]!r} is not known to this version")
        return kinds[data["kind"]](data)

    def _vector(self, data: Any) -> SteeringVector:
        header = data["header"]
        if not isinstance(header, dict):
            raise TypeError("a vector has no header")
        return vector_of(header, self._tensors[data["rows"]], path=self._path)

    def _direction(self, data: Any) -> SteeringVector:
        found = self.made(data)
        if not isinstance(found, SteeringVector):
            raise TypeError("a direction is not a steering vector")
        return found

    def _projection(self, data: Any) -> ProjectionSet:
        found = set_projection(self._direction(data["direction"]), self._tensors[data["value"]])
        return dataclasses.replace(found, position=_place_of(data, found.rows))

    def _scaled(self, data: Any) -> Scaled:
        found = scale(self._tensors[data["factor"]], layer=data["layer"], site=data["site"])
        return dataclasses.replace(found, position=_place_of(data, found.rows), provenance=_provenance(data))

    def _replaced(self, data: Any) -> Replaced:
        values = "clean" if data["values"] is None else self._tensors[data["values"]]
        found = replace(values, layer=data["layer"], site=data["site"])
        return dataclasses.replace(found, position=_place_of(data, found.rows), provenance=_provenance(data))

    def _gate(self, data: Any) -> Gate:
        return gate(self._direction(data["direction"]), data["threshold"], token=data["token"])


def _where(item: Scaled | Replaced) -> dict[str, Any]:
    return {
        "layer": item.layer, "site": item.site, "position": _place_told(item.position),
        "provenance": item.provenance.to_json(),
    }  # fmt: skip


def _provenance(data: Mapping[str, Any]) -> Provenance:
    return Provenance.from_json(data["provenance"])


def _place_told(position: Position | None) -> Any:
    return span_to_json(position) if isinstance(position, Span) else position


def _place_of(data: Mapping[str, Any], rows: int) -> Position | None:
    found = data["position"]
    if found is None:
        return None
    if not isinstance(found, str | int | dict):
        raise TypeError(f"position {str(found)[:40]!r} is none")
    return check_position(span_from_json(found) if isinstance(found, dict) else found, rows=rows)
