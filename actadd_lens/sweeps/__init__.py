"""Sweeps: metrics and texts in every cell of a grid, stored as they are computed."""

from actadd_lens.sweeps.batches import SweepCost
from actadd_lens.sweeps.choosing import BestCell
from actadd_lens.sweeps.frontier import Frontier
from actadd_lens.sweeps.results import CompletionSweep, Sweep
from actadd_lens.sweeps.sweep import SweepPlan, plan_sweep, sweep
from actadd_lens.sweeps.texts import CompletionSweepPlan, plan_sweep_completions, sweep_completions

__all__ = [
    "BestCell",
    "CompletionSweep",
    "CompletionSweepPlan",
    "Frontier",
    "Sweep",
    "SweepCost",
    "SweepPlan",
    "plan_sweep",
    "plan_sweep_completions",
    "sweep",
    "sweep_completions",
]
