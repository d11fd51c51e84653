"""Whether there is an effect: metrics of logits, scorers of texts, null vectors, and measuring with them."""

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
