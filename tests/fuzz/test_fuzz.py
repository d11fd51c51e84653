"""Thousands of bad inputs, drawn from a seed: each is refused by name, before a block has run, or it was no bad one.

One argument of a sound call is replaced by something that people pass by mistake. Every kind of argument has a rule of
its own that says what is sound; a call that returns though its rule is broken is a silent wrong result.
"""

import contextlib
import io
import json
import math
import os
import sqlite3
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens import metrics, scorers
from actadd_lens.cli import main
from actadd_lens.experiments.inputs import read_labelled, read_table, read_texts
from tests.support import PAIRS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unchecked")]

SEED = int(os.environ.get("ACTADD_FUZZ_SEED", "0"))
CALLS, READINGS, MAKERS, FACTORIES, FILES, COMMANDS = 2300, 1200, 600, 200, 300, 300
PROMPT = "The girl looked at the dog. She felt"


class WrongError(Exception):
    """What came back is not what was asked for."""


class Odd:
    """An object that is nothing that anyone expects."""

    def __repr__(self) -> str:
        return "<odd>"


def always(value: Any) -> Callable[[], Any]:
    return lambda: value


JUNK: tuple[Callable[[], Any], ...] = tuple(
    always(value)
    for value in (
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        3,
        7,
        64,
        10**30,
        10**400,
        -(10**30),
        0.0,
        1.0,
        1.5,
        -2.5,
        1e308,
        1e-320,
        math.nan,
        math.inf,
        -math.inf,
        1j,
        "",
        " ",
        "0",
        "1",
        "front",
        "all",
        "nowhere",
        "\0",
        "\udc80",
        "dog " * 200,
        b"dog",
        b"",
        [],
        [1, 1],
        [1.5],
        [None],
        ["dog"],
        ["dog", 3],
        [[1]],
        (),
        (1,),
        ("a", "b"),
        ("", ""),
        ("a", None),
        {},
        {"a": 1},
        set(),
        {1, 2},
        range(0),
        range(3),
        slice(2),
        Odd(),
        Odd,
        len,
        print,
        lambda: None,
        lambda a, b: a,
        np.int64(2),
        np.float32("nan"),
        np.array([]),
        np.array([1, 2]),
        np.array("x"),
        np.zeros((2, 2), dtype=complex),
        np.bool_(True),
        torch.ones(2),
        torch.tensor(2),
        torch.tensor(math.nan),
        torch.empty(0),
        Path("nowhere"),
        ...,
        NotImplemented,
        metrics.entropy,
        metrics.entropy(),
        scorers.sentiment,
        al,
        al.Metric,
    )
)


# -- what is sound ---------------------------------------------------------------------------------------------


