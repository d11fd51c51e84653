"""How a model turns its last residual stream into logits: final norm and unembedding, the same for both families."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.errors import ModelError
from actadd_lens.models.protocol import Backend


@dataclass(frozen=True, eq=False)
class Readout:
    """The final norm and the unembedding of a model, folded or not.

    Logits are centred over the vocabulary, which changes no probability, and are those before any soft cap: so they
    are the same on folded, centred and raw weights, and in both families. A scale that the model puts on its logits
    (Granite, Cohere) or a projection before the unembedding (OPT-350m) is part of the unembedding here.

    Attributes:
        normalization: `LN`, `RMS`, or None if the model has no final norm.
        eps: Added to the variance.
        gain: The final norm's weight; ones if it was folded.
        shift: The final norm's bias; zeros if there is none.
        unembedding: W_U.
        bias: b_U; zeros if there is none.
        cap: The soft cap of the logits, cap x tanh(logits / cap); None if there is none.
        jacobian: The matrix by which rows, as columns, are multiplied before they are read: the mean derivative of the
            last stream with respect to the stream at their layer (J-lens); None if they are read directly.
    """

    normalization: Literal["LN", "RMS"] | None
    eps: float
    gain: Float[Tensor, " d_model"]
    shift: Float[Tensor, " d_model"]
    unembedding: Float[Tensor, "d_model d_vocab"]
    bias: Float[Tensor, " d_vocab"]
    cap: float | None = None
    jacobian: Float[Tensor, "d_model d_model"] | None = None

    @property
    def freedom(self) -> int:
        """Dimensions in which a difference can be read: one less with LayerNorm, which subtracts the mean."""
        return self.gain.shape[0] - (self.normalization == "LN")

    def centre(self, rows: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Rows as in the final norm before it scales them: with LayerNorm, without their mean."""
        rows = rows.to(self.gain)
        return rows - rows.mean(dim=-1, keepdim=True) if self.normalization == "LN" else rows

    def scale(self, centred: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """The numbers by which the final norm divides centred rows."""
        if self.normalization is None:
            return torch.ones_like(centred[..., :1])
        return (centred.square().mean(dim=-1, keepdim=True) + self.eps).sqrt()

    def logits(self, residual: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_vocab"]:
        """The readout of whole streams, including biases, before any cap, centred over the vocabulary."""
        carried = residual if self.jacobian is None else residual.to(self.gain) @ self.jacobian.T
        centred = self.centre(carried)
        logits = self.unembed(centred / self.scale(centred))
        return logits - logits.mean(dim=-1, keepdim=True)

    def unembed(self, scaled: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_vocab"]:
        """Logits before any cap, of streams that the final norm has centred and scaled."""
        logits: Tensor = (scaled * self.gain + self.shift) @ self.unembedding + self.bias
        return logits

    def capped(self, logits: Float[Tensor, "*rows d_vocab"]) -> Float[Tensor, "*rows d_vocab"]:
        """Logits as the model gives them."""
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    @cached_property
    def token_directions(self) -> Float[Tensor, "d_model d_vocab"]:
        """For each token, the direction that raises its logit: gain and unembedding, including all centring.

        `rows @ token_directions` is the readout of differences, except for the final norm's scale.
        """
        directions = self._without_mean(self.gain[:, None] * self.unembedding)
        directions = directions - directions.mean(dim=1, keepdim=True)
        return directions if self.jacobian is None else self._without_mean(self.jacobian.T @ directions)

    def _without_mean(self, directions: Float[Tensor, "d_model d_vocab"]) -> Float[Tensor, "d_model d_vocab"]:
        """With LayerNorm, which ignores the mean over `d_model`, directions without it."""
        return directions - directions.mean(dim=0, keepdim=True) if self.normalization == "LN" else directions


def centred_rows(backend: Backend, rows: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """Rows as in the blocks' norms before scaling: on LayerNorm models, without their mean."""
    return rows - rows.mean(dim=-1, keepdim=True) if backend.normalization == "LN" else rows


def readout_of(backend: Backend) -> Readout:
    """The readout of a model, in float32, detached from its weights.

    Raises:
        ModelError: When the model was loaded, the readout did not give its log-probs.
    """
    if getattr(backend.model.cfg, _UNREADABLE, False):
        raise ModelError(
            f"It is not known how {backend.name} computes its logits: it does not expose the stream after its last "
            "block, or its final norm and unembedding alone do not give its logits. So vectors can be neither read "
            "through them nor traced; steering is not affected."
        )
    return _readout(backend)


_UNREADABLE = "actadd_unreadable"


@torch.no_grad()
def check_readout(
    backend: Backend,
    residual: Float[Tensor, "pos d_model"] | None,
    log_probs: Float[Tensor, "pos d_vocab"],
    allows: Callable[[float], bool],
) -> None:
    """Record on a model whether the readout of its last stream, if it exposes that, gives its log-probs.

    Args:
        backend: The model.
        residual: The stream after its last block; None if the model does not expose it.
        log_probs: The model's own log-probs.
        allows: Whether log-probs may differ by this many nats.
    """
    is_right = False
    if residual is not None:
        readout = _readout(backend)
        centred = readout.centre(residual)
        found = readout.capped(readout.unembed(centred / readout.scale(centred))).log_softmax(dim=-1)
        is_right = found.shape == log_probs.shape and allows(float((found - log_probs.to(found)).abs().max()))
    setattr(backend.model.cfg, _UNREADABLE, not is_right)


def _readout(backend: Backend) -> Readout:
    model, cfg = backend.model, backend.model.cfg
    norm = getattr(model, "ln_final", None)
    unembedding = model.unembed.W_U.detach().float()
    bias = _weight(model.unembed, "b_U", unembedding.new_zeros(unembedding.shape[1]))
    scale = _logit_scale(model)
    unembedding, bias = unembedding * scale, bias * scale
    projection = getattr(getattr(model, "project_out", None), "weight", None)
    if isinstance(projection, Tensor):
        unembedding = projection.detach().to(unembedding).T @ unembedding
    eps, kind = float(getattr(cfg, "eps", 1e-5)), _kind(backend, norm)
    gain, shift = gain_and_shift(norm if kind is not None else None, unembedding[:, 0], eps)
    cap = getattr(cfg, "output_logits_soft_cap", None)
    return Readout(kind, eps, gain, shift, unembedding, bias, float(cap) if cap and cap > 0 else None)


def _logit_scale(model: Any) -> float:
    """The factor of a model's logits: Cohere's scale, or the inverse of Granite's.

    Cohere's is an attribute of the Hugging Face model itself, and processing the weights removes it there.
    """
    divisor = getattr(model.cfg, "logits_scaling", None)
    holder = getattr(model, "original_model", model.cfg)
    scale = getattr(holder, "logit_scale", None)
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    return (float(scale) if is_number and scale else 1.0) / float(divisor or 1.0)


@torch.no_grad()
def gain_and_shift(
    norm: Any, like: Float[Tensor, " d_model"], eps: float
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
    """A norm's gain and shift; ones and zeros if they were folded, or if there is no norm.

    Those of a bridge's norm are measured on a row of mean 0 with entries of size 1 (approximately if `d_model` is odd),
    because some norms store the gain minus one (Gemma, Nemotron).
    """
    source = getattr(norm, "original_component", None)
    if source is None:
        return _weight(norm, "w", torch.ones_like(like)), _weight(norm, "b", torch.zeros_like(like))
    row = torch.ones_like(like)
    row[1::2] = -1.0
    row = row - row.mean()
    weight = next(iter(source.parameters()), row)
    scale = (row.square().mean() + eps).sqrt()
    up, down = (source((sign * row).to(weight)[None, None])[0, 0].to(like) for sign in (1.0, -1.0))
    return (up - down) / 2 * scale / row, (up + down) / 2


def _weight(module: Any, name: str, otherwise: Tensor) -> Tensor:
    """A weight of a module, or a default: folded norms have none, and in a bridge it may be None."""
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
