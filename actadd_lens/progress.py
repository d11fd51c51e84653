"""One way to show progress: a bar for what takes more than a moment, gone when it is done."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")

_DELAY = 2
"""Seconds before a bar appears, so that quick work stays quiet."""


def progress_bar(*, total: int, what: str, unit: str, shown: bool = True, done: int = 0) -> Any:
    """A tqdm bar with rate and remaining time, for a terminal or a notebook.

    `TQDM_DISABLE=1` in the environment hides all bars, whatever a call asks for.

    Args:
        total: Units in all.
        what: What is being done.
        unit: Name of a unit.
        shown: Whether to show it at all.
        done: Units that were done before.
    """
    from tqdm.auto import tqdm

    hidden: dict[str, Any] = (
        {} if shown else {"disable": True}
    )  # a `disable=False` of ours would override the environment
    return tqdm(total=total, initial=done, desc=what, unit=unit, delay=_DELAY, leave=False, **hidden)


def tracked(items: Sequence[Item], *, what: str, unit: str, shown: bool = True) -> Iterator[Item]:
    """The items, one by one, behind a bar.

    >>> list(tracked(range(3), what="counting", unit="number"))
    [0, 1, 2]
    """
    with progress_bar(total=len(items), what=what, unit=unit, shown=shown) as bar:
        for item in items:
            yield item
            bar.update(1)
