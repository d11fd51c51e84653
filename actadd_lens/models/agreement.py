"""Whether a loaded model is the same as the one that transformers loads: a few log-probs of both are compared.

TransformerLens converts some models wrongly: it silently ignores settings that it does not know (a scaled rotary
embedding, a window, a bias), and log-probs are then wrong by several nats.
"""

import inspect
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.errors import ModelError
from actadd_lens.models.protocol import Backend, Start
from actadd_lens.models.readout import check_readout
from actadd_lens.models.shapes import context_length, edges, local_layers, peculiarities, text_config

LARGEST_GAP = 1e-3
"""Nats by which log-probs may differ in float32."""

_LENGTHS = (8, 32)
_COLUMNS = 16
"""Maximum number of columns that are compared, counted from the end."""
_FARTHEST = 512
"""Longest pass that is run to check tokens beyond a window or beyond the length that a model was first trained on."""
_ROUNDINGS = 3
"""Log-probs may differ by this many times the change that one extra rounding of every stream causes, if that is more
than `LARGEST_GAP`: blocks round more than once internally."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Outputs of the Hugging Face model, kept for comparison with the converted one.

    Attributes:
        source: The Hugging Face model's configuration.
        tokens: Token ids of each pass, from short to long.
        log_probs: Log-probs of the last columns of each.
        hf_model: The Hugging Face model, which is run again if rounding may explain a difference.
    """

    source: Any
    tokens: tuple[Int[Tensor, "1 _"], ...]
    log_probs: tuple[Float[Tensor, "_ d_vocab"], ...]
    hf_model: Any

    @cached_property
    def rounding(self) -> float:
        """Largest change of log-probs when every stream is rounded once more.

        It is the maximum over all passes, because the coarse steps of a quantised layer may matter in only one of them.
        """
        with torch.no_grad():
            return max(_rounding(self.hf_model, tokens) for tokens in self.tokens)

    def allows(self, gap: float) -> bool:
        """Whether log-probs may differ by this many nats; only an unusually large difference costs extra passes."""
        return gap <= LARGEST_GAP or gap <= self.tolerance

    @property
    def tolerance(self) -> float:
        """Number of nats by which log-probs may differ."""
        return max(LARGEST_GAP, _ROUNDINGS * self.rounding)


@torch.no_grad()
def reference_of(hf_model: Any, name: str) -> Reference:
    """Log-probs of a Hugging Face model at several lengths, computed before anything is converted.

    Raises:
        ModelError: It cannot be run, or does not predict tokens from left to right.
    """
    config = hf_model.config
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name} is an encoder-decoder ({config.model_type}), which does not have a single residual stream: "
            "pass a decoder that predicts next tokens."
        )
    reach = context_length(config)
    lengths = {min(length, reach) for length in _LENGTHS}
    lengths |= {edge + _COLUMNS for edge in edges(config).values() if edge + _COLUMNS <= min(reach, _FARTHEST)}
    rows = [_some_tokens(config, length).to(_device(hf_model)) for length in sorted(lengths)]
    try:
        first = _asked_causally(hf_model, rows[0], name)
        found = (first, *(_log_probs(_ask(hf_model, row)) for row in rows[1:]))
    except ModelError:
        raise
    except Exception as error:  # other people's model code may raise anything
        raise ModelError(f"{name} does not run in transformers: {type(error).__name__}: {error}") from error
    return Reference(config, tuple(rows), found, hf_model)


@torch.no_grad()
def check_agreement(backend: Backend, reference: Reference, name: str) -> float:
    """Check that a converted model agrees with its source, and return the largest difference.

    Raises:
        ModelError: It does not agree, or tokens beyond a window cannot be checked.
    """
    largest = 0.0
    for tokens, expected in zip(reference.tokens, reference.log_probs, strict=True):
        if tokens.shape[1] > backend.n_ctx:
            continue
        last: list[Tensor] = []
        handle = backend.add_hook(_last_stream(backend), _keeper(last))
        try:
            ends = backend.ends_from(Start(tokens.to(backend.device)), 0, None)
            found = _log_probs(backend.read_out(ends[:, -_COLUMNS:]))
        except Exception as error:
            raise ModelError(f"{told(backend.family, name, reference.source)} ({first_line(error)}).") from error
        finally:
            handle.remove()
        if found.shape != expected.shape or not bool(found.isfinite().all() == expected.isfinite().all()):
            gap = float("inf")
        else:
            gap = float((found.to(expected.device) - expected).nan_to_num().abs().max())
        if not reference.allows(gap):
            raise ModelError(
                f"{told(backend.family, name, reference.source)}: over {tokens.shape[1]} tokens its log-probs differ "
                f"by {gap:.2g} from those of the Hugging Face model. {_way_out(backend.family)}"
            )
        largest = max(largest, gap)
        check_readout(backend, last[0][0, -_COLUMNS:] if last else None, found, reference.allows)
    if backend.family == "hooked":
        _check_edges(backend, reference, name)
    return largest


def _last_stream(backend: Backend) -> str:
    return f"blocks.{backend.n_layers - 1}.hook_resid_post"


