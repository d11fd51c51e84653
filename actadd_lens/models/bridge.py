"""TransformerBridge (TransformerLens 3.9 and 4.x) behind the common interface."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.errors import ModelError
from actadd_lens.models.protocol import Backend, PassContext


class BridgeBackend(Backend):
    """A TransformerBridge around a Hugging Face model."""

    family = "bridge"

    @property
    def weight_processing(self) -> str:
        """The bridge holds the Hugging Face weights as they are, unless compatibility mode processed them."""
        if not getattr(self.model, "compatibility_mode", False):
            return "raw"
        # The mode may fold and centre, or process nothing; only centring shows in what it leaves.
        return f"compatibility mode, writing weights {'centred' if self._writes_centred else 'not centred'}"

    def residuals(
        self, tokens: Int[Tensor, "batch pos"], layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "batch pos d_model"]]:
        """One pass that stops after the hook point of the highest layer has run.

        The bridge's own `stop_at_layer` knows few names of the stack of blocks, and differs from HookedTransformer's in
        running the hooks of the layer that it stops at; ours asks for a hook point only.
        """
        found: dict[int, Tensor] = {}
        top = max(layers)
        with ExitStack() as stack:
            for layer in sorted(set(layers)):
                handle = self.add_hook(self.hook_name(layer), _keeper(found, layer, leave=layer == top))
                stack.callback(handle.remove)
            with suppress(_LeavePass):
                self.model(tokens, return_type=None)
        return found

    def logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """A plain forward pass."""
        logits: Tensor = self.model(tokens, attention_mask=mask, use_cache=False)
        return logits

    def logits_at(
        self, tokens: Int[Tensor, "batch pos"], columns: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch d_vocab"]:
        """The Hugging Face model unembeds columns from one on, where it offers that; those asked for are picked."""
        first, options = 0, {}
        if self._keeps_last_logits:
            first = int(columns.min())
            options["logits_to_keep"] = tokens.shape[1] - first
        logits: Tensor = self.model(tokens, use_cache=False, **options)
        return logits[torch.arange(len(columns), device=logits.device), columns.to(logits.device) - first]

    def starts(
        self, tokens: Int[Tensor, "batch pos"], layers: Sequence[int], columns: Int[Tensor, " batch"] | None
    ) -> tuple[dict[int, Tensor], Float[Tensor, "batch *pos d_vocab"]]:
        """Only the tokens: with `start_at_layer` the blocks below would still run."""
        return dict.fromkeys(layers, tokens), self.ends_from(tokens, 0, columns)

    def ends_from(
        self, start: Tensor, layer: int, columns: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch *pos size"]:
        """The logits of a whole pass."""
        return self.logits(start) if columns is None else self.logits_at(start, columns)

    def read_out(self, ends: Float[Tensor, "batch *pos size"]) -> Float[Tensor, "batch *pos d_vocab"]:
        """The ends themselves: the Hugging Face model has unembedded them."""
        return ends

    def last_logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        mask: Int[Tensor, "batch columns"] | None,
        cache: Any = None,
        use_cache: bool = True,
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
        """Logits for the last column only, where the Hugging Face model offers it."""
        options: dict[str, Any] = {"attention_mask": mask, "use_cache": use_cache}
        if cache is not None:
            options["past_key_values"] = cache
        if self._keeps_last_logits:
            options["logits_to_keep"] = 1
        logits, cache = self.model(tokens, return_type="logits_and_cache", **options)
        return logits[:, -1], cache

    @cached_property
    def _keeps_last_logits(self) -> bool:
        """Whether the Hugging Face model can unembed its last columns alone; asked at every decoding step."""
        return "logits_to_keep" in inspect.signature(self.model.original_model.forward).parameters

    def repeat_cache(self, cache: Any, repeats: int) -> Any:
        """By the cache's own method."""
        if repeats > 1:
            cache.batch_repeat_interleave(repeats)
        return cache

    def hook_point(self, name: str) -> Any:
        """By the walk of the bridge's own `add_hook`: its `hook_dict` is built anew, in milliseconds, at every look."""
        try:
            return attrgetter(name)(self.model)
        except AttributeError:
            return self.model.hook_dict[name]

    def context(self, layer: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> PassContext:
        """The cache is found by its type: each architecture passes it under another keyword, or by position.

        Hugging Face makes a mask where none was given, so one that hides nothing says nothing of padding.
        """
        values = (*args[1:], *kwargs.values())
        cache = next((value for value in values if hasattr(value, "get_seq_length")), None)
        past = 0 if cache is None else self._past(cache, layer)
        real = _real_columns(values, past=past, seen=int(args[0].shape[1]))
        return PassContext(past=past, real=None if real is None or bool(real.all()) else real, cache=cache)

    def _past(self, cache: Any, layer: int) -> int:
        try:
            return int(cache.get_seq_length(layer))
        except ValueError as error:
            raise ModelError(
                f"{self.name} keeps a running state at layer {layer} where other models keep keys and values, so a "
                "pass cannot tell how many tokens came before it: run the model with use_cache=False, and "
                "complete with use_past_kv_cache=False."
            ) from error


class _LeavePass(Exception):  # noqa: N818  (a way out of a pass: no error, so it is not named one)
    """Ends a pass whose rest nobody needs."""


def _keeper(found: dict[int, Tensor], layer: int, *, leave: bool) -> Any:
    def keep(resid_pre: Tensor, hook: Any) -> None:
        found[layer] = resid_pre
        if leave:
            raise _LeavePass

    return keep


def _real_columns(values: Iterable[Any], *, past: int, seen: int) -> Tensor | None:
    """Which columns are tokens, from the 4-D mask that a Hugging Face block gets: [batch, 1, query, key].

    A padding column is hidden even from itself, so new columns are read off the diagonal, where a sliding window
    hides nothing; cached columns are those that the last query sees.
    """
    for mask in values:
        if isinstance(mask, Tensor) and mask.ndim == 4 and mask.shape[-2:] == (seen, past + seen):
            visible = mask if mask.dtype == torch.bool else mask == 0
            new = visible[:, 0, :, past:].diagonal(dim1=-2, dim2=-1)
            return torch.cat([visible[:, 0, -1, :past], new], dim=-1)
    return None
