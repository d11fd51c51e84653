"""Steering a running model: what is done, where it lands, the hooks that carry it, and a preview beforehand."""

from actadd_lens.steering.interventions import (
    Gate,
    PerPrompt,
    gate,
    gated,
    per_prompt,
    project_out,
    replace,
    scale,
    set_projection,
)
from actadd_lens.steering.preview import Preview, preview
from actadd_lens.steering.steer import SteeringWarning, fwd_hooks, steer

__all__ = [
    "Gate",
    "PerPrompt",
    "Preview",
    "SteeringWarning",
    "fwd_hooks",
    "gate",
    "gated",
    "per_prompt",
    "preview",
    "project_out",
    "replace",
    "scale",
    "set_projection",
    "steer",
]
