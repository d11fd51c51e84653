"""What is compared, in one form: how it scales, what its nulls are, and what it cost to make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from actadd_lens.errors import CoefficientError, SettingError, VectorError
from actadd_lens.measuring.budget import RUNGS, Dose, Ruler, dose_of
from actadd_lens.measuring.measure import Condition, null_conditions
from actadd_lens.measuring.nulls import NullKind, null_phrases
from actadd_lens.measuring.passes import Cost, counted
from actadd_lens.models import LensModel, backend_of
from actadd_lens.steering.interventions import Scaled
from actadd_lens.vectors.interventions import Intervention
from actadd_lens.vectors.vector import SteeringVector, check_interventions


@dataclass(frozen=True, eq=False)
class Contender:
    """An intervention, or several that belong together, among those that are compared.

    Attributes:
        name: What it is called.
        condition: What is done, as it was given.
        dose: What is done at any factor; None if there is no coefficient.
        factors: The factors that a choice begins with.
        nulls: What is done instead, of the same kind; empty if the kind has no nulls.
        null_doses: The same at any factor.
        making: What it cost to make; zero if it was passed ready-made.
    """

    name: str
    condition: Condition
    dose: Dose | None
    factors: tuple[float, ...] = ()
    nulls: tuple[Condition, ...] = ()
    null_doses: tuple[Dose, ...] = ()
    making: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class Prompted:
    """Words in front of the prompt instead of an intervention, with unrelated words of the same length as nulls.

    Attributes:
        name: What it is called.
        words: The words.
        nulls: Unrelated words of as many tokens.
    """

    name: str
    words: str
    nulls: tuple[str, ...]


def contenders_of(
    ruler: Ruler, given: Mapping[str, Any], texts: Sequence[str], *, nulls: int, kind: NullKind, seed: int
) -> list[Contender]:
    """Everything that was given, made and checked, with its nulls.

    Args:
        ruler: Knows the model and the position.
        given: Interventions by name: one, several, what a method made, or a function of the model that makes one.
        texts: Texts whose stream is the unit of sizes.
        nulls: Nulls of each.
        kind: Kind of null vectors.
        seed: Seed of the nulls.

    Raises:
        SettingError: Nothing was given, or it is not a dictionary by name.
    """
    if not isinstance(given, Mapping) or not given or not all(isinstance(name, str) and name for name in given):
        raise SettingError("Interventions are compared by name: pass a dictionary, such as {'love': 5 * love}.")
    return [_contender(ruler, name, item, texts, nulls, kind, seed) for name, item in given.items()]


def _contender(
    ruler: Ruler, name: str, given: Any, texts: Sequence[str], nulls: int, kind: NullKind, seed: int
) -> Contender:
    backend, making = backend_of(ruler.model), Cost()
    if callable(given) and not isinstance(given, Intervention):
        with counted(backend) as making:
            given = given(ruler.model)
    try:
        condition = check_interventions(backend, given)
    except VectorError as error:
        raise SettingError(f"{name!r} is not an intervention: {error}") from error
    drawn = _nulls(ruler.model, given, condition, nulls, kind, seed)
    factors = _factors(ruler, given, condition, texts)
    doses = tuple(map(dose_of, drawn)) if factors else ()
    as_conditions = tuple(check_interventions(backend, null) for null in drawn)
    dose = dose_of(given if hasattr(given, "times") else condition) if factors else None
    return Contender(name, condition, dose, factors, as_conditions, doses, making)


def _factors(ruler: Ruler, given: Any, condition: Condition, texts: Sequence[str]) -> tuple[float, ...]:
    """Factors to begin with: sizes in units of the stream for vectors; for the rest, multiples of what was given."""
    try:
        dose_of(given if hasattr(given, "times") else condition)(2.0)
    except CoefficientError:
        return ()
    if all(isinstance(item.vector, SteeringVector) for item in condition):
        unit = ruler.unit(texts, condition)
        return tuple(rung / unit for rung in RUNGS)
    return RUNGS


def _nulls(model: LensModel, given: Any, condition: Condition, nulls: int, kind: NullKind, seed: int) -> list[Any]:
    """Nulls of the contender's own kind: drawn by itself, null vectors, or its factors in other places."""
    if not nulls:
        return []
    if hasattr(given, "nulls"):
        return list(given.nulls(nulls, seed=seed))
    if all(item.vector is not None for item in condition):
        return list(null_conditions(model, condition, nulls, kind, seed))
    if all(isinstance(item, Scaled) and item.factor.shape[1] > 1 for item in condition):
        return [
            tuple(_moved(item, seed + draw) for item in condition if isinstance(item, Scaled)) for draw in range(nulls)
        ]
    return []


def _moved(item: Scaled, seed: int) -> Scaled:
    """The same factors on other elements."""
    order = torch.randperm(item.factor.shape[1], generator=torch.Generator().manual_seed(seed))
    return replace(item, factor=item.factor[:, order])


def prompted_of(model: LensModel, given: Mapping[str, str] | None, *, nulls: int, seed: int) -> list[Prompted]:
    """Prompting, with unrelated words for nulls.

    Args:
        model: The model.
        given: Words to put in front of each prompt, by name.
        nulls: Nulls of each.
        seed: Seed of the nulls.

    Raises:
        SettingError: Words are missing or not text.
    """
    backend, found = backend_of(model), []
    for name, words in (given or {}).items():
        if not isinstance(words, str) or not words.strip():
            raise SettingError(f"The words of {name!r} are {words!r}: give a text to put in front of the prompt.")
        tokens = len(backend.encode(words, prepend_bos=False))
        others = null_phrases(model, tokens=tokens, n=nulls, seed=seed) if nulls else ()
        found.append(Prompted(name, words, tuple(f"{phrase.strip()} " for phrase in others)))
    return found
