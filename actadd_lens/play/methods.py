"""Ways to find a vector that the page offers. A new one is an entry here: a name, what its fields mean, a function."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from actadd_lens.errors import PromptError, SettingError
from actadd_lens.methods.actadd import compute_steering_vector
from actadd_lens.methods.caa import caa
from actadd_lens.methods.mean_centring import mean_centring
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
        position: Where its vector is placed when the method is chosen.
        compute: The vector with coefficient 1, from a model and the page's settings.
        call: The same in Python, as text.
    """

    label: str
    hint: str
    position: str
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


def _caa(model: LensModel, settings: Settings) -> SteeringVector:
    return caa(model, _pairs(settings), layer=settings.layer, read=-1, prepend_bos=settings.bos)


def _caa_call(settings: Settings) -> str:
    return f"al.methods.caa(model, {_pairs(settings)!r}, layer={settings.layer}, read=-1{_bos(settings)})"


def _pairs(settings: Settings) -> list[tuple[str, str]]:
    positive, negative = _lines(settings.positive, "positive"), _lines(settings.negative, "negative")
    if len(positive) != len(negative):
        raise PromptError(
            f"Lines do not match: {len(positive)} positive, {len(negative)} negative. This method pairs them line by "
            "line, so it needs as many on both sides."
        )
    return list(zip(positive, negative, strict=True))


def _mean_centring(model: LensModel, settings: Settings) -> SteeringVector:
    target, others = _kinds(settings)
    return mean_centring(model, target, others, layer=settings.layer, bos=False, prepend_bos=settings.bos)


def _mean_centring_call(settings: Settings) -> str:
    target, others = _kinds(settings)
    told = f"{target!r}, {others!r}, layer={settings.layer}, bos=False{_bos(settings)}"
    return f"al.methods.mean_centring(model, {told})"


def _kinds(settings: Settings) -> tuple[list[str], list[str] | None]:
    others = _lines(settings.negative, "negative") if settings.negative.strip() else None
    return _lines(settings.positive, "positive"), others


def _lines(text: str, side: str) -> list[str]:
    """The texts of a field, one a line.

    Raises:
        PromptError: There is none.
    """
    found = [line for line in text.splitlines() if line.strip()]
    if not found:
        raise PromptError(f"The {side} side has no text: write one or more, one per line.")
    return found


def _bos(settings: Settings) -> str:
    return "" if settings.bos else ", prepend_bos=False"


METHODS: Mapping[str, Method] = {
    "actadd": Method("ActAdd: one pair of prompts", "one prompt each", "front", _actadd, _actadd_call),
    "caa": Method(
        "CAA: the mean over pairs",
        "the same number of texts each, one per line, paired line by line and read at their last tokens",
        "last",
        _caa,
        _caa_call,
    ),
    "mean_centring": Method(
        "mean-centring: texts of one kind",
        "texts of one kind, one per line, and texts in general that they are compared with (or none)",
        "last",
        _mean_centring,
        _mean_centring_call,
    ),
}


def method_of(name: str) -> Method:
    """A method by its name.

    Raises:
        SettingError: There is none of that name.
    """
    if name not in METHODS:
        raise SettingError(f"There is no method {name!r}: known are {', '.join(METHODS)}.")
    return METHODS[name]