def _keeper(found: list[Tensor]) -> Any:
    def keep(stream: Tensor, hook: Any) -> None:
        found.append(stream.detach())

    return keep


def told(family: str, name: str, config: Any) -> str:
    """A message that a model was not converted faithfully, with unusual settings that may be the reason."""
    kind = "HookedTransformer" if family == "hooked" else "TransformerBridge"
    found = list(peculiarities(config))
    shape = f"{getattr(config, 'model_type', 'of unknown type')}" + (f" with {', '.join(found)}" if found else "")
    return f"TransformerLens does not make {name} ({shape}) the same model as a {kind}"


def _way_out(family: str) -> str:
    if family == "hooked":
        return "Use family='bridge', which runs the Hugging Face model's own modules."
    return "Another version of TransformerLens may, or family='hooked'."


# -- the Hugging Face model's outputs --------------------------------------------------------------------------


def _some_tokens(config: Any, length: int) -> Int[Tensor, "1 pos"]:
    """Tokens from a fixed seed, none of them special; longer rows begin with the shorter ones."""
    text = text_config(config)
    special = {getattr(text, f"{kind}_token_id", None) for kind in ("bos", "eos", "pad")}
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, int(text.vocab_size), (4 * length + 64,), generator=generator)
    usual = [token for token in ids.tolist() if token not in special]
    return torch.tensor([usual[:length]])


def _device(hf_model: Any) -> torch.device:
    device: torch.device = next(hf_model.parameters()).device
    return device


def _ask(hf_model: Any, tokens: Tensor) -> Tensor:
    """Logits of the last columns."""
    accepted = inspect.signature(hf_model.forward).parameters
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted or "kwargs" in accepted else {}
    if "logits_to_keep" in accepted:
        options["logits_to_keep"] = _COLUMNS
    logits: Tensor = hf_model(input_ids=tokens, **options).logits
    return logits[:, -_COLUMNS:]


def _log_probs(logits: Tensor) -> Float[Tensor, "columns d_vocab"]:
    return logits[0].float().log_softmax(dim=-1)


def _asked_causally(hf_model: Any, tokens: Tensor, name: str) -> Float[Tensor, "columns d_vocab"]:
    """Log-probs of a row, after checking that a different last token leaves those before it unchanged."""
    other = tokens.clone()
    other[0, -1] = tokens[0, 0] if tokens[0, 0] != tokens[0, -1] else tokens[0, 1]
    left, right = (_log_probs(row[None]) for row in _ask(hf_model, torch.cat([tokens, other])))
    if not bool(((left - right)[:-1].abs() < LARGEST_GAP).all()):
        raise ModelError(
            f"{name} ({hf_model.config.model_type}) looks at tokens that follow, as BERT does, so it does not predict "
            "next tokens: pass a decoder, such as a GPT or a Llama."
        )
    return left


def _rounding(hf_model: Any, tokens: Tensor) -> float:
    """Change of log-probs when the embeddings and the output of each block are rounded once more.

    The plain pass is repeated, because a bridge has wrapped the model by now.
    """
    before = _log_probs(_ask(hf_model, tokens))
    generator = torch.Generator().manual_seed(0)

    def rounded(module: Any, args: Any, output: Any) -> Any:
        stream = output if isinstance(output, Tensor) else output[0]
        noise = torch.randn(stream.shape, generator=generator).to(stream.device)
        moved = (stream.float() * (1 + torch.finfo(stream.dtype).eps * noise)).to(stream.dtype)
        return moved if isinstance(output, Tensor) else type(output)([moved, *output[1:]])

    with ExitStack() as stack:
        for module in (hf_model.get_input_embeddings(), *_blocks(hf_model)):
            stack.callback(module.register_forward_hook(rounded).remove)
        after = _log_probs(_ask(hf_model, tokens))
    return float((after - before).nan_to_num().abs().max())


def _blocks(hf_model: Any) -> Any:
    """The stack of blocks: the first module list, which comes before any list inside a block."""
    return next((module for module in hf_model.modules() if isinstance(module, torch.nn.ModuleList)), ())


# -- lengths that no pass reached -----------------------------------------------------------------------------------


def _check_edges(backend: Backend, reference: Reference, name: str) -> None:
    """If the context extends beyond an edge that no pass reached, the HookedTransformer must implement that edge."""
    reached = max(tokens.shape[1] for tokens in reference.tokens)
    cfg = backend.model.cfg
    for kind, edge in edges(reference.source).items():
        if edge < reached or backend.n_ctx <= edge:
            continue
        if kind == "sliding window" and local_layers(reference.source) == _hooked_local_layers(cfg, edge):
            continue
        raise ModelError(
            f"{told('hooked', name, reference.source)} in long texts: beyond {edge} tokens its {kind} matters, "
            f"which this HookedTransformer does not have. Load it with n_ctx={edge}, or use family='bridge'."
        )


def _hooked_local_layers(cfg: Any, window: int) -> list[bool] | None:
    if not cfg.use_local_attn or cfg.window_size != window or not cfg.attn_types:
        return None
    return [kind == "local" for kind in cfg.attn_types[: cfg.n_layers]]


def first_line(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
