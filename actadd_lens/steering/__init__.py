"""Steering a running model: what lands where, the hooks that carry it, and a preview before anything runs."""

from actadd_lens.steering.engine import SteeringWarning, fwd_hooks, steer
from actadd_lens.steering.preview import Preview, preview

__all__ = ["Preview", "SteeringWarning", "fwd_hooks", "preview", "steer"]
