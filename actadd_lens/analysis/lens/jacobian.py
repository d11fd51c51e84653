"""Jacobian lens: what a change of the stream at a layer becomes at the end of the model, averaged over texts.

Gurnee et al. 2026, "Verbalizable Representations Form a Global Workspace in Language Models"; the estimator is that of
their reference code and of TransformerLens's `JacobianLens`, whose layer l (the output of block l) is layer l + 1 here.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.checks import is_count, is_whole, many, require
from actadd_lens.errors import FingerprintError, LayerError, PromptError
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.progress import tracked
from actadd_lens.prompts.texts import as_texts
from actadd_lens.steering.clean import unsteered
from actadd_lens.vectors.provenance import Provenance

if TYPE_CHECKING:
    import pandas as pd

SKIPPED = 16
"""Tokens at the start of a text that are left out: the first ones attract attention whatever they are."""

LONGEST = 128
"""Tokens of a text that are read; the rest is cut off."""


@dataclass(frozen=True, eq=False)
class JacobianLens:
    """Mean Jacobians of the last stream by the stream at some layers.

    A column says what one unit of a dimension at the layer adds to the stream after the last block, summed over that
    token and all later ones: `carried = rows @ matrix.T`.

    Attributes:
        layers: Layers of `resid_pre`, in order.
        matrices: The mean Jacobian of each.
        texts: Number of texts averaged over.
        skipped: Tokens at the start of each text that were left out, as was the last one.
        longest: Tokens of each text that were read.
        digest: SHA-256 of the token ids that were read; empty where it is not known.
        provenance: The model that it was fitted on, as far as it is known.
    """

    layers: tuple[int, ...]
    matrices: Float[Tensor, "layers d_model d_model"]
    texts: int
    skipped: int
    longest: int
    digest: str
    provenance: Provenance

    def at(self, layer: int) -> Float[Tensor, "d_model d_model"]:
        """The Jacobian of a layer.

        Raises:
            LayerError: It was not fitted there.
        """
        if layer not in self.layers:
            told = ", ".join(map(str, self.layers))
            raise LayerError(f"This J-lens was fitted at layers {told}, not at {layer}: fit one there too.")
        return self.matrices[self.layers.index(layer)]

    def carry(self, rows: Float[Tensor, "*rows d_model"], layer: int) -> Float[Tensor, "*rows d_model"]:
        """What differences of the stream at a layer become after the last block, to first order, on average."""
        matrix = self.at(layer)
        return rows.to(matrix) @ matrix.T

    def check_model(self, backend: Backend) -> None:
        """Check that a model is the one that the lens was fitted on.

        Raises:
            FingerprintError: It is a different one.
        """
        fits = self.matrices.shape[-1] == backend.d_model and self.layers[-1] <= backend.n_layers
        if not fits:
            raise FingerprintError(
                f"This J-lens was fitted on {self.provenance.model or 'a model'} (d_model {self.matrices.shape[-1]}, "
                f"layers up to {self.layers[-1]}), but the model here is {backend.name} (d_model {backend.d_model}, "
                f"{backend.n_layers} layers): fit one on it."
            )
        self.provenance.check_model(backend)

    def frame(self) -> "pd.DataFrame":
        """One row per layer: how far its Jacobian is from the identity.

        `gain` is the root mean square length of a random direction of length 1 after it is carried; `kept` is the mean
        part of a direction that arrives unchanged.
        """
        import pandas as pd

        size = self.matrices.shape[-1]
        kept = self.matrices.diagonal(dim1=1, dim2=2).mean(dim=1)
        gain = self.matrices.square().sum(dim=(1, 2)).div(size).sqrt()
        return pd.DataFrame({"layer": self.layers, "gain": gain.tolist(), "kept": kept.tolist()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a safetensors file, with everything that is known about it.

        Raises:
            VectorFileError: It cannot be written there.
        """
        from actadd_lens.analysis.lens.files import save_lens

        save_lens(self, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "JacobianLens":
        """Read one that was saved here, or a published artifact (`.pt`) of the reference code or TransformerLens.

        Published ones were fitted on raw activations; centring changes a Jacobian only along the all-ones direction,
        which no readout of a LayerNorm model sees, and folding not at all.

        Raises:
            VectorFileError: The file is missing, damaged, or something else.
        """
        from actadd_lens.analysis.lens.files import load_lens

        return load_lens(Path(path))

    def __repr__(self) -> str:
        name = self.provenance.model or "a model that is not named"
        told = ", ".join(map(str, self.layers))
        return f"JacobianLens({name}, layers {told}; mean over {self.texts} texts)"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(repr(self))}</p>" + self.frame().to_html(index=False, float_format="{:.3g}".format)


