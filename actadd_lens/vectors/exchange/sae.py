"""Decoder rows of sparse autoencoders as steering vectors."""

import re
import warnings
from typing import Any

import torch

from actadd_lens.errors import VectorError
from actadd_lens.models import LensModel, backend_of
from actadd_lens.vectors.exchange.held import ExchangeWarning, layer_above
from actadd_lens.vectors.provenance import Provenance
from actadd_lens.vectors.vector import SteeringVector, check_vectors

_HOOK = re.compile(r"blocks\.(\d+)\.(hook_resid_pre|hook_in|hook_resid_post|hook_out)")
_BY_TOKEN = ("layer_norm", "constant_norm_rescale")
_SCALED = "expected_average_only_in"


def from_sae(sae: Any, feature: int, *, model: LensModel | None = None) -> SteeringVector:
    """The direction that a feature of a sparse autoencoder writes: its decoder row, at the autoencoder's hook point.

    The coefficient is then what is added to the feature's activation, if the autoencoder reads streams as they are.

    Args:
        sae: An SAE or transcoder of SAELens, or any object with `W_dec` [features, d_model] and a hook point in `cfg`.
        feature: The feature's number.
        model: The model that it belongs to; if given, the vector refuses other models.

    Raises:
        VectorError: There is no such feature; the autoencoder has no hook point, or one that is not in the stream
            between blocks; its rows are not directions of the stream; or it does not match the model.
    """
    decoder = decoder_of(sae)
    if isinstance(feature, bool) or not isinstance(feature, int) or not 0 <= feature < len(decoder):
        raise VectorError(f"Feature {feature!r} does not exist: this SAE has features 0 to {len(decoder) - 1}.")
    name, layer = hook_of(sae), layer_of(sae)
    told = _normalisation(sae)
    if told == "covariance_whitening":
        raise VectorError(
            "This SAE reads whitened streams, so its rows are not directions of the stream: fold the whitening into "
            "its weights first (fold_activation_whitening)."
        )
    model_name = _asked(sae, "model_name")
    source = f"feature {feature} of an SAE at {name} ({model_name or 'model not told'}, normalisation {told})"
    provenance = Provenance(source, model=None if model_name is None else str(model_name))
    if model is not None:
        provenance = Provenance.of_model(backend_of(model), source=source)
    vector = SteeringVector(decoder[feature].detach().clone()[None].float(), layer, provenance=provenance)
    if model is not None:
        check_vectors(backend_of(model), vector)
    _tell(name, layer, told)
    return vector


def decoder_of(sae: Any) -> torch.Tensor:
    """The decoder, [features, d_model].

    Raises:
        VectorError: It has none of that shape.
    """
    decoder = getattr(sae, "W_dec", None)
    if not isinstance(decoder, torch.Tensor) or decoder.ndim != 2 or 0 in decoder.shape:
        raise VectorError(
            f"A {type(sae).__name__} has no decoder W_dec of shape [features, d_model]: pass an SAE, or make the "
            "vector with SteeringVector.from_tensor(row, layer=...)."
        )
    return decoder


def hook_of(sae: Any) -> str | None:
    """The hook point at which features are written, from the autoencoder's configuration; None if it has none."""
    found = _asked(sae, "hook_name_out") or _asked(sae, "hook_name")
    return None if found is None else str(found)


def layer_of(sae: Any) -> int:
    """The layer at whose input features are written.

    Raises:
        VectorError: There is no hook point, or one that is not in the stream between blocks.
    """
    name = hook_of(sae)
    match = _HOOK.fullmatch(name or "")
    if match is None:
        where = "has no hook point" if name is None else f"stands at {name}"
        raise VectorError(
            f"This SAE {where}, and a steering vector is added to the stream between blocks (hook_resid_pre or "
            "hook_resid_post): use SteeringVector.from_tensor(sae.W_dec[feature], layer=...) if that is intended."
        )
    block = int(match[1])
    return block if match[2] in ("hook_resid_pre", "hook_in") else layer_above(block)


def _asked(sae: Any, name: str) -> Any:
    """A setting, wherever versions of SAELens keep it."""
    cfg = getattr(sae, "cfg", None)
    for holder in (getattr(cfg, "metadata", None), cfg, sae):
        found = getattr(holder, name, None)
        if isinstance(found, str):
            return found
    return None


def _normalisation(sae: Any) -> str:
    return _asked(sae, "normalize_activations") or "none"


def _tell(name: str | None, layer: int, normalisation: str) -> None:
    told = []
    if f"blocks.{layer}." not in str(name):
        told.append(f"{name} is the input of layer {layer}")
    if normalisation in _BY_TOKEN:
        told.append(f"the SAE rescales each token's stream ({normalisation}), so its activations are not coefficients")
    elif normalisation == _SCALED:
        told.append("the SAE's activations are in units of a scale that it does not hold")
    if told:
        warnings.warn(ExchangeWarning("; ".join(told) + "."), stacklevel=3)
