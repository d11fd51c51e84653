"""Statistics: intervals, p-values, effects, outcomes and power; the unit of inference is the prompt."""

from actadd_lens.statistics.choices import FEWEST_TO_SPLIT, split_prompts
from actadd_lens.statistics.concepts import ConceptEffect, concept_effect
from actadd_lens.statistics.effects import Difference, Effect, paired_effect
from actadd_lens.statistics.intervals import (
    FEWEST_PROMPTS,
    Interval,
    cell_cautions,
    cell_intervals,
    kind_of,
    mean_interval,
    one_share_interval,
    paired_interval,
    share_interval,
    statistic_caution,
    statistic_interval,
)
from actadd_lens.statistics.outcomes import Outcome, outcome_of
from actadd_lens.statistics.power import Power, effect_power, power_of, prompts_needed, smallest_effect
from actadd_lens.statistics.pvalues import (
    FEWEST_NULLS,
    LEVEL,
    Alternative,
    adjusted_over_lists,
    benjamini_hochberg,
    max_t_p,
    monte_carlo_p,
    normal_p,
    on_one_scale,
    p_interval,
    sign_flip_p,
    standardised_effect,
    verdict_p,
)
from actadd_lens.statistics.repeats import first_places, merged

__all__ = [
    "FEWEST_NULLS",
    "FEWEST_PROMPTS",
    "FEWEST_TO_SPLIT",
    "LEVEL",
    "Alternative",
    "ConceptEffect",
    "Difference",
    "Effect",
    "Interval",
    "Outcome",
    "Power",
    "adjusted_over_lists",
    "benjamini_hochberg",
    "cell_cautions",
    "cell_intervals",
    "concept_effect",
    "effect_power",
    "first_places",
    "kind_of",
    "max_t_p",
    "mean_interval",
    "merged",
    "monte_carlo_p",
    "normal_p",
    "on_one_scale",
    "one_share_interval",
    "outcome_of",
    "p_interval",
    "paired_effect",
    "paired_interval",
    "power_of",
    "prompts_needed",
    "share_interval",
    "sign_flip_p",
    "smallest_effect",
    "split_prompts",
    "standardised_effect",
    "statistic_caution",
    "statistic_interval",
    "verdict_p",
]
