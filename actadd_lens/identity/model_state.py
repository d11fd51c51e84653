"""What a model's outputs depend on: all weights, buffers and settings, and all hooks on it that are not ours."""

import hashlib
import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from actadd_lens.identity.digests import Digester, digest, is_library, own_sources
from actadd_lens.models import Backend
from actadd_lens.models.adapted import class_of, stand_ins
from actadd_lens.steering.hooks import InjectionHook

_FORMAT = 2
"""Changed whenever values are computed or keyed differently, so that old values are never reused."""

_OF_TORCH = frozenset(vars(torch.nn.Module()))
"""Attributes that torch keeps on every module; weights, modules and hooks are handled separately."""

_OF_THE_PASS = frozenset(
    {
        "fwd_hooks", "bwd_hooks", "ctx", "context_level", "is_caching", "hook_dict", "mod_dict", "tokenizer",
        "processor", "hooks_to_cache", "dataset", "generation_config", "_output_capturing_hooks_installed",
        "_conversion_state",
    }
)  # fmt: skip
"""Attributes of TransformerLens's modules that do not affect outputs, or that only a previous pass has left."""

COLLECTORS = "transformers.utils.output_capturing"
"""The module of transformers with the hooks that collect hidden states and attentions."""

_NAMES = frozenset({"model_name", "tokenizer_name", "_name_or_path", "name_or_path", "device", "transformers_version"})
"""Settings that name a model or its location; the same weights may be stored elsewhere."""

_DEEPEST = 8
"""Maximum depth to which nested settings are followed."""

_TOLD = (
    bool, int, float, str, bytes, type(None), torch.dtype, torch.device, Tensor, types.FunctionType, types.MethodType,
    type,
)  # fmt: skip


def model_key(backend: Backend) -> bytes:
    """A hash of everything that a model's outputs depend on.

    Raises:
        SettingError: A hook on the model cannot be distinguished from another one.
    """
    hooks = [(name, found) for name, found in sorted(callers_hooks(backend).items())]
    told = (_FORMAT, own_sources(), _versions(), _precision(backend), backend.family, _tokenizer_key(backend), hooks)
    return digest((*told, module_state(backend.model)))


def surroundings(backend: Backend) -> dict[str, str]:
    """What a model's outputs depend on besides the model, as texts by which machines can be compared."""
    names = ("torch", "transformer-lens", "transformers")
    _, matmul, autocast, _ = _precision(backend)
    return {
        "actadd_lens": own_sources().hex(), **dict(zip(names, _versions(), strict=True)),
        "float32 matmul precision": str(matmul), "autocast": str(autocast),
    }  # fmt: skip


def callers_hooks(backend: Backend) -> dict[str, list[Any]]:
    """The hooks on a model that are not this package's, by hook point; torch's own hooks by their module."""
    found = {name: backend.hooks_at(name) for name in backend.hooked_names()}
    theirs = {name: [hook for hook in hooks if not isinstance(hook, InjectionHook)] for name, hooks in found.items()}
    of_torch = {f"torch {path}": hooks for path, module in _modules(backend.model) if (hooks := _torch_hooks(module))}
    everywhere = [*_global_hooks()]
    return {**{name: hooks for name, hooks in theirs.items() if hooks}, **of_torch} | (
        {"torch": everywhere} if everywhere else {}
    )


def module_state(module: torch.nn.Module, *, refuse: bool = False, within: frozenset[int] = frozenset()) -> bytes:
    """A hash of a module and everything in it: classes, weights, buffers and settings.

    Args:
        module: The module.
        refuse: Whether what cannot be hashed is refused, in modules whose classes are the user's own.
        within: Ids of the modules whose hash this is part of.
    """
    found = hashlib.sha256()
    modules = list(_modules(module))
    settings = _Settings(within | {id(inner) for _, inner in modules})
    for path, inner in modules:
        kind = class_of(inner)
        found.update(digest((path, kind.__module__, kind.__name__)))
        for name, tensor in (*inner._parameters.items(), *inner._buffers.items(), *stand_ins(inner).items()):
            found.update(digest((name, tensor), named=True))
        if _is_patched(kind):
            found.update(digest(kind.forward, named=True, within=settings.within))
        if not is_library(kind.__module__):
            found.update(Digester(refuse=refuse, within=settings.within).add(kind).digest())
        if hooks := _torch_hooks(inner):
            found.update(digest(hooks, named=not refuse, within=settings.within))
        for name, value in sorted(_own(inner).items()):
            found.update(digest(name) + settings.digest(value))
    return found.digest()


# -- modules ---------------------------------------------------------------------------------------------------


