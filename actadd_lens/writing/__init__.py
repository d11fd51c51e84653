"""Steered and unsteered text: sampling, the decode loop, and `complete`."""

from actadd_lens.writing.completions import Completions, complete
from actadd_lens.writing.decoding import Continuation
from actadd_lens.writing.sampling import Sampling

__all__ = ["Completions", "Continuation", "Sampling", "complete"]
