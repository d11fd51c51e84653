"""Registering a plan: what is measured, and which number decides, recorded with a hash before anything runs."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actadd_lens.errors import SettingError
from actadd_lens.identity.digests import digest
from actadd_lens.identity.model_state import model_key
from actadd_lens.prompts.pairs import PromptPair
from actadd_lens.sweeps.grid import PlacedGrid, Source
from actadd_lens.vectors.vector import SteeringVector


def grid_record(placed: PlacedGrid) -> dict[str, Any]:
    """Everything that the numbers of a grid depend on, as values for JSON.

    Args:
        placed: The grid on its model.
    """
    grid = placed.grid
    return {
        "model": placed.backend.name, "model_hash": model_key(placed.backend).hex(),
        "pairs": [_source(source) for source in grid.pairs], "layers": list(grid.layers),
        "coefficients": list(grid.coefficients), "positions": list(grid.positions), "prompts": list(grid.prompts),
        "prompt_tokens": digest(placed.tokens).hex(), "nulls": grid.nulls, "null_kind": grid.null_kind,
        "seed": grid.seed,
    }  # fmt: skip


def _source(source: Source) -> dict[str, Any]:
    if isinstance(source, PromptPair):
        return {
            "positive": source.positive, "negative": source.negative, "pad": source.pad,
            "prepend_bos": source.prepend_bos,
        }  # fmt: skip
    told = (source.activations, source.coefficient) if isinstance(source, SteeringVector) else source
    return {"vector": source.label, "hash": digest(told).hex()}


def plan_hash(record: dict[str, Any]) -> str:
    """SHA-256 of a plan's record, independent of the order of its names.

    Args:
        record: The plan, as values for JSON.

    >>> plan_hash({"a": 1, "b": 2}) == plan_hash({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(record, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def register_plan(record: dict[str, Any], path: str | os.PathLike[str], *, question: str = "") -> str:
    """Record a plan with its hash; a plan that is already registered there keeps its date and its question.

    Args:
        record: The plan, as values for JSON.
        path: The file.
        question: What the run should decide, and by which number.

    Returns:
        The hash.

    Raises:
        SettingError: The file holds another plan, the same plan with another question, or something else.
    """
    file, found = Path(path), plan_hash(record)
    told = {
        "hash": found, "question": question, "registered": datetime.now(UTC).isoformat(timespec="seconds"),
        "plan": record,
    }  # fmt: skip
    try:
        with file.open("x", encoding="utf-8") as new:
            json.dump(told, new, indent=2)
    except FileExistsError:
        known = read_plan(file)
        if known["hash"] != found or (question and known["question"] != question):
            raise SettingError(
                f"{file} holds another plan ({known['hash'][:12]}, not {found[:12]}) or question: register this one in "
                "a file of its own, so that the first stays as it was."
            ) from None
    return found


def read_plan(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A registered plan, after checking its hash: `hash`, `question`, `registered` and `plan`.

    Args:
        path: The file.

    Raises:
        SettingError: The file is not a plan, or was changed after the plan was registered.
    """
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        is_whole = plan_hash(told["plan"]) == told["hash"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SettingError(f"{path} holds no registered plan: {error!r}.") from error
    if not is_whole:
        raise SettingError(f"The plan in {path} was changed after it was registered: its hash does not match.")
    return dict(told)
