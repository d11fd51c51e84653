"""Work cut into tasks that need nothing of each other, done here or by workers: the same tasks either way."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from actadd_lens.models import Backend

Task = TypeVar("Task")
Part = TypeVar("Part")
Task_contra = TypeVar("Task_contra", contravariant=True)
Part_co = TypeVar("Part_co", covariant=True)


@runtime_checkable
class Desk(Protocol[Task_contra, Part_co]):
    """Where tasks of one job are done: a model, and what the tasks have in common."""

    def parts(self, task: Task_contra, tick: Callable[[int], Any]) -> Generator[Part_co, None, None]:
        """What comes of a task, piece by piece; `tick` is told of units as they are done."""


@runtime_checkable
class Recipe(Protocol[Task_contra, Part_co]):
    """What a worker needs beside a model to set up a desk; it can be sent to another process."""

    def desk(self, backend: Backend) -> Desk[Task_contra, Part_co]:
        """The desk on a model."""


@dataclass(frozen=True, eq=False)
class Job(Generic[Task, Part]):
    """What is to be done, whoever does it.

    Attributes:
        backend: The driver's own model.
        recipe: What makes a desk on a model.
        size: How many units a task has, as the bar counts them.
    """

    backend: Backend
    recipe: Recipe[Task, Part]
    size: Callable[[Task], int]