def _modules(root: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """All modules in a module, each once, with a path to it; also those that are plain attributes."""
    met: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        path, module = waiting.pop()
        if id(module) in met:
            continue
        met.add(id(module))
        yield path, module
        inner = [
            *module._modules.items(),
            *((name, item) for name, item in vars(module).items() if name not in _OF_TORCH),
        ]
        waiting += [(f"{path}.{name}", item) for name, item in reversed(inner) if isinstance(item, torch.nn.Module)]


def _is_patched(kind: type) -> bool:
    """Whether the forward pass of a library's class was replaced."""
    forward = getattr(kind, "forward", None)
    home = str(getattr(forward, "__globals__", {}).get("__name__", kind.__module__))
    return is_library(kind.__module__) and not is_library(home)


def _own(module: torch.nn.Module) -> dict[str, Any]:
    skipped = _OF_TORCH | _OF_THE_PASS
    own = {name: value for name, value in vars(module).items() if name not in skipped}
    if is_library(class_of(module).__module__):  # a library's private attributes may change with every pass
        own = {name: value for name, value in own.items() if not name.startswith("_")}
    return {**own, "training": module.training}


class _Settings:
    """Hashes of the settings of modules, including nested ones; many modules share one object of settings.

    Args:
        within: The ids of the modules.
    """

    def __init__(self, within: frozenset[int]) -> None:
        self.within = within
        self._known: dict[int, bytes] = {}
        self._alive: list[Any] = []

    def digest(self, value: Any, depth: int = 0) -> bytes:
        """The hash of a setting; for what is not a setting, only the class counts."""
        if isinstance(value, _TOLD) or not is_library(type(value).__module__):
            return digest(value, named=True, within=self.within)
        if id(value) in self._known:
            return self._known[id(value)]
        found = hashlib.sha256(type(value).__name__.encode())  # a local class's long name changes when sent
        if depth > _DEEPEST or isinstance(value, torch.nn.Module):
            return found.digest()
        self._known[id(value)] = found.digest()  # for settings that refer back to it
        self._alive.append(value)
        for name, item in _items(value):
            if name not in _NAMES and name not in _OF_THE_PASS:
                found.update(digest(name) + self.digest(item, depth + 1))
        self._known[id(value)] = found.digest()
        return self._known[id(value)]


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return sorted(((str(name), item) for name, item in value.items()), key=lambda pair: pair[0])
    if isinstance(value, list | tuple):
        return [(str(place), item) for place, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((str(item), None) for item in value)
    return sorted(vars(value).items()) if hasattr(value, "__dict__") else ()


# -- hooks -----------------------------------------------------------------------------------------------------


def _torch_hooks(module: torch.nn.Module) -> list[Any]:
    """Hooks that torch runs around a module, without those of hook points and of libraries that only observe."""
    of_points = {handle.hook.id for handle in getattr(module, "fwd_hooks", ())}
    flagged = (module._forward_hooks_with_kwargs, module._forward_pre_hooks_with_kwargs)
    found = []
    for when, hooks in enumerate((module._forward_hooks, module._forward_pre_hooks)):
        for number, hook in hooks.items():
            if number not in of_points and not _is_of_the_house(hook):
                found.append((when, number in flagged[when], hook))
    return found


def _global_hooks() -> Iterator[Any]:
    """Hooks that torch runs around every module."""
    from torch.nn.modules import module

    for hooks in (module._global_forward_hooks, module._global_forward_pre_hooks):
        yield from (hook for hook in hooks.values() if not _is_of_the_house(hook))


def _is_of_the_house(hook: Any) -> bool:
    """Whether a hook is this package's, TransformerLens's, or one with which transformers collects hidden states.

    After a model was asked for hidden states once, transformers leaves its hooks on it permanently.
    """
    bare = inspect.unwrap(getattr(hook, "__func__", hook))  # it may be wrapped in shape checks
    home = str(getattr(bare, "__globals__", {}).get("__name__") or type(hook).__module__)
    return home.partition(".")[0] in ("actadd_lens", "transformer_lens") or home == COLLECTORS


# -- the surroundings of a model ------------------------------------------------------------------------------------


@cache
def _versions() -> tuple[str, ...]:
    return tuple(metadata.version(name) for name in ("torch", "transformer-lens", "transformers"))


def _precision(backend: Backend) -> tuple[Any, ...]:
    kind = backend.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return (str(backend.dtype), torch.get_float32_matmul_precision(), autocast, backend.weight_processing)


def _tokenizer_key(backend: Backend) -> bytes:
    """A hash of the tokenizer, which metrics use when they are bound."""
    tokenizer = backend.model.tokenizer
    if tokenizer is None:
        return b""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    # The part before the tokens says how batches are truncated and padded, which each call sets again.
    vocabulary = fast.to_str().partition('"added_tokens"')[2] if fast is not None else tokenizer.get_vocab()
    told = (type(tokenizer).__qualname__, vocabulary, str(tokenizer.special_tokens_map))
    return digest((*told, bool(getattr(tokenizer, "add_bos_token", False)), backend.prepends_bos), named=True)
