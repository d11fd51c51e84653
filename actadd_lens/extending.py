"""Methods, metrics and scorers of other packages: found by their entry points, loaded when they are used.

A package names them in its metadata, in the groups `actadd_lens.methods`, `actadd_lens.metrics` and
`actadd_lens.scorers`. It is not imported before one of its names is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from actadd_lens.errors import ExtensionError

KINDS = ("methods", "metrics", "scorers")


@dataclass(frozen=True)
class Extension:
    """A name that another package adds to this one.

    Attributes:
        kind: `methods`, `metrics` or `scorers`.
        name: How it is called: `al.metrics.NAME`, `methods.NAME`.
        package: The package that it comes from, with its version.
        value: The module and the object in it.
        problem: Why the name cannot be used, or does not refer to that package; empty if no problem is known without
            loading it.
    """

    kind: str
    name: str
    package: str
    value: str
    problem: str = ""

    def __str__(self) -> str:
        told = f" ({self.problem})" if self.problem else ""
        return f"{self.kind}.{self.name} from {self.package}{told}"


def extensions() -> tuple[Extension, ...]:
    """What installed packages add to methods, metrics and scorers; listing them loads none."""
    return tuple(
        Extension(kind, point.name, _package(point), point.value, _problem(kind, point.name))
        for kind in KINDS
        for point in sorted(_points(kind), key=lambda point: (point.name, _package(point)))
    )


def load_extension(kind: str, name: str) -> Any:
    """A method, metric or scorer of an installed package.

    Args:
        kind: `methods`, `metrics` or `scorers`.
        name: Its name.

    Raises:
        ExtensionError: No package defines the name, several do, this package defines it itself, or it cannot be loaded.
    """
    found = _named(kind, name)
    if not found:
        installed = ", ".join(sorted({point.name for point in _points(kind)})) or "none"
        raise ExtensionError(
            f"No installed package provides {kind} {name!r}; there are {installed}. Install the package that has it "
            "into this environment."
        )
    problem = _problem(kind, name)
    if problem:
        raise ExtensionError(
            f"{kind}.{name} of {' and '.join(map(_package, found))} cannot be used by its name: {problem}. Import it "
            "from its package, or uninstall the package that you do not mean."
        )
    return _loaded(kind, found[0])


def finder(kind: str, module: str) -> Callable[[str], Any]:
    """A module's `__getattr__`, by which names of other packages are found where its own end.

    Args:
        kind: `methods`, `metrics` or `scorers`.
        module: The module's name, for what is said of names that nobody has.
    """

    def find(name: str) -> Any:
        if name.startswith("_") or not _named(kind, name):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return load_extension(kind, name)

    return find


def _loaded(kind: str, point: EntryPoint) -> Any:
    try:
        made = point.load()
    except Exception as error:
        raise ExtensionError(
            f"{kind}.{point.name} of {_package(point)} ({point.value}) cannot be loaded: {type(error).__name__}: "
            f"{error}. Update that package, or uninstall it."
        ) from error
    if not callable(made):
        raise ExtensionError(
            f"{kind}.{point.name} of {_package(point)} ({point.value}) is a {type(made).__name__}: expected something "
            "that can be called. Tell the package's authors."
        )
    return made


def _points(kind: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"actadd_lens.{kind}"))


def _named(kind: str, name: str) -> list[EntryPoint]:
    return [point for point in _points(kind) if point.name == name]


def _problem(kind: str, name: str) -> str:
    """Why a name is nobody's or someone else's."""
    import actadd_lens

    if name in vars(getattr(actadd_lens, kind)):
        return "actadd_lens has one of this name itself, which wins"
    packages = sorted({_package(point) for point in _named(kind, name)})
    return f"{' and '.join(packages)} both give it" if len(packages) > 1 else ""


def _package(point: EntryPoint) -> str:
    return "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
