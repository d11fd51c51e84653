"""Two calls timed in turns; the experiments time what steering costs in the same way."""

from actadd_lens.experiments.timing import Condition, Measured, measure

__all__ = ["Condition", "Measured", "measure"]
