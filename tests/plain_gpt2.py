"""GPT-2 from plain Hugging Face modules, every step written out: what our hooks are compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import actadd_lens as al


@cache
def plain_gpt2(folder: Path) -> Any:
    """The Hugging Face model of a folder."""
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder).eval()


@dataclass
class Run:
    """What a pass of one prompt showed, by layer."""

    logits: Tensor = field(default_factory=lambda: torch.zeros(0))
    streams: list[Tensor] = field(default_factory=list)
    patterns: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    mixed: list[Tensor] = field(default_factory=list)
    mlps: list[Tensor] = field(default_factory=list)


@dataclass
class Held:
    """What is taken from elsewhere: [pos, ...] tensors by (layer, head), or by layer for MLPs."""

    patterns: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)
    values: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)
    mixed: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)
    mlps: Mapping[int, Tensor] = field(default_factory=dict)


def plain_run(
    folder: Path, tokens: list[int], vector: al.SteeringVector | None = None, column: int = 0, held: Held | None = None
) -> Run:
    """One pass of one prompt, with a vector's rows added from a column on, and some components held."""
    model, held, run = plain_gpt2(folder), held or Held(), Run()
    length, heads = len(tokens), model.config.n_head
    stream = model.transformer.wte(torch.tensor(tokens)) + model.transformer.wpe(torch.arange(length))
    for layer, block in enumerate(model.transformer.h):
        if vector is not None and vector.layer == layer:
            stream = stream.clone()
            stream[column : column + vector.rows] += vector.coefficient * vector.activations
        run.streams.append(stream)
        query, key, value = (
            part.reshape(length, heads, -1).transpose(0, 1)
            for part in block.attn.c_attn(block.ln_1(stream)).chunk(3, dim=-1)
        )
        scores = query @ key.transpose(1, 2) / key.shape[-1] ** 0.5
        ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
        pattern = scores.masked_fill(ahead, -torch.inf).softmax(dim=-1)
        run.patterns.append(pattern)
        run.values.append(value)
        looks = torch.stack([held.patterns.get((layer, head), pattern[head]) for head in range(heads)])
        holds = torch.stack([held.values.get((layer, head), value[head]) for head in range(heads)])
        mixed = looks @ holds
        mixed = torch.stack([held.mixed.get((layer, head), mixed[head]) for head in range(heads)])
        run.mixed.append(mixed)
        stream = stream + block.attn.c_proj(mixed.transpose(0, 1).reshape(length, -1))
        mlp = held.mlps.get(layer, block.mlp(block.ln_2(stream)))
        run.mlps.append(mlp)
        stream = stream + mlp
    run.streams.append(stream)
    run.logits = model.lm_head(model.transformer.ln_f(stream))
    return run


def all_heads(per_layer: list[Tensor]) -> dict[tuple[int, int], Tensor]:
    """Every head's entry, to hold it elsewhere."""
    return {(layer, head): item[head] for layer, item in enumerate(per_layer) for head in range(len(item))}
