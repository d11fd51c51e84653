"""TransformerBridge (TransformerLens 3.9 and 4.x) behind the common interface."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from operator import attrgetter
from typing import Any
from weakref import ref

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from actadd_lens.errors import ModelError
from actadd_lens.models.adapted import LinearMap, is_parameter, map_name
from actadd_lens.models.protocol import Backend, PassContext, Start
from actadd_lens.models.resuming import Form, LeavePass, entrances, known_forms, skipped, streams_kept
from actadd_lens.models.shapes import changing_rotary


class BridgeBackend(Backend):
    """A TransformerBridge around a Hugging Face model."""

    family = "bridge"

    @property
    def weight_processing(self) -> str:
        """The bridge keeps the Hugging Face weights unchanged, unless compatibility mode processed them."""
        if not getattr(self.model, "compatibility_mode", False):
            return "raw"
        # The mode may fold and centre, or process nothing; only centring can be seen in the weights.
        return f"compatibility mode, writing weights {'centred' if self._writes_centred else 'not centred'}"

    def residuals(
        self, tokens: Int[Tensor, "batch pos"], layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "batch pos d_model"]]:
        """One pass that stops after the hook point of the highest layer has run.

        The bridge's own `stop_at_layer` knows only a few names for the stack of blocks, and unlike HookedTransformer's
        it runs the hooks of the layer at which it stops. This method needs only a hook point.
        """
        found: dict[int, Tensor] = {}
        top = max(layers)
        with ExitStack() as stack:
            for layer in sorted(set(layers)):
                handle = self.add_hook(self.hook_name(layer), _keeper(found, layer, leave=layer == top))
                stack.callback(handle.remove)
            with suppress(LeavePass):
                self.model(tokens, return_type=None)
        return found

    def logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """A plain forward pass."""
        self._check_lengths(tokens.shape[1], shortest=_shortest(mask))
        logits: Tensor = self.model(tokens, attention_mask=mask, use_cache=False)
        return logits

    def logits_with_padding(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """The Hugging Face model does this itself."""
        return self.logits(tokens, mask)

    @property
    def folds_norms(self) -> bool:
        """Compatibility mode does not record what it did, but a norm that was folded has gains of 1."""
        if not getattr(self.model, "compatibility_mode", False):
            return False
        norm = getattr(getattr(self.model.blocks[0], "ln1", None), "original_component", None)
        gain = getattr(norm, "weight", None)
        return bool((gain == 1).all()) if isinstance(gain, Tensor) else self._writes_centred

    def linear_map(self, layer: int, weight: str) -> LinearMap | None:
        """The linear module inside the bridge's own: torch's, or GPT-2's, whose weight is transposed.

        None for a quantised module: its packed weights do not have one number for each input and output.
        """
        name = map_name(layer, weight)
        part = getattr(self.model.blocks[layer], name.split(".")[2], None)
        inner = getattr(getattr(part, weight[2:].lower(), None), "original_component", None)
        if not isinstance(inner, torch.nn.Module) or not is_parameter(inner, "weight"):
            return None
        weight_here: Any = inner.weight
        if not weight_here.is_floating_point():
            return None
        outputs, inputs = weight_here.shape
        if isinstance(inner, torch.nn.Linear):
            return LinearMap(name, inner, "weight", outputs, inputs, lambda w: w)
        if type(inner).__name__ == "Conv1D":
            return LinearMap(name, inner, "weight", inputs, outputs, lambda w: w.T)
        return None

    def logits_at(
        self, tokens: Int[Tensor, "batch pos"], columns: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch d_vocab"]:
        """The Hugging Face model unembeds only the last columns, if it offers that; the requested ones are selected."""
        self._check_lengths(tokens.shape[1], shortest=int(columns.min()) + 1)
        first, options = 0, {}
        if self._keeps_last_logits:
            first = int(columns.min())
            options["logits_to_keep"] = tokens.shape[1] - first
        logits: Tensor = self.model(tokens, use_cache=False, **options)
        return logits[torch.arange(len(columns), device=logits.device), columns.to(logits.device) - first]

    def start(self, tokens: Int[Tensor, "batch pos"], layer: int) -> Start:
        """From a pass that is stopped at the block, if this model's passes can begin there."""
        if layer == 0 or self._forms([layer], tokens)[layer] is None:
            return Start(tokens)
        with streams_kept(entrances(self, [layer]), leave=True) as found, suppress(LeavePass):
            self.logits(tokens)
        return Start(tokens, found.get(layer))

    def starts(
        self, tokens: Int[Tensor, "batch pos"], layers: Sequence[int], columns: Int[Tensor, " batch"] | None
    ) -> tuple[dict[int, Start], Float[Tensor, "batch *pos d_vocab"]]:
        """The stream before each layer's block, if this model's passes can begin with it."""
        above = sorted({layer for layer in layers if layer > 0})
        usable = [layer for layer, forms in self._forms(above, tokens).items() if forms is not None]
        with streams_kept(entrances(self, usable)) as found:
            logits = self.ends_from(Start(tokens), 0, columns)
        return {layer: Start(tokens, found.get(layer)) for layer in layers}, logits

    def ends_from(
        self, start: Start, layer: int, columns: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch *pos size"]:
        """The logits of a pass; from a stream by skipping the blocks below."""
        with ExitStack() as stack:
            if start.stream is not None:
                forms = self._forms([layer], start.tokens)[layer]
                last = layer == self.n_layers
                stream = self._own_hook_point(self.hook_name(layer))(start.stream) if last else start.stream
                stack.enter_context(skipped(list(self.model.blocks)[:layer], forms or (), stream))
            return self.logits(start.tokens) if columns is None else self.logits_at(start.tokens, columns)

    def _forms(self, layers: Sequence[int], tokens: Int[Tensor, "batch pos"]) -> dict[int, tuple[Form, ...] | None]:
        return known_forms(self.model, layers, tokens, self.logits, entrances(self, layers))

    def read_out(self, ends: Float[Tensor, "batch *pos size"]) -> Float[Tensor, "batch *pos d_vocab"]:
        """The ends themselves, because the Hugging Face model has unembedded them already."""
        return ends

    def last_logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        mask: Int[Tensor, "batch columns"] | None,
        cache: Any = None,
        use_cache: bool = True,
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
        """Logits for the last column only, if the Hugging Face model offers that."""
        options: dict[str, Any] = {"attention_mask": mask, "use_cache": use_cache}
        if cache is not None:
            options["past_key_values"] = cache
        if self._keeps_last_logits:
            options["logits_to_keep"] = 1
        past = 0 if cache is None else cache.get_seq_length()
        self._check_lengths(past + tokens.shape[1], shortest=_shortest(mask), past=past)
        logits, cache = self.model(tokens, return_type="logits_and_cache", **options)
        if use_cache:
            self._check_filled(cache, past + tokens.shape[1])
        return logits[:, -1], cache

    @cached_property
    def _edge(self) -> tuple[str, int] | None:
        """The kind of rotary embedding, and the length beyond which it depends on the length of the pass."""
        return changing_rotary(self.model.original_model.config)

    def _check_lengths(self, columns: int, *, shortest: int | None, past: int = 0) -> None:
        """If positions depend on the length of a pass, check that each row is the same as alone and without a cache."""
        if self._edge is None or columns <= self._edge[1]:
            return
        kind, edge = self._edge
        changes_again = kind == "dynamic"
        told = f"The rotary embedding of {self.name} ({kind}) changes from {edge + 1} tokens on"
        if past and (changes_again or past <= edge):
            raise ModelError(
                f"{told}, so the keys in the KV cache do not match later ones: complete with use_past_kv_cache=False."
            )
        if shortest is not None and (shortest < columns if changes_again else shortest <= edge):
            raise ModelError(
                f"{told}, so a row of {shortest} tokens beside one of {columns} would differ from the same row alone: "
                "run prompts of such different lengths one by one, as with batch_size=1."
            )

    def _check_filled(self, cache: Any, columns: int) -> None:
        try:
            kept = columns if cache is None else cache.get_seq_length()
        except ValueError:  # a running state, which has no length
            return
        if cache is None or kept != columns:
            raise ModelError(self._no_cache)

    @cached_property
    def _keeps_last_logits(self) -> bool:
        """Whether the Hugging Face model can unembed only its last columns; cached, as every decoding step needs it."""
        return "logits_to_keep" in inspect.signature(self.model.original_model.forward).parameters

    def repeat_cache(self, cache: Any, repeats: int) -> Any:
        """With the cache's own method."""
        if repeats > 1:
            cache.batch_repeat_interleave(repeats)
        return cache

    def hook_point(self, name: str) -> Any:
        """Looked up as the bridge's own `add_hook` does, since every access rebuilds `hook_dict`, in milliseconds."""
        try:
            return attrgetter(self._own_name(name))(self.model)
        except AttributeError:
            return self.model.hook_dict[name]

    def _own_name(self, name: str) -> str:
        """The name behind an alias, as `blocks.1.hook_in` behind `blocks.1.hook_resid_pre`.

        An alias is an attribute that still refers to the old hook point after another module, such as a sparse
        autoencoder, has replaced it, and after that module was removed again.
        """
        parent, _, last = name.rpartition(".")
        try:
            behind = attrgetter(parent)(self.model).hook_aliases[last]
        except (AttributeError, KeyError):
            return name
        for target in [behind] if isinstance(behind, str) else behind:
            with suppress(AttributeError):
                attrgetter(f"{parent}.{target}")(self.model)
                return self._own_name(f"{parent}.{target}")
        return name

    def context(self, layer: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> PassContext:
        """The cache is found by its type, because architectures pass it under different keywords, or by position.

        Hugging Face creates a mask if none was given, so a mask that hides nothing says nothing about padding.
        """
        values = (kwargs.get("attention_mask"), *args[1:], *kwargs.values())
        cache = next((value for value in values if hasattr(value, "get_seq_length")), None)
        past = 0 if cache is None else self._past(cache, layer)
        self._check_growing(cache, layer, past)
        real = _real_columns(values, past=past, seen=int(args[0].shape[1]))
        return PassContext(past=past, real=None if real is None or bool(real.all()) else real, cache=cache)

    def _check_growing(self, cache: Any, layer: int, past: int) -> None:
        """A cache that is used again must not be empty: some of TransformerLens's blocks do not fill theirs."""
        met = self.__dict__.setdefault("_caches", {})
        if cache is not None and past == 0 and layer in met and met[layer]() is cache:
            raise ModelError(self._no_cache)
        met[layer] = (lambda: None) if cache is None else ref(cache)

    @property
    def _no_cache(self) -> str:
        return (
            f"TransformerLens keeps no keys and values of {self.name} in its cache, so each pass forgets those before "
            "it: run the model with use_cache=False, and complete with use_past_kv_cache=False."
        )

    def _past(self, cache: Any, layer: int) -> int:
        try:
            return int(cache.get_seq_length(layer))
        except ValueError as error:
            raise ModelError(
                f"{self.name} keeps a running state at layer {layer} where other models keep keys and values, so a "
                "pass cannot tell how many tokens came before it: run the model with use_cache=False, and "
                "complete with use_past_kv_cache=False."
            ) from error


def inner_models(model: Any) -> list[Any]:
    """Models that a user may call instead of a bridge: the Hugging Face model, and the one in it that does not unembed.

    There are none in a HookedTransformer.
    """
    whole = getattr(model, "original_model", None)
    inner = getattr(whole, "base_model", None)
    return [module for module in dict.fromkeys((whole, inner)) if isinstance(module, torch.nn.Module)]


def _keeper(found: dict[int, Tensor], layer: int, *, leave: bool) -> Any:
    def keep(resid_pre: Tensor, hook: Any) -> None:
        found[layer] = resid_pre
        if leave:
            raise LeavePass

    return keep


def _real_columns(values: Iterable[Any], *, past: int, seen: int) -> Tensor | None:
    """Which columns are tokens, from the 4-D mask that a Hugging Face block gets: [batch, heads, query, key].

    A padding column is hidden even from itself, so new columns are read from the diagonal, where a sliding window
    hides nothing. For cached columns, what the last query can see decides. For a cache of fixed size, the mask also has
    columns that are still empty; for one that keeps only a window, it lacks those that were dropped, which count as
    tokens.
    """
    for mask in values:
        if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[-1] < seen or not _is_mask(mask):
            continue
        if mask.shape[1] == mask.shape[2] == 1 < seen:  # the same for every query: padding alone
            return _visible(mask[:, 0, :, : past + seen])[:, 0]
        if mask.shape[-2] == seen:
            visible = _visible(mask[:, 0, :, : past + seen])
            kept = visible.shape[-1] - seen
            new = visible[:, :, kept:].diagonal(dim1=-2, dim2=-1)
            dropped = visible.new_ones(visible.shape[0], past - kept)
            return torch.cat([dropped, visible[:, -1, :kept], new], dim=-1)
    return None


def _shortest(mask: Tensor | None) -> int | None:
    """Number of tokens in the shortest row of a mask."""
    return None if mask is None else int(mask.sum(dim=1).min())


def _is_mask(tensor: Tensor) -> bool:
    return tensor.dtype == torch.bool or tensor.is_floating_point()


def _visible(
    mask: Bool[Tensor, "batch query key"] | Float[Tensor, "batch query key"],
) -> Bool[Tensor, "batch query key"]:
    """What a mask lets queries see, whatever convention it uses.

    Most masks add the lowest number to what they hide; Falcon also adds its positional bias, so what is visible is not
    0. Most boolean masks mark what is visible, and MPT's mark what is hidden. The last column, which is hidden from
    every query but its own, shows which of the two it is.
    """
    if mask.dtype != torch.bool:
        return mask > max(torch.finfo(mask.dtype).min, -1e9) / 2
    says_hidden = mask[:, :1, -1:] if mask.shape[1] > 1 else ~mask[:, :1, -1:]
    return mask ^ says_hidden
