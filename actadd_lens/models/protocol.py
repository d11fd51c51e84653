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
heads' mixes of values before W_O (`hook_z`), or the MLP's neurons after the activation function (`hook_post`) or before
it (`hook_pre`). In gated MLPs the first is the product of both halves, the second the gate.
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

_HANGING = threading.Lock()
"""Held while a hook is hung or taken away: TransformerLens keeps its hooks in plain lists."""


class Spot(NamedTuple):
    """A hook point: a layer and a site in it; `resid_pre` of layer `n_layers` is the stream after the last block."""

    layer: int
    site: Site = "resid_pre"


def check_site(site: object) -> Site:
    """The site as given, once it is known to be one.

    Raises:
        SettingError: There is no such site.
    """
    for known in SITES:
        if isinstance(site, str) and site == known:
            return known
    raise SettingError(f"site is {site!r}: expected one of {', '.join(SITES)}.")


@runtime_checkable
class LensModel(Protocol):
    """A HookedTransformer or a TransformerBridge: the few attributes by which this package knows one."""

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
    """What a block knows of the pass that it is part of.

    Attributes:
        past: Number of columns that the KV cache holds before this pass.
        real: Which of all columns, cached ones first, are tokens and not padding; None where no mask was given.
        cache: The cache's own object, by which a sequence is known again in its next pass; None without a cache.
    """

    past: int
    real: Bool[Tensor, "batch columns"] | None
    cache: Any = None


