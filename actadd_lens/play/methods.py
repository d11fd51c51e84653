"""Ways to find a vector that the page offers. A new one is an entry here: a name, what its fields mean, a function."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from actadd_lens.errors import PromptError, SettingError
from actadd_lens.methods.actadd import compute_steering_vector
from actadd_lens.models import LensModel
from actadd_lens.play.settings import Settings
from actadd_lens.prompts.pairs import PromptPair
from actadd_lens.vectors.vector import SteeringVector


@dataclass(frozen=True)
class Method:
    """One way to find a vector.

    Attributes:
        label: What the page calls it.
        hint: What its two fields take.
        compute: The vector with coefficient 1, from a model and the page's settings.
        call: The same in Python, as text; `{layer}`, `{positive}` and their like are filled in.
    """

    label: str
    hint: str
    compute: Callable[[LensModel, Settings], SteeringVector]
    call: Callable[[Settings], str]


def _actadd(model: LensModel, settings: Settings) -> SteeringVector:
    pair = PromptPair(settings.positive, settings.negative, prepend_bos=settings.bos)
    return compute_steering_vector(model, pair, layer=settings.layer)


def _actadd_call(settings: Settings) -> str:
    pair = f"({settings.positive!r}, {settings.negative!r})"
    if not settings.bos:
        pair = f"al.PromptPair({settings.positive!r}, {settings.negative!r}, prepend_bos=False)"
    return f"al.compute_steering_vector(model, {pair}, layer={settings.layer})"


def lines_of(text: str, side: str) -> list[str]:
    """The texts of a field, one a line.

    Raises:
        PromptError: There is none.
    """
    found = [line for line in text.splitlines() if line.strip()]
    if not found:
        raise PromptError(f"The {side} side has no text: write one or more, one a line.")
    return found


METHODS: Mapping[str, Method] = {
    "actadd": Method("activation addition: one pair of prompts", "one prompt each", _actadd, _actadd_call),
}


def method_of(name: str) -> Method:
    """A method by its name.

    Raises:
        SettingError: There is none of that name.
    """
    if name not in METHODS:
        raise SettingError(f"There is no method {name!r}: known are {', '.join(METHODS)}.")
    return METHODS[name]
