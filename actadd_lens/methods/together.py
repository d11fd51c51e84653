"""Interventions that belong together: the result of a method that acts at several layers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, overload

from actadd_lens.steering.files import save_interventions
from actadd_lens.vectors.interventions import Intervention


class Together(ABC, Sequence[Intervention]):
    """A sequence of interventions, which all tools accept as it is: `complete(model, prompts, found)`.

    For `steer`, which takes them one by one, write `steer(model, *found)`.
    """

    @property
    @abstractmethod
    def interventions(self) -> tuple[Intervention, ...]:
        """What is done, in order."""

    @overload
    def __getitem__(self, index: int) -> Intervention: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Intervention, ...]: ...

    def __getitem__(self, index: int | slice) -> Intervention | tuple[Intervention, ...]:
        return self.interventions[index]

    def __len__(self) -> int:
        return len(self.interventions)

    def __iter__(self) -> Iterator[Intervention]:
        return iter(self.interventions)

    def at(self, *, position: Any, bos: bool | None = None) -> Sequence[Intervention]:
        """All of them, on other tokens."""
        return tuple(found.at(position=position, bos=bos) for found in self.interventions)

    def save(self, path: Any) -> None:
        """Write the interventions to one file, from which `al.load_interventions` reads them back.

        Args:
            path: The file.

        Raises:
            VectorFileError: The file cannot be written.
        """
        save_interventions(self.interventions, path)
