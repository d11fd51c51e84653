from . import experiments, plots, storybook
from .analysis.ablation import Ablation, TokenAblation, ablate_tokens
from .analysis.lens import CarriedLens, LogitLens, logit_lens, logit_lens_carried
from .analysis.linearity import Linearity, linearity
from .analysis.norms import NormProfile, norm_profile
from .analysis.shift import NextTokenShift, TextShift, next_token_shift, text_shift
from .analysis.similarity import CosineSimilarity, cosine_similarity
from .analysis.trace import Contributions, LayerTraces, Trace, trace_injection, trace_layers
from .errors import (
    ActAddError,
    AmbiguousPositionError,
    CoefficientError,
    FingerprintError,
    LayerError,
    ModelDownloadError,
    ModelError,
    PositionError,
    PromptError,
    SettingError,
    VectorError,
    VectorFileError,
)
from .measuring import metrics, scorers
from .measuring.measure import CompletionMeasurement, Measurement, measure, measure_completions
from .measuring.metrics import Metric
from .measuring.nulls import null_vectors, shuffle_rows
from .methods.actadd import SteeringVectors, compute_steering_vector, compute_steering_vectors
from .models import LensModel, fetch, load_model
from .prompts.chat import ChatPrompt, chat
from .prompts.pairs import PromptPair
from .statistics import Effect
from .steering.engine import SteeringWarning, fwd_hooks, steer
from .steering.preview import Preview, preview
from .sweeps.batches import SweepCost
from .sweeps.results import BestCell, CompletionSweep, Frontier, Sweep
from .sweeps.sweep import SweepPlan, plan_sweep, sweep
from .sweeps.texts import CompletionSweepPlan, plan_sweep_completions, sweep_completions
from .vectors.provenance import Provenance
from .vectors.vector import SteeringVector
from .writing.completions import Completions, complete
from .writing.decoding import Continuation
from .writing.sampling import Sampling

__version__: str

__all__ = [
    "Ablation",
    "ActAddError",
    "AmbiguousPositionError",
    "BestCell",
    "CarriedLens",
    "ChatPrompt",
    "CoefficientError",
    "CompletionMeasurement",
    "CompletionSweep",
    "CompletionSweepPlan",
    "Completions",
    "Continuation",
    "Contributions",
    "CosineSimilarity",
    "Effect",
    "FingerprintError",
    "Frontier",
    "LayerError",
    "LayerTraces",
    "LensModel",
    "Linearity",
    "LogitLens",
    "Measurement",
    "Metric",
    "ModelDownloadError",
    "ModelError",
    "NextTokenShift",
    "NormProfile",
    "PositionError",
    "Preview",
    "PromptError",
    "PromptPair",
    "Provenance",
    "Sampling",
    "SettingError",
    "SteeringVector",
    "SteeringVectors",
    "SteeringWarning",
    "Sweep",
    "SweepCost",
    "SweepPlan",
    "TextShift",
    "TokenAblation",
    "Trace",
    "VectorError",
    "VectorFileError",
    "ablate_tokens",
    "chat",
    "complete",
    "compute_steering_vector",
    "compute_steering_vectors",
    "cosine_similarity",
    "experiments",
    "fetch",
    "fwd_hooks",
    "linearity",
    "load_model",
    "logit_lens",
    "logit_lens_carried",
    "measure",
    "measure_completions",
    "metrics",
    "next_token_shift",
    "norm_profile",
    "null_vectors",
    "plan_sweep",
    "plan_sweep_completions",
    "plots",
    "preview",
    "scorers",
    "shuffle_rows",
    "steer",
    "storybook",
    "sweep",
    "sweep_completions",
    "text_shift",
    "trace_injection",
    "trace_layers",
]
