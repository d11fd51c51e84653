"""HookedTransformer (TransformerLens 3.x) behind the common interface."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.models.adapted import LinearMap, is_parameter, map_name
from actadd_lens.models.protocol import Backend, PassContext, Start
from actadd_lens.models.resuming import LeavePass, entrances, streams_kept


def hooked_transformer() -> type[Any] | None:
    """The class itself; None from TransformerLens 4.0 on, where importing it raises an ImportError."""
    try:
        from transformer_lens import HookedTransformer
    except ImportError:
        return None
    found: type[Any] = HookedTransformer
    return found


class HookedBackend(Backend):
    """A HookedTransformer."""

    family = "hooked"

    @property
    def weight_processing(self) -> str:
        """The config records folded norms, but not centring, which is therefore detected from the weights."""
        folded = "folded" if str(self.model.cfg.normalization_type).endswith("Pre") else "not folded"
        return f"norms {folded}, writing weights {'centred' if self._writes_centred else 'not centred'}"

    @property
    def _embedding_scale(self) -> float:
        """Gemma's embeddings are scaled on their way into the stream; its conversion has scaled the weights."""
        architecture = str(getattr(self.model.cfg, "original_architecture", None))
        return self.d_model**0.5 if architecture.startswith("Gemma") else 1.0

    def residuals(
        self, tokens: Int[Tensor, "batch pos"], layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "batch pos d_model"]]:
        """One pass with `stop_at_layer`; the highest layer's hook point is called directly, for the caller's hooks."""
        found: dict[int, Tensor] = {}
        top = max(layers)
        with ExitStack() as stack:
            # A caller's pre-hooks on the block itself act before its hook point, so then the block has to run.
            is_inside = top < self.n_layers
            runs_top = is_inside and bool(self.model.blocks[top]._forward_pre_hooks)
            by_hand = is_inside and not runs_top
            for layer in sorted(set(layers) - ({top} if by_hand else set())):
                stack.callback(self.add_hook(self.hook_name(layer), _keeper(found, layer)).remove)
            residual = self._blocks(tokens, mask=None, stop=top + runs_top)
            if by_hand:
                found[top] = self._own_hook_point(self.hook_name(top))(residual)
        return found

    def logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """A plain forward pass."""
        return self._unembed(self._blocks(tokens, mask=mask))

    def logits_with_padding(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Padding is hidden in the attention scores, because with a mask the model would also shift positions."""
        hidden = (mask == 0).to(self.device)[:, None, None, :]

        def hide(scores: Tensor, hook: Any) -> Tensor:
            return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)

        with ExitStack() as stack:
            for layer in range(self.n_layers):
                stack.callback(self.add_hook(f"blocks.{layer}.attn.hook_attn_scores", hide).remove)
            return self.logits(tokens)

    def linear_map(self, layer: int, weight: str) -> LinearMap | None:
        """A parameter of the block's attention, with one matrix per head, or of its MLP, as [inputs, outputs]."""
        block, name = self.model.blocks[layer], map_name(layer, weight)
        module = getattr(block, name.split(".")[2], None)
        attribute = weight if is_parameter(module, weight) else f"_{weight}"  # keys and values that heads share
        if module is None or not is_parameter(module, attribute):
            return None
        shape = module._parameters[attribute].shape
        if weight == "W_O":
            return LinearMap(name, module, attribute, shape[2], shape[0] * shape[1], lambda w: w.T.reshape(shape))
        if len(shape) == 3:
            heads, inputs, size = shape
            return LinearMap(
                name, module, attribute, heads * size, inputs, lambda w: w.reshape(heads, size, inputs).transpose(1, 2)
            )
        return LinearMap(name, module, attribute, shape[1], shape[0], lambda w: w.T) if len(shape) == 2 else None

    def logits_at(
        self, tokens: Int[Tensor, "batch pos"], columns: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch d_vocab"]:
        """The unembedding, a large share of a small model's pass, runs on those columns only."""
        return self.read_out(_at(self._blocks(tokens, mask=None), columns))

    def start(self, tokens: Int[Tensor, "batch pos"], layer: int) -> Start:
        """From a pass that is stopped at the block."""
        if layer == 0 or self._reads_positions_late:
            return Start(tokens)
        with streams_kept(entrances(self, [layer]), leave=True) as found, suppress(LeavePass):
            self._blocks(tokens, mask=None)
        return Start(tokens, found.get(layer))

    def starts(
        self, tokens: Int[Tensor, "batch pos"], layers: Sequence[int], columns: Int[Tensor, " batch"] | None
    ) -> tuple[dict[int, Start], Float[Tensor, "batch *pos d_vocab"]]:
        """The stream before each layer's block, read by a pre-hook on the block."""
        with streams_kept(entrances(self, layers)) as found:
            logits = self.read_out(_at(self._blocks(tokens, mask=None), columns))
        if self._reads_positions_late:
            found.clear()
        return {layer: Start(tokens, found.get(layer)) for layer in layers}, logits

    @property
    def _reads_positions_late(self) -> bool:
        """Whether the blocks read positions separately from the stream."""
        return bool(self.model.cfg.positional_embedding_type == "shortformer")

    def ends_from(
        self, start: Start, layer: int, columns: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch *pos size"]:
        """The last residual stream; from a stream, with `start_at_layer`."""
        if start.stream is None:
            residual = self._blocks(start.tokens, mask=None)
        elif layer == self.n_layers:
            residual = self._own_hook_point(self.hook_name(layer))(start.stream)
        else:
            residual = self.model.forward(start.stream, start_at_layer=layer, stop_at_layer=self.n_layers)
        return _at(residual, columns)

    def read_out(self, ends: Float[Tensor, "batch *pos size"]) -> Float[Tensor, "batch *pos d_vocab"]:
        """The final norm and the unembedding."""
        return self._unembed(ends) if ends.ndim == 3 else self._unembed(ends[:, None])[:, 0]

    def last_logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        mask: Int[Tensor, "batch columns"] | None,
        cache: Any = None,
        use_cache: bool = True,
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
        """The unembedding runs on the last column only."""
        if use_cache and cache is None:
            cache = self._new_cache(tokens.shape[0])
        residual = self._blocks(tokens, mask=mask, cache=cache if use_cache else None)
        return self._unembed(residual[:, -1:])[:, 0], cache

    def repeat_cache(self, cache: Any, repeats: int) -> Any:
        """Repeat keys and values, layer by layer."""
        if repeats == 1:
            return cache
        for entry in cache.entries:
            entry.past_keys = entry.past_keys.repeat_interleave(repeats, dim=0)
            entry.past_values = entry.past_values.repeat_interleave(repeats, dim=0)
        return cache

    def context(self, layer: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> PassContext:
        """From the block's keyword arguments; the mask covers cached and new columns."""
        entry = kwargs.get("past_kv_cache_entry")
        mask = kwargs.get("attention_mask")
        return PassContext(
            past=0 if entry is None else int(entry.past_keys.shape[1]),
            real=None if mask is None else mask.bool(),
            cache=entry,
        )

    def _blocks(
        self, tokens: Tensor, *, mask: Tensor | None, cache: Any = None, stop: int | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """Embed, then run blocks up to `stop`.

        The tokens are embedded here, as in `input_to_embed`, so that the mask stays None if there is no padding. With
        a cache, the model's own code would create a mask, which costs time in every block.
        """
        model = self.model
        if model.cfg.use_hook_tokens:
            tokens = model.hook_tokens(tokens)
        embedded = model.hook_embed(model.embed(tokens))
        residual, shortformer = model.get_residual(
            embedded,
            model.get_pos_offset(cache, tokens.shape[0]),
            attention_mask=mask,
            tokens=tokens,
            device=embedded.device,
        )
        output: Tensor = model.forward(
            residual,
            start_at_layer=0,
            stop_at_layer=self.n_layers if stop is None else stop,
            shortformer_pos_embed=shortformer,
            attention_mask=mask,
            past_kv_cache=cache,
        )
        return output

    def _unembed(self, residual: Tensor) -> Float[Tensor, "batch pos d_vocab"]:
        model = self.model
        residual = residual.to(next(model.unembed.parameters()).device)
        if model.cfg.normalization_type is not None:
            residual = model.ln_final(residual)
        logits: Tensor = model.unembed(residual)
        cap = model.cfg.output_logits_soft_cap
        return cap * torch.tanh(logits / cap) if cap and cap > 0 else logits

    def _new_cache(self, batch: int) -> Any:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        return TransformerLensKeyValueCache.init_cache(self.model.cfg, self.model.cfg.device, batch)


def _keeper(found: dict[int, Tensor], layer: int) -> Any:
    def keep(resid_pre: Tensor, hook: Any) -> None:
        found[layer] = resid_pre

    return keep


def _at(residual: Float[Tensor, "batch pos d_model"], columns: Int[Tensor, " batch"] | None) -> Tensor:
    """One column of each row, or all columns."""
    if columns is None:
        return residual
    return residual[torch.arange(len(columns), device=residual.device), columns.to(residual.device)]
