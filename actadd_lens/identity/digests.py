"""Hashes of values by their contents: of functions by their code and all that it reaches, of objects by their class.

`docs/sweeps.md` describes what the hash of a user's function covers. For libraries, it covers the names that are used
and the source files; everything else is followed completely, or refused.
"""

import copyreg
import dis
import functools
import hashlib
import importlib
import inspect
import struct
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from actadd_lens.errors import SettingError
from actadd_lens.identity.tensors import tensor_digest

_BLIND = frozenset({"open", "eval", "exec", "globals", "locals", "vars", "input", "__import__"})
"""Builtins through which a function can reach things that its code does not name."""

_BOOKKEEPING = frozenset(
    {
        "__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__static_attributes__",
        "__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__abstractmethods__",
        "_abc_impl", "__parameters__", "__orig_bases__", "__dataclass_fields__", "__dataclass_params__",
        "__protocol_attrs__", "__non_callable_proto_members__", "_is_protocol", "_is_runtime_protocol",
    }
)  # fmt: skip
"""Attributes that Python itself adds to a class."""

_GLOBAL_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})

_PLAIN = (bool, int, str, bytes, float, complex, type(None), type(...), torch.dtype, torch.device)


def digest(value: Any, *, named: bool = False, within: frozenset[int] = frozenset()) -> bytes:
    """A hash of a value by its contents.

    Args:
        value: Anything.
        named: Whether the user has named it, so that for what cannot be hashed, only the type counts.
        within: Ids of the modules whose hash this is part of.

    Raises:
        SettingError: Something in it cannot be distinguished from others of its type, and it is not named.
    """
    try:
        return Digester(refuse=not named, within=within).add(value).digest()
    except RecursionError:
        raise _refusal("something nested too deeply") from None


