"""Lists of tokens that the page shows for a vector. A new one is an entry here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from actadd_lens.analysis.lens import logit_lens
from actadd_lens.errors import SettingError
from actadd_lens.models import LensModel
from actadd_lens.vectors.vector import SteeringVector

Rows = list[dict[str, Any]]
"""For each row of the vector: its name, and its promoted and demoted tokens with their sizes."""


@dataclass(frozen=True)
class Reading:
    """One list.

    Attributes:
        label: What the page calls it.
        size: What the number next to each token is.
        read: The lists of a vector's rows.
        at_once: Whether it is quick enough to be read whenever the vector changes.
    """

    label: str
    size: str
    read: Callable[[LensModel, SteeringVector], Rows]
    at_once: bool = True


def _logit_lens(model: LensModel, vector: SteeringVector) -> Rows:
    return [
        {
            "name": row.row_name,
            "promoted": [[token.text, token.z] for token in row.promoted],
            "demoted": [[token.text, token.z] for token in row.demoted],
        }
        for row in logit_lens(model, vector, k=8).rows
    ]


READINGS: Mapping[str, Reading] = {
    "logit lens": Reading("logit lens", "standard deviations of random directions", _logit_lens),
}


def reading_of(name: str) -> Reading:
    """A reading by its name.

    Raises:
        SettingError: There is none of that name.
    """
    if name not in READINGS:
        raise SettingError(f"There is no reading {name!r}: known are {', '.join(READINGS)}.")
    return READINGS[name]
