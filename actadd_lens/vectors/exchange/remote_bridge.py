"""Interventions of TransformerLens's RemoteBridge, as JSON: `bridge.forward(tokens, intervene=...)`.

A specification is `{hook name: {"op": "add", "value": ..., "pos": ...}}`: a row for every token, or at some token
indices. The Hugging Face engine accepts several rows at once, vLLM's accepts one.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch

from actadd_lens.errors import ActAddError, VectorFileError
from actadd_lens.vectors.exchange.held import Held, direction, layer_above
from actadd_lens.vectors.exchange.places import covers_all, everywhere, places_of
from actadd_lens.vectors.files import write_whole
from actadd_lens.vectors.vector import SteeringVector

_HOOK = re.compile(r"blocks\.(\d{1,6})\.(hook_in|hook_resid_pre|hook_out|hook_resid_post)")
_BEFORE = ("hook_in", "hook_resid_pre")


def remote_intervention(vector: SteeringVector) -> dict[str, dict[str, Any]]:
    """A steering vector as RemoteBridge takes it: `bridge.forward(tokens, intervene=remote_intervention(vector))`.

    The coefficient is multiplied in. The stream that enters block L is the one that leaves block L - 1, and is called
    by that name, which both of RemoteBridge's engines know.

    Args:
        vector: The vector; its rows are at token indices, or one row is at every token, BOS too.

    Raises:
        PositionError: Its position depends on the prompt.

    >>> vector = SteeringVector.from_tensor(torch.tensor([1.0, 2.0]), layer=3, source="example").at(position=4)
    >>> remote_intervention(2 * vector)
    {'blocks.2.hook_out': {'op': 'add', 'value': [2.0, 4.0], 'pos': [4]}}
    """
    name = "blocks.0.hook_in" if vector.layer == 0 else f"blocks.{vector.layer - 1}.hook_out"
    rows = vector.injection.detach().double().cpu()
    if covers_all(vector.position) or vector.position == "all":
        return {name: {"op": "add", "value": rows[0].tolist()}}
    places = places_of(vector)
    rows = rows.expand(len(places), -1)
    kept = [index for index in range(len(places)) if bool((rows[index] != 0).any())] or [0]
    alike = bool((rows[kept] == rows[kept[0]]).all())
    value = rows[kept[0]].tolist() if alike else rows[kept].tolist()
    return {name: {"op": "add", "value": value, "pos": [places[index] for index in kept]}}


def write(vector: SteeringVector, path: Path) -> list[str]:
    """Write the specification under `intervene`, and return what it cannot hold.

    Raises:
        PositionError: The position depends on the prompt.
    """
    told = [f"the coefficient {vector.coefficient:g} is multiplied in"] if vector.coefficient != 1 else []
    told.append("prompts and model are not in the file")
    if vector.position == "all":
        told += everywhere(vector, "RemoteBridge")
    elif vector.position is None:
        told.append("row 0 is for token 0, as tools here have it: v.at(position=...) says another place")
    specification = remote_intervention(vector)
    if any(isinstance(item["value"][0], list) for item in specification.values()):
        told.append("several rows at once are accepted by RemoteBridge's Hugging Face engine, and refused by vLLM's")
    write_whole(path, json.dumps({"intervene": specification}).encode())
    return told


def seems(data: dict[str, Any]) -> bool:
    """Whether an object in JSON is one of these."""
    inner = data.get("intervene", data)
    return (
        isinstance(inner, dict)
        and bool(inner)
        and all(isinstance(item, dict) and "op" in item for item in inner.values())
    )


def read(data: dict[str, Any], path: Path) -> Held:
    """Every hook's vector.

    Raises:
        VectorFileError: It is damaged, or asks for another operation than adding to the stream between blocks.
    """
    found: list[SteeringVector] = []
    try:
        for name, item in data.get("intervene", data).items():
            found.append(_vector(name, item, path))
    except (TypeError, ValueError, KeyError, OverflowError, RuntimeError, RecursionError) as error:
        if isinstance(error, ActAddError):
            raise
        raise VectorFileError(f"{path} is a damaged specification of RemoteBridge: {error}.") from error
    told = tuple(
        f"{name} is layer {vector.layer} here" for name, vector in zip(data.get("intervene", data), found, strict=True)
    )
    return Held(
        tuple(sorted(found, key=lambda vector: vector.layer)),
        (*told, "prompts, coefficient and model are not in the file"),
    )


def _vector(name: Any, item: dict[str, Any], path: Path) -> SteeringVector:
    match = _HOOK.fullmatch(str(name))
    if match is None:
        raise VectorFileError(
            f"{path} acts at {str(name)[:60]!r}: a steering vector is added to the stream between blocks."
        )
    if item["op"] != "add":
        raise VectorFileError(
            f"{path} asks for {str(item['op'])[:20]!r} at {name}, which is not an addition: al.scale and al.replace "
            "make such interventions."
        )
    if not set(item) <= {"op", "value", "pos"}:
        raise TypeError(f"the keys {sorted(map(str, item))} are not known")
    block = int(match[1])
    layer = block if match[2] in _BEFORE else layer_above(block)
    value, places = item["value"], item.get("pos")
    if not isinstance(value, list) or not value:
        raise TypeError(f"the value {str(value)[:40]} is not a row of numbers")
    rows = torch.tensor(value, dtype=torch.float64)
    if rows.ndim not in (1, 2) or rows.numel() == 0:
        raise TypeError(f"a value of shape {tuple(rows.shape)} is not a row")
    rows = rows.float()
    source = f"{name} of {path.name} (RemoteBridge)"
    if places is None:
        if rows.ndim == 2:
            raise TypeError("several rows have no pos")
        return direction(rows, layer=layer, position="all+bos", source=source, path=path)
    laid, first = _laid(rows, [places] if isinstance(places, int) else places)
    return direction(laid, layer=layer, position=first, source=source, path=path)


def _laid(rows: torch.Tensor, places: Any) -> tuple[torch.Tensor, int]:
    """A row for each token from the first that is meant to the last."""
    good = (
        isinstance(places, list)
        and places
        and all(isinstance(place, int) and not isinstance(place, bool) for place in places)
    )
    if not good or min(places) < 0 or max(places) - min(places) >= 2**16 or len(set(places)) != len(places):
        raise TypeError(f"pos is {str(places)[:60]}, and different indices from 0 are expected")
    rows = rows.expand(len(places), -1) if rows.ndim == 1 else rows
    if len(rows) != len(places):
        raise TypeError(f"{len(rows)} rows do not go with {len(places)} positions")
    laid = torch.zeros(max(places) - min(places) + 1, rows.shape[-1])
    laid[torch.tensor(places) - min(places)] = rows
    return laid, min(places)
