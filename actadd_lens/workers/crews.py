"""Driving an executor: it sends tasks, receives results, replaces lost workers, and keeps finished results."""

import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Generic

from actadd_lens.errors import SettingError, WorkerError
from actadd_lens.identity import callers_hooks, model_key, surroundings
from actadd_lens.models import Backend
from actadd_lens.models.origins import recorded_source
from actadd_lens.workers.desks import Answer, ModelOrder, answer
from actadd_lens.workers.jobs import Desk, Job, Part, Task
from actadd_lens.workers.pools import Pool, as_pool, is_executor
from actadd_lens.workers.shipping import packed, unpacked

_MOST_TRIES = 5
"""Number of attempts at a task before the loss of its workers is reported as an error."""

_SMALL = 2**15
"""Maximum size, in bytes, of a brief that is sent with every task; larger ones are sent on request."""


class WorkerWarning(UserWarning):
    """Workers that compute the right numbers, but more slowly than necessary."""


@dataclass(eq=False)
class _Errand(Generic[Task]):
    """A task that was sent, or will be."""

    task: Task
    tries: int = 0
    asks_brief: bool = False
    asks_model: bool = False
    renewals: int = 0


@dataclass(eq=False)
class Crew(Generic[Task, Part]):
    """The workers of one job.

    Attributes:
        job: The job.
        pool: The workers.
        tick: Called with the number of units of each finished task.
        brief: What a worker has to know about the job, packed.
    """

    job: Job[Task, Part]
    pool: Pool
    tick: Callable[[int], Any]
    brief: bytes
    _again: deque[_Errand[Task]] = field(init=False, default_factory=deque)
    _pending: dict[Future[Answer], _Errand[Task]] = field(init=False, default_factory=dict)
    _model: bytes | None = field(init=False, default=None)
    _device: str = field(init=False, default="")
    _has_warned: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._number = hashlib.sha256(self.brief).digest()[:16]

    def done(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Part]]:
        """Each task with its parts, in the order in which workers finish them."""
        coming = (_Errand(task) for task in tasks)
        try:
            while True:
                self._give_out(coming)
                if not self._pending:
                    break
                finished, _ = wait(self._pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield from self._taken(self._pending.pop(future), future)
            self.pool.close()
        except KeyboardInterrupt:
            yield from self._finished_already()
            raise
        finally:
            for future in self._pending:
                future.cancel()
            self.pool.drop()

    def _give_out(self, coming: Iterator[_Errand[Task]]) -> None:
        """Send as many tasks as there is room for, beginning with those that have to be repeated."""
        while len(self._pending) < self.pool.room:
            errand = self._again.popleft() if self._again else next(coming, None)
            if errand is None:
                return
            self._send(errand)

    def _send(self, errand: _Errand[Task]) -> None:
        brief = content = None
        if len(self.brief) <= _SMALL:
            brief = self.brief
        elif errand.asks_brief:
            brief = self.pool.parcel(self.brief)
        if errand.asks_model:
            self._model = self._model or _model_bytes(self.job.backend)
            content = self.pool.parcel(self._model)
        errand.renewals = self.pool.renewals
        try:
            future = self.pool.submit(answer, self._number, errand.task, brief, content)
        except BrokenExecutor as error:
            self._lost(errand, error)
        else:
            self._pending[future] = errand

    def _taken(self, errand: _Errand[Task], future: "Future[Answer]") -> Iterator[tuple[Task, Part]]:
        try:
            found = future.result()
        except (CancelledError, Exception) as error:  # tasks return their own errors: this is the worker's
            self._lost(errand, error)
            return
        if found.failure is not None:
            raise unpacked(found.failure)
        if found.lacks is not None:
            errand.asks_brief, errand.asks_model = True, found.lacks == "model"
            self._again.append(errand)
            return
        self._look_at(found)
        for part in found.parts:
            yield errand.task, part
        self.tick(self.job.size(errand.task))

    def _lost(self, errand: _Errand[Task], error: BaseException) -> None:
        """A worker was lost: the task is sent again, to a new pool if the old one broke."""
        errand.tries += 1
        if errand.tries >= _MOST_TRIES:
            raise WorkerError(
                f"A task was sent {errand.tries} times, and each time its worker was lost "
                f"({type(error).__name__}: {error}): it may need more memory than there is (try a smaller batch_size), "
                "or workers may not find this package. With path=, finished results are stored."
            ) from error
        if errand.renewals == self.pool.renewals:
            self.pool.has_lost(error)
        self._again.append(errand)

    def _finished_already(self) -> Iterator[tuple[Task, Part]]:
        """Results that arrived while the driver was being stopped."""
        for future, errand in self._pending.items():
            future.cancel()
            if future.done() and not future.cancelled() and future.exception() is None:
                for part in future.result().parts:
                    yield errand.task, part

    def _look_at(self, found: Answer) -> None:
        self._device = self._device or found.device
        if found.device != self._device:
            raise WorkerError(
                f"Some workers compute on {self._device} and some on {found.device}, whose numbers differ: use workers "
                "of one kind, or load the model with device=."
            )
        if found.trims and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "Workers return memory to the system at every step (MALLOC_TRIM_THRESHOLD_), which makes torch much "
                "slower: before the workers start, call dask.config.set(actadd_lens.workers.DASK_SETTINGS), as the "
                "page on executors explains.",
                WorkerWarning,
                stacklevel=2,
            )


