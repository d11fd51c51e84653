"""The measured ratios as a table for people, and as JSON for programs."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.cases import Case, Sizes
from benchmarks.timing import Measured


@dataclass(frozen=True)
class Result:
    """A case and its times."""

    case: Case
    measured: Measured

    @property
    def holds(self) -> bool:
        """Whether the ratio keeps under its bar."""
        return self.measured.ratio <= self.case.bar

    def record(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        low, high = self.measured.interval()
        return {
            "name": self.case.name,
            "judged": self.case.judged,
            "reference": self.case.reference,
            "ratio": self.measured.ratio,
            "interval_95": [low, high],
            "bar": self.case.bar,
            "holds": self.holds,
            "median_ms": self.measured.milliseconds,
            "reference_median_ms": self.measured.reference_milliseconds,
            "repeats": len(self.measured.seconds),
        }


def circumstances(model: Any, *, threads: int, repeats: int, sizes: Sizes) -> dict[str, Any]:
    """What the ratios were measured on."""
    packages = ("actadd-lens", "torch", "transformer-lens", "transformers")
    return {
        "model": {
            "name": str(model.cfg.model_name),
            "class": type(model).__name__,
            "n_layers": int(model.cfg.n_layers),
            "d_model": int(model.cfg.d_model),
            "n_heads": int(model.cfg.n_heads),
            "d_vocab": int(model.cfg.d_vocab),
            "n_ctx": int(model.cfg.n_ctx),
            "dtype": str(model.cfg.dtype).removeprefix("torch."),
            "device": str(next(model.embed.parameters()).device),
        },
        "threads": threads,
        "repeats": repeats,
        "decoding": {"rows": sizes.rows, "new_tokens": sizes.new_tokens},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": platform.machine(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
    }


def heading(told: dict[str, Any]) -> str:
    """The circumstances in a few lines."""
    model, decoding = told["model"], told["decoding"]
    versions = ", ".join(f"{name} {number}" for name, number in told["versions"].items())
    return (
        f"{model['class']} {model['name']}: {model['n_layers']} layers, d_model {model['d_model']}, "
        f"{model['n_heads']} heads, vocabulary {model['d_vocab']}, n_ctx {model['n_ctx']}, {model['dtype']} on "
        f"{model['device']}\n"
        f"{told['threads']} threads, {told['repeats']} repeats in turns, decoding {decoding['rows']} rows by "
        f"{decoding['new_tokens']} tokens\n{versions}\n"
        "Each ratio is the median over repeats, with the bootstrap interval (95 %) of that median."
    )


_COLUMNS = "{:<17} {:>7} {:>17} {:>6}  {:<5} {:>10} {:>10}  {}"


def table_head() -> str:
    """Names of the columns."""
    return _COLUMNS.format("case", "ratio", "interval", "bar", "holds", "median", "reference", "what against what")


def table_row(result: Result) -> str:
    """One case as a line."""
    low, high = result.measured.interval()
    return _COLUMNS.format(
        result.case.name,
        f"{result.measured.ratio:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{result.case.bar:.2f}",
        "yes" if result.holds else "NO",
        f"{result.measured.milliseconds:.1f} ms",
        f"{result.measured.reference_milliseconds:.1f} ms",
        f"{result.case.judged} | {result.case.reference}",
    )


def summary(results: Sequence[Result]) -> str:
    """Which bars hold, in a sentence."""
    missed = [result.case.name for result in results if not result.holds]
    if not missed:
        return f"All {len(results)} bars hold."
    return f"{len(results) - len(missed)} of {len(results)} bars hold; above theirs: {', '.join(missed)}."