@dataclass(frozen=True, eq=False)
class Start:
    """What passes can begin with that differ from another one only from a layer on.

    Attributes:
        tokens: Token ids, padded on the right.
        stream: The stream that enters the layer's block, before its hook point; None where passes begin with the
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
        """Whether the hook still hangs there (`model.reset_hooks()` takes it away)."""
        return any(handle is self.handle for handle in self.hook_point.fwd_hooks)

    def remove(self) -> None:
        """Take this hook away, and no other."""
        with _HANGING:
            self.handle.hook.remove()
            self.hook_point.fwd_hooks = [handle for handle in self.hook_point.fwd_hooks if handle is not self.handle]


class InThisThread:
    """A hook function that acts only in the thread that made it: passes of other threads are none of its business."""

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
        """The model's name, as people call it."""
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
        """Where the embedding lies, and so where tokens go."""
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
        """In words, what was done to the weights after loading: folded, centred, raw."""

    @property
    def _writes_centred(self) -> bool:
        """Whether the rows of the token embedding have no mean, as centring leaves all writing weights."""
        rows = self.model.embed.W_E[:64].detach().float()
        return bool(rows.mean(dim=-1).abs().max() < 1e-4 * rows.norm(dim=-1).mean())

    def check_layer(self, layer: object, *, site: Site = "resid_pre") -> int:
        """The layer as an int.

        The stream has one layer more than there are blocks: `n_layers` is what the last block leaves.

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
        """Numbers per token at a site; heads lie side by side."""
        cfg = self.model.cfg
        if site == "head":
            return int(cfg.n_heads) * int(cfg.d_head)
        return int(cfg.d_mlp) if site in ("neuron", "neuron_pre") else self.d_model

    @property
    def has_gated_neurons(self) -> bool:
        """Whether an MLP's neuron is the product of a gate, after the activation function, with another half."""
        return "blocks.0.mlp.hook_pre_linear" in self.model.hook_dict

    def activated(self, values: Float[Tensor, "*some width"]) -> Float[Tensor, "*some width"]:
        """The MLP's activation function of what stands before it.

        Raises:
            ModelError: It goes by a name that is not known.
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
        """Id of a vocabulary entry, written as the tokenizer writes it; None where there is no such entry.

        Asking for the whole vocabulary would build a dictionary of it, which takes longer than a short forward pass.
        """
        token = self.tokenizer.convert_tokens_to_ids(piece)
        if token is None or self.tokenizer.convert_ids_to_tokens(token) != piece:  # unknown pieces get the unk token
            return None
        return int(token)

    def encode(self, text: str, *, prepend_bos: bool = True) -> list[int]:
        """Token ids of one text, as the model's own `to_tokens` makes them, never cut short; BOS stands there once."""
        tokenizer = self.tokenizer
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            raise PromptError(f"The text {text[:60]!r} holds half a surrogate pair, which no tokenizer reads.")
        if not text:
            bos = tokenizer.bos_token_id
            return [int(bos)] if prepend_bos and bos is not None else []
        tokens = [int(token) for token in self.model.to_tokens(text, prepend_bos=prepend_bos, truncate=False)[0]]
        bos = tokenizer.bos_token_id
        # A text that says BOS itself, as those of chat templates do, would get a second one, and all rows that are
        # added would land one token early.
        has_own = bos is not None and text.startswith(str(tokenizer.bos_token))
        return tokens[1:] if has_own and tokens[:2] == [bos, bos] and prepend_bos else tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, special tokens included, nothing cleaned up."""
        return str(self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))

    def token_strings(self, tokens: Sequence[int]) -> list[str]:
        """Text of each token on its own.

        A byte-level or SentencePiece token is shown with the space that it starts with, which `decode` of a single
        token drops on some tokenizers.
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
        """`resid_pre` at each layer, from one pass that stops at the highest; no mask, so pads stand right."""

    def read(
        self, tokens: Int[Tensor, "batch pos"], spots: Sequence[Spot]
    ) -> dict[Spot, Float[Tensor, "batch pos width"]]:
        """Activations at any sites, from one pass that stops after the highest block; no mask, so pads stand right."""
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
        """Logits at every position, those of padding on the right as Hugging Face models compute them.

        Padding is seen by no query, its own included, and its positions count on. Columns of text are what they are
        without a mask.
        """

    @abstractmethod
    def logits_at(
        self, tokens: Int[Tensor, "batch pos"], columns: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch d_vocab"]:
        """Logits at one column of each row; padding stands right, where a causal model never sees it."""

    @abstractmethod
    def start(self, tokens: Int[Tensor, "batch pos"], layer: int) -> Start:
        """What passes of these rows that are changed from a layer on can begin with, by a pass that ends there.

        Args:
            tokens: Token ids, padded on the right.
            layer: The first layer at which something is changed.
        """

    @abstractmethod
    def starts(
        self, tokens: Int[Tensor, "batch pos"], layers: Sequence[int], columns: Int[Tensor, " batch"] | None
    ) -> tuple[dict[int, Start], Float[Tensor, "batch *pos d_vocab"]]:
        """One whole pass, and what passes that differ from it only from a layer on can start from.

        Args:
            tokens: Token ids, padded on the right.
            layers: Layers to keep a start of.
            columns: One column of each row whose logits are wanted; None for all.
        """

    @abstractmethod
    def ends_from(
        self, start: Start, layer: int, columns: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch *pos size"]:
        """What a pass from a start on ends in; every hook from the layer's `hook_resid_pre` on acts.

        An end has a row for each row of the batch, so ends of several passes can be read out together, which is worth
        it: few rows take nearly as long to unembed as many.
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
            tokens: The new tokens of each row; padding stands left.
            mask: 1 for a token, 0 for padding, over cached and new columns; None where nothing is padding.
            cache: What the call before returned; None for a first call.
            use_cache: Whether to keep keys and values at all.
        """

    @abstractmethod
    def repeat_cache(self, cache: Any, repeats: int) -> Any:
        """The cache with each row repeated, copies of a row side by side."""

    # -- hooks -------------------------------------------------------------------------------------------------

    def hook_name(self, layer: int, site: Site = "resid_pre") -> str:
        """Name of the hook point at which something is read or changed."""
        return hook_name(layer, site, n_layers=self.n_layers)

    def hook_point(self, name: str) -> Any:
        """The hook point itself."""
        return self.model.hook_dict[name]

    def add_hook(self, name: str, hook: Callable[..., Any]) -> HookHandle:
        """Add a hook after those that are there; it acts in this thread only.

        Raises:
            ModelError: There is no such hook point; or something else stands in its place.
        """
        return self.hang(name, InThisThread(hook))

    def hang(self, name: str, hook: Callable[..., Any]) -> HookHandle:
        """Add a hook after those that are there, by the model's own `add_hook`; it acts in every thread.

        Raises:
            ModelError: There is no such hook point; or something else stands in its place.
        """
        point = self._own_hook_point(name)
        with _HANGING:
            self.model.add_hook(self._own_name(name), hook)
            return HookHandle(point, point.fwd_hooks[-1])

    def take_away(self, name: str, is_meant: Callable[[Any], bool]) -> None:
        """Take the hooks of one kind away from a hook point, wherever they came from; the others stay."""
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
                f"{self.name} has no hook point {name}: another module, such as a sparse autoencoder, may stand in its "
                "place. Take it away first, or use another layer or site."
            )
        return point

    def hooks_at(self, name: str) -> list[Any]:
        """The hook functions at a hook point, as they were given; none where there is no such hook point."""
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
        """What the arguments of a block say of the pass."""

    # -- weights -----------------------------------------------------------------------------------------------

    def fingerprint_sample(self) -> list[float]:
        """A few weights in a form that folding and centring leave alone.

        Rows of the token embedding and of the output matrices of the first, middle and last block's attention: both
        write to the residual stream, so folding a norm never touches them; on LayerNorm models their mean over
        `d_model` is taken away, as centring would, and a scale that a conversion put on the embedding is taken off.
        """
        samples = [_spread(self._canonical(self.model.embed.W_E.detach()) / self._embedding_scale, 16)]
        for layer in sorted({0, self.n_layers // 2, self.n_layers - 1}):
            attention = getattr(self.model.blocks[layer], "attn", None)
            if attention is None:
                continue
            try:
                with own_weights(attention):  # an adapter leaves a model the model that it is
                    weight = getattr(attention, "W_O", None)
            except NotImplementedError:  # of a quantised layer only the packed numbers can be seen
                packed = getattr(getattr(attention, "o", None), "weight", None)
                samples += [_spread(packed.detach().float(), 8)] if isinstance(packed, Tensor) else []
                continue
            if isinstance(weight, Tensor):
                rows = weight.detach().reshape(-1, self.d_model)
                samples.append(_spread(self._canonical(rows), 8))
        return [float(f"{value:.4g}") for sample in samples for value in sample]

    @abstractmethod
    def linear_map(self, layer: int, weight: str) -> LinearMap | None:
        """A linear map of a block, by TransformerLens's name of its weight; None where the block has none."""

    @property
    def folds_norms(self) -> bool:
        """Whether gains and shifts of the norms were folded into the weights behind them."""
        return "norms folded" in self.weight_processing

    @property
    def _embedding_scale(self) -> float:
        """What a conversion took the token embedding times."""
        return 1.0

    def _canonical(self, rows: Tensor) -> Tensor:
        rows = rows[:: max(1, rows.shape[0] // 64)].float()
        return rows - rows.mean(dim=-1, keepdim=True) if self.normalization == "LN" else rows


def hook_name(layer: int, site: Site = "resid_pre", *, n_layers: int | None = None) -> str:
    """Name of a hook point, by TransformerLens's own names.

    Args:
        layer: The block, 0-based.
        site: Where in it.
        n_layers: Number of blocks, where it is known: the stream that enters a block after the last is what that one
            leaves.

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
