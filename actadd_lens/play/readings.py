"""Lists of tokens that the page shows for a vector. A new one is an entry here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from actadd_lens import storybook
from actadd_lens.analysis.lens import JacobianLens, LogitLens, fit_jacobian, logit_lens
from actadd_lens.errors import SettingError
from actadd_lens.models import LensModel, backend_of
from actadd_lens.vectors.vector import SteeringVector

LONGEST = 8
"""Tokens in each list."""

TOGETHER = 8
"""Sentences in a text that a J-lens is fitted on."""

Rows = list[dict[str, Any]]
"""For each row of the vector: its name, and its promoted and demoted tokens with their sizes."""


class Lenses:
    """The J-lenses of a model: one that is given, and one for each other layer, fitted when it is first asked for."""

    def __init__(self, model: LensModel, given: JacobianLens | None = None) -> None:
        if given is not None:
            given.check_model(backend_of(model))
        self._model = model
        self._by_layer = {} if given is None else dict.fromkeys(given.layers, given)

    def at(self, layer: int) -> JacobianLens:
        """The lens of a layer."""
        if layer not in self._by_layer:
            self._by_layer[layer] = fit_jacobian(self._model, fitting_texts(), layer, progress=False)
        return self._by_layer[layer]


def fitting_texts() -> list[str]:
    """The package's sentences with a mood or none, eight to a text: six texts, two of each mood."""
    return [
        " ".join(sentences[start : start + TOGETHER])
        for sentences in storybook.sentiment_sentences().values()
        for start in (0, TOGETHER)
    ]


@dataclass(frozen=True)
class Reading:
    """One list.

    Attributes:
        label: What the page calls it.
        size: What the number next to each token is.
        read: The lists of a vector's rows.
        hint: What a reader should know before asking for it.
        at_once: Whether it is quick enough to be read whenever the vector changes.
    """

    label: str
    size: str
    read: Callable[[LensModel, SteeringVector, Lenses], Rows]
    hint: str = ""
    at_once: bool = True


def _logit_lens(model: LensModel, vector: SteeringVector, lenses: Lenses) -> Rows:
    return _rows(logit_lens(model, vector, k=LONGEST))


def _jacobian(model: LensModel, vector: SteeringVector, lenses: Lenses) -> Rows:
    return _rows(logit_lens(model, vector, through=lenses.at(vector.layer), k=LONGEST))


def _rows(lens: LogitLens) -> Rows:
    return [
        {
            "name": row.row_name,
            "promoted": [[token.text, token.z] for token in row.promoted],
            "demoted": [[token.text, token.z] for token in row.demoted],
        }
        for row in lens.rows
    ]


_SIZE = "standard deviations of random directions"

READINGS: Mapping[str, Reading] = {
    "logit lens": Reading("logit lens", _SIZE, _logit_lens),
    "J-lens": Reading(
        "J-lens",
        _SIZE,
        _jacobian,
        hint="The J-lens carries the vector to the last layer by the mean Jacobian over texts. It is fitted when a "
        "layer is read for the first time: about ten seconds on the embedded model, minutes on SmolLM2.",
        at_once=False,
    ),
}


def reading_of(name: str) -> Reading:
    """A reading by its name.

    Raises:
        SettingError: There is none of that name.
    """
    if name not in READINGS:
        raise SettingError(f"There is no reading {name!r}: known are {', '.join(READINGS)}.")
    return READINGS[name]
