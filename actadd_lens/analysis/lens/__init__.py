"""Lenses: which tokens a steering vector promotes, read directly, through a Jacobian, or as it is carried."""

from actadd_lens.analysis.lens.carried import logit_lens_carried
from actadd_lens.analysis.lens.jacobian import JacobianLens, fit_jacobian
from actadd_lens.analysis.lens.logit import logit_lens
from actadd_lens.analysis.lens.reading import read_rows
from actadd_lens.analysis.lens.results import (
    CarriedLens,
    LensOrder,
    LensReading,
    LensRow,
    LensToken,
    LogitLens,
)

__all__ = [
    "CarriedLens",
    "JacobianLens",
    "LensOrder",
    "LensReading",
    "LensRow",
    "LensToken",
    "LogitLens",
    "fit_jacobian",
    "logit_lens",
    "logit_lens_carried",
    "read_rows",
]
