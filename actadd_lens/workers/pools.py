"""Kinds of executors: pools that break and have to be made again, Dask, and anything else with `submit`."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.context import BaseContext
from typing import Any

from actadd_lens.checks import is_count, require
from actadd_lens.errors import SettingError, WorkerError

DASK_SETTINGS = {
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**30,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
}
"""For `dask.config.set`, before workers start: by default Dask returns freed memory to the system at once, and torch
requests it again at the next step. Both are needed, because the first alone turns off glibc's automatic adjustment.
"""

_AHEAD = 2
"""Tasks per process of a local pool that are sent at once; a pool that breaks loses them all."""

_FAR_AHEAD = 1024
"""Tasks that are sent at once to an executor that manages its own workers."""

_MANY = 32
"""Assumed number of workers if an executor does not say how many it has."""


class Pool:
    """An executor, and how to replace it when it breaks.

    Args:
        executor: The executor.
        room: Maximum number of tasks in it at once.
        remake: Makes another one like it; None if it manages its workers itself.
        is_forked: Whether its workers are forks of this process.
        is_ours: Whether it was made here and so has to be closed here.
    """

    def __init__(
        self,
        executor: Any,
        *,
        room: int,
        remake: Callable[[], Any] | None = None,
        is_forked: bool = False,
        is_ours: bool = False,
    ) -> None:
        self.executor = executor
        self.room = room
        self.is_forked = is_forked
        self.renewals = 0
        self._remake = remake
        self._is_ours = is_ours

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """As an executor's."""
        found: Future[Any] = self.executor.submit(function, *arguments)
        return found

    def parcel(self, content: bytes) -> Any:
        """Bytes that many tasks need, in the form in which they are sent."""
        return content

    def has_lost(self, error: BaseException) -> None:
        """Handle the loss of a worker; a pool that broke is made again.

        Raises:
            WorkerError: It is not known how to make one.
        """
        if not isinstance(error, BrokenExecutor):
            return
        if self._remake is None:
            raise WorkerError(
                f"The executor broke ({error}), and it is not known how to make another one: pass a function that "
                "makes it, executor=lambda: ..., and it is called again."
            ) from error
        self.close()
        made = self._remake()
        self._is_ours = made is not self.executor
        self.executor, self.renewals = made, self.renewals + 1

    def close(self) -> None:
        """Close it, if it was made here."""
        if self._is_ours:
            self.executor.shutdown(wait=True)

    def drop(self) -> None:
        """Close it without waiting for running tasks, if it was made here."""
        if self._is_ours:
            stop_processes(self.executor)


class DaskPool(Pool):
    """Dask's workers, which Dask itself manages.

    Args:
        executor: What `client.get_executor(pure=False)` returns.
    """

    def __init__(self, executor: Any) -> None:
        super().__init__(executor, room=_FAR_AHEAD)
        self._parcels: dict[bytes, Any] = {}

    def parcel(self, content: bytes) -> Any:
        """Send the bytes to the cluster once; its workers pass them on to each other."""
        if content not in self._parcels:
            self._parcels[content] = self.executor._client.scatter(content, broadcast=True, hash=False)
        return self._parcels[content]

    def has_lost(self, error: BaseException) -> None:
        """Send the bytes again, because they may have been lost with the worker."""
        self._parcels.clear()


def is_executor(value: Any) -> bool:
    """Whether something accepts tasks, as executors of `concurrent.futures` do."""
    return callable(getattr(value, "submit", None)) and not isinstance(value, type)


def as_pool(executor: Any) -> Pool:
    """A pool for an executor, or for the one that a function makes."""
    if not is_executor(executor):
        found = executor()
        if not is_executor(found):
            raise SettingError(f"The function in executor= made {found!r}: expected something with submit.")
        made = as_pool(found)
        return Pool(made.executor, room=made.room, remake=executor, is_forked=made.is_forked, is_ours=True)
    home = type(executor).__module__.partition(".")[0]
    if home == "distributed":
        is_client = hasattr(executor, "get_executor")
        return DaskPool(executor.get_executor(pure=False) if is_client else executor)
    if isinstance(executor, WorkerPool):
        return Pool(executor, room=_AHEAD * executor.workers, remake=executor.renewed)
    if isinstance(executor, ProcessPoolExecutor):
        is_forked = _context_of(executor).get_start_method() == "fork"
        return Pool(executor, room=_room(executor), remake=_standard(executor), is_forked=is_forked)
    if home == "loky":
        return Pool(executor, room=_room(executor), remake=_loky(executor))
    return Pool(executor, room=_AHEAD * int(getattr(executor, "num_workers", _MANY)))


