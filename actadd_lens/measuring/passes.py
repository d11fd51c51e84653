"""What something costs: rows that go through the model, and seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from actadd_lens.models import Backend


@dataclass
class Cost:
    """What ran while the cost was counted.

    Attributes:
        passes: Texts that went through the model; a batch of eight counts as eight.
        seconds: Seconds on the clock.
    """

    passes: int = 0
    seconds: float = 0.0


@contextmanager
def counted(backend: Backend) -> Iterator[Cost]:
    """Count what runs inside, without changing it."""
    cost, start = Cost(), time.perf_counter()

    def note(module: Any, args: Any, kwargs: Any) -> None:
        stream = args[0] if args else next(iter(kwargs.values()))
        cost.passes += int(stream.shape[0])

    handle = backend.model.blocks[0].register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield cost
    finally:
        handle.remove()
        cost.seconds = time.perf_counter() - start