def done(
    job: Job[Task, Part],
    tasks: Iterable[Task],
    tick: Callable[[int], Any],
    *,
    executor: Any = None,
    desk: Desk[Task, Part] | None = None,
) -> Generator[tuple[Task, Part], None, None]:
    """Each task with each of its parts, as they are finished: in order in this process, in any order from workers.

    Close it, as `contextlib.closing` does, if it is not read to its end, so that waiting tasks are cancelled.

    Args:
        job: The job.
        tasks: Its tasks, which are read only when there is room for more.
        tick: Called with the number of units as they are done.
        executor: As in `sweep`; by default everything is done in this process.
        desk: The driver's own desk, if it has one already.

    Raises:
        SettingError: It is not an executor, or hooks on the model would not act in its workers.
        WorkerError: Workers die repeatedly, or would compute other numbers.
    """
    if executor is not None:
        yield from crew_of(job, executor, tick).done(tasks)
        return
    desk = job.recipe.desk(job.backend) if desk is None else desk
    for task in tasks:
        with closing(desk.parts(task, tick)) as parts:
            for part in parts:
                yield task, part


def crew_of(job: Job[Task, Part], executor: Any, tick: Callable[[int], Any]) -> Crew[Task, Part]:
    """The crew of an executor.

    Raises:
        SettingError: It is not an executor, or there are hooks on the model, which workers would not have.
        WorkerError: The job cannot be sent.
    """
    backend = job.backend
    check_executor(backend, executor)
    pool = as_pool(executor)
    threads = 1 if pool.is_forked else None
    if pool.is_forked and backend.device.type == "cuda":
        raise SettingError(
            "The executor forks this process, and a forked process cannot use the GPU: make the pool with "
            'mp_context=multiprocessing.get_context("spawn"), or use worker_pool.'
        )
    order = ModelOrder(
        model_key(backend), backend.name, recorded_source(backend.model), backend.device.type, surroundings(backend),
        threads,
    )  # fmt: skip
    return Crew(job, pool, tick, packed((order, job.recipe)))


def check_executor(backend: Backend, executor: Any) -> None:
    """Check the executor, and that its workers would compute the same as this process, before anything runs.

    Args:
        backend: The model.
        executor: As in `sweep`; None is fine.

    Raises:
        SettingError: It is not an executor, or there are hooks on the model, which workers would not have.
    """
    if executor is None:
        return
    if not is_executor(executor) and not callable(executor):
        raise SettingError(
            f"executor is {executor!r}: expected something with submit, as in concurrent.futures, such as a process "
            "pool or Dask's client.get_executor(pure=False); or a function that makes one."
        )
    hooks = callers_hooks(backend)
    if hooks:
        raise SettingError(
            f"There are hooks of your own on the model ({', '.join(hooks)}), which workers would not have: remove "
            "them (model.reset_hooks()), or leave executor= out."
        )


def _model_bytes(backend: Backend) -> bytes:
    """The model itself, packed, after checking that no steering hook would be sent with it.

    Raises:
        SettingError: Steering is open on it.
    """
    if backend.hooked_names():
        raise SettingError(
            "The model has to be sent to the workers as it is, but steering is open on it: end steer(...) first, or "
            "save the model to a folder and load that, so that workers can load it too."
        )
    return packed(backend.model)