class Digester:
    """A hash that is being computed.

    Args:
        refuse: Whether what cannot be hashed is refused; otherwise only its type counts.
        within: Ids of the modules whose hash this is part of.
    """

    def __init__(self, *, refuse: bool = True, within: frozenset[int] = frozenset()) -> None:
        self._within = within
        self._found = hashlib.sha256()
        self._refuse = refuse
        self._met: dict[int, int] = {}
        self._alive: list[Any] = []  # an id belongs to one object only while that is alive

    def digest(self) -> bytes:
        """The hash of all that was added."""
        return self._found.digest()[:16]

    def add(self, value: Any) -> "Digester":
        """Add a value with its type and length, so that different values cannot look the same."""
        kind = type(value)
        self._found.update(kind.__name__.encode() + b":")
        if kind in _PLAIN:
            self._text(value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass"))
        elif kind is tuple:
            self._all(value)
        elif isinstance(value, Tensor) and kind in (Tensor, torch.nn.Parameter):
            self._text(self._tensor(value))
        elif isinstance(value, np.generic):
            self._text(str(value.dtype).encode() + value.tobytes())
        elif id(value) in self._met:  # added before: a cycle, or something shared
            self._text(f"again {self._met[id(value)]}".encode())
        else:
            self._met[id(value)] = len(self._met)
            self._alive.append(value)
            self._all(list(self._parts(value)))
        return self

    def _all(self, parts: Iterable[Any]) -> None:
        found = list(parts)
        self._found.update(struct.pack("<q", len(found)))
        for part in found:
            self.add(part)

    def _text(self, text: bytes) -> None:
        self._found.update(struct.pack("<q", len(text)) + text)

    def _tensor(self, value: Tensor) -> bytes:
        try:
            return tensor_digest(value)
        except (RuntimeError, NotImplementedError, TypeError):  # no plain storage: sparse, meta, quantised
            self._cannot(value)
            return b""

    def _cannot(self, value: Any) -> tuple[str, ...]:
        kind = type(value)
        if self._refuse:
            raise _refusal(f"a {kind.__module__}.{kind.__qualname__}")
        return (kind.__module__, kind.__qualname__)

    # -- the parts of a value -------------------------------------------------------------------------------

    def _parts(self, value: Any) -> Iterable[Any]:
        take = self._takers.get(type(value))
        if take is not None:
            return take(self, value)
        if isinstance(value, torch.nn.Module):
            return self._module(value)
        if isinstance(value, type):
            return self._class(value)
        return self._member(value) if isinstance(value, Enum) else self._object(value)

    def _array(self, value: np.ndarray) -> Iterable[Any]:
        return (str(value.dtype), value.shape, value.tolist() if value.dtype.hasobject else value.tobytes())

    def _dict(self, value: dict[Any, Any]) -> Iterable[Any]:
        by_key = [(Digester(refuse=self._refuse).add(key).digest(), item) for key, item in value.items()]
        return [part for pair in sorted(by_key, key=lambda pair: pair[0]) for part in pair]

    def _set(self, value: Iterable[Any]) -> Iterable[Any]:
        return sorted(Digester(refuse=self._refuse).add(item).digest() for item in value)

    def _member(self, value: Enum) -> Iterable[Any]:
        return (type(value).__module__, type(value).__qualname__, value.name, value.value)

    def _module(self, value: torch.nn.Module) -> Iterable[Any]:
        from actadd_lens.identity.model_state import module_state

        if id(value) in self._within:
            return (type(value).__qualname__,)
        return (type(value), module_state(value, refuse=self._refuse, within=self._within))

    # -- code --------------------------------------------------------------------------------------------------

    def _function(self, function: types.FunctionType) -> Iterable[Any]:
        """Code, defaults, closure, attributes, and everything outside that it names."""
        if (function.__module__ or "").startswith("actadd_lens."):
            function = inspect.unwrap(function)  # it may be wrapped in shape checks
        home = str(function.__globals__.get("__name__", ""))
        names = frozenset(_names(function.__code__)[2])
        cells = [_Used.of(_content(cell), names) for cell in function.__closure__ or ()]
        kept = {name: item for name, item in vars(function).items() if name not in _BOOKKEEPING}
        inside = (function.__defaults__, function.__kwdefaults__, cells, kept)
        if is_library(home):
            return (home, function.__qualname__, source_of(home), *inside)
        return (_code_parts(function.__code__), *inside, *self._outside(function))

    def _outside(self, function: types.FunctionType) -> Iterator[Any]:
        """What a function names: globals, and attributes of modules, including those that it imports itself."""
        code, known = function.__code__, function.__globals__
        loaded, imported, found = _names(code)
        names = frozenset(found)
        blind = sorted((loaded & _BLIND) - set(known))
        if blind and self._refuse:
            raise _refusal(f"what {function.__qualname__} reaches by {blind[0]}()")
        for name in sorted(loaded & set(known)):
            yield name
            yield _Used.of(known[name], names)
        for name in sorted(imported):
            yield _Used.of(_imported(name, str(known.get("__package__") or "")), names)

    def _use(self, used: "_Used") -> Iterable[Any]:
        """A module by its name and the attributes that the code names; the same for modules inside it."""
        module, names = used.module, used.names
        held = {name: vars(module)[name] for name in sorted(names & set(vars(module)))}
        told: list[Any] = [module.__name__, source_of(module.__name__)] if is_library(module.__name__) else []
        for name, item in held.items():
            if isinstance(item, types.ModuleType):
                if id(item) not in self._met or not is_library(item.__name__):
                    told += [name, _Used(item, names)]
            elif is_library(module.__name__) and not _is_users(item):
                told += [name, type(item).__name__]
            else:
                told += [name, item]
        return told

    def _class(self, kind: type) -> Iterable[Any]:
        """A library's class by its name; any other class by all attributes of itself and its bases."""
        told: list[Any] = []
        for base in kind.__mro__:
            told += [base.__module__, base.__qualname__]
            if is_library(base.__module__):
                told.append(source_of(base.__module__))
            elif issubclass(base, Enum):
                told.append([(member.name, member.value) for member in base])
            else:
                told.append({name: item for name, item in vars(base).items() if name not in _BOOKKEEPING})
        return told if type(kind) is type else (*told, type(kind))

    def _builtin(self, value: Any) -> Iterable[Any]:
        owner = getattr(value, "__self__", None)
        mine = None if isinstance(owner, types.ModuleType) else owner
        return (getattr(value, "__module__", ""), value.__qualname__, mine)

    def _object(self, value: Any) -> Iterable[Any]:
        """An object by its class and by what pickle would rebuild it from, which an open file does not have."""
        if isinstance(value, Iterator):
            return self._cannot(value)
        try:
            rebuilt = value.__reduce_ex__(4)
        except Exception:  # other people's objects may raise anything: this one cannot be hashed
            return self._cannot(value)
        held = vars(value) if hasattr(value, "__dict__") and not is_library(type(value).__module__) else None
        if isinstance(rebuilt, str):
            return (type(value), rebuilt)
        make, arguments, *rest = rebuilt
        state = [list(part) if isinstance(part, Iterator) else part for part in rest]
        made_by = None if make in (copyreg.__newobj__, copyreg._reconstructor) else make  # type: ignore[attr-defined]  # pickle names it so; stubs do not
        return (type(value), made_by, arguments, state, held)

    _takers: ClassVar[dict[type, Callable[["Digester", Any], Iterable[Any]]]] = {}


class _Used:
    """A module, and the names by which code may access its attributes."""

    def __init__(self, module: types.ModuleType, names: frozenset[str]) -> None:
        self.module, self.names = module, names

    @classmethod
    def of(cls, value: Any, names: frozenset[str]) -> Any:
        """A module with the names; anything else unchanged."""
        return cls(value, names) if isinstance(value, types.ModuleType) else value


Digester._takers = {
    list: lambda _, value: value,
    range: lambda _, value: (value.start, value.stop, value.step),
    slice: lambda _, value: (value.start, value.stop, value.step),
    dict: Digester._dict,
    set: Digester._set,
    frozenset: Digester._set,
    np.ndarray: Digester._array,
    functools.partial: lambda _, value: (value.func, value.args, value.keywords),
    types.FunctionType: Digester._function,
    types.MethodType: lambda _, value: (value.__func__, value.__self__),
    types.BuiltinFunctionType: Digester._builtin,
    types.ModuleType: lambda self, value: self._use(_Used(value, frozenset(_public(value)))),
    _Used: Digester._use,
    property: lambda _, value: (value.fget, value.fset),
    staticmethod: lambda _, value: (value.__func__,),
    classmethod: lambda _, value: (value.__func__,),
    functools.cached_property: lambda _, value: (value.func,),
    types.MemberDescriptorType: lambda _, value: (value.__qualname__,),
    types.GetSetDescriptorType: lambda _, value: (value.__qualname__,),
    functools._lru_cache_wrapper: lambda _, value: (value.__wrapped__,),
}  # fmt: skip


# -- libraries -------------------------------------------------------------------------------------------------


@functools.cache
def is_library(module: str) -> bool:
    """Whether a module comes with Python or was installed, so that its code is not the user's own."""
    top = module.partition(".")[0]
    if top == "__main__":  # its file may be one of Jupyter's
        return False
    if top in sys.stdlib_module_names or top == "actadd_lens":
        return True
    files = [getattr(sys.modules.get(name), "__file__", None) for name in (module, top)]
    return any({"site-packages", "dist-packages"} & set(Path(file).parts) for file in files if file)


def source_of(module: str) -> str:
    """A hash of a library module's source, so that an update or an edit changes it; empty if there is no source."""
    if module.partition(".")[0] == "actadd_lens":
        return ""  # covered as a whole by `own_sources`
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file or not file.endswith(".py"):
        return ""
    try:
        status = Path(file).stat()
        return _hashed(file, status.st_mtime_ns, status.st_size)
    except OSError:
        return ""


@functools.cache
def _hashed(file: str, changed: int, size: int) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


@functools.cache
def own_sources() -> bytes:
    """A hash of this package's own source files, comments included, without those that numbers do not depend on."""
    folder = Path(__file__).parents[1]
    shown = ("cli", "plots", "experiments")  # experiments have a hash of their own
    files = [path for path in sorted(folder.rglob("*.py")) if path.relative_to(folder).parts[0] not in shown]
    return digest([(str(path.relative_to(folder)), path.read_bytes()) for path in files])


def _is_users(value: Any) -> bool:
    home = value.__globals__.get("__name__", "") if isinstance(value, types.FunctionType) else type(value).__module__
    if isinstance(value, type):
        home = value.__module__
    return not is_library(str(home))


# -- code ------------------------------------------------------------------------------------------------------


def _code_parts(code: types.CodeType) -> tuple[Any, ...]:
    constants = tuple(_code_parts(item) if isinstance(item, types.CodeType) else item for item in code.co_consts)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (code.co_code, code.co_exceptiontable, code.co_flags, constants, names)


def _names(code: types.CodeType) -> tuple[set[str], set[str], set[str]]:
    """Globals that code loads, modules that it imports, and all names in it, inner functions included."""
    loaded = {step.argval for step in dis.get_instructions(code) if step.opname in _GLOBAL_LOADS}
    imported = {step.argval for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME"}
    names = {*code.co_names, *(item for item in code.co_consts if isinstance(item, str) and item.isidentifier())}
    names |= {part for item in code.co_consts if isinstance(item, tuple) for part in item if isinstance(part, str)}
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            inner = _names(item)
            loaded, imported, names = loaded | inner[0], imported | inner[1], names | inner[2]
    return loaded, imported, names


def _imported(name: str, package: str) -> Any:
    """A module that code imports while it runs; None if it cannot be imported."""
    for full in (name, f"{package}.{name}" if package else name):
        try:
            return importlib.import_module(full)
        except ImportError:
            continue
    return None


def _public(module: types.ModuleType) -> Iterator[str]:
    """The names in a module that is part of an object, so that no code shows which of them are used."""
    yield from () if is_library(module.__name__) else (name for name in vars(module) if not name.startswith("__"))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _refusal(what: str) -> SettingError:
    return SettingError(
        f"{what[0].upper()}{what[1:]}, in a metric or hook, cannot be distinguished from another one, so results "
        'under path= might be mixed up: give the metric a name, metrics.named("mine", metric), and a new name whenever '
        "it changes; or use functions of plain values and tensors, or leave path= out."
    )
