"""Whether an effect is there: metrics of logits, scorers of texts, nulls, and measuring beside them."""

from actadd_lens.measuring import metrics, scorers
from actadd_lens.measuring.measure import CompletionMeasurement, Measurement, measure, measure_completions
from actadd_lens.measuring.nulls import null_vectors, shuffle_rows

__all__ = [
    "CompletionMeasurement",
    "Measurement",
    "measure",
    "measure_completions",
    "metrics",
    "null_vectors",
    "scorers",
    "shuffle_rows",
]
