"""Passes in which heads and MLPs of some rows take their patterns or outputs from other rows of the same pass."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.errors import ModelError
from actadd_lens.models.protocol import Backend

Found = TypeVar("Found")

_LARGEST_GAP = 1e-2
"""Relative error that patterns times values may have, because of rounding, also in half precision."""


@dataclass(frozen=True, eq=False)
class Sources:
    """For each row, the row of the same pass from which a component takes something; its own number if unchanged.

    Attributes:
        patterns: The row whose attention pattern each head uses.
        values: The row whose values it uses.
        outputs: The row whose weighted sum of values it writes.
        mlps: The row whose output each MLP writes.
    """

    patterns: Int[Tensor, "rows layers heads"]
    values: Int[Tensor, "rows layers heads"]
    outputs: Int[Tensor, "rows layers heads"]
    mlps: Int[Tensor, "rows layers"]

    @classmethod
    def own(cls, backend: Backend, rows: int) -> "Sources":
        """Sources that change nothing: every row takes everything from itself."""
        heads, layers = int(backend.model.cfg.n_heads), backend.n_layers
        by_head = torch.arange(rows)[:, None, None].expand(rows, layers, heads)
        return cls(by_head.clone(), by_head.clone(), by_head.clone(), by_head[:, :, 0].clone())


def mix(
    patterns: Float[Tensor, "rows heads query key"], values: Float[Tensor, "rows key kv_heads d_head"]
) -> Float[Tensor, "rows query heads d_head"]:
    """The heads' sums of values, weighted by patterns; values that several heads share are repeated."""
    values = values.to(patterns).repeat_interleave(patterns.shape[1] // values.shape[2], dim=2)
    return torch.einsum("rhqk,rkhd->rqhd", patterns, values)


def by_heads(value: Tensor, d_head: int) -> Float[Tensor, "rows pos heads d_head"]:
    """Values or outputs split into heads, however a model stores them."""
    return value.reshape(*value.shape[:2], -1, d_head)


def is_mix(
    patterns: Float[Tensor, "rows heads query key"], values: Tensor, mixed: Float[Tensor, "rows query heads d_head"]
) -> bool:
    """Whether patterns times values give the heads' outputs; not if values are computed differently (DeepSeek)."""
    heads, kept = patterns.shape[1], mixed.shape[-1]
    if mixed.shape[2] != heads or values.numel() % (values.shape[0] * values.shape[1] * kept):
        return False
    split = by_heads(values, kept)
    if heads % split.shape[2]:
        return False
    gap = mix(patterns.float(), split.float()) - mixed.float()
    return bool(gap.norm() <= _LARGEST_GAP * mixed.float().norm())


def with_components_from(backend: Backend, sources: Sources, run: Callable[[], Found]) -> Found:
    """The result of a pass in which components take their patterns and outputs from the sources.

    A pattern is changed where it acts, in the weighted sum of values (`hook_z`), because in some families changing the
    pattern itself has no effect. Models that expose a pattern only after it has acted (GPT-Neo as a bridge) first get
    an unchanged pass, so that the pattern is known in time.

    Args:
        backend: The model.
        sources: From which row each row takes patterns and outputs; rows that others take from must be unchanged.
        run: Runs one pass of all rows.

    Raises:
        ModelError: The model does not expose its patterns or values, or they do not give the outputs of its heads.
    """
    try:
        with _swapped(backend, sources, {}):
            return run()
    except _ShownLate:
        with _patterns_kept(backend) as known:
            run()
        with _swapped(backend, sources, known):
            return run()


class _ShownLate(Exception):  # noqa: N818  (it ends a pass and is not an error, so it is not named one)
    """A pattern was not known yet when the values were summed."""


@contextmanager
def _patterns_kept(backend: Backend) -> Iterator[dict[int, Tensor]]:
    """The patterns of every layer; after the block, those of the last pass."""
    found: dict[int, Tensor] = {}

    def keeper(layer: int) -> Callable[..., None]:
        def keep(value: Tensor, hook: Any) -> None:
            found[layer] = value.detach()

        return keep

    with ExitStack() as stack:
        for layer in range(backend.n_layers):
            name = _known(backend, f"blocks.{layer}.attn.hook_pattern")
            stack.callback(backend.add_hook(name, keeper(layer)).remove)
        yield found
    if len(found) < backend.n_layers:
        raise _not_shown(backend, min(set(range(backend.n_layers)) - set(found)))


@contextmanager
def _swapped(backend: Backend, sources: Sources, known: dict[int, Tensor]) -> Iterator[None]:
    """Add the hooks that swap, with the patterns that are known beforehand."""
    own = torch.arange(len(sources.mlps))
    with ExitStack() as stack:
        for layer in range(backend.n_layers):
            swap = _HeadSwap(backend, layer, sources, known.get(layer))
            for name, hook in swap.hooks():
                stack.callback(backend.add_hook(_known(backend, name), hook).remove)
            if bool((sources.mlps[:, layer] != own).any()):
                name = f"blocks.{layer}.hook_mlp_out"
                stack.callback(backend.add_hook(_known(backend, name), _taker(sources.mlps[:, layer])).remove)
        yield


def _known(backend: Backend, name: str) -> str:
    if name not in backend.model.hook_dict:
        raise ModelError(f"{backend.name} has no hook point {name}, so its components cannot be separated.")
    return name


def _taker(rows: Int[Tensor, " rows"]) -> Callable[..., Tensor]:
    def take(value: Tensor, hook: Any) -> Tensor:
        return value[rows.to(value.device)]

    return take


class _HeadSwap:
    """The heads of one layer: keeps their patterns and values, and changes their outputs."""

    def __init__(self, backend: Backend, layer: int, sources: Sources, pattern: Tensor | None) -> None:
        self._backend, self._layer, self._pattern = backend, layer, pattern
        self._looks, self._holds = sources.patterns[:, layer], sources.values[:, layer]
        self._outputs, own = sources.outputs[:, layer], torch.arange(len(sources.mlps))[:, None]
        self._anew = (self._looks != own) | (self._holds != own)
        self._values: Tensor | None = None
        self._waits = pattern is None
        self._alone = (~self._is_swapped(sources, own)).nonzero().flatten()

    @staticmethod
    def _is_swapped(sources: Sources, own: Tensor) -> Tensor:
        """Rows in which anything is swapped, at any layer."""
        heads = [item != own[:, :, None] for item in (sources.patterns, sources.values, sources.outputs)]
        return torch.stack(heads).any(dim=0).flatten(1).any(dim=1) | (sources.mlps != own).any(dim=1)

    def hooks(self) -> list[tuple[str, Callable[..., Any]]]:
        """Hook functions with the names of their hook points; empty if nothing is swapped."""
        prefix = f"blocks.{self._layer}.attn."
        found: list[tuple[str, Callable[..., Any]]] = []
        if bool(self._anew.any()):
            if self._waits:
                found.append((f"{prefix}hook_pattern", self._keep_pattern))
            found.append((f"{prefix}hook_v", self._keep_values))
        if found or bool((self._outputs != torch.arange(len(self._outputs))[:, None]).any()):
            found.append((f"{prefix}hook_z", self._change))
        return found

    def _keep_pattern(self, value: Tensor, hook: Any) -> None:
        self._pattern = value

    def _keep_values(self, value: Tensor, hook: Any) -> None:
        self._values = value

    def _change(self, value: Tensor, hook: Any) -> Tensor:
        mixed = by_heads(value, value.numel() // (value.shape[0] * value.shape[1] * self._looks.shape[1]))
        every = torch.arange(mixed.shape[2], device=mixed.device)
        taken = mixed.transpose(1, 2)[self._outputs.to(mixed.device), every].transpose(1, 2)
        if bool(self._anew.any()):
            taken = taken.clone()
            rows, heads = self._anew.nonzero(as_tuple=True)
            taken[rows, :, heads] = self._mixed_anew(mixed, rows, heads).to(taken)
        return taken.reshape(value.shape)

    def _mixed_anew(self, mixed: Tensor, rows: Tensor, heads: Tensor) -> Float[Tensor, "swaps query d_head"]:
        """Outputs of single heads of single rows, from the values and patterns of their sources.

        Raises:
            ModelError: Patterns times values are not the outputs of the heads.
        """
        pattern, values = self._pattern, self._values
        if pattern is None:
            raise _ShownLate
        alone = self._alone.to(mixed.device)
        if values is None or not is_mix(pattern[alone], values[alone], mixed[alone]):
            raise _not_shown(self._backend, self._layer)
        split = by_heads(values, mixed.shape[-1]).to(mixed)
        split = split.repeat_interleave(pattern.shape[1] // split.shape[2], dim=2)
        looks = pattern[self._looks[rows, heads], heads].to(mixed)
        return torch.einsum("nqk,nkd->nqd", looks, split[self._holds[rows, heads], :, heads])


def _not_shown(backend: Backend, layer: int) -> ModelError:
    return ModelError(
        f"The attention patterns and values of {backend.name} at layer {layer} do not give the outputs of its heads, "
        "so attention cannot be frozen: load it with attention that exposes its pattern, such as "
        "attn_implementation='eager'."
    )
