"""What several test modules share: independent ways to run a model, and generators of examples."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import actadd_lens as al
from actadd_lens.models import backend_of
from actadd_lens.models.hooked import hooked_transformer
from actadd_lens.models.loading import Family

FAMILIES_HERE: tuple[Family, ...] = ("bridge",) if hooked_transformer() is None else ("hooked", "bridge")
"""The families of models that the installed TransformerLens has."""

WORDS = "The girl looked at the old dog. She felt that it was a good day and then she said".split()

PAIRS = (("Love", "Hate"), (" wedding", ""), ("I talk about weddings", "I hate"), ("The dog", "The cat"))

prompts = st.builds(lambda start, count: " ".join(WORDS[start : start + count]), st.integers(0, 6), st.integers(1, 11))
coefficients = st.sampled_from([-15.0, -1.0, 0.5, 1.0, 5.0])


def layers(model: Any) -> st.SearchStrategy[int]:
    """Every layer of a model."""
    return st.integers(0, model.cfg.n_layers - 1)


@cache
def vector_of(model: Any, pair: tuple[str, str], layer: int) -> al.SteeringVector:
    """A pair's vector, computed once: they are frozen."""
    return al.compute_steering_vector(model, pair, layer=layer)


def placed_vector(data: st.DataObject, model: Any, length: int) -> tuple[al.SteeringVector, Any, int]:
    """A vector that fits onto a prompt, a position, and the column that position means by the authors' formulas."""
    draw = data.draw
    vector = draw(coefficients) * vector_of(model, draw(st.sampled_from(PAIRS)), draw(layers(model)))
    if vector.rows > length:
        vector = vector.row(draw(st.integers(1, vector.rows - 1)))
    position: Any = draw(st.sampled_from(["front", "mid", "back", "index"]))
    if position == "index":
        position = draw(st.integers(0, length - vector.rows))
    column = {"front": 0, "mid": length // 2 - vector.rows // 2, "back": length - vector.rows}.get(position, position)
    return vector, position, column


def plain_hooks(vector: al.SteeringVector, column: int | None) -> list[tuple[str, Any]]:
    """The addition written out by hand; a column None means every column but the first."""

    def add(resid_pre: Tensor, hook: Any) -> Tensor:
        steered = resid_pre.clone()
        rows = vector.coefficient * vector.activations
        if column is None:
            steered[:, 1:] += rows[0]
        else:
            steered[:, column : column + len(rows)] += rows
        return steered

    return [(f"blocks.{vector.layer}.hook_resid_pre", add)]


def tokens_of(model: Any, text: str) -> Tensor:
    """BOS and text, as one row."""
    return model.to_tokens(text, prepend_bos=True)


@torch.no_grad()
def written_by_hand(model: Any, tokens: Tensor, hooks: Sequence[tuple[str, Any]], count: int) -> list[int]:
    """Greedy tokens from whole passes without a cache, the addition at fixed columns in each."""
    for _ in range(count):
        logits = model.run_with_hooks(tokens, fwd_hooks=list(hooks))
        tokens = torch.cat([tokens, logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    return tokens[0, -count:].tolist()


def generate(model: Any, tokens: Any, count: int, **options: Any) -> Tensor:
    """Greedy tokens by TransformerLens's own loop, prompts included."""
    return model.generate(
        tokens, max_new_tokens=count, do_sample=False, stop_at_eos=False, verbose=False, return_type="tokens", **options
    )


def cached(model: Any, tokens: Tensor, cache: Any, mask: Tensor | None = None) -> tuple[Tensor, Any]:
    """One pass with the model's own cache."""
    backend: Any = backend_of(model)
    if cache is None and backend.family == "hooked":
        cache = backend._new_cache(tokens.shape[0])
    if backend.family == "hooked":
        return model(tokens, past_kv_cache=cache, attention_mask=mask), cache
    logits, cache = model(
        tokens, past_key_values=cache, use_cache=True, attention_mask=mask, return_type="logits_and_cache"
    )
    return logits, cache


def generated_by_hand(model: Any, tokens: Tensor, hooks: Sequence[tuple[str, Any]], count: int) -> list[int]:
    """Greedy tokens by TransformerLens's own loop without a cache, so that each pass holds all columns.

    Where BOS is the pad token, HookedTransformer hides a prompt of BOS alone from the tokens that follow; the model's
    own loop has that too, which passes by hand have not.
    """
    with model.hooks(fwd_hooks=list(hooks)):
        return generate(model, tokens, count, use_past_kv_cache=False)[0, -count:].tolist()


def hook_state(model: Any) -> list[Any]:
    """Every hook that hangs on a model: of hook points, and of modules."""
    points = [(name, tuple(id(handle) for handle in point.fwd_hooks)) for name, point in model.hook_dict.items()]
    modules = [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in model.named_modules()
    ]
    return [points, modules]


@contextmanager
def watched(block: Any, note: Callable[[], Any]) -> Iterator[None]:
    """Calls `note` at each pass through a block, and leaves no hook on it: stores tell models with hooks apart."""
    code = type(block).forward.__code__

    def look(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code is code and frame.f_locals.get("self") is block:
            note()

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)


def close(left: Tensor, right: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors agree, in units of the second's size."""
    left, right = left.detach(), right.detach()
    return bool((left - right).abs().max() <= tolerance * max(1.0, float(right.abs().max())))


def apart(theirs: Tensor, ours: Tensor) -> float:
    """Relative difference of logits or rows, each centred, as neither softmax nor LayerNorm sees their means."""
    centred = [values - values.mean(dim=-1, keepdim=True) for values in (theirs, ours)]
    return float((centred[0] - centred[1]).norm() / centred[1].norm())
