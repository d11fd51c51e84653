"""Checks of annotations at run time: shapes by jaxtyping, everything else by beartype.

jaxtyping's own import hook wraps every function twice and binds its arguments at each call, which took a third of the
time of these tests. Here it wraps only functions that have a shape to check; the others get beartype alone.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from typing import Any, get_type_hints

import beartype
import jaxtyping

_beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True, violation_type=TypeError))
_jaxtyped = jaxtyping.jaxtyped


def check_annotations(modules: Sequence[str]) -> None:
    """Check what the functions and dataclasses of these modules are called with, and what they return."""
    vars(jaxtyping)["jaxtyped"] = _checked
    jaxtyping.install_import_hook(modules, None)


def _checked(made: Any = None, *, typechecker: Any = None) -> Any:
    """A function or a dataclass with its checks; in place of jaxtyping's decorator, whose signature it has."""
    if made is None:
        return _checked
    if not inspect.isclass(made):
        return _function(made)
    if is_dataclass(made) and "__init__" in vars(made):
        type.__setattr__(made, "__init__", _function(vars(made)["__init__"]))
    return made


def _function(plain: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(plain) or inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
        return _jaxtyped(plain, typechecker=_beartype)  # beartype alone would look at arguments only when it is started
    own = inspect.get_annotations(plain)
    known = {name: _resolved(hint, plain) for name, hint in own.items()}
    plain.__annotations__ = known
    strict = _beartype(plain)
    plain.__annotations__ = own
    if any("jaxtyping." in repr(hint) for hint in known.values()):
        strict = _together(strict)

    @functools.wraps(plain)
    def checked(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return (plain if jaxtyping.config.jaxtyping_disable else strict)(*args, **kwargs)

    return checked


def _together(strict: Callable[..., Any]) -> Callable[..., Any]:
    """A name of an axis means one size throughout a call."""

    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with _jaxtyped("context"):
            return strict(*args, **kwargs)

    return call


def _resolved(hint: Any, function: Callable[..., Any]) -> Any:
    """An annotation in quotes as what it names, or anything where that is not known yet."""

    def holder(value: hint) -> None: ...

    try:
        return get_type_hints(holder, function.__globals__, include_extras=True)["value"]
    except Exception:
        return Any
