"""What all planned sweeps share: their cost, and how they start or continue."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from actadd_lens.models import Backend
from actadd_lens.statistics import Effect, Power, power_of
from actadd_lens.sweeps.batches import SweepCost, sweep_bar
from actadd_lens.sweeps.registering import plan_hash, register_plan
from actadd_lens.sweeps.store import ResultStore, open_store
from actadd_lens.workers import check_executor

Found_co = TypeVar("Found_co", covariant=True)


@runtime_checkable
class SweepRun(Protocol[Found_co]):
    """A sweep that is running."""

    def cost(self) -> SweepCost:
        """The cost of what is left to do."""

    def everything(self, tick: Callable[[int], Any]) -> Found_co:
        """Do it; `tick` is called with the number of rows as they are done."""


class Plan(ABC, Generic[Found_co]):
    """A sweep that is ready to run."""

    path: str | os.PathLike[str] | None

    registered: ClassVar[str] = ""
    """The hash under which this plan was registered; empty until it is."""

    @property
    @abstractmethod
    def backend(self) -> Backend:
        """The model."""

    @abstractmethod
    def _begin(self, store: ResultStore | None, executor: Any = None) -> SweepRun[Found_co]:
        """The run, with the store and the executor, if there are any."""

    @property
    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Everything that the numbers depend on, as values for JSON."""

    @property
    def hash(self) -> str:
        """SHA-256 of the record."""
        return plan_hash(self.record)

    def register(self, path: str | os.PathLike[str], *, question: str = "") -> str:
        """Record the plan before it is run, with the date and its hash, which the result has as `plan`.

        Args:
            path: A JSON file; one that holds another plan is left as it is.
            question: What the run should decide, and by which number.

        Returns:
            The hash.

        Raises:
            SettingError: The file holds another plan or something else.
        """
        found = register_plan(self.record, path, question=question)
        object.__setattr__(self, "registered", found)
        return found

    def power(self, pilot: Effect, *, effect: float | None = None) -> Power:
        """What the run can show in one cell, from the spread over prompts in a pilot on a few other prompts.

        Args:
            pilot: An effect that was measured on prompts that the run does not use.
            effect: The effect that would matter; by default the pilot's own.

        Raises:
            SettingError: The pilot has fewer than two prompts, or nothing varies in it.
        """
        record = self.record
        return power_of(pilot, len(record["prompts"]), nulls=record["nulls"], effect=effect)

    @property
    def cost(self) -> SweepCost:
        """Rows and forward passes, nulls included, and what is stored already; nothing is written."""
        with open_store(self.path, read_only=True) as store:
            return self._begin(store).cost()

    def run(self, *, executor: Any = None, progress: bool = True) -> Found_co:
        """Run it, or what is left of it.

        Args:
            executor: As in `sweep`.
            progress: Whether to show a progress bar if it takes more than a moment.
        """
        check_executor(self.backend, executor)
        with open_store(self.path) as store:
            run = self._begin(store, executor)
            with sweep_bar(run.cost(), enabled=progress) as tick:
                return run.everything(tick)
