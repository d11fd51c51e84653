"""A random model of GPT-2 small's shape, with a tokenizer of its size: nothing is downloaded."""

import contextlib
import io
import itertools
import string
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

import actadd_lens as al

_BOS = "<|endoftext|>"
_WORDS = ("Love", "Hate", "I", "Ġhate", "Ġyou", "Ġbecause", "The", "Ġwedding", "Ġwas", "Ġa", "Ġlong", "Ġday", "Ġand")
"""Words that are one token, as in GPT-2: a pair of two tokens a row leaves the least room for anything beside it."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a random model."""

    n_layers: int = 12
    d_model: int = 768
    n_heads: int = 12
    d_vocab: int = 50257
    n_ctx: int = 1024


GPT2_SMALL = Shape()
TINY = Shape(n_layers=3, d_model=32, n_heads=2, d_vocab=600, n_ctx=64)


def random_model(shape: Shape = GPT2_SMALL, *, family: str | None = None, seed: int = 0) -> Any:
    """A model in float32 with random weights, and a tokenizer to read texts with.

    Args:
        shape: Its sizes.
        family: `hooked` or `bridge`; by default the first where TransformerLens still has it.
        seed: Seed of the weights.
    """
    with tempfile.TemporaryDirectory() as folder:
        byte_level_tokenizer(shape.d_vocab).save_pretrained(folder)
        if (family or _default_family()) == "bridge":
            return _random_bridge(shape, folder, seed=seed)
        return _random_hooked(shape, folder, seed=seed)


def _default_family() -> str:
    """`hooked` before TransformerLens 4.0."""
    from actadd_lens.models.hooked import hooked_transformer

    return "bridge" if hooked_transformer() is None else "hooked"


def _random_hooked(shape: Shape, folder: str, *, seed: int) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformers import AutoTokenizer

    config = HookedTransformerConfig(
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        n_heads=shape.n_heads,
        d_head=shape.d_model // shape.n_heads,
        d_mlp=4 * shape.d_model,
        d_vocab=shape.d_vocab,
        n_ctx=shape.n_ctx,
        act_fn="gelu_new",
        normalization_type="LNPre",
        model_name="random",
        seed=seed,
        device="cpu",
    )
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", DeprecationWarning)
        return HookedTransformer(config, tokenizer=AutoTokenizer.from_pretrained(folder, add_bos_token=True))


def _random_bridge(shape: Shape, folder: str, *, seed: int) -> Any:
    """A GPT-2 of transformers, saved and loaded as any local folder."""
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = GPT2Config(
        n_layer=shape.n_layers,
        n_embd=shape.d_model,
        n_head=shape.n_heads,
        n_positions=shape.n_ctx,
        vocab_size=shape.d_vocab,
        bos_token_id=shape.d_vocab - 1,
        eos_token_id=shape.d_vocab - 1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        GPT2LMHeadModel(config).save_pretrained(folder)
    model = al.load_model(folder, family="bridge", device="cpu")
    model.cfg.model_name = "random"
    return model


def byte_level_tokenizer(size: int) -> Any:
    """A byte-level tokenizer with a few words in one token, filled up with tokens that no text needs.

    It is to be saved to a folder: TransformerLens makes its own copy of a tokenizer by loading it from where it lies.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = []
    for word in _WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in pieces:
                pieces.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    known = set(pieces)
    fillers = (piece for piece in _letters() if piece not in known)
    pieces += itertools.islice(fillers, size - 1 - len(pieces))
    vocabulary = {piece: index for index, piece in enumerate([*pieces, _BOS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = {"bos_token": _BOS, "eos_token": _BOS, "pad_token": _BOS}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)


def _letters() -> Iterator[str]:
    """Three letters, then four: more than any vocabulary asks for."""
    for length in (3, 4):
        yield from map("".join, itertools.product(string.ascii_lowercase, repeat=length))
