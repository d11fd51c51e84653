"""Adapters: small changes of a model's weights, switched on temporarily (LoRA, Hu et al., arXiv 2106.09685).

W x becomes (W + s B A) x with A [rank, inputs] and B [outputs, rank]. The model's own weights are never touched.
"""

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import is_count, require
from actadd_lens.errors import FingerprintError, ModelError, VectorError
from actadd_lens.methods.learnt import load_learnt, save_learnt
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.models.adapted import WEIGHTS, LinearMap, adaptations_on, adapted
from actadd_lens.steering.hooks import compiled_code_off
from actadd_lens.vectors.provenance import Fingerprint, Provenance

if TYPE_CHECKING:
    import pandas as pd

_KIND = "adapter"

Matrices = Mapping[str, tuple[Float[Tensor, "rank inputs"], Float[Tensor, "outputs rank"]]]
"""A and B by the name of the linear map that they change, such as `blocks.0.attn.W_Q`; heads lie side by side."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """A low-rank change of some of a model's linear maps, such as `kl_then_steer` trains.

    >>> model = al.load_model()
    >>> adapter = al.methods.Adapter.untrained(model, rank=1)
    >>> with adapter.on(model):
    ...     print(adapter.label)
    untrained, rank 1 on 48 weights

    Attributes:
        matrices: A and B of each linear map.
        scale: s, the factor before B A; in LoRA's terms alpha / rank.
        provenance: The model that it was trained for; `source` says how.
        folds_norms: Whether gains of the norms were folded into the weights of that model, which changes what A reads.
        settings: What it was trained with.
        history: For each step of training, the loss before it and its terms.
    """

    matrices: Matrices
    scale: float
    provenance: Provenance
    folds_norms: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = ()

    @classmethod
    def untrained(
        cls, model: LensModel, *, rank: int = 8, scale: float = 1.0, weights: Sequence[str] | str = "all", seed: int = 0
    ) -> "Adapter":
        """An adapter that changes nothing yet: A is uniform within 1 / sqrt(inputs), as in LoRA, and B is zero.

        Args:
            model: The model.
            rank: Rows of A.
            scale: The factor before B A.
            weights: Names such as `("W_Q", "W_V")`, or `all` that the blocks have.
            seed: For A.

        Raises:
            ModelError: A block has no such weight, or keeps it in a form that cannot be adapted.
        """
        require(is_count(rank), "rank", rank, "an integer from 1")
        backend = backend_of(model)
        matrices = {}
        for linear in linear_maps(backend, weights):
            draw = torch.Generator().manual_seed(random.Random(f"{seed}/{linear.name}").getrandbits(60))
            reads = (2 * torch.rand(rank, linear.inputs, generator=draw) - 1) / linear.inputs**0.5
            matrices[linear.name] = (reads, torch.zeros(linear.outputs, rank))
        return cls(matrices, float(scale), Provenance.of_model(backend, source="untrained"), backend.folds_norms)

    @property
    def rank(self) -> int:
        """Rows of A; the largest number, if they differ."""
        return max(int(reads.shape[0]) for reads, _ in self.matrices.values())

    @property
    def label(self) -> str:
        """Its origin and size as a short label."""
        return f"{self.provenance.source}, rank {self.rank} on {len(self.matrices)} weights"

    @contextmanager
    def on(self, model: LensModel) -> Iterator[LensModel]:
        """The model with the adapter, for whatever runs in this block and in this thread.

        Steering and other adapters may be opened outside or inside it: changes of adapters add up. Meanwhile, a pass of
        another thread is an error, because it is not known whether it should have the adapter. However the block ends,
        the model is restored; its own weights are never changed.

        Args:
            model: The model.

        Yields:
            The model itself.

        Raises:
            FingerprintError: The adapter was trained for another model.
            VectorError: It was trained with other weight processing, or does not fit.
        """
        linears = self.check(backend_of(model))
        weights = [(linear, _Sum(self._change(linear))) for linear in linears]
        with compiled_code_off(), adapted(weights, label=self.label, is_strict=True, key=self):
            yield model

    @contextmanager
    def off(self, model: LensModel) -> Iterator[LensModel]:
        """The model without this adapter, inside a block in which it is on; elsewhere nothing changes.

        Args:
            model: The model.

        Yields:
            The model itself.
        """
        backend_of(model)
        with ExitStack() as stack:
            for adaptation in adaptations_on(model):  # type: ignore[arg-type]  # backend_of has seen that it is a module
                if adaptation.key is self:
                    stack.enter_context(adaptation.paused())
            yield model

    def check(self, backend: Backend) -> tuple[LinearMap, ...]:
        """Check that the adapter matches a model.

        Returns:
            The model's linear maps that it changes.

        Raises:
            FingerprintError: It was trained for another model.
            VectorError: It was trained with other weight processing, or does not fit.
        """
        self._check_model(backend)
        found = []
        for name, (reads, writes) in self.matrices.items():
            layer, weight = int(name.split(".")[1]), name.split(".")[-1]
            linear = backend.linear_map(layer, weight) if layer < backend.n_layers else None
            if linear is None or (linear.outputs, linear.inputs) != (writes.shape[0], reads.shape[1]):
                has = "no such weight" if linear is None else f"one of {linear.outputs} x {linear.inputs}"
                raise VectorError(
                    f"The adapter changes {name} by {writes.shape[0]} x {reads.shape[1]} numbers, but {backend.name} "
                    f"has {has}: use the model that it was trained for."
                )
            found.append(linear)
        return tuple(found)

    def _check_model(self, backend: Backend) -> None:
        told = self.provenance
        if told.fingerprint is not None and not told.fingerprint.matches(Fingerprint.of(backend)):
            raise FingerprintError(
                f"This adapter ({self.label}) was trained for {told.model}, but the model here is {backend.name} with "
                "other weights, which it was not made for: load that model, or train an adapter for this one."
            )
        if self.folds_norms != backend.folds_norms:
            ways = ("the norms' gains kept apart", "the norms' gains folded into the weights")
            raise VectorError(
                f"This adapter ({self.label}) was trained with {ways[self.folds_norms]}, but {backend.name} here has "
                f"{ways[backend.folds_norms]}, so that its weights read other numbers: load the model as it was then "
                f"({told.weight_processing})."
            )

    def _change(self, linear: LinearMap) -> Tensor:
        """S B A as the model keeps the weight, in float32."""
        reads, writes = self.matrices[linear.name]
        device = linear.weight.device
        return linear.lay(self.scale * (writes.to(device).float() @ reads.to(device).float()))

    def learning(
        self, backend: Backend
    ) -> "tuple[dict[str, Tensor], list[tuple[LinearMap, Callable[[Tensor], Tensor]]]]":
        """Copies of the matrices that require a gradient, by name, and the weights that are computed from them.

        Args:
            backend: The model.
        """
        parameters: dict[str, Tensor] = {}
        weights: list[tuple[LinearMap, Callable[[Tensor], Tensor]]] = []
        for linear in self.check(backend):
            reads, writes = (
                matrix.detach().to(backend.device).float().clone().requires_grad_()
                for matrix in self.matrices[linear.name]
            )
            parameters |= {f"{linear.name}.A": reads, f"{linear.name}.B": writes}
            weights.append((linear, _Learning(linear, reads, writes, self.scale)))
        return parameters, weights

    def frame(self) -> "pd.DataFrame":
        """One row for each step of training: the loss before its update, and its terms."""
        import pandas as pd

        return pd.DataFrame([{"step": step, **row} for step, row in enumerate(self.history)])

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses by step."""
        from actadd_lens.plots.training import plot_history

        return plot_history(self.history, title=self.label, ax=ax)

    # -- files ---------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a safetensors file, completely or not at all.

        Args:
            path: The file.

        Raises:
            VectorFileError: It cannot be written.
        """
        tensors = {
            f"{name}.{side}": matrix
            for name, pair in self.matrices.items()
            for side, matrix in zip("AB", pair, strict=True)
        }
        save_learnt(self, path, _KIND, {"scale": self.scale, "folds_norms": self.folds_norms}, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Adapter":
        """Read one from a file; the model is checked when it is switched on.

        Args:
            path: The file.

        Raises:
            VectorFileError: The file is missing, damaged, or holds something else.
        """

        def made(body: Mapping[str, Any], tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> Adapter:
            names = _ordered([name.removesuffix(".A") for name in tensors if name.endswith(".A")])
            matrices = {name: (tensors[f"{name}.A"], tensors[f"{name}.B"]) for name in names}
            return cls(matrices, body["scale"], folds_norms=body["folds_norms"], **told)

        return load_learnt(path, _KIND, made)


class _Sum:
    """A weight with a change added, computed once for as long as the weight stays the same."""

    def __init__(self, change: Tensor) -> None:
        self._change = change
        self._known: tuple[Tensor, Any, Tensor] | None = None

    def __call__(self, weight: Tensor) -> Tensor:
        """The sum, in the precision of the weight, rounded once."""
        version = None if weight.is_inference() else weight._version
        state = (version, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        known = self._known
        if known is None or known[0] is not weight or known[1] != state or version is None:
            known = self._known = (weight, state, torch.empty_like(weight).copy_(weight + self._change))
        return known[2]


class _Learning:
    """A weight with the change that is being learnt."""

    def __init__(self, linear: LinearMap, reads: Tensor, writes: Tensor, scale: float) -> None:
        self._linear, self._reads, self._writes, self._scale = linear, reads, writes, scale

    def __call__(self, weight: Tensor) -> Tensor:
        """The sum, with its graph."""
        change = self._linear.lay(self._scale * (self._writes @ self._reads))
        return (weight.detach() + change).to(weight.dtype)


def linear_maps(backend: Backend, weights: Sequence[str] | str = "all") -> list[LinearMap]:
    """The linear maps of all blocks, by the names of their weights.

    Args:
        backend: The model.
        weights: Names such as `("W_Q", "W_V")`, or `all`.

    Raises:
        SettingError: There is no such name.
        ModelError: A block has no such weight, or keeps it in a form that cannot be adapted.
    """
    names = (
        WEIGHTS
        if isinstance(weights, str) and weights == "all"
        else (weights,)
        if isinstance(weights, str)
        else tuple(weights)
    )
    for name in names:
        require(name in WEIGHTS, "weights", weights, f"all, or some of {', '.join(WEIGHTS)}")
    require(len(names) > 0 and len(set(names)) == len(names), "weights", weights, "each name once")
    found = []
    for layer in range(backend.n_layers):
        here = {name: backend.linear_map(layer, name) for name in names}
        missing = [
            name for name, linear in here.items() if linear is None and not (weights == "all" and name == "W_gate")
        ]
        if missing:
            raise ModelError(
                f"Block {layer} of {backend.name} ({backend.family}) has no {', '.join(missing)} of its own that could "
                "be adapted: name others with weights=, or load the model in the other family."
            )
        found += [linear for linear in here.values() if linear is not None]
    return found


def _ordered(names: Sequence[str]) -> list[str]:
    """By block, then as the weights stand in a block; files sort by name."""
    return sorted(names, key=lambda name: (int(name.split(".")[1]), WEIGHTS.index(name.split(".")[-1])))
