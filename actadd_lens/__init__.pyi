from . import metrics, plots, scorers, storybook
from .compute import SteeringVectors, compute_steering_vector, compute_steering_vectors
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
from .generation import Completions, Continuation, complete
from .measuring import CompletionMeasurement, Measurement, measure, measure_completions
from .metrics import Metric
from .models import LensModel, load_model
from .nulls import null_vectors, shuffle_rows
from .previews import Preview, preview
from .prompts import PromptPair
from .provenance import Provenance
from .sampling import Sampling
from .statistics import Effect
from .steering import SteeringWarning, fwd_hooks, steer
from .vectors import SteeringVector

__version__: str

__all__ = [
    "ActAddError",
    "AmbiguousPositionError",
    "CoefficientError",
    "CompletionMeasurement",
    "Completions",
    "Continuation",
    "Effect",
    "FingerprintError",
    "LayerError",
    "LensModel",
    "Measurement",
    "Metric",
    "ModelDownloadError",
    "ModelError",
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
    "VectorError",
    "VectorFileError",
    "complete",
    "compute_steering_vector",
    "compute_steering_vectors",
    "fwd_hooks",
    "load_model",
    "measure",
    "measure_completions",
    "metrics",
    "null_vectors",
    "plots",
    "preview",
    "scorers",
    "shuffle_rows",
    "steer",
    "storybook",
]
