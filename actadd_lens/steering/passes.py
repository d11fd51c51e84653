"""Forward passes as they go through a model's blocks: what each tells of its tokens, and who is told of it."""

import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.models import Backend, PassContext
from actadd_lens.models.bridge import inner_models
from actadd_lens.steering.hooks import cleared_twice, until_done

_SAME_STREAM = 2e-2
"""Relative difference up to which the norms of two streams count as equal, also in half precision."""


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass, as far as its tokens and its mask tell.

    Attributes:
        context: Columns in the cache, mask, and the cache itself.
        tokens: The tokens that were embedded; None where the pass began from a stream.
        stream: The first stream that was seen of it.
        goes_on: Whether it is the pass before it, without a cache, and one token more.
        positions: The tokens' positions, where the Hugging Face model was called with them.
    """

    context: PassContext
    tokens: Int[Tensor, "batch pos"] | None
    stream: Tensor
    goes_on: bool = False
    positions: Tensor | None = None

    @property
    def batch(self) -> int:
        """Rows."""
        return int(self.stream.shape[0])

    @property
    def seen(self) -> int:
        """New columns."""
        return int(self.stream.shape[1])


@runtime_checkable
class Watcher(Protocol):
    """Who wants to know of passes."""

    @property
    def looks_away(self) -> bool:
        """Whether passes of this thread are none of its business for now."""

    def enters(self, block: int, step: Pass | None) -> None:
        """A block is about to run; the first one of a pass comes with what the pass tells."""

    def leaves(self, block: int) -> None:
        """A block has run."""


class Watch:
    """Looks at passes as they go through a model's blocks: module hooks that change nothing.

    They go when the watch is closed or forgotten.

    Args:
        backend: The model.
        blocks: Blocks in which something is done.
        watcher: Who is told.
    """

    def __init__(self, backend: Backend, blocks: Sequence[int], watcher: Watcher) -> None:
        self._local = threading.local()
        self._backend = backend
        self._watcher = weakref.ref(watcher)
        model = backend.model
        handles: list[Any] = []
        blocks_below = [model.blocks[number] for number in range(max(blocks) + 1)]
        inside = inner_models(model)
        modules = [model, *inside, model.embed, *blocks_below]
        self.close, _ = cleared_twice(self, _remove_all, handles, modules, self._local)
        watch = weakref.ref(self)
        handles.append(model.register_forward_pre_hook(_Look(watch, self._local, "begins")))
        for inner in inside:
            called, done = (_Look(watch, self._local, what, inner) for what in ("is called", "is done"))
            handles.append(inner.register_forward_pre_hook(called, with_kwargs=True))
            handles.append(inner.register_forward_hook(done, always_call=True))
        handles.append(model.embed.register_forward_pre_hook(_Look(watch, self._local, "embeds")))
        for number, module in enumerate(blocks_below):
            acts = number in blocks
            enter = _Look(watch, self._local, "enters", module, number, acts)
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            if acts:
                handles.append(module.register_forward_hook(_Look(watch, self._local, "leaves", module, number)))

    @property
    def is_here(self) -> bool:
        """Whether the pass of this thread is one of the model itself, and not of a copy."""
        return bool(getattr(self._local, "is_here", False))

    @property
    def watcher(self) -> Watcher | None:
        """Who is told; None while it does not want to know."""
        found = self._watcher()
        return None if found is None or found.looks_away else found

    def begins(self) -> None:
        """A pass begins; what it begins from is not known yet."""
        self._local.tokens, self._local.block = None, None

    def is_called(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A model inside the model is called, perhaps by the user: a pass begins, and this is its mask."""
        if getattr(self._local, "called", None) in (None, module):  # not from within one that surrounds it
            self.begins()
            self._local.called = module
            self._local.mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
            self._local.positions = kwargs.get("position_ids")

    def is_done(self, module: Any) -> None:
        """A model inside the model has ended, by whatever way."""
        if getattr(self._local, "called", None) is module:
            self._local.called = self._local.mask = self._local.positions = None

    def embeds(self, module: Any, tokens: Any) -> None:
        """These tokens are embedded, so a pass begins with them."""
        if module is self._backend.model.embed and isinstance(tokens, Tensor) and tokens.ndim == 2:
            self._local.tokens, self._local.block = tokens.detach(), -1

    def enters(self, look: "_Look", module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A block is about to run."""
        local, number = self._local, look.number
        local.is_here = module is look.module
        if not local.is_here:
            self.begins()
            return
        goes_on = getattr(local, "block", None) == number - 1
        if not goes_on:
            local.tokens = None
        if not goes_on or number == 0:
            local.is_met = False
        local.block = number
        watcher = self.watcher
        if look.acts and watcher is not None:
            step = None
            if not local.is_met:
                step = self._step(self._as_called(self._backend.context(number, args, kwargs), args[0]), args[0])
                local.is_met = True
            watcher.enters(number, step)

    def _as_called(self, context: PassContext, stream: Tensor) -> PassContext:
        """The mask as the model was given it: a block's own says nothing of columns that its window has left behind."""
        if getattr(self._local, "called", None) is None:
            return context
        mask, columns = self._local.mask, context.past + stream.shape[1]
        if mask is None:
            return PassContext(context.past, None, context.cache)
        if not isinstance(mask, Tensor) or mask.shape != (stream.shape[0], columns):
            return context
        return PassContext(context.past, None if bool(mask.all()) else mask.bool(), context.cache)

    def _step(self, context: PassContext, stream: Tensor) -> Pass:
        """What a pass tells; without a cache, its tokens may be those of the last pass and one more.

        `HookedTransformer.generate` without a cache embeds only the newest token, and puts the streams together.
        """
        local, tokens = self._local, self._local.tokens
        if context.cache is not None:
            local.running = None
            return Pass(context, _fitting(tokens, stream), stream, positions=self._positions)
        sizes, running, goes_on = sizes_of(stream), getattr(local, "running", None), False
        if tokens is not None and tokens.shape[1] == 1 and running is not None and stream.shape[1] > 1:
            before, known = running
            longer = torch.cat([before, tokens], dim=1) if len(before) == len(tokens) else tokens
            if longer.shape == stream.shape[:2] and same_sizes(known, sizes):
                tokens, goes_on = longer, True
        tokens = _fitting(tokens, stream)
        local.running = None if tokens is None else (tokens, sizes)
        return Pass(context, tokens, stream, goes_on, self._positions)

    @property
    def _positions(self) -> Tensor | None:
        """Positions that the model was called with, as some architectures take them: one for each token."""
        found = getattr(self._local, "positions", None)
        return found if isinstance(found, Tensor) and found.ndim == 2 else None


def _fitting(tokens: Tensor | None, stream: Tensor) -> Tensor | None:
    return tokens if tokens is not None and tokens.shape == stream.shape[:2] else None


def sizes_of(stream: Tensor) -> Float[Tensor, "batch pos"]:
    """The norm of each token's stream, by which a pass is recognised."""
    sizes: Tensor = stream.detach().float().norm(dim=-1)
    return sizes


def same_sizes(earlier: Float[Tensor, "batch pos"], sizes: Float[Tensor, "batch longer"]) -> bool:
    """Whether a stream begins as an earlier one did."""
    return bool(((sizes[:, : earlier.shape[1]] - earlier).abs() <= _SAME_STREAM * earlier).all())


class _Look:
    """A module hook of a watch; on a copy of the model it is the same hook, and sees that the module is another."""

    def __init__(
        self,
        watch: "weakref.ref[Watch]",
        key: object,
        what: str,
        module: Any = None,
        number: int = 0,
        acts: bool = False,
    ) -> None:
        self.key, self.what, self.module, self.number, self.acts = key, what, module, number, acts
        self._watch = watch

    def __call__(self, module: Any, args: tuple[Any, ...], more: Any = None) -> None:
        """Tell the watch, if there still is one that wants to know."""
        watch = self._watch()
        watcher = None if watch is None else watch.watcher
        if watch is None or watcher is None:
            return
        if self.what == "begins":
            watch.begins()
        elif self.what == "is called" and module is self.module:
            watch.is_called(module, args, more)
        elif self.what == "is done":
            watch.is_done(module)
        elif self.what == "embeds":
            watch.embeds(module, args[0] if args else None)
        elif self.what == "enters":
            watch.enters(self, module, args, more)
        elif self.what == "leaves" and module is self.module:
            watcher.leaves(self.number)

    def __deepcopy__(self, memo: Any) -> "_Look":
        """Itself: a copy of the model is not watched."""
        return self


def _remove_all(handles: Sequence[Any], modules: Sequence[Any], key: object) -> None:
    """Take every module hook of a watch away, also one that an interruption kept from being noted."""

    def remove() -> None:
        for handle in handles:
            handle.remove()
        for module in modules:
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for number in [number for number, hook in hooks.items() if isinstance(hook, _Look) and hook.key is key]:
                    hooks.pop(number, None)

    until_done(remove)
