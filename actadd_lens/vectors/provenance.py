"""Where a steering vector comes from, in a form that a file can hold."""

import dataclasses
import math
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from actadd_lens.errors import FingerprintError
from actadd_lens.models import Backend
from actadd_lens.models.adapted import adaptations_on
from actadd_lens.prompts.pairs import PairTokens, PromptPair

_TOLERANCE = 0.02
"""Largest difference of two weight samples, in units of their size.

Half precision stays well within, other models do not.
"""


def _package_versions() -> dict[str, str]:
    from actadd_lens import __version__

    found = {"actadd_lens": __version__, "torch": str(torch.__version__)}
    installed = _transformer_lens_version()
    return found if installed is None else {**found, "transformer_lens": installed}


@cache
def _transformer_lens_version() -> str | None:
    """Read once: metadata lies on the disk, and every vector carries it."""
    with suppress(PackageNotFoundError):  # a vendored copy of TransformerLens has no metadata
        return version("transformer-lens")
    return None


@dataclass(frozen=True)
class Fingerprint:
    """What distinguishes one model from another, whatever was folded or centred.

    A sample of weights is kept, not a hash of it: folded, raw and half-precision copies of one model agree to a few
    parts in a thousand but not to the last bit, and a hash knows only equal and unequal.
    """

    d_model: int
    n_layers: int
    weights: tuple[float, ...]

    @classmethod
    def of(cls, backend: Backend) -> "Fingerprint":
        """Fingerprint of a loaded model."""
        return cls(backend.d_model, backend.n_layers, tuple(backend.fingerprint_sample()))

    def matches(self, other: "Fingerprint") -> bool:
        """Whether both belong to the same model."""
        if (self.d_model, self.n_layers, len(self.weights)) != (
            other.d_model,
            other.n_layers,
            len(other.weights),
        ):
            return False
        ours, theirs = torch.tensor(self.weights), torch.tensor(other.weights)
        scale = float(ours.square().mean().sqrt())
        return bool((ours - theirs).abs().max() <= _TOLERANCE * scale)


