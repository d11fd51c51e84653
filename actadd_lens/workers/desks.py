"""What a worker does: it sets up a desk (a model and a job) once, keeps it, and does tasks with it.

A task is sent without its job. The worker keeps the job (the brief: which model, and what to compute) under a hash, and
gets it again only if it reports that it is missing. The same holds for a model that was made by hand.
"""

import os
import platform
import threading
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch

from actadd_lens.errors import WorkerError
from actadd_lens.identity import model_key, surroundings
from actadd_lens.models import Backend, ModelSource, backend_of
from actadd_lens.workers.shipping import packed, unpacked

_MOST_DESKS = 4
"""Maximum number of jobs that a worker keeps; they share one model."""

Lack = Literal["brief", "model"]


@dataclass(frozen=True)
class ModelOrder:
    """Which model a job is for.

    Attributes:
        key: Hash of everything that its outputs depend on.
        name: Its name, for messages.
        source: How it was loaded, if that is known.
        device: Its device in the driver: `cpu`, `cuda` and so on.
        around: What else its outputs depend on.
        threads: Number of threads for torch; None if the worker decides.
    """

    key: bytes
    name: str
    source: ModelSource | None
    device: str
    around: Mapping[str, str]
    threads: int | None = None


class Answer(NamedTuple):
    """What a worker sends back.

    Attributes:
        parts: The results of the task.
        lacks: What the driver has to send before the task can be done.
        failure: The error that the task raised, packed.
        device: The worker's kind of device.
        trims: Whether the worker returns memory to the system so often that torch slows down.
    """

    parts: list[Any]
    lacks: Lack | None = None
    failure: bytes | None = None
    device: str = ""
    trims: bool = False


class _Desks:
    """The desks that this process keeps, because a worker has no other place for a model between two tasks."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._found: OrderedDict[bytes, tuple[Backend, Any]] = OrderedDict()
        self._model: tuple[bytes, Backend] | None = None

    def desk(self, number: bytes, brief: bytes | None, content: bytes | None) -> tuple[Backend, Any] | Lack:
        """The desk of a job, set up at its first use; or what is missing for it."""
        if number in self._found:
            self._found.move_to_end(number)
            return self._found[number]
        if brief is None:
            return "brief"
        order, recipe = unpacked(brief)
        if order.threads is not None:
            torch.set_num_threads(order.threads)
        backend = self._backend(order, content)
        if backend is None:
            return "model"
        self._found[number] = backend, recipe.desk(backend)
        if len(self._found) > _MOST_DESKS:
            self._found.popitem(last=False)
        return self._found[number]

    def _backend(self, order: ModelOrder, content: bytes | None) -> Backend | None:
        """The model, compared with the driver's; None if the driver has to send its own."""
        if self._model is not None and self._model[0] == order.key:
            return self._model[1]
        self._model = None  # two models may not fit into memory
        self._found.clear()
        if content is not None:
            model = unpacked(content)
            found = backend_of(model if order.device == "cpu" else model.to(order.device))
        elif order.source is not None:
            device = order.source.device
            anywhere = None if device is None else device.partition(":")[0]  # device numbers differ between machines
            found = backend_of(replace(order.source, device=anywhere).load())
        else:
            return None
        torch.set_float32_matmul_precision(order.around["float32 matmul precision"])
        if model_key(found) != order.key:
            _check_sendable(order, found, is_sent=content is not None)
            return None
        self._model = order.key, found
        return found


def _check_sendable(order: ModelOrder, found: Backend, *, is_sent: bool) -> None:
    """Check that a model that differs from the driver's would be equal if the driver sent its own."""
    here = surroundings(found)
    others = [f"{name} {here[name]} instead of {value}" for name, value in order.around.items() if here[name] != value]
    if not others and not is_sent:
        return
    told = ", ".join(others) or "the model itself differs"
    raise WorkerError(
        f"A worker on {platform.node()} would not compute what {order.name} computes in the driver ({told}): give both "
        "the same environment."
    )


_kept = _Desks()


def answer(number: bytes, task: Any, brief: bytes | None = None, content: bytes | None = None) -> Answer:
    """Do a task in the process in which this is called.

    Args:
        number: Hash of the job that it belongs to.
        task: The task.
        brief: A model order and a recipe, packed; may be left out if the worker knows the job.
        content: The model, packed.
    """
    with _kept.lock:  # one task at a time, because a pool of threads shares the model
        try:
            found = _kept.desk(number, brief, content)
            if isinstance(found, str):
                return Answer([], lacks=found)
            backend, desk = found
            with closing(desk.parts(task, _quiet)) as parts:
                return Answer([*parts], device=backend.device.type, trims=_trims(backend))
        except Exception as error:  # sent to the driver, which would otherwise take it for a lost worker
            return Answer([], failure=_packed(error))


def _quiet(units: int) -> None:
    """A worker shows no progress bar."""


def _packed(error: Exception) -> bytes:
    """An error with its traceback as text; only the text if the error cannot be sent."""
    told = f"In a worker on {platform.node()}:\n{''.join(traceback.format_exception(error))}"
    try:
        error.add_note(told)
        content = packed(error.with_traceback(None))
        unpacked(content)
    except Exception:  # rebuilding other people's exceptions may raise anything
        return packed(WorkerError(told))
    return content


_LOW_TRIM = 2**27
"""Trim threshold, in bytes, below which returning memory costs more than keeping it."""


def _trims(backend: Backend) -> bool:
    threshold = os.environ.get("MALLOC_TRIM_THRESHOLD_", "")
    return backend.device.type == "cpu" and threshold.isdecimal() and int(threshold) < _LOW_TRIM
