"""Traces: which parts of a model read an injection, and what each of them adds to a metric."""

from actadd_lens.analysis.trace.injection import trace_injection
from actadd_lens.analysis.trace.layers import LayerTraces, trace_layers
from actadd_lens.analysis.trace.results import Contributions, Trace, TraceCondition

__all__ = ["Contributions", "LayerTraces", "Trace", "TraceCondition", "trace_injection", "trace_layers"]
