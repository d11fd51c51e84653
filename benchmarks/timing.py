"""Two calls timed in turns; the experiments time what steering costs in the same way."""

from actadd_lens.experiments.timing import Arm, Measured, measure

__all__ = ["Arm", "Measured", "measure"]
