"""Checks of settings, made before anything runs."""

import inspect
from numbers import Integral
from operator import index as as_index
from typing import Any, SupportsIndex

from actadd_lens.errors import SettingError


def require(condition: bool, name: str, value: Any, expected: str) -> None:
    """Refuse a setting that is out of range.

    Raises:
        SettingError: The condition does not hold.
    """
    if not condition:
        raise SettingError(f"{name} is {value!r}: expected {expected}.")


def is_count(value: Any) -> bool:
    """Whether a value is an integer from 1; numpy's are."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def is_whole(value: Any) -> bool:
    """Whether a value is an integer from 0; numpy's are."""
    return is_count(value) or (isinstance(value, Integral) and not isinstance(value, bool) and int(value) == 0)


def as_integer(value: Any) -> int | None:
    """The value as an integer, also from numpy or a tensor; None if it is not an integer.

    >>> as_integer(np.int64(3)), as_integer(True), as_integer(2.0), as_integer(np.array([1, 2]))
    (3, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return as_index(value)
    except TypeError:  # arrays and tensors have the method, and refuse unless they hold one integer
        return None


def takes(function: Any, count: int) -> bool:
    """Whether something can be called with that many values; assumed if its parameters cannot be inspected."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # builtins that have no signature
        return True
    return True


def check_run(*, seed: Any = 0, batch_size: Any = 1) -> None:
    """Refuse an invalid seed or batch size, before anything runs.

    Args:
        seed: An integer from 0.
        batch_size: An integer from 1.

    Raises:
        SettingError: One is something else.
    """
    require(is_whole(seed), "seed", seed, "an integer from 0")
    require(is_count(batch_size), "batch_size", batch_size, "an integer from 1")


def check_flags(**flags: Any) -> None:
    """Refuse anything but True or False for a flag: a text such as "no" would count as True.

    Args:
        **flags: Settings by their names.

    Raises:
        SettingError: One is something else.
    """
    for name, value in flags.items():
        require(isinstance(value, bool) or type(value).__name__ == "bool", name, value, "True or False")


def check_choice(value: Any, name: str, *choices: str) -> None:
    """Refuse a value that is not one of a setting's choices.

    Args:
        value: The setting.
        name: Its name.
        *choices: What it may be.

    Raises:
        SettingError: It is something else.
    """
    told = " or ".join([", ".join(map(repr, choices[:-1])), repr(choices[-1])])
    require(isinstance(value, str) and value in choices, name, value, told)


def many(values: Any) -> list[Any]:
    """One value or several, as a list; a text is one value, and so is an array without axes.

    >>> many(3), many("ab"), many(range(2))
    ([3], ['ab'], [0, 1])
    """
    if isinstance(values, str | bytes):
        return [values]
    try:
        return list(values)
    except TypeError:
        return [values]


def why_not_finite(name: str, dtype: Any) -> str:
    """What to do about logits that are NaN or infinite.

    Args:
        name: The model.
        dtype: Precision of its weights.

    >>> why_not_finite("gpt2", "torch.float32")
    'Use a smaller coefficient; if it happens unsteered as well, the weights of gpt2 are not finite.'
    """
    if str(dtype) == "torch.float16":
        return f"The numbers of {name} overflowed in {dtype}: use a smaller coefficient, or float32 or bfloat16."
    return f"Use a smaller coefficient; if it happens unsteered as well, the weights of {name} are not finite."