def _room(executor: Any) -> int:
    return int(_AHEAD * executor._max_workers)


def _standard(executor: ProcessPoolExecutor) -> Callable[[], Executor]:
    """A pool like one that broke; the standard library keeps its arguments only in private attributes."""
    context, workers = _context_of(executor), executor._max_workers  # type: ignore[attr-defined]
    begin, arguments = executor._initializer, executor._initargs
    return lambda: ProcessPoolExecutor(workers, context, begin, arguments)


def _context_of(executor: ProcessPoolExecutor) -> BaseContext:
    return getattr(executor, "_mp_context", None) or multiprocessing.get_context()


def _loky(executor: Any) -> Callable[[], Any]:
    from loky import ProcessPoolExecutor as LokyExecutor

    options = {
        "context": executor._context, "initializer": executor._initializer, "initargs": executor._initargs,
        "env": executor._env,
    }  # fmt: skip
    return lambda: LokyExecutor(executor._max_workers, **options)


def stop_processes(executor: Any) -> None:
    """End the processes of a pool, whatever they are doing."""
    processes = list((getattr(executor, "_processes", None) or {}).values())
    executor.shutdown(wait=False)
    for process in processes:
        with suppress(OSError, ValueError):  # it has ended by itself
            process.terminate()


# -- a pool of our own -----------------------------------------------------------------------------------------


class WorkerPool(Executor):
    """Processes on this machine; made by `worker_pool`.

    Args:
        workers: How many.
        threads: Threads of torch in each.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.workers = workers
        self._threads = threads
        self._pool = self._made()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> "Future[Any]":
        """As an executor's."""
        return self._pool.submit(function, *arguments, **keywords)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As an executor's."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def renewed(self) -> "WorkerPool":
        """The same, with new processes."""
        self._pool = self._made()
        return self

    def stop(self) -> None:
        """End its processes, whatever they are doing."""
        stop_processes(self._pool)

    def _made(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        numbers = context.SimpleQueue()
        for number in range(self.workers):
            numbers.put(number)
        return ProcessPoolExecutor(self.workers, context, _begin, (numbers, _gpus(), self._threads))


@contextmanager
def worker_pool(workers: int, *, threads: int | None = None) -> Iterator[WorkerPool]:
    """Processes on this machine that share the work of sweeps and measurements: `executor=` takes the pool.

    If there are GPUs, they are assigned to the processes in turn. A script that makes a pool must put its work under
    `if __name__ == "__main__":`, because each process imports the script.

    Args:
        workers: How many processes.
        threads: Threads of torch in each; by default this process's, divided among them.

    Raises:
        SettingError: A number is not an integer from 1.
    """
    require(is_count(workers), "workers", workers, "an integer from 1")
    require(threads is None or is_count(threads), "threads", threads, "an integer from 1, or None")
    if threads is None:
        import torch

        threads = max(1, torch.get_num_threads() // int(workers))
    pool = WorkerPool(int(workers), int(threads))
    try:
        yield pool
        pool.shutdown()
    finally:
        pool.stop()


@contextmanager
def dask_client(address: str) -> Iterator[Any]:
    """A client of a running Dask scheduler, for `executor=`; it is closed afterwards.

    Args:
        address: The scheduler's address, or its scheduler file.

    Raises:
        WorkerError: Dask is not installed, or there is no scheduler.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise WorkerError("Dask is not installed: pip install 'actadd-lens[distributed]'.") from error
    try:
        client = Client(scheduler_file=address) if os.path.isfile(address) else Client(address)  # noqa: PTH113
    except (OSError, ValueError) as error:
        raise WorkerError(
            f"There is no Dask scheduler at {address} ({error}): start one with `dask scheduler`."
        ) from error
    with client:
        yield client


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _begin(numbers: Any, gpus: list[str], threads: int) -> None:
    """Set up a process of our pool: it gets its own GPU and ignores Ctrl-C, which the driver handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    number = numbers.get()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    import torch

    torch.set_num_threads(threads)
