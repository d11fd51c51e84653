"""The hook functions that carry interventions, and the sessions that hang them and take every one of them away."""

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from actadd_lens.errors import SteeringError
from actadd_lens.models import Backend, HookHandle
from actadd_lens.models.protocol import Spot
from actadd_lens.steering.landings import Assignment, Landing, Prompts, act, land


class Session(ABC):
    """Steering that is open on a model: it tells each hook what is done to its stream.

    A session belongs to the thread that opened it.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.key = object()
        self.is_open = True
        self.called: set[Spot] = set()
        self.handles: list[HookHandle] = []
        self._owner = threading.get_ident()
        self._paused: set[int] = set()

    @property
    def is_paused(self) -> bool:
        """Whether it does nothing in this thread for now."""
        return threading.get_ident() in self._paused

    @property
    def is_mine(self) -> bool:
        """Whether this thread opened it."""
        return threading.get_ident() == self._owner

    def pause(self) -> bool:
        """Do nothing in this thread until `resume`; False where that was so already."""
        was_paused = self.is_paused
        self._paused.add(threading.get_ident())
        return not was_paused

    def resume(self) -> None:
        """Act again in this thread."""
        self._paused.discard(threading.get_ident())

    @abstractmethod
    def steered(self, spot: Spot, stream: Tensor) -> Tensor | None:
        """The steered copy of a stream at a hook point; None if nothing is done in this pass."""


class InjectionHook:
    """The hook function of a session at one hook point.

    It does not keep its session alive, unless it is asked to: so a session that is forgotten, by whatever accident, is
    over, and what it hung is taken away.
    """

    def __init__(self, session: Session, spot: Spot, *, keeps_session: bool = False) -> None:
        self.key = session.key
        self.spot = spot
        self._session = weakref.ref(session)
        self._kept = session if keeps_session else None
        self.__name__ = f"steering at {spot.site} of layer {spot.layer}"

    @property
    def session(self) -> Session | None:
        """The session; None once it is over."""
        found = self._session()
        return found if found is not None and found.is_open else None

    def __call__(self, stream: Tensor, hook: Any) -> Tensor | None:
        """The steered copy, or None."""
        session = self.session
        return None if session is None or session.is_paused else session.steered(self.spot, stream)

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        """A copy of a model is another model, which nobody steers."""
        return nothing


def nothing(stream: Tensor, hook: Any) -> None:
    """A hook function that does nothing."""


class Told(Session):
    """Steering by a tool, which knows its prompts and says how many columns are in the cache.

    Attributes:
        past: Columns in the cache before the next pass.
        grows: Whether what comes after a prompt is text that was written after it, and not padding.
    """

    def __init__(self, backend: Backend, assignments: Mapping[Spot, Sequence[Assignment]], prompts: Prompts) -> None:
        super().__init__(backend)
        self.past = 0
        self._landings = {spot: land(items, prompts, reader=backend) for spot, items in assignments.items()}
        self.grows = False
        self._ends = torch.tensor(prompts.first) + torch.tensor(prompts.lengths)

    @property
    def landings(self) -> Mapping[Spot, Sequence[Landing]]:
        """What lands where."""
        return self._landings

    def acts_from(self, column: int) -> bool:
        """Whether anything is done at a column or beyond it."""
        return any(landing.stop > column for found in self._landings.values() for landing in found)

    def steered(self, spot: Spot, stream: Tensor) -> Tensor | None:
        """What lands on this pass; passes of other threads are none of its business."""
        if not self.is_mine:
            return None
        self.called.add(spot)
        real = None
        if not self.grows and bool((self._ends < stream.shape[1]).any()):
            real = torch.arange(stream.shape[1]) < self._ends[:, None]
        return act(stream, self._landings[spot], past=self.past, real=real)


@contextmanager
def hung(session: Session, spots: Sequence[Spot]) -> Iterator[list[HookHandle]]:
    """The session's hooks on its model; by whatever way the block ends, every one of them is gone.

    What a hook point carries of the session is looked up there when the block ends, and once more when the session is
    forgotten: so an interruption at any moment leaves nothing behind.
    """
    backend = session.backend
    clear, _ = cleared_twice(session, _take_away, backend, session.key, tuple(spots), session.handles)
    try:
        for spot in spots:
            session.handles.append(backend.hang(backend.hook_name(*spot), InjectionHook(session, spot)))
        yield session.handles
    finally:
        session.is_open = False
        clear()


def _take_away(backend: Backend, key: object, spots: Sequence[Spot], handles: list[HookHandle]) -> None:
    def is_ours(hook: Any) -> bool:
        return isinstance(hook, InjectionHook) and hook.key is key

    def work() -> None:
        for handle in handles:  # whose hook point may not be the model's any more
            handle.remove()
        for spot in spots:
            backend.take_away(backend.hook_name(*spot), is_ours)

    until_done(work)


def cleared_twice(owner: object, work: Callable[..., None], *args: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Work that is done when it is asked for, and once more when the owner is forgotten, should the first fail."""
    return weakref.finalize(owner, work, *args), weakref.finalize(owner, work, *args)


def until_done(work: Callable[[], None]) -> None:
    """Do it, again from the start where it is interrupted, and only then let the interruption through."""
    interruption: BaseException | None = None
    while True:
        try:
            work()
        except KeyboardInterrupt as error:
            interruption = error
            continue
        break
    if interruption is not None:
        raise interruption


@contextmanager
def compiled_code_off() -> Iterator[None]:
    """Run compiled models as they are written: compiled code does not look for hooks that were hung later."""
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def injected(backend: Backend, assignments: Mapping[Spot, Sequence[Assignment]], prompts: Prompts) -> Iterator[Told]:
    """The model with interventions on rows of a batch whose prompts are known: what every tool runs in.

    Args:
        backend: The model.
        assignments: What is done where, resolved.
        prompts: The prompts of the batch.

    Raises:
        PositionError: Rows overhang a prompt; nothing has run then.
        SteeringError: A pass went by and a hook was not called, so something was not steered.
    """
    told = Told(backend, {spot: items for spot, items in assignments.items() if items}, prompts)
    spots = list(told.landings)
    if not spots:
        yield told
        return
    with compiled_code_off(), hung(told, spots):
        yield told
        check_called(told, spots)


def check_called(session: Session, spots: Sequence[Spot]) -> None:
    """Check that every hook was called.

    Raises:
        SteeringError: One was not.
    """
    for spot in spots:
        if spot not in session.called:
            raise SteeringError(
                f"{session.backend.name} ran, but {session.backend.hook_name(*spot)} was not reached, so nothing was "
                "done there: another module, such as a sparse autoencoder, may stand in its place, or the pass did "
                "not go that far."
            )
