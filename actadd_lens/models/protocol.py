"""What this package requires of a model, and what a hook can learn from a forward pass."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import index as as_index
from typing import Any, Literal, NamedTuple, Protocol, SupportsIndex, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from actadd_lens.errors import LayerError, ModelError, PromptError, SettingError
from actadd_lens.models.adapted import LinearMap, own_weights

Site = Literal["resid_pre", "attn_out", "mlp_out", "head", "neuron", "neuron_pre"]
"""Where in a block something is read or changed: the stream that enters it, what its attention or its MLP writes, the
heads' weighted sums of values before W_O (`hook_z`), or the MLP's neurons after the activation function (`hook_post`)
or before it (`hook_pre`). In gated MLPs the first is the product of both halves, the second the gate.
"""

SITES: tuple[Site, ...] = get_args(Site)

_HOOKS: dict[Site, str] = {
    "resid_pre": "hook_resid_pre",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "head": "attn.hook_z",
    "neuron": "mlp.hook_post",
    "neuron_pre": "mlp.hook_pre",
}

_HANGING = threading.RLock()
"""Held while a hook is added or removed, because TransformerLens keeps its hooks in plain lists.

The thread that holds it may take it again: garbage collection in the middle of the one can forget a session, whose
hooks are then removed.
"""


class Spot(NamedTuple):
    """A hook point: a layer and a site in it; `resid_pre` of layer `n_layers` is the stream after the last block."""

    layer: int
    site: Site = "resid_pre"


def check_site(site: object) -> Site:
    """The site as given, after checking it.

    Raises:
        SettingError: There is no such site.
    """
    for known in SITES:
        if isinstance(site, str) and site == known:
            return known
    raise SettingError(f"site is {site!r}: expected one of {', '.join(SITES)}.")


@runtime_checkable
class LensModel(Protocol):
    """A HookedTransformer or a TransformerBridge: the few attributes that this package uses."""

    cfg: Any
    tokenizer: Any
    blocks: Any
    embed: Any

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Hook points by name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One forward pass."""

    def add_hook(self, name: str, hook: Callable[..., Any]) -> None:
        """Add a hook function to a hook point."""

    def to_tokens(self, text: str | list[str], *, prepend_bos: bool = ..., truncate: bool = ...) -> Any:
        """Token ids of a text."""

    def __getattr__(self, name: str) -> Any:
        """Whatever else TransformerLens and torch give a model, such as `generate` and `parameters`."""


@dataclass(frozen=True, eq=False)
class PassContext:
    """What can be learned in a block about the pass that it is part of.

    Attributes:
        past: Number of columns that the KV cache holds before this pass.
        real: Which of all columns, cached ones first, are tokens and not padding; None if no mask was given.
        cache: The cache object itself, which identifies a sequence in its next pass; None without a cache.
    """

    past: int
    real: Bool[Tensor, "batch columns"] | None
    cache: Any = None


@dataclass(frozen=True, eq=False)
class Start:
    """What passes can begin with if they differ from an earlier pass only from some layer on.

    Attributes:
        tokens: Token ids, padded on the right.
        stream: The stream that enters the layer's block, before its hook point; None if passes begin with the
            tokens.
    """

    tokens: Int[Tensor, "batch pos"]
    stream: Float[Tensor, "batch pos d_model"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Int[Tensor, " picks"]) -> "Start":
        """Some of its rows, in any order and number."""
        stream = None if self.stream is None else self.stream[rows.to(self.stream.device)]
        return Start(self.tokens[rows.to(self.tokens.device)], stream)


@dataclass(frozen=True, eq=False)
class HookHandle:
    """A hook of ours on a hook point of the model's."""

    hook_point: Any
    handle: Any

    @property
    def is_alive(self) -> bool:
        """Whether the hook is still there (`model.reset_hooks()` removes it)."""
        return any(handle is self.handle for handle in self.hook_point.fwd_hooks)

    def remove(self) -> None:
        """Remove this hook, and no other."""
        with _HANGING:
            self.handle.hook.remove()
            hooks = self.hook_point.fwd_hooks  # changed in place, for an `add_hook` may be about to append to it
            hooks[:] = [handle for handle in hooks if handle is not self.handle]