@dataclass(frozen=True)
class Provenance:
    """What a vector was made of, and what was done to it since.

    Attributes:
        source: `prompt pair`, `sum`, `null`, or the caller's own words.
        positive: Text of p+.
        negative: Text of p-; None for an unpaired addition.
        positive_tokens: Padded token ids of p+.
        negative_tokens: Padded token ids of p-.
        pad_token: Id of the pad, where one was needed.
        prepend_bos: Whether the rows start with BOS.
        read_layer: Block at whose input the rows were read.
        model: The model's name.
        fingerprint: What identifies that model; None if it is not known.
        weight_processing: What had been done to its weights.
        dtype: Precision of its weights.
        versions: Versions of the packages that made the vector.
        terms: For a sum, each term's coefficient and provenance.
        steps: What was done to the vector since, in order.
    """

    source: str
    positive: str | None = None
    negative: str | None = None
    positive_tokens: tuple[int, ...] | None = None
    negative_tokens: tuple[int, ...] | None = None
    pad_token: int | None = None
    prepend_bos: bool | None = None
    read_layer: int | None = None
    model: str | None = None
    fingerprint: Fingerprint | None = None
    weight_processing: str | None = None
    dtype: str | None = None
    versions: dict[str, str] = field(default_factory=_package_versions)
    terms: tuple[tuple[float, "Provenance"], ...] = ()
    steps: tuple[str, ...] = ()

    @classmethod
    def of_model(cls, backend: Backend, *, source: str) -> "Provenance":
        """Provenance of anything that was read from a model."""
        adapters = [found.label for found in adaptations_on(backend.model) if found.acts_here]
        return cls(
            source=source,
            steps=tuple(f"read with the adapter on: {label}" for label in adapters),
            model=backend.name,
            fingerprint=Fingerprint.of(backend),
            weight_processing=backend.weight_processing,
            dtype=str(backend.dtype).removeprefix("torch."),
        )

    def of_pair(self, pair: PromptPair, tokens: PairTokens, layer: int) -> "Provenance":
        """The same model's provenance, for a vector that was read from a prompt pair."""
        return dataclasses.replace(
            self,
            positive=pair.positive,
            negative=pair.negative,
            positive_tokens=tokens.positive,
            negative_tokens=tokens.negative,
            pad_token=tokens.pad_token,
            prepend_bos=pair.prepend_bos,
            read_layer=layer,
        )

    @property
    def label(self) -> str:
        """The origin as a short label, for axes and tables."""
        if self.positive is not None:
            return PromptPair(self.positive, self.negative).label
        if self.terms:
            return " + ".join(f"{coefficient:g} × ({term.label})" for coefficient, term in self.terms)
        return self.source

    def after(self, step: str) -> "Provenance":
        """The same with one more step."""
        return dataclasses.replace(self, steps=(*self.steps, step))

    def check_model(self, backend: Backend) -> None:
        """Check that a model is the one that the vector was read from.

        Raises:
            FingerprintError: It is a different one.
        """
        if self.fingerprint is not None and not self.fingerprint.matches(Fingerprint.of(backend)):
            theirs = self.fingerprint
            fits = theirs.d_model == backend.d_model
            way_out = "If that is intended, use vector.for_model(model)." if fits else "It cannot be added there."
            raise FingerprintError(
                f"This vector ({self.label}) was read from {self.model} ({theirs.n_layers} layers, d_model "
                f"{theirs.d_model}), but the model here is {backend.name} ({backend.n_layers} layers, d_model "
                f"{backend.d_model}) with other weights. {way_out}"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain lists, texts and numbers."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> "Provenance":
        """The way back from `to_json`.

        Raises:
            TypeError: A field is missing, unknown, or of another type.
        """
        _expect(isinstance(data, dict) and all(isinstance(key, str) for key in data), "provenance is not an object")
        values = dict(data)
        for name, check in _FIELD_CHECKS.items():
            _expect(check(values.get(name)), f"provenance field {name!r} is {str(values.get(name))[:60]!r}")
        for name in ("positive_tokens", "negative_tokens", "steps"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        if values.get("fingerprint") is not None:
            values["fingerprint"] = _fingerprint(values["fingerprint"])
        values["terms"] = tuple(_term(term) for term in values.get("terms") or ())
        return cls(**values)


def _expect(condition: bool, complaint: str) -> None:
    if not condition:
        raise TypeError(complaint)


def _optional(kind: type) -> Any:
    return lambda value: value is None or (isinstance(value, kind) and not (kind is int and isinstance(value, bool)))


def _ids(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    )


_FIELD_CHECKS: dict[str, Any] = {
    "source": lambda value: isinstance(value, str),
    "positive": _optional(str),
    "negative": _optional(str),
    "positive_tokens": _ids,
    "negative_tokens": _ids,
    "pad_token": _optional(int),
    "prepend_bos": _optional(bool),
    "read_layer": _optional(int),
    "model": _optional(str),
    "weight_processing": _optional(str),
    "dtype": _optional(str),
    "versions": lambda value: isinstance(value, dict) and all(isinstance(item, str) for item in value.values()),
    "terms": lambda value: value is None or isinstance(value, list),
    "steps": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
}


def _fingerprint(data: Any) -> Fingerprint:
    _expect(isinstance(data, dict) and set(data) == {"d_model", "n_layers", "weights"}, "fingerprint is malformed")
    weights = data["weights"]
    _expect(
        all(isinstance(data[name], int) and not isinstance(data[name], bool) for name in ("d_model", "n_layers"))
        and isinstance(weights, list)
        and all(isinstance(item, int | float) and math.isfinite(item) for item in weights),
        "fingerprint is malformed",
    )
    return Fingerprint(data["d_model"], data["n_layers"], tuple(float(item) for item in weights))


def _term(data: Any) -> tuple[float, Provenance]:
    _expect(isinstance(data, list) and len(data) == 2 and isinstance(data[0], int | float), "a term is malformed")
    return float(data[0]), Provenance.from_json(data[1])
