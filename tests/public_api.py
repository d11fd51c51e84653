"""The public names with their signatures, as text: `python -m tests.public_api > tests/public_api.txt` renews it."""

import inspect
from collections.abc import Iterator
from typing import Any

import actadd_lens as al

MODULES = ("metrics", "scorers", "methods")
"""Modules that are public names themselves."""


def listing() -> str:
    """One line for each public name, and for each parameter, attribute and method of it."""
    lines = [line for name in sorted(al.__all__) for line in _lines(name, getattr(al, name))]
    for module in MODULES:
        holder = getattr(al, module)
        names = getattr(holder, "__all__", None) or [name for name in dir(holder) if not name.startswith("_")]
        own = [name for name in names if getattr(getattr(holder, name), "__module__", "").startswith("actadd_lens")]
        lines += [line for name in sorted(own) for line in _lines(f"{module}.{name}", getattr(holder, name))]
    return "\n".join(sorted(set(lines))) + "\n"


def _lines(name: str, found: Any) -> Iterator[str]:
    yield name
    if inspect.isclass(found):
        for part in sorted(set(dir(found)) | set(getattr(found, "__dataclass_fields__", ()))):
            if not part.startswith("_") and not hasattr(Exception, part) and not hasattr(str, part):
                yield f"{name}.{part}"
    elif inspect.isfunction(found):
        for parameter in inspect.signature(found).parameters.values():
            yield f"{name}({parameter.name}{'' if parameter.default is parameter.empty else '='})"


if __name__ == "__main__":
    print(listing(), end="")  # noqa: T201
