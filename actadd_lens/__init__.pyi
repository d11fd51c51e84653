from . import experiments, methods, plots, storybook, workers
from .analysis.ablation import Ablation, TokenAblation, ablate_tokens
from .analysis.attribution import Attribution, attribute_injection
from .analysis.dictionary import DictionaryReading, dictionary_reading
from .analysis.dimensions import DimensionAblation, ablate_dimensions
from .analysis.freezing import AttentionOrValue, attention_or_value
from .analysis.heads import HeadReading, head_reading
from .analysis.interaction import Interaction, interaction
from .analysis.lens import CarriedLens, JacobianLens, LogitLens, fit_jacobian, logit_lens, logit_lens_carried
from .analysis.linearity import Linearity, linearity
from .analysis.low_rank import LowRank, low_rank
from .analysis.minimal import MinimalSet, minimal_set
from .analysis.norms import NormProfile, norm_profile
from .analysis.projection import Projection, project
from .analysis.shift import NextTokenShift, TextShift, next_token_shift, text_shift
from .analysis.similarity import CosineSimilarity, cosine_similarity
from .analysis.trace import Contributions, LayerTraces, Trace, trace_injection, trace_layers
from .errors import (
    ActAddError,
    AmbiguousPositionError,
    CoefficientError,
    ExtensionError,
    FingerprintError,
    LayerError,
    ModelDownloadError,
    ModelError,
    NonFiniteError,
    PositionError,
    PromptError,
    SettingError,
    SteeringError,
    VectorError,
    VectorFileError,
    WorkerError,
)
from .extending import Extension, extensions
from .measuring import metrics, scorers
from .measuring.calibrate import Calibration, calibrate
from .measuring.compare import compare
from .measuring.comparison import Comparison
from .measuring.measure import CompletionMeasurement, Measurement, measure, measure_completions
from .measuring.metrics import Metric
from .measuring.nulls import null_vectors, shuffle_rows
from .measuring.tradeoff import AdapterTradeoff, adapter_tradeoff
from .methods.actadd import SteeringVectors, compute_steering_vector, compute_steering_vectors
from .models import LensModel, ModelSource, fetch, load_model, model_source
from .prompts.chat import ChatPrompt, chat
from .prompts.pairs import PromptPair
from .prompts.spans import after, first, since
from .statistics import Effect
from .steering.files import load_interventions, save_interventions
from .steering.interventions import (
    Gate,
    PerPrompt,
    gate,
    gated,
    per_prompt,
    project_out,
    replace,
    scale,
    set_projection,
)
from .steering.massive import MassiveActivationWarning
from .steering.preview import Preview, preview
from .steering.steer import SteeringWarning, fwd_hooks, steer
from .sweeps.batches import SweepCost
from .sweeps.choosing import BestCell
from .sweeps.frontier import Frontier
from .sweeps.results import CompletionSweep, Sweep
from .sweeps.sweep import SweepPlan, plan_sweep, sweep
from .sweeps.texts import CompletionSweepPlan, plan_sweep_completions, sweep_completions
from .vectors.exchange import ExchangeWarning, load_vectors
from .vectors.exchange.remote_bridge import remote_intervention
from .vectors.exchange.sae import from_sae
from .vectors.interventions import Intervention
from .vectors.provenance import Provenance
from .vectors.vector import SteeringVector
from .workers import WorkerPool, WorkerWarning, worker_pool
from .writing.completions import Completions, complete
from .writing.decoding import Continuation
from .writing.sampling import Sampling

__version__: str

__all__ = [
    "Ablation",
    "ActAddError",
    "AdapterTradeoff",
    "AmbiguousPositionError",
    "AttentionOrValue",
    "Attribution",
    "BestCell",
    "Calibration",
    "CarriedLens",
    "ChatPrompt",
    "CoefficientError",
    "Comparison",
    "CompletionMeasurement",
    "CompletionSweep",
    "CompletionSweepPlan",
    "Completions",
    "Continuation",
    "Contributions",
    "CosineSimilarity",
    "DictionaryReading",
    "DimensionAblation",
    "Effect",
    "ExchangeWarning",
    "Extension",
    "ExtensionError",
    "FingerprintError",
    "Frontier",
    "Gate",
    "HeadReading",
    "Interaction",
    "Intervention",
    "JacobianLens",
    "LayerError",
    "LayerTraces",
    "LensModel",
    "Linearity",
    "LogitLens",
    "LowRank",
    "MassiveActivationWarning",
    "Measurement",
    "Metric",
    "MinimalSet",
    "ModelDownloadError",
    "ModelError",
    "ModelSource",
    "NextTokenShift",
    "NonFiniteError",
    "NormProfile",
    "PerPrompt",
    "PositionError",
    "Preview",
    "Projection",
    "PromptError",
    "PromptPair",
    "Provenance",
    "Sampling",
    "SettingError",
    "SteeringError",
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
    "WorkerError",
    "WorkerPool",
    "WorkerWarning",
    "ablate_dimensions",
    "ablate_tokens",
    "adapter_tradeoff",
    "after",
    "attention_or_value",
    "attribute_injection",
    "calibrate",
    "chat",
    "compare",
    "complete",
    "compute_steering_vector",
    "compute_steering_vectors",
    "cosine_similarity",
    "dictionary_reading",
    "experiments",
    "extensions",
    "fetch",
    "first",
    "fit_jacobian",
    "from_sae",
    "fwd_hooks",
    "gate",
    "gated",
    "head_reading",
    "interaction",
    "linearity",
    "load_interventions",
    "load_model",
    "load_vectors",
    "logit_lens",
    "logit_lens_carried",
    "low_rank",
    "measure",
    "measure_completions",
    "methods",
    "metrics",
    "minimal_set",
    "model_source",
    "next_token_shift",
    "norm_profile",
    "null_vectors",
    "per_prompt",
    "plan_sweep",
    "plan_sweep_completions",
    "plots",
    "preview",
    "project",
    "project_out",
    "remote_intervention",
    "replace",
    "save_interventions",
    "scale",
    "scorers",
    "set_projection",
    "shuffle_rows",
    "since",
    "steer",
    "storybook",
    "sweep",
    "sweep_completions",
    "text_shift",
    "trace_injection",
    "trace_layers",
    "worker_pool",
    "workers",
]
