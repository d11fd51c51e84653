"""Work divided into independent tasks, which are the same whether this process or workers do them."""

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
    """Does tasks of one job: a model, and what the tasks have in common."""

    def parts(self, task: Task_contra, tick: Callable[[int], Any]) -> Generator[Part_co, None, None]:
        """The results of a task, part by part; `tick` is called with the number of units as they are done."""


@runtime_checkable
class Recipe(Protocol[Task_contra, Part_co]):
    """What a worker needs besides a model to set up a desk; it can be sent to another process."""

    def desk(self, backend: Backend) -> Desk[Task_contra, Part_co]:
        """The desk for a model."""


@dataclass(frozen=True, eq=False)
class Job(Generic[Task, Part]):
    """What is to be done, by this process or by workers.

    Attributes:
        backend: The driver's own model.
        recipe: Makes a desk for a model.
        size: Number of units of a task, for the progress bar.
    """

    backend: Backend
    recipe: Recipe[Task, Part]
    size: Callable[[Task], int]
