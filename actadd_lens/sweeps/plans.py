"""What all sweeps share that are checked but not run: their cost, and how they start or go on."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from actadd_lens.sweeps.batches import SweepCost, sweep_bar
from actadd_lens.sweeps.store import ResultStore, open_store

Found_co = TypeVar("Found_co", covariant=True)


@runtime_checkable
class SweepRun(Protocol[Found_co]):
    """A sweep under way."""

    def cost(self) -> SweepCost:
        """What is left to do."""

    def everything(self, tick: Callable[[int], Any]) -> Found_co:
        """Do it; `tick` is told of rows as they are done."""


class Plan(ABC, Generic[Found_co]):
    """A sweep that is ready to run."""

    path: str | os.PathLike[str] | None

    @abstractmethod
    def _begin(self, store: ResultStore | None) -> SweepRun[Found_co]:
        """The run, with what is stored already."""

    @property
    def cost(self) -> SweepCost:
        """Rows and forward passes, nulls included, and what is stored already; nothing is written."""
        with open_store(self.path, read_only=True) as store:
            return self._begin(store).cost()

    def run(self, *, progress: bool = True) -> Found_co:
        """Run it, or what is left of it."""
        with open_store(self.path) as store:
            run = self._begin(store)
            with sweep_bar(run.cost(), enabled=progress) as tick:
                return run.everything(tick)
