"""How a model reads its last residual stream out: the final norm and the unembedding, the same for both families."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.models.protocol import Backend


@dataclass(frozen=True, eq=False)
class Readout:
    """The final norm and the unembedding of a model, folded or not.

    Logits are centred over the vocabulary, which changes no probability, and any soft cap is left out: so they are
    the same on folded, centred and raw weights, and in both families.

    Attributes:
        normalization: `LN`, `RMS`, or None where the model has no final norm.
        eps: Added to the variance.
        gain: The final norm's weight; ones where it was folded away.
        shift: The final norm's bias; zeros where there is none.
        unembedding: W_U.
        bias: b_U; zeros where there is none.
    """

    normalization: Literal["LN", "RMS"] | None
    eps: float
    gain: Float[Tensor, " d_model"]
    shift: Float[Tensor, " d_model"]
    unembedding: Float[Tensor, "d_model d_vocab"]
    bias: Float[Tensor, " d_vocab"]

    @property
    def freedom(self) -> int:
        """Dimensions in which a difference can be read: one less on LayerNorm, which takes the mean away."""
        return self.gain.shape[0] - (self.normalization == "LN")

    def centre(self, rows: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What the final norm leaves of rows before it scales them: on LayerNorm, without their mean."""
        rows = rows.to(self.gain)
        return rows - rows.mean(dim=-1, keepdim=True) if self.normalization == "LN" else rows

    def scale(self, centred: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """What the final norm divides centred rows by."""
        if self.normalization is None:
            return torch.ones_like(centred[..., :1])
        return (centred.square().mean(dim=-1, keepdim=True) + self.eps).sqrt()

    def logits(self, residual: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_vocab"]:
        """The readout of whole streams, biases and all, centred over the vocabulary."""
        centred = self.centre(residual)
        normed = centred / self.scale(centred) * self.gain + self.shift
        logits = normed @ self.unembedding + self.bias
        return logits - logits.mean(dim=-1, keepdim=True)

    @cached_property
    def token_directions(self) -> Float[Tensor, "d_model d_vocab"]:
        """For each token the direction that raises its logit: gain and unembedding, with all centring in it.

        `rows @ token_directions` is the readout of differences, but for the final norm's scale.
        """
        directions = self.gain[:, None] * self.unembedding
        directions = directions - directions.mean(dim=1, keepdim=True)
        return directions - directions.mean(dim=0, keepdim=True) if self.normalization == "LN" else directions


def readout_of(backend: Backend) -> Readout:
    """The readout of a model, in float32, detached from its weights."""
    model, cfg = backend.model, backend.model.cfg
    norm = getattr(model, "ln_final", None)
    unembedding = model.unembed.W_U.detach().float()
    d_model, d_vocab = unembedding.shape
    gain = _weight(norm, "w", unembedding.new_ones(d_model))
    if norm is not None and getattr(cfg, "rmsnorm_uses_offset", False):
        gain = gain + 1.0  # Gemma's norms hold what is added to one; HookedTransformer has added it on loading
    shift = _weight(norm, "b", unembedding.new_zeros(d_model))
    bias = _weight(model.unembed, "b_U", unembedding.new_zeros(d_vocab))
    return Readout(_kind(backend, norm), float(getattr(cfg, "eps", 1e-5)), gain, shift, unembedding, bias)


def _weight(module: Any, name: str, otherwise: Tensor) -> Tensor:
    """A weight of a module; folded norms have none, and a bridge may hold None."""
    found = getattr(module, name, None)
    return found.detach().to(otherwise) if isinstance(found, Tensor) else otherwise


def _kind(backend: Backend, norm: Any) -> Literal["LN", "RMS"] | None:
    """The final norm's kind, from the module itself: a LayerNorm model may end in an RMSNorm (`final_rms`)."""
    if norm is None or backend.normalization is None:
        return None
    is_rms = getattr(norm, "uses_rms_norm", None)
    if is_rms is None:
        is_rms = "RMS" in type(norm).__name__
    return "RMS" if is_rms else "LN"