def fit_jacobian(
    model: LensModel,
    texts: str | Sequence[str],
    layers: int | Iterable[int],
    *,
    skip_first: int = SKIPPED,
    max_tokens: int = LONGEST,
    prepend_bos: bool = True,
    batch_size: int = 16,
    progress: bool = True,
) -> JacobianLens:
    """Fit a J-lens: the mean over texts of the Jacobian of the last stream by the stream at each layer.

    For each text, J is the mean over source tokens t of the sum over target tokens t' >= t of d last[t'] / d stream[t];
    the first `skip_first` tokens and the last one are excluded from both. This takes one forward pass of `batch_size`
    equal rows and ceil(d_model / batch_size) backward passes, for all layers together.

    Args:
        model: The model; steering that is open around the call is ignored.
        texts: Texts of more than `skip_first` + 1 tokens; a few dozen of 100 tokens give a usable lens. They should
            differ from the texts that the lens is used on.
        layers: Layers of `resid_pre`; for layer `n_layers`, the last stream itself, it is the identity.
        skip_first: Tokens at the start of a text that are left out.
        max_tokens: Tokens of a text that are read, at most the context length.
        prepend_bos: Whether texts start with BOS.
        batch_size: Dimensions of the last stream that share a backward pass.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A text is not a string, or is too short to have a token that counts.
        LayerError: There is no such layer.
        SettingError: A setting is out of range.
    """
    backend = backend_of(model)
    chosen = tuple(sorted({backend.check_layer(layer) for layer in many(layers)}))
    if not chosen:
        raise LayerError("No layer was given: pass one or more, such as range(8).")
    require(is_whole(skip_first), "skip_first", skip_first, "an integer from 0")
    require(is_count(max_tokens), "max_tokens", max_tokens, "an integer from 1")
    require(is_count(batch_size), "batch_size", batch_size, "an integer from 1")
    longest = min(int(max_tokens), backend.n_ctx)
    rows = _rows(backend, as_texts(texts), prepend_bos=prepend_bos, skip_first=skip_first, max_tokens=longest)
    total = torch.zeros(len(chosen), backend.d_model, backend.d_model)
    with torch.inference_mode(False), unsteered(backend):
        for row in tracked(rows, what="fitting a J-lens", unit="text", shown=progress):
            total += _jacobians(backend, torch.tensor(row, device=backend.device), chosen, skip_first, batch_size)
    digest = hashlib.sha256(repr([list(map(int, row)) for row in rows]).encode()).hexdigest()
    provenance = Provenance.of_model(backend, source=f"mean Jacobian over {len(rows)} texts")
    return JacobianLens(chosen, total / len(rows), len(rows), int(skip_first), longest, digest, provenance)


def _rows(
    backend: Backend, texts: Sequence[str], *, prepend_bos: bool, skip_first: int, max_tokens: int
) -> list[tuple[int, ...]]:
    """Tokens of each text, cut to the longest that is read.

    Raises:
        PromptError: A text holds no token that counts.
    """
    rows = []
    for text in texts:
        tokens = tuple(backend.encode(text, prepend_bos=prepend_bos))[:max_tokens]
        if len(tokens) <= skip_first + 1:
            raise PromptError(
                f"The text {text[:40]!r} has {len(tokens)} tokens that are read, of which the first {skip_first} and "
                "the last are left out: pass longer texts, or a smaller skip_first."
            )
        rows.append(tokens)
    return rows


def _jacobians(
    backend: Backend, row: Int[Tensor, " pos"], layers: Sequence[int], skip_first: int, batch_size: int
) -> Float[Tensor, "layers d_model d_model"]:
    """The Jacobian of one text at each layer: row i is the gradient of dimension i, summed over target tokens.

    A one-hot gradient stands at every target token at once; by causality a source token gets those from it on.
    """
    width, valid = backend.d_model, slice(skip_first, len(row) - 1)
    count = min(batch_size, width)
    streams = _streams(backend, row.expand(count, -1), layers)
    last, sources = streams[backend.n_layers], [streams[layer] for layer in layers]
    found = torch.zeros(len(layers), width, width)
    copies = torch.arange(count, device=last.device)
    for first in range(0, width, count):
        some = copies[: min(count, width - first)]
        wanted = torch.zeros_like(last)
        wanted[some, valid, first + some] = 1.0
        is_last = first + count >= width
        gradients = torch.autograd.grad(last, sources, wanted, retain_graph=not is_last)
        for place, gradient in enumerate(gradients):
            found[place, first : first + len(some)] = gradient[: len(some), valid].float().mean(dim=1).cpu()
    return found


def _streams(backend: Backend, tokens: Int[Tensor, "rows pos"], layers: Sequence[int]) -> dict[int, Tensor]:
    """The streams at the layers and after the last block, as a graph that begins at the lowest of the layers."""

    def begin(stream: Tensor, hook: Any) -> Tensor:
        return stream.detach().clone().requires_grad_()

    with torch.enable_grad(), ExitStack() as stack:
        stack.callback(backend.add_hook(backend.hook_name(layers[0]), begin).remove)
        return backend.residuals(tokens, sorted({*layers, backend.n_layers}))
