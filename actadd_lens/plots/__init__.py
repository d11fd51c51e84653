"""Pictures: each function takes a result and returns the Axes; none runs a model.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from actadd_lens.plots.analysis import (
    plot_linearity,
    plot_logit_lens,
    plot_norm_profile,
    plot_shift,
    plot_similarity,
    plot_text_shift,
)
from actadd_lens.plots.dictionary import plot_dictionary_reading
from actadd_lens.plots.measuring import plot_demonstration, plot_effects, plot_measurement
from actadd_lens.plots.second_look import (
    plot_attention_or_value,
    plot_dimensions,
    plot_frozen_heads,
    plot_head_reading,
    plot_minimal_set,
)
from actadd_lens.plots.style import NULL, STEERED, UNSTEERED, colours, heat_map, new_axes, visible
from actadd_lens.plots.sweeps import plot_frontier, plot_lines, plot_sweep
from actadd_lens.plots.tracing import ablation_html, plot_ablation, plot_layer_traces, plot_trace, plot_trace_attention
from actadd_lens.plots.training import plot_history, plot_scaling, plot_tradeoff
from actadd_lens.plots.vectors import plot_norms, plot_preview

__all__ = [
    "NULL",
    "STEERED",
    "UNSTEERED",
    "ablation_html",
    "colours",
    "heat_map",
    "new_axes",
    "plot_ablation",
    "plot_attention_or_value",
    "plot_demonstration",
    "plot_dictionary_reading",
    "plot_dimensions",
    "plot_effects",
    "plot_frontier",
    "plot_frozen_heads",
    "plot_head_reading",
    "plot_history",
    "plot_layer_traces",
    "plot_linearity",
    "plot_lines",
    "plot_logit_lens",
    "plot_measurement",
    "plot_minimal_set",
    "plot_norm_profile",
    "plot_norms",
    "plot_preview",
    "plot_scaling",
    "plot_shift",
    "plot_similarity",
    "plot_sweep",
    "plot_text_shift",
    "plot_trace",
    "plot_trace_attention",
    "plot_tradeoff",
    "visible",
]
