"""Steering vectors: what they hold, where they come from, their algebra and their files."""

from actadd_lens.vectors.provenance import Fingerprint, Provenance
from actadd_lens.vectors.vector import SteeringVector

__all__ = ["Fingerprint", "Provenance", "SteeringVector"]