def is_integer(value: Any, least: int) -> bool:
    if isinstance(value, torch.Tensor) and value.ndim == 0 and not value.is_floating_point():
        value = int(value)
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_layer(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.ndim == 0 and not value.is_floating_point() and 0 <= int(value) < 4
    return is_integer(value, 0) and int(value) < 4


def is_number(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        value = value.item() if value.numel() == 1 else None
    with contextlib.suppress(OverflowError):
        return isinstance(value, Real) and not isinstance(value, bool | np.bool_) and math.isfinite(float(value))
    return False


def several(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """One value, or some that differ."""

    def check(value: Any) -> bool:
        if rule(value):
            return True
        try:
            found = list(value) if not isinstance(value, str) else []
        except TypeError:
            return False
        return (
            bool(found)
            and all(map(rule, found))
            and len({float(item) for item in found if is_number(item)}) in (0, len(found))
        )

    return check


def is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | set | dict | range) or (isinstance(value, np.ndarray) and value.ndim == 1)


def is_text(value: Any) -> bool:
    return isinstance(value, str) and "\udc80" not in value and len(value) < 300


def is_position(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.ndim == 0 and not value.is_floating_point()
    return value in ("front", "mid", "back") if isinstance(value, str) else is_integer(value, 0) and int(value) < 9


def is_pair(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and is_text(value[0])
        and (value[1] is None or is_text(value[1]))
        and any(value)
    )


def is_metric(value: Any) -> bool:
    return isinstance(value, al.Metric)


RULES: dict[str, Callable[[Any], bool]] = {
    "seed": lambda value: is_integer(value, 0),
    "nulls": lambda value: is_integer(value, 0) and int(value) < 100,
    "n": lambda value: is_integer(value, 1),
    "max_new_tokens": lambda value: is_integer(value, 1) and int(value) < 60,
    "batch_size": lambda value: is_integer(value, 1),
    "optional batch_size": lambda value: value is None or is_integer(value, 1),
    "layer": is_layer,
    "any layer": lambda value: is_integer(value, 0),
    "layers": several(is_layer),
    "repeated layers": lambda value: several(is_layer)(value) or (isinstance(value, list) and value == [1, 1]),
    "optional layers": lambda value: value is None or several(is_layer)(value),
    "coefficient": is_number,
    "coefficients": several(is_number),
    "position": is_position,
    "later position": lambda value: is_position(value) or is_integer(value, 0),  # told when a pass comes
    "placement": lambda value: (
        is_position(value) or is_integer(value, 0) or (isinstance(value, str) and value == "all")
    ),
    "positions": several(is_position),
    "prompt": is_text,
    "prompts": lambda value: (
        is_text(value) or (isinstance(value, list | tuple | set | dict) and bool(value) and all(map(is_text, value)))
    ),
    "pair": is_pair,
    "metric": is_metric,
    "metrics": is_metric,
    "null_kind": lambda value: value in ("unrelated_pairs", "gaussian") if isinstance(value, str) else False,
    "null numbers": lambda value: (
        value == 0 if is_integer(value, 0) and int(value) < 2 else is_integer(value, 2) and int(value) < 100
    ),
    "flag": lambda value: isinstance(value, bool | np.bool_),
    "stop": lambda value: (
        (isinstance(value, str) and bool(value))
        or (
            isinstance(value, list | tuple | set | dict | range)
            and all(isinstance(text, str) and text for text in value)
        )
        or (isinstance(value, np.ndarray | torch.Tensor) and value.size == 0)
        or (isinstance(value, torch.Tensor) and value.numel() == 0)
    ),
    "temperature": lambda value: is_number(value) and float(value) >= 0,
    "top_k": lambda value: value is None or is_integer(value, 1),
    "top_p": lambda value: value is None or (is_number(value) and 0 < float(value) <= 1),
    "path": lambda value: (
        value is None
        or (isinstance(value, str | Path) and str(value) in {"nowhere", "0", "1", "front", "all", " ", "\udc80"})
    ),
    "planned metrics": lambda value: is_metric(value) or value is len or value is print,  # which fail when they run
    "model": lambda value: False,
    "vector": lambda value: False,
    "scorers": lambda value: False,
    "k": lambda value: is_integer(value, 1),
    "order": lambda value: isinstance(value, str) and value in ("value", "z"),
    "reading": lambda value: isinstance(value, str) and value in ("direction", "anchored"),
    "by": lambda value: isinstance(value, str) and value in ("rows", "aligned", "pooled"),
    "at": lambda value: isinstance(value, str) and value in ("unsteered", "steered"),
    "token place": lambda value: value is None or (is_integer(value, 0) and int(value) < 9),
    "optional prompt": lambda value: value is None or is_text(value),
    "texts": lambda value: value is None or (is_list(value) and len(value) > 1 and all(map(is_text, value))),
    "tokens": lambda value: (
        (isinstance(value, torch.Tensor) and value.shape == (0,))
        or (
            is_list(value)
            and all((is_integer(item, 0) and int(item) < 500) or item in ("dog", "a", "b") for item in value)
        )
    ),
    "share": lambda value: is_number(value) and 0 <= float(value) < 1,
    "one or more": lambda value: is_integer(value, 1),
    "replacement": lambda value: (
        value in ("remove", "0", "1", "a", " ") if isinstance(value, str) else is_integer(value, 0) and int(value) < 500
    ),
    "interventions": lambda value: False,
    "mark": lambda value: (
        (is_text(value) and bool(value)) or (is_list(value) and len(value) > 0 and all(is_integer(x, 0) for x in value))
    ),
    "index": lambda value: (
        is_integer(value, 0) or (is_list(value) and len(value) > 0 and all(is_integer(x, 0) for x in value))
    ),
    "token": lambda value: isinstance(value, Integral) and not isinstance(value, bool),
    "site": lambda value: isinstance(value, str) and value in ("resid_pre", "attn_out", "mlp_out", "head", "neuron"),
    "factor": lambda value: (
        is_number(value)
        or (
            isinstance(value, torch.Tensor)
            and value.is_floating_point()
            and value.ndim in (1, 2)
            and value.numel() > 0
            and bool(value.isfinite().all())
        )
    ),
    "none or layer": lambda value: is_integer(value, 0),
    "messages": is_text,
    "system": lambda value: value is None or is_text(value),
    "size": lambda value: (
        (is_number(value) and float(value) >= 0)
        or (is_list(value) and len(value) == 1 and all(is_number(item) for item in value))
    ),
    "row": lambda value: isinstance(value, Integral) and not isinstance(value, bool) and int(value) in (-1, 0),
    "dimensions": lambda value: (
        isinstance(value, slice | range)
        or (is_list(value) and len(value) > 0 and all(is_integer(x, -32) and int(x) < 32 for x in value))
        or (is_integer(value, 0) and int(value) < 32)
    ),
    "source": lambda value: isinstance(value, str),
    "rows": lambda value: (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.ndim in (1, 2)
        and value.numel() > 0
        and bool(value.isfinite().all())
    ),
}
"""For each kind of argument, whether a value of it is sound: then a call may well return."""


# -- calls -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A sound call: its function, its arguments, and which of them are of which kind."""

    name: str
    run: Callable[..., Any]
    sound: Mapping[str, Any]
    kinds: Mapping[str, str]


def calls_of(model: Any) -> list[Call]:
    vector = al.compute_steering_vector(model, PAIRS[0], layer=2)
    shared = {"seed": "seed", "nulls": "nulls", "null_kind": "null_kind", "model": "model"}
    grid = {
        **shared,
        "pairs": "pair",
        "layers": "layers",
        "coefficients": "coefficients",
        "positions": "positions",
        "prompts": "prompts",
        "prepend_bos": "flag",
        "batch_size": "optional batch_size",
        "path": "path",
    }
    cell = {
        "model": model,
        "pairs": PAIRS[0],
        "layers": [1],
        "coefficients": [2.0],
        "prompts": PROMPT,
        "progress": False,
    }
    entropy, words = metrics.entropy(), scorers.word_count(["dog"])
    writing = {
        "n": "n",
        "max_new_tokens": "max_new_tokens",
        "stop": "stop",
        "temperature": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
    }
    on_vector = {"model": model, "vectors": vector, "prompts": PROMPT, "progress": False}

    def without_bar(run: Callable[..., Any]) -> Callable[..., Any]:
        return lambda progress=False, **arguments: run(**arguments)

    def steered(model: Any, vectors: Any, position: Any = "front") -> Any:
        with al.steer(model, vectors, position=position):
            return None

    return [
        Call(
            "compute_steering_vector",
            al.compute_steering_vector,
            {"model": model, "pair": PAIRS[0], "layer": 2},
            {"model": "model", "pair": "pair", "layer": "layer"},
        ),
        Call(
            "compute_steering_vectors",
            al.compute_steering_vectors,
            {"model": model, "pairs": [PAIRS[0]], "layers": [1]},
            {"model": "model", "layers": "repeated layers", "batch_size": "batch_size"},
        ),
        Call(
            "complete",
            al.complete,
            {**on_vector, "max_new_tokens": 2},
            {
                "model": "model",
                "vectors": "vector",
                "prompts": "prompts",
                "position": "position",
                "seed": "seed",
                "batch_size": "batch_size",
                "prepend_bos": "flag",
                "stop_at_eos": "flag",
                "use_past_kv_cache": "flag",
                **writing,
            },
        ),
        Call(
            "measure",
            al.measure,
            {**on_vector, "metric": entropy},
            {
                **shared,
                "vectors": "vector",
                "prompts": "prompts",
                "position": "position",
                "metric": "metric",
                "prepend_bos": "flag",
                "batch_size": "batch_size",
            },
        ),
        Call(
            "measure_completions",
            al.measure_completions,
            {**on_vector, "scorers": words, "max_new_tokens": 2, "n": 1},
            {
                **shared,
                "vectors": "vector",
                "prompts": "prompts",
                "position": "position",
                "scorers": "scorers",
                "batch_size": "batch_size",
                **writing,
            },
        ),
        Call("sweep", al.sweep, {**cell, "metric": entropy}, {**grid, "metric": "metrics"}),
        Call(
            "plan_sweep", without_bar(al.plan_sweep), {**cell, "metric": entropy}, {**grid, "metric": "planned metrics"}
        ),
        Call(
            "sweep_completions",
            al.sweep_completions,
            {**cell, "scorers": words, "max_new_tokens": 2, "n": 1},
            {**grid, "scorers": "scorers", **writing},
        ),
        Call(
            "null_vectors",
            al.null_vectors,
            {"model": model, "vector": vector, "n": 2},
            {"model": "model", "vector": "vector", "n": "n", "seed": "seed", "kind": "null_kind"},
        ),
        Call(
            "preview",
            al.preview,
            {"model": model, "prompt": PROMPT, "vectors": vector},
            {"model": "model", "prompt": "prompt", "vectors": "vector", "position": "position"},
        ),
        Call(
            "steer",
            steered,
            {"model": model, "vectors": vector},
            {"model": "model", "vectors": "vector", "position": "later position"},
        ),
        Call(
            "fwd_hooks",
            al.fwd_hooks,
            {"model": model, "vectors": vector},
            {"model": "model", "vectors": "vector", "position": "later position"},
        ),
        Call(
            "linearity",
            al.linearity,
            {**on_vector, "metric": entropy},
            {
                **shared,
                "prompts": "prompts",
                "vectors": "vector",
                "metric": "metric",
                "position": "position",
                "batch_size": "batch_size",
            },
        ),
        Call(
            "from_tensor",
            al.SteeringVector.from_tensor,
            {"rows": torch.ones(2, 32), "layer": 1, "source": "mine"},
            {"rows": "rows", "layer": "any layer", "source": "source"},
        ),
        Call("shuffle_rows", al.shuffle_rows, {"vector": vector}, {"vector": "vector", "seed": "seed"}),
    ]


def readings_of(model: Any) -> list[Call]:
    """The tools that say what a vector is and who reads it."""
    vector = al.compute_steering_vector(model, PAIRS[0], layer=2)
    on_vector = {"model": model, "vectors": vector, "prompts": PROMPT, "progress": False}
    shared = {"seed": "seed", "nulls": "nulls", "null_kind": "null_kind", "model": "model"}
    lens = {"k": "k", "order": "order", "tokens": "tokens", "prepend_bos": "flag", "vectors": "vector", **shared}
    placed = {"position": "position", "prepend_bos": "flag", "batch_size": "batch_size"}
    entropy = metrics.entropy()
    return [
        Call(
            "logit_lens",
            al.logit_lens,
            {"model": model, "vectors": vector},
            {**lens, "reading": "reading", "prompt": "optional prompt"},
        ),
        Call(
            "logit_lens_carried",
            al.logit_lens_carried,
            {"model": model, "vectors": vector, "prompt": PROMPT},
            {**lens, "prompt": "prompt", "at": "token place", "position": "position", "batch_size": "batch_size"},
        ),
        Call(
            "cosine_similarity",
            al.cosine_similarity,
            {"model": model, "vectors": [vector, 2 * vector], "nulls": 2},
            {
                "model": "model",
                "seed": "seed",
                "nulls": "null numbers",
                "vectors": "vector",
                "by": "by",
                "centred": "flag",
                "texts": "texts",
            },
        ),
        Call(
            "ablate_tokens",
            al.ablate_tokens,
            {"model": model, "pair": PAIRS[0], "layer": 2, "prompts": PROMPT, "metric": entropy, "progress": False},
            {
                **shared,
                **placed,
                "pair": "pair",
                "layer": "layer",
                "prompts": "prompts",
                "metric": "metric",
                "coefficient": "coefficient",
                "replacement": "replacement",
            },
        ),
        Call(
            "norm_profile",
            al.norm_profile,
            {"model": model, "vectors": vector, "prompt": PROMPT},
            {"model": "model", "vectors": "vector", "prompt": "prompt", "position": "position", "prepend_bos": "flag"},
        ),
        Call(
            "next_token_shift",
            al.next_token_shift,
            on_vector,
            {
                **shared,
                **placed,
                "prompts": "prompts",
                "vectors": "vector",
                "k": "k",
                "least": "share",
                "tokens": "tokens",
            },
        ),
        Call(
            "text_shift",
            al.text_shift,
            {"texts": PROMPT, **{key: on_vector[key] for key in ("model", "vectors", "progress")}},
            {**shared, **placed, "texts": "prompts", "vectors": "vector", "least_count": "one or more"},
        ),
        Call(
            "trace_injection",
            al.trace_injection,
            {"model": model, "prompt": PROMPT, "vectors": vector, "metric": entropy},
            {**shared, **placed, "prompt": "prompt", "vectors": "vector", "metric": "metric", "at": "at"},
        ),
        Call(
            "trace_layers",
            al.trace_layers,
            {"model": model, "prompts": PROMPT, "pair": PAIRS[0], "layers": [1], "metric": entropy},
            {
                **shared,
                "prompts": "prompts",
                "pair": "pair",
                "layers": "layers",
                "metric": "metric",
                "coefficient": "coefficient",
                "position": "position",
                "at": "at",
            },
        ),
        Call(
            "plan_sweep_completions",
            al.plan_sweep_completions,
            {
                "model": model,
                "pairs": PAIRS[0],
                "layers": [1],
                "coefficients": [2.0],
                "prompts": PROMPT,
                "scorers": scorers.word_count(["dog"]),
            },
            {
                **shared,
                "pairs": "pair",
                "layers": "layers",
                "coefficients": "coefficients",
                "positions": "positions",
                "prompts": "prompts",
                "batch_size": "optional batch_size",
                "path": "path",
                "n": "n",
            },
        ),
    ]


def makers_of(model: Any) -> list[Call]:
    """What makes interventions, gates, spans and chat prompts, each run once on a prompt."""
    vector = al.compute_steering_vector(model, PAIRS[0], layer=2).row(-1)

    def used(make: Callable[..., Any]) -> Callable[..., Any]:
        def run(**arguments: Any) -> Any:
            return al.preview(model, PROMPT, make(**arguments), position="all")

        return run

    def spanned(make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **arguments: al.preview(model, PROMPT, vector, position=make(**arguments))

    def chatted(**arguments: Any) -> Any:
        return al.preview(model, al.chat(model, **arguments), vector, position="all")

    scaled = al.scale(2.0, layer=1)
    return [
        Call(
            "scale", used(al.scale), {"factor": 2.0, "layer": 1}, {"factor": "factor", "layer": "layer", "site": "site"}
        ),
        Call(
            "replace",
            used(al.replace),
            {"values": torch.ones(32), "layer": 1},
            {"values": "rows", "layer": "layer", "site": "site"},
        ),
        Call(
            "set_projection",
            used(al.set_projection),
            {"direction": vector, "value": 1.0},
            {"direction": "vector", "value": "coefficient"},
        ),
        Call(
            "project_out",
            used(al.project_out),
            {"direction": torch.ones(32), "layer": 1},
            {"direction": "rows", "layer": "layer"},
        ),
        Call(
            "gate",
            al.gate,
            {"direction": vector, "threshold": 0.0},
            {"direction": "vector", "threshold": "coefficient", "token": "token"},
        ),
        Call(
            "gated",
            al.gated,
            {"intervention": scaled, "gate": al.gate(vector, 0.0)},
            {"intervention": "interventions", "gate": "interventions"},
        ),
        Call("per_prompt", used(al.per_prompt), {"items": [vector]}, {"items": "interventions"}),
        Call("after", spanned(al.after), {"mark": " dog"}, {"mark": "mark"}),
        Call("since", spanned(al.since), {"index": 2}, {"index": "index"}),
        Call("first", spanned(al.first), {"n": 2}, {"n": "one or more"}),
        Call("with_norm", vector.with_norm, {"norm": 1.0}, {"norm": "size"}),
        Call("keep_dimensions", vector.keep_dimensions, {"dimensions": [1, 2]}, {"dimensions": "dimensions"}),
        Call("at", vector.at, {"position": "back"}, {"position": "placement"}),
        Call("at_layer", vector.at_layer, {"layer": 1}, {"layer": "any layer"}),
        Call("row", vector.row, {"index": 0}, {"index": "row"}),
        Call("chat", chatted, {"messages": "Hi"}, {"messages": "messages", "system": "system"}),
    ]


@dataclass
class Tally:
    """What came of the cases."""

    counts: Counter[str] = field(default_factory=Counter)
    foreign: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    blocks: int = 0

    def note(self, told: str, run: Callable[[], Any], *, is_sound: bool) -> None:
        """Run one case; `blocks` counts the passes through the first block."""
        before = self.blocks
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run()
        except al.ActAddError:
            self.counts["refused"] += 1
            if self.blocks > before:
                self.counts["refused after a block"] += 1
        except WrongError:
            self.counts["silent"] += 1
            self.silent.append(told)
        except Exception as error:
            self.counts["foreign"] += 1
            self.foreign.append(f"{told}: {type(error).__name__}: {str(error)[:150]}")
            if self.blocks > before:
                self.late.append(self.foreign[-1])
        else:
            self.counts["sound" if is_sound else "silent"] += 1
            if not is_sound:
                self.silent.append(told)

    def check(self, cases: int) -> None:
        """At most one in a hundred has a foreign error, none after a block has run, and none is silently wrong."""
        told = json.dumps({"cases": cases, **self.counts})
        sys.stderr.write(f"\n{told}\n")
        assert sum(self.counts[kind] for kind in ("refused", "foreign", "sound", "silent")) == cases
        found = [told, *(f"{name}: {case}" for name in ("silent", "late", "foreign") for case in getattr(self, name))]
        assert not self.silent, "\n".join(found)
        assert not self.late, "\n".join(found)
        assert len(self.foreign) <= cases // 100, "\n".join(found)


@pytest.fixture
def tally(quickest: Any) -> Iterator[Tally]:
    found = Tally()

    def count(*_: Any) -> None:
        found.blocks += 1

    handle = quickest.blocks[0].register_forward_pre_hook(count)
    yield found
    handle.remove()


def shown(value: Any) -> str:
    try:
        return repr(value)[:60]
    except Exception:
        return f"<{type(value).__name__}>"


def with_junk(calls: list[Call], count: int, seed: int, folder: Path, tally: Tally) -> None:
    """Sound calls with one argument replaced, each on its own."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        call = calls[random.integers(len(calls))]
        name = list(call.kinds)[random.integers(len(call.kinds))]
        value = JUNK[random.integers(len(JUNK))]()
        if call.kinds[name] in ("n", "nulls") and is_integer(value, 65):
            value = 3  # so many would be sound, and take forever
        arguments = {**call.sound, name: value}
        told = f"{call.name}({name}={shown(value)})"
        is_sound = bool(RULES[call.kinds[name]](value)) or value is call.sound.get(name, Odd)
        tally.note(told, partial(call.run, **arguments), is_sound=is_sound)
        for left in folder.iterdir():
            left.unlink()
    tally.check(count)


@pytest.mark.parametrize(("made", "count"), [(calls_of, CALLS), (readings_of, READINGS), (makers_of, MAKERS)])
def test_bad_arguments_are_refused_before_a_block_runs(
    quickest: Any,
    tmp_path: Path,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
    made: Callable[[Any], list[Call]],
    count: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = made(quickest)
    tally.blocks = 0
    with_junk(calls, count, SEED, tmp_path, tally)


# -- metrics and scorers ---------------------------------------------------------------------------------------

FACTORY_RULES: dict[str, Callable[[Any], bool]] = {
    "next_token_logprob": lambda value: is_integer(value, 0) and int(value) < 500,
    "next_token_logit": lambda value: is_integer(value, 0) and int(value) < 500,
    "token_set_logprob": lambda value: is_list(value) and len(value) > 0 and all(is_integer(item, 0) for item in value),
    "kl_divergence": lambda value: False,
    "word_share": lambda value: (
        isinstance(value, list | tuple | set | dict)
        and len(value) > 0
        and all(isinstance(word, str) and word.isalpha() for word in value)
    ),
}


def test_bad_arguments_of_metrics_and_scorers_are_refused(quickest: Any, tally: Tally) -> None:
    random = np.random.default_rng(SEED + 1)
    vector = al.compute_steering_vector(quickest, PAIRS[0], layer=2)
    tally.blocks = 0
    for _ in range(FACTORIES):
        name = list(FACTORY_RULES)[random.integers(len(FACTORY_RULES))]
        value = JUNK[random.integers(len(JUNK))]()

        def run(name: str = name, value: Any = value) -> Any:
            made = getattr(scorers if name == "word_share" else metrics, name)(value)
            if name == "word_share":
                return made(["The dog ran"])
            return al.measure(quickest, PROMPT, vector, made, progress=False)

        rule = FACTORY_RULES[name]
        is_sound = bool(rule(value)) or (isinstance(value, str) and value in {"0", "1", " ", "\0", "all"})
        tally.note(f"{name}({shown(value)})", run, is_sound=is_sound)
    tally.check(FACTORIES)


# -- files -----------------------------------------------------------------------------------------------------


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """A file as a bad disk, an editor or an interrupted copy leaves it."""
    found = bytearray(content)
    kind = random.integers(5)
    if kind == 0:
        return bytes(found[: random.integers(len(found))])
    if kind == 1:
        for place in random.integers(len(found), size=random.integers(1, 40)):
            found[place] = random.integers(256)
    elif kind == 2:
        start = random.integers(len(found))
        del found[start : start + random.integers(1, 50)]
    elif kind == 3:
        start = random.integers(len(found))
        found[start:start] = random.bytes(int(random.integers(1, 50)))
    else:
        found = bytearray(random.bytes(int(random.integers(1, 400))))
    return bytes(found)


def test_damaged_files_are_refused_or_right(quickest: Any, tmp_path: Path, tally: Tally) -> None:
    random = np.random.default_rng(SEED + 2)
    handles = dict(quickest.blocks[0]._forward_pre_hooks)
    quickest.blocks[0]._forward_pre_hooks.clear()  # stores tell a model with hooks apart
    vector = al.compute_steering_vector(quickest, PAIRS[0], layer=2)
    vector.save(tmp_path / "vector.safetensors")
    others = [al.project_out(vector.row(1)), al.gated(al.scale(2.0, layer=1), al.gate(vector.row(1), 0.5))]
    al.save_interventions(others, tmp_path / "others.safetensors")
    settings: dict[str, Any] = {
        "layers": [1, 2],
        "coefficients": [2],
        "prompts": PROMPT,
        "metric": metrics.entropy(),
        "progress": False,
    }
    expected = al.sweep(quickest, PAIRS[0], **settings, path=tmp_path / "sweep.sqlite")
    (tmp_path / "table.csv").write_text('text,label\n"Good, so good",up\nBad,down\n')
    (tmp_path / "table.jsonl").write_text('{"text": "Good", "label": "up"}\n{"text": "1990", "label": "down"}\n')
    whole = {path.name: path.read_bytes() for path in sorted(tmp_path.iterdir())}

    def right_vector(path: Path) -> None:
        if not torch.equal(al.SteeringVector.load(path).activations, vector.activations):
            raise WrongError

    def right_others(path: Path) -> None:
        projection, gated = al.load_interventions(path)
        is_right = torch.equal(projection.vector.activations, others[0].vector.activations)
        if not is_right or gated.gate.threshold != 0.5 or float(gated.inner.factor) != 2.0:  # type: ignore[attr-defined]
            raise WrongError

    def right_sweep(path: Path) -> None:
        found = al.sweep(quickest, PAIRS[0], **settings, path=path)
        if not np.allclose(found.steered, expected.steered, atol=1e-5):
            raise WrongError

    def tables(path: Path) -> None:
        found = read_texts(path)
        content = path.read_bytes().decode("utf-8-sig")
        if not all(text.strip() in content or path.suffix == ".jsonl" or '"' in content for text in found):
            raise WrongError
        read_labelled(path)
        read_table(path)

    readers = {
        "vector.safetensors": right_vector,
        "others.safetensors": right_others,
        "sweep.sqlite": right_sweep,
        "table.csv": tables,
        "table.jsonl": tables,
    }
    for number in range(FILES):
        name = list(readers)[number % len(readers)]
        path = tmp_path / f"{number}{Path(name).suffix}"
        path.write_bytes(damaged(whole[name], random))
        tally.note(f"{number} {name}", partial(readers[name], path), is_sound=True)
        for left in tmp_path.glob(f"{number}.*"):
            left.unlink()
    quickest.blocks[0]._forward_pre_hooks.update(handles)
    tally.check(FILES)


# -- the command line ------------------------------------------------------------------------------------------

SWEEP = {
    "--pair": ["Love", "Hate"],
    "--layers": ["1"],
    "--coefficients": ["2"],
    "--positions": ["front"],
    "--nulls": ["1"],
    "--seed": ["0"],
    "--batch-size": ["8"],
    "--logprob": [" the"],
}
STEER = {
    "--pair": ["Love", "Hate"],
    "--layer": ["1"],
    "--coefficient": ["2"],
    "--position": ["front"],
    "--max-new-tokens": ["2"],
    "--seed": ["0"],
}
WORDS = (
    "",
    " ",
    "0",
    "1",
    "-1",
    "1.5",
    "nan",
    "inf",
    "1e400",
    "x",
    "all",
    "front",
    "0:9",
    "3:1",
    "1,1",
    "1,,2",
    "١",
    "²",
    "\0",
    "dog " * 100,
    "-",
    "--",
    "None",
    "True",
    "99999999999999999999",
    "front,front",
    "back,x",
    "\udc80",
    "[1]",
    "1:2:0",
)

COMMAND_RULES: dict[str, Callable[[str], bool]] = {
    "--layers": lambda word: word in {"0", "1", "all"},
    "--layer": lambda word: word in {"0", "1"},
    "--coefficients": lambda word: word in {"0", "1", "-1", "1.5"} or word.strip() == "99999999999999999999",
    "--coefficient": lambda word: word in {"0", "1", "-1", "1.5"} or word.strip() == "99999999999999999999",
    "--positions": lambda word: word in {"0", "1", "front"},
    "--position": lambda word: word in {"0", "1", "front"},
    "--nulls": lambda word: word in {"0", "1"},
    "--seed": lambda word: word in {"0", "1", "99999999999999999999"},
    "--batch-size": lambda word: word in {"1", "99999999999999999999"},
    "--max-new-tokens": lambda word: word == "1",
    "--pair": lambda word: "\udc80" not in word and len(word) < 200,
    "--logprob": lambda word: word in {"0", "1", "x", "-", " ", "²", "\0", "all"},
}


def run_command(words: list[str]) -> None:
    """A command as a user types it; what it refuses in words is an error of ours."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(words)
        except SystemExit as left:
            code = int(left.code or 0)
    if code:
        if code != 2 or "error" not in told.getvalue():
            raise WrongError
        raise al.SettingError(told.getvalue())


@pytest.mark.parametrize("command", ["show", "fetch", "nowhere"])
def test_names_that_a_command_does_not_know_are_refused(
    tmp_path: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for word in WORDS:
        tally.note(f"{command} {word!r}", partial(run_command, [command, word]), is_sound=word in {"-", "--"})
    tally.check(len(WORDS))


def test_bad_words_on_the_command_line_are_refused(
    quickest: Any, tmp_path: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(SEED + 3)
    monkeypatch.setattr("actadd_lens.models.load_model", lambda *args, **options: quickest)
    monkeypatch.chdir(tmp_path)
    for _ in range(COMMANDS):
        command, options = [("sweep", SWEEP), ("steer", STEER)][random.integers(2)]
        name = list(options)[random.integers(len(options))]
        word = WORDS[random.integers(len(WORDS))]
        word = "2.0" if name == "--nulls" and word.startswith("999") else word  # which would be sound, and take forever
        words = [part for option, values in options.items() if option != name for part in as_words(option, values)]
        words += as_words(name, [word] if len(options[name]) == 1 else [word, options[name][1]])

        is_sound = COMMAND_RULES[name](word.replace("١", "1"))  # Python reads the digits of every script
        words = [command, *words, "--", PROMPT]
        tally.note(f"{command} {name} {word!r}", partial(run_command, words), is_sound=is_sound)
    tally.check(COMMANDS)


def as_words(option: str, values: list[str]) -> list[str]:
    return [f"{option}={values[0]}"] if len(values) == 1 else [option, *values]


def test_a_damaged_store_is_no_database_of_ours(tmp_path: Path) -> None:
    """The fuzz itself can see: a value that is changed without its checksum is not read."""
    from actadd_lens.sweeps.store import ResultStore

    store = ResultStore(tmp_path / "one.sqlite")
    store.put([(b"k" * 16, b"value")])
    store.close()
    connection = sqlite3.connect(tmp_path / "one.sqlite")
    connection.execute("UPDATE results SET value = substr(value, 1, 12) || x'41'")
    connection.commit()
    connection.close()
    with pytest.raises(al.SettingError):
        ResultStore(tmp_path / "one.sqlite").get([b"k" * 16])
