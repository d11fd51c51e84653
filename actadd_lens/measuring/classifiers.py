"""Hugging Face text classifiers in local folders, as scorers."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from actadd_lens.errors import ModelError, SettingError


def classifier_scorer(folder: Path, label: str | int, batch_size: int) -> Callable[[Sequence[str]], list[float]]:
    """Texts to probabilities of one label.

    Args:
        folder: The model's folder.
        label: The label, by name or number.
        batch_size: Maximum number of texts per pass.

    Raises:
        ModelError: The folder holds no such model.
        SettingError: The model has no such label.
    """
    digest = _digest(folder)
    number = _label_number(_classifier(folder, digest)[0], label)

    def scorer(texts: Sequence[str]) -> list[float]:
        # The model is looked up and not held, so that a store can hash what is: folder, digest, label.
        model, tokenizer = _classifier(folder, digest)
        found: list[float] = []
        with torch.no_grad():
            for first in range(0, len(texts), batch_size):
                some = list(texts[first : first + batch_size])
                batch = tokenizer(some, padding=True, truncation=True, return_tensors="pt").to(model.device)
                found += model(**batch).logits.softmax(dim=-1)[:, number].tolist()
        return found

    scorer.__name__ = f"{folder.name} ({digest[:8]}): {label}"
    return scorer


def _digest(folder: Path) -> str:
    """SHA-256 over config and weights.

    Raises:
        ModelError: The folder holds none.
    """
    files = sorted(
        path for path in folder.glob("*") if path.suffix in (".safetensors", ".bin") or path.name == "config.json"
    )
    if len(files) < 2:
        raise ModelError(f"{folder} holds no classifier: expected a folder with config.json, weights and a tokenizer.")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    return digest.hexdigest()


@cache
def _classifier(folder: Path, digest: str) -> tuple[Any, Any]:
    """The model and its tokenizer, loaded once for each state of the folder.

    Raises:
        ModelError: They cannot be loaded, or are not a trained classifier.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        model, told = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} holds no text classifier that transformers can load: {error}") from error
    if told["missing_keys"]:
        raise ModelError(
            f"{folder} holds no text classifier: its weights lack {sorted(told['missing_keys'])[0]!r}, which would be "
            "drawn at random. Use the folder of a model that was trained to tell labels apart."
        )
    return model.eval(), tokenizer


def _label_number(model: Any, label: Any) -> int:
    known = {int(number): str(name) for number, name in model.config.id2label.items()}
    for number, name in known.items():
        if label == name or (label == number and not isinstance(label, bool)):
            return number
    raise SettingError(f"The classifier has no label {label!r}: it has {', '.join(map(repr, known.values()))}.")
