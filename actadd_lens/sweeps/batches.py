"""What a sweep costs, how many rows fit into memory, and the progress bar."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actadd_lens.models import Backend
from actadd_lens.progress import progress_bar

_SHARE = 0.25
"""Share of the free memory that a batch may use."""

_TOKENS = {"cpu": 2048}
"""Tokens in a batch beyond which it computes no faster, by device; GPUs need more."""

_TOKENS_ELSEWHERE = 65536

_DECODED = {"cpu": 256}
"""Rows that decode together beyond which decoding is no faster, by device."""

_DECODED_ELSEWHERE = 2048

_UNKNOWN_MEMORY = 2**32
"""Bytes that are assumed to be free if that cannot be found out."""


@dataclass(frozen=True)
class SweepCost:
    """What a sweep costs, known before it starts.

    Attributes:
        grid: Its axes, in words.
        cells: Cells of the grid.
        prompts: Number of prompts.
        nulls: Null vectors for each pair's vector.
        samples: Texts per cell and prompt; 1 if none are generated.
        rows: Steered rows, nulls included.
        stored: How many of them are stored already.
        passes: Forward passes that are left, including those for vectors and the unsteered ones.
        batch_size: Maximum number of rows per pass.
    """

    grid: str
    cells: int
    prompts: int
    nulls: int
    samples: int
    rows: int
    stored: int
    passes: int
    batch_size: int

    @property
    def factors(self) -> str:
        """The factors of the number of rows, in words."""
        told = f"{self.cells} cells × {self.prompts} prompts"
        told += f" × (1 + {self.nulls} nulls)" if self.nulls else ""
        return told + (f" × {self.samples} texts" if self.samples > 1 else "")

    def __str__(self) -> str:
        stored = f", {self.stored:,} of them stored" if self.stored else ""
        return (
            f"{self.grid}: {self.factors} = {self.rows:,} steered rows{stored}; about {self.passes:,} forward passes "
            f"of at most {self.batch_size:,} rows"
        )


@contextmanager
def sweep_bar(cost: SweepCost, *, enabled: bool) -> Iterator[Callable[[int], Any]]:
    """A progress bar over rows with rate and remaining time; yields the function that advances it."""
    with progress_bar(total=cost.rows, done=cost.stored, what=cost.factors, unit="row", shown=enabled) as bar:
        yield bar.update


def rows_from_memory(backend: Backend, tokens: int, *, reads_all: bool) -> int:
    """Rows of a batch that fit into memory and fill the device.

    Args:
        backend: The model.
        tokens: Tokens of the longest row.
        reads_all: Whether logits are needed at every column, and not only at the last.
    """
    cfg = backend.model.cfg
    heads = int(getattr(cfg, "n_heads", 1) or 1)
    wide = int(getattr(cfg, "d_mlp", None) or 4 * backend.d_model)
    size = max(2, torch.finfo(backend.dtype).bits // 8)
    inside = size * tokens * (12 * backend.d_model + 3 * wide + 3 * heads * tokens)
    # Log-probs are taken in float32, of the steered and of the unsteered logits.
    outside = 4 * 5 * (tokens if reads_all else 1) * int(cfg.d_vocab)
    fits = int(_SHARE * min(map(_free_memory, backend.devices))) // (inside + outside)
    fills = _TOKENS.get(backend.device.type, _TOKENS_ELSEWHERE) // tokens
    return max(1, min(fits, fills))


def decoding_rows_from_memory(backend: Backend, tokens: int) -> int:
    """Rows that decode together, each with its keys and values, and logits for one token.

    Args:
        backend: The model.
        tokens: Tokens of the longest row, new ones included.
    """
    size = max(2, torch.finfo(backend.dtype).bits // 8)
    cached = 3 * 2 * size * backend.n_layers * backend.d_model * tokens  # old and new while appending
    fits = int(_SHARE * min(map(_free_memory, backend.devices))) // (cached + 4 * 6 * int(backend.model.cfg.d_vocab))
    return max(1, min(fits, _DECODED.get(backend.device.type, _DECODED_ELSEWHERE)))


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type != "cpu":
        return _UNKNOWN_MEMORY
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN_MEMORY


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    told = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in told or "can't allocate memory" in told)