class InThisThread:
    """A hook function that acts only in the thread that made it, and ignores passes of other threads."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook = hook
        self._thread = threading.get_ident()
        self.__name__ = getattr(hook, "__name__", type(hook).__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the hook returns, or nothing."""
        return self.hook(*args, **kwargs) if threading.get_ident() == self._thread else None


class Backend(ABC):
    """One family of models behind one narrow interface.

    Everything else in the package talks to a model through this class.
    """

    family: str
    """The name by which `load_model` knows this family: `hooked` or `bridge`."""

    def __init__(self, model: Any) -> None:
        self.model: Any = model

    # -- what the model is -------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The model's name."""
        return str(getattr(self.model.cfg, "model_name", None) or "unnamed model")

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.model.cfg.n_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.model.cfg.d_model)

    @property
    def n_ctx(self) -> int:
        """Longest sequence, in tokens."""
        return int(self.model.cfg.n_ctx)

    @property
    def prepends_bos(self) -> bool:
        """Whether the model's own default is to start a text with BOS."""
        return bool(getattr(self.model.cfg, "default_prepend_bos", True))

    @property
    def device(self) -> torch.device:
        """The device of the embedding, and so of the tokens."""
        return torch.device(next(self.model.embed.parameters()).device)

    @property
    def devices(self) -> list[torch.device]:
        """Every device that holds weights, in the order of the passes."""
        found = [self.device, *(weight.device for block in self.model.blocks for weight in block.parameters())]
        return list(dict.fromkeys(found))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        dtype: torch.dtype = next(self.model.embed.parameters()).dtype
        return dtype

    @property
    def normalization(self) -> str | None:
        """`LN` or `RMS`, whether folded or not; None for a model without norms."""
        kind = getattr(self.model.cfg, "normalization_type", None)
        return None if kind is None else "RMS" if "RMS" in str(kind).upper() else "LN"

    @property
    @abstractmethod
    def weight_processing(self) -> str:
        """What was done to the weights after loading, in words: folded, centred, raw."""

    @property
    def _writes_centred(self) -> bool:
        """Whether the rows of the token embedding have mean zero, as all writing weights have after centring."""
        rows = self.model.embed.W_E[:64].detach().float()
        return bool(rows.mean(dim=-1).abs().max() < 1e-4 * rows.norm(dim=-1).mean())

    def check_layer(self, layer: object, *, site: Site = "resid_pre") -> int:
        """The layer as an int.

        The stream has one layer more than there are blocks: `n_layers` is the output of the last block.

        Raises:
            LayerError: It is not an integer, or the model has no such layer.
        """
        most = self.n_layers - (site != "resid_pre")
        told = f"{self.name} has layers 0 to {self.n_layers - 1}"
        if site == "resid_pre":
            told += f", and {self.n_layers} for the stream after the last block"
        try:
            if isinstance(layer, bool) or not isinstance(layer, SupportsIndex):
                raise TypeError
            number = as_index(layer)
        except TypeError:
            raise LayerError(f"Layer {layer!r} is not an integer: {told}.") from None
        if not 0 <= number <= most:
            raise LayerError(f"Layer {number} does not exist: {told}.")
        return number

    def width(self, site: Site) -> int:
        """Numbers per token at a site; heads are concatenated."""
        cfg = self.model.cfg
        if site == "head":
            return int(cfg.n_heads) * int(cfg.d_head)
        return int(cfg.d_mlp) if site in ("neuron", "neuron_pre") else self.d_model

    @property
    def has_gated_neurons(self) -> bool:
        """Whether an MLP's neuron is the product of a gate, after the activation function, with another half."""
        return "blocks.0.mlp.hook_pre_linear" in self.model.hook_dict

    def activated(self, values: Float[Tensor, "*some width"]) -> Float[Tensor, "*some width"]:
        """The MLP's activation function, applied to pre-activations.

        Raises:
            ModelError: The function's name is not known.
        """
        from transformers.activations import ACT2FN

        name = str(getattr(self.model.cfg, "act_fn", None))
        if name not in ACT2FN:
            raise ModelError(f"{self.name} has an activation function {name!r} that this package does not know.")
        activated: Tensor = ACT2FN[name](values)
        return activated

    # -- text --------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer.

        Raises:
            PromptError: The model has none.
        """
        if self.model.tokenizer is None:
            raise PromptError(
                f"{self.name} has no tokenizer, so texts cannot be turned into tokens: "
                "set one with model.set_tokenizer(...), or load the model with one."
            )
        return self.model.tokenizer

    @property
    def bos_token_id(self) -> int | None:
        """Id of the token that starts a text."""
        return None if self.model.tokenizer is None else self.model.tokenizer.bos_token_id

    @property
    def pad_token_id(self) -> int | None:
        """Id of the token that fills up the rows of a batch."""
        return None if self.model.tokenizer is None else self.model.tokenizer.pad_token_id

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a text."""
        return None if self.model.tokenizer is None else self.model.tokenizer.eos_token_id

    def token_id(self, piece: str) -> int | None:
        """Id of a vocabulary entry, spelled as in the tokenizer; None if there is no such entry.

        Getting the whole vocabulary would build a dictionary of it, which takes longer than a short forward pass.
        """
        token = self.tokenizer.convert_tokens_to_ids(piece)
        if token is None or self.tokenizer.convert_ids_to_tokens(token) != piece:  # unknown pieces get the unk token
            return None
        return int(token)

    def encode(self, text: str, *, prepend_bos: bool = True) -> list[int]:
        """Token ids of one text from the model's own `to_tokens`, never truncated, with BOS at most once."""
        tokenizer = self.tokenizer
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            raise PromptError(f"The text {text[:60]!r} contains half a surrogate pair, which no tokenizer can read.")
        if not text:
            bos = tokenizer.bos_token_id
            return [int(bos)] if prepend_bos and bos is not None else []
        tokens = [int(token) for token in self.model.to_tokens(text, prepend_bos=prepend_bos, truncate=False)[0]]
        bos = tokenizer.bos_token_id
        # A text that begins with BOS, as those of chat templates do, would get a second one, and all rows of a vector
        # would be added one token too early.
        has_own = bos is not None and text.startswith(str(tokenizer.bos_token))
        return tokens[1:] if has_own and tokens[:2] == [bos, bos] and prepend_bos else tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, including special tokens and without any clean-up."""
        return str(self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))

    def token_strings(self, tokens: Sequence[int]) -> list[str]:
        """Text of each token on its own.

        A byte-level or SentencePiece token keeps its leading space, which `decode` of a single token drops with some
        tokenizers.
        """
        raw = self.tokenizer.convert_ids_to_tokens(list(tokens))
        return [
            " " + self.decode([token]).lstrip(" ") if piece and piece[0] in "Ġ▁" else self.decode([token])
            for token, piece in zip(tokens, raw, strict=True)
        ]

    # -- forward passes ----------------------------------------------------------------------------------------

    @abstractmethod
    def residuals(
        self, tokens: Int[Tensor, "batch pos"], layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "batch pos d_model"]]:
        """`resid_pre` at each layer, from one pass that stops at the highest; no mask, so padding is on the right."""

    def read(
        self, tokens: Int[Tensor, "batch pos"], spots: Sequence[Spot]
    ) -> dict[Spot, Float[Tensor, "batch pos width"]]:
        """Activations at any sites, from one pass that stops after the highest block; padding on the right, no mask."""
        wanted = dict.fromkeys(spots)
        streams = {spot.layer for spot in wanted if spot.site == "resid_pre"}
        others = [spot for spot in wanted if spot.site != "resid_pre"]
        top = max([*streams, *(spot.layer + 1 for spot in others)])
        found: dict[Spot, Tensor] = {}

        def keeper(spot: Spot) -> Callable[..., None]:
            def keep(value: Tensor, hook: Any) -> None:
                found[spot] = value.flatten(2)

            return keep

        with ExitStack() as stack:
            for spot in others:
                stack.callback(self.add_hook(self.hook_name(*spot), keeper(spot)).remove)
            layers = self.residuals(tokens, sorted({*streams, top}))
        return {spot: found[spot] if spot in found else layers[spot.layer] for spot in wanted}

    @abstractmethod
    def logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits at every position."""

    @abstractmethod
    def logits_with_padding(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits at every position, with those of padding on the right as Hugging Face models compute them.

        No query sees padding, not even its own, and positions continue through it. Columns of text are the same as
        without a mask.
        """

    @abstractmethod
    def logits_at(
        self, tokens: Int[Tensor, "batch pos"], columns: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch d_vocab"]:
        """Logits at one column of each row; padding is on the right, where a causal model never sees it."""

    @abstractmethod
    def start(self, tokens: Int[Tensor, "batch pos"], layer: int) -> Start:
        """What passes of these rows that are changed only from a layer on can begin with, from a pass that ends there.

        Args:
            tokens: Token ids, padded on the right.
            layer: The first layer at which something is changed.
        """

    @abstractmethod
    def starts(
        self, tokens: Int[Tensor, "batch pos"], layers: Sequence[int], columns: Int[Tensor, " batch"] | None
    ) -> tuple[dict[int, Start], Float[Tensor, "batch *pos d_vocab"]]:
        """One whole pass, and what passes that differ from it only from a layer on can begin with.

        Args:
            tokens: Token ids, padded on the right.
            layers: Layers for which to keep a start.
            columns: The column of each row for which logits are returned; None for all columns.
        """

    @abstractmethod
    def ends_from(
        self, start: Start, layer: int, columns: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch *pos size"]:
        """The end of a pass that begins with a start; every hook from the layer's `hook_resid_pre` on acts.

        An end has a row for each row of the batch, so the ends of several passes can be read out together. This saves
        time, because unembedding a few rows takes nearly as long as unembedding many.
        """

    @abstractmethod
    def read_out(self, ends: Float[Tensor, "batch *pos size"]) -> Float[Tensor, "batch *pos d_vocab"]:
        """Logits of the ends of passes."""

    @abstractmethod
    def last_logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        mask: Int[Tensor, "batch columns"] | None,
        cache: Any = None,
        use_cache: bool = True,
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
        """Logits after the last column, and the KV cache with the new columns in it.

        Args:
            tokens: The new tokens of each row, padded on the left.
            mask: 1 for a token, 0 for padding, over cached and new columns; None if there is no padding.
            cache: What the previous call returned; None for a first call.
            use_cache: Whether to keep keys and values at all.
        """

    @abstractmethod
    def repeat_cache(self, cache: Any, repeats: int) -> Any:
        """The cache with each row repeated; the copies of a row are adjacent."""

    # -- hooks -------------------------------------------------------------------------------------------------

    def hook_name(self, layer: int, site: Site = "resid_pre") -> str:
        """Name of the hook point at which something is read or changed."""
        return hook_name(layer, site, n_layers=self.n_layers)

    def hook_point(self, name: str) -> Any:
        """The hook point itself."""
        return self.model.hook_dict[name]

    def add_hook(self, name: str, hook: Callable[..., Any]) -> HookHandle:
        """Add a hook after the existing ones; it acts in this thread only.

        Raises:
            ModelError: There is no such hook point, or another module has replaced it.
        """
        return self.hang(name, InThisThread(hook))

    def hang(self, name: str, hook: Callable[..., Any]) -> HookHandle:
        """Add a hook after the existing ones, with the model's own `add_hook`; it acts in every thread.

        Raises:
            ModelError: There is no such hook point, or another module has replaced it.
        """
        point = self._own_hook_point(name)
        with _HANGING:
            self.model.add_hook(self._own_name(name), hook)
            return HookHandle(point, point.fwd_hooks[-1])

    def take_away(self, name: str, is_meant: Callable[[Any], bool]) -> None:
        """Remove the hooks of one kind from a hook point, whoever added them; the others stay."""
        try:
            point = self.hook_point(name)
        except (KeyError, AttributeError):  # the hook point itself is gone
            return
        for handle in [handle for handle in getattr(point, "fwd_hooks", ()) if is_meant(handle.user_hook)]:
            HookHandle(point, handle).remove()

    def _own_name(self, name: str) -> str:
        """The name by which the model itself finds a hook point."""
        return name

    def _own_hook_point(self, name: str) -> Any:
        try:
            point = self.hook_point(name)
        except (KeyError, AttributeError):
            point = None
        if point is None or not hasattr(point, "fwd_hooks"):
            raise ModelError(
                f"{self.name} has no hook point {name}: another module, such as a sparse autoencoder, may have "
                "replaced it. Remove it first, or use another layer or site."
            )
        return point

    def hooks_at(self, name: str) -> list[Any]:
        """The hook functions at a hook point, as they were given; an empty list if there is no such hook point."""
        try:
            point = self.hook_point(name)
        except (KeyError, AttributeError):
            return []
        found = [handle.user_hook for handle in getattr(point, "fwd_hooks", ())]
        return [hook.hook if isinstance(hook, InThisThread) else hook for hook in found]

    def hooked_names(self) -> list[str]:
        """Names of the hook points that carry hooks."""
        return [name for name, point in self.model.hook_dict.items() if point.fwd_hooks]

    @abstractmethod
    def context(self, layer: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> PassContext:
        """What the arguments of a block say about the pass."""

    # -- weights -----------------------------------------------------------------------------------------------

    def fingerprint_sample(self) -> list[float]:
        """A few weights in a form that does not change with folding and centring.

        They are rows of the token embedding and of the attention output matrices of the first, middle and last block.
        Both write to the residual stream, so folding a norm never changes them. On LayerNorm models their mean over
        `d_model` is subtracted, as centring does, and a scale that a conversion applied to the embedding is removed.
        """
        samples = [_spread(self._canonical(self.model.embed.W_E.detach()) / self._embedding_scale, 16)]
        for layer in sorted({0, self.n_layers // 2, self.n_layers - 1}):
            attention = getattr(self.model.blocks[layer], "attn", None)
            if attention is None:
                continue
            try:
                with own_weights(attention):  # with an adapter it still counts as the same model
                    weight = getattr(attention, "W_O", None)
            except NotImplementedError:  # a quantised layer shows only the packed numbers
                packed = getattr(getattr(attention, "o", None), "weight", None)
                samples += [_spread(packed.detach().float(), 8)] if isinstance(packed, Tensor) else []
                continue
            if isinstance(weight, Tensor):
                rows = weight.detach().reshape(-1, self.d_model)
                samples.append(_spread(self._canonical(rows), 8))
        return [float(f"{value:.4g}") for sample in samples for value in sample]

    @abstractmethod
    def linear_map(self, layer: int, weight: str) -> LinearMap | None:
        """A linear map of a block, by TransformerLens's name for its weight; None if the block has none."""

    @property
    def folds_norms(self) -> bool:
        """Whether gains and shifts of the norms were folded into the weights behind them."""
        return "norms folded" in self.weight_processing

    @property
    def _embedding_scale(self) -> float:
        """The factor that a conversion applied to the token embedding."""
        return 1.0

    def _canonical(self, rows: Tensor) -> Tensor:
        rows = rows[:: max(1, rows.shape[0] // 64)].float()
        return rows - rows.mean(dim=-1, keepdim=True) if self.normalization == "LN" else rows


def hook_name(layer: int, site: Site = "resid_pre", *, n_layers: int | None = None) -> str:
    """Name of a hook point in TransformerLens.

    Args:
        layer: The block, 0-based.
        site: Where in it.
        n_layers: Number of blocks, if known; the stream at layer `n_layers` is the output of the last block.

    >>> hook_name(3), hook_name(3, "head"), hook_name(8, n_layers=8)
    ('blocks.3.hook_resid_pre', 'blocks.3.attn.hook_z', 'blocks.7.hook_resid_post')
    """
    if site == "resid_pre" and layer == n_layers:
        return f"blocks.{layer - 1}.hook_resid_post"
    return f"blocks.{layer}.{_HOOKS[site]}"


def _spread(rows: Tensor, count: int) -> list[float]:
    """`count` entries, spread evenly over a matrix."""
    flat = rows.reshape(-1)
    picks = torch.linspace(0, flat.numel() - 1, count).long().to(flat.device)
    return [float(value) for value in flat[picks].cpu()]
