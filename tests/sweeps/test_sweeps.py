"""Sweeps: the numbers of the naive loop, kept on disk without mixing, and read with honest statistics."""

import dataclasses
import json
import os
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import actadd_lens as al
from actadd_lens import metrics, scorers
from actadd_lens.cli import main
from actadd_lens.cli.options import numbers as numbers_of
from actadd_lens.models import backend_of
from actadd_lens.models.protocol import Start
from actadd_lens.statistics import effect_power, paired_effect, split_prompts
from actadd_lens.sweeps.grid import Grid
from actadd_lens.sweeps.keys import SweepKeys
from actadd_lens.sweeps.registering import read_plan
from actadd_lens.sweeps.sweep import plan_sweep
from tests.support import PAIRS, hook_state, prompts, tokens_of, watched

PROMPTS = ("The girl looked at the dog. She felt", "It was a good day and she", "The old dog said that the girl was")
TOKEN = " the"


def measures() -> list[al.Metric]:
    """One of each kind: the last logits, the unsteered ones beside them, and every column."""
    return [metrics.next_token_logprob(10), metrics.kl_divergence("unsteered || steered"), metrics.cross_entropy()]


def by_hand(logits: Tensor, plain: Tensor, tokens: Tensor, left_out: range) -> list[float]:
    """The metrics of `measures` of one prompt's logits, written out."""
    steered, unsteered = logits[-1].log_softmax(-1), plain[-1].log_softmax(-1)
    divergence = (unsteered.exp() * (unsteered - steered)).sum()
    counted = [at for at in range(len(tokens) - 1) if at not in left_out]
    nll = [-float(logits[at].log_softmax(-1)[tokens[at + 1]]) for at in counted if max(counted) > left_out.start]
    return [float(steered[10]), float(divergence), float(np.mean(nll)) if nll else float("nan")]


@torch.no_grad()
def naive(
    model: Any, pair: Any, layer: int, coefficient: float, position: Any, prompt: str, hooks: Any = ()
) -> tuple[list[float], list[float]]:
    """Steered and unsteered metrics of one cell on one prompt: steer, run, measure."""
    tokens = tokens_of(model, prompt)
    vector = al.compute_steering_vector(model, pair, layer=layer) if isinstance(pair, tuple) else pair.at_layer(layer)
    plain = model(tokens)[0]
    with al.steer(model, coefficient * vector, position=position):
        steered = model(tokens)[0]
    length = tokens.shape[1]
    starts = {"front": 0, "mid": length // 2 - vector.rows // 2, "back": length - vector.rows}
    start = starts.get(position, position)
    left_out = range(1, length) if position == "all" else range(start, start + vector.rows)
    return by_hand(steered, plain, tokens[0], left_out), by_hand(plain, plain, tokens[0], left_out)


def assert_is_naive(found: al.Sweep, model: Any, pairs: Sequence[Any]) -> None:
    """Every cell of a sweep against the naive loop."""
    grid = found.grid
    for place in np.ndindex(*grid.shape):
        pair, layer, coefficient, position = place
        for number, prompt in enumerate(grid.prompts):
            steered, plain = naive(
                model, pairs[pair], grid.layers[layer], grid.coefficients[coefficient], grid.positions[position], prompt
            )
            np.testing.assert_allclose(found.steered[(slice(None), *place, number, 0)], steered, atol=1e-5, rtol=1e-5)
            np.testing.assert_allclose(found.unsteered[:, pair, position, number, 0], plain, atol=1e-5, rtol=1e-5)


# -- equal to the naive loop -----------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=4)
def test_a_random_grid_is_the_naive_loop(model: Any, data: st.DataObject) -> None:
    top = model.cfg.n_layers
    pairs = data.draw(st.lists(st.sampled_from(PAIRS[:2]), min_size=1, max_size=2, unique=True))
    layers = data.draw(st.lists(st.integers(0, top - 1), min_size=1, max_size=3, unique=True))
    coefficients = data.draw(st.lists(st.sampled_from([-4.0, 0.0, 0.5, 3.0]), min_size=1, max_size=2, unique=True))
    places: list[str | int] = ["front", "mid", "back", 1]
    positions = data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=2, unique=True))
    texts = [f"The girl looked {text}" for text in data.draw(st.lists(prompts, min_size=1, max_size=3))]
    found = al.sweep(
        model, pairs, layers=layers, coefficients=coefficients, positions=positions, prompts=texts, metric=measures(),
        batch_size=data.draw(st.sampled_from([1, 5, 64])),
    )  # fmt: skip
    assert_is_naive(found, model, pairs)


def test_a_vector_with_a_position_is_swept_without_it(small: Any) -> None:
    """A method's vector brings a position, and a sweep varies it."""
    pairs = [("I love it", "I hate it"), ("It was good", "It was bad")]
    last, metric = al.methods.caa(small, pairs, layer=2), al.metrics.next_token_logprob(10)
    with pytest.raises(al.VectorError, match=r"has its own: take it away with \.at\(position=None\)"):
        al.sweep(small, last, layers=2, coefficients=2.0, prompts=PROMPTS, metric=metric)
    free = last.at(position=None)
    assert free.position is None
    assert last.position is not None
    swept = al.sweep(small, free, layers=2, coefficients=2.0, positions=[last.position], prompts=PROMPTS, metric=metric)
    alone = al.measure(small, PROMPTS, 2.0 * last, metric)
    assert swept.effect().mean == pytest.approx(alone.effect.mean, abs=1e-5)


def test_position_all_is_the_naive_loop(small: Any) -> None:
    vector = al.compute_steering_vector(small, PAIRS[0], layer=1).row(-1)
    found = al.sweep(
        small, vector, layers=[0, 2], coefficients=[3], positions="all", prompts=PROMPTS, metric=measures()
    )
    assert_is_naive(found, small, [vector])


def test_nulls_are_measured_as_null_vectors_are(small: Any) -> None:
    metric = metrics.next_token_logprob(10)
    found = al.sweep(small, PAIRS[0], layers=[1, 3], coefficients=[2, -3], prompts=PROMPTS, metric=metric, nulls=3)
    for layer, coefficient in [(0, 1), (1, 0)]:
        number, scale = found.grid.layers[layer], found.grid.coefficients[coefficient]
        vector = scale * al.compute_steering_vector(small, PAIRS[0], layer=number)
        expected = al.measure(small, PROMPTS, vector, metric, nulls=3)
        np.testing.assert_allclose(found.nulls[0, :, 0, layer, coefficient, 0], expected.nulls, atol=2e-5)


def test_a_null_is_one_pair_of_phrases_at_every_layer(small: Any) -> None:
    plan = al.plan_sweep(small, PAIRS[0], layers=[0, 2], coefficients=1, prompts=PROMPTS, metric=len, nulls=4)
    vectors = plan.passes.placed.vectors([0])
    own = al.null_vectors(small, al.compute_steering_vector(small, PAIRS[0], layer=2), n=4)
    for ours, theirs in zip(vectors[0, 1][1:], own, strict=True):
        assert isinstance(ours, al.SteeringVector)
        assert torch.allclose(ours.activations, theirs.activations, atol=1e-5)


def test_zero_coefficient_has_exactly_no_effect(quickest: Any) -> None:
    found = al.sweep(quickest, PAIRS[0], layers=range(4), coefficients=0, prompts=PROMPTS[0], metric=measures()[0])
    assert np.abs(found.effects).max() < 1e-6


# -- the caller's hooks ----------------------------------------------------------------------------------------


def test_the_callers_hooks_act_as_in_the_naive_loop(small: Any) -> None:
    """Hooks below, at and above the injection, in place and from the end of the prompt."""

    def scale(stream: Tensor, hook: Any) -> Tensor:
        return 1.5 * stream

    def silence_last(stream: Tensor, hook: Any) -> None:
        stream[:, -1, :3] = 0.0

    before = hook_state(small)
    hooks = [
        ("blocks.0.hook_resid_post", scale),
        ("blocks.1.hook_resid_pre", silence_last),
        ("blocks.1.hook_resid_pre", scale),
        ("blocks.2.hook_mlp_out", scale),
    ]
    with small.hooks(fwd_hooks=hooks):
        found = al.sweep(small, PAIRS[0], layers=[0, 1, 2], coefficients=[2], prompts=PROMPTS, metric=measures())
        assert_is_naive(found, small, PAIRS[:1])
    assert hook_state(small) == before


def test_a_hook_sees_the_unsteered_stream_at_the_injection_layer_once_per_row(hooked: Any) -> None:
    seen = []
    with hooked.hooks(fwd_hooks=[("blocks.2.hook_resid_pre", lambda stream, hook: seen.append(stream.clone()))]):
        al.sweep(hooked, PAIRS[0], layers=2, coefficients=[5, 9], prompts=PROMPTS[0], metric=measures()[0])
    unsteered, rows = seen[-2:]
    assert len(rows) == 2
    assert torch.equal(rows, unsteered.expand_as(rows))


def test_steering_that_is_open_is_left_out(quickest: Any) -> None:
    settings: dict[str, Any] = {"layers": [1], "coefficients": [2], "prompts": PROMPTS, "metric": measures()}
    expected = al.sweep(quickest, PAIRS[0], **settings)
    with al.steer(quickest, 9 * al.compute_steering_vector(quickest, PAIRS[1], layer=0)):
        found = al.sweep(quickest, PAIRS[0], **settings)
    assert np.array_equal(found.steered, expected.steered)
    assert np.array_equal(found.unsteered, expected.unsteered)


# -- files -----------------------------------------------------------------------------------------------------

GRID: dict[str, Any] = {"layers": [1, 3], "coefficients": [-2, 3], "prompts": PROMPTS, "metric": metrics.entropy()}


def passes_of(model: Any, run: Any) -> int:
    """Forward passes of a call: every one goes through the last block."""
    count = 0

    def note() -> None:
        nonlocal count
        count += 1

    with watched(model.blocks[-1], note):
        run()
    return count


def test_a_second_run_on_one_file_computes_nothing(small: Any, tmp_path: Path) -> None:
    settings = {**GRID, "nulls": 2, "path": tmp_path / "sweep.sqlite"}
    first = al.sweep(small, PAIRS[0], **settings)
    again = []
    assert passes_of(small, lambda: again.append(al.sweep(small, PAIRS[0], **settings))) == 0
    for name in ("steered", "unsteered", "nulls"):
        assert np.array_equal(getattr(first, name), getattr(again[0], name))
    cost = al.plan_sweep(small, PAIRS[0], **settings).cost
    assert (cost.rows, cost.stored, cost.passes) == (36, 36, 0)


def test_a_larger_grid_computes_only_what_is_new(quickest: Any, tmp_path: Path) -> None:
    path = tmp_path / "sweep.sqlite"
    al.sweep(quickest, PAIRS[0], **GRID, path=path)
    larger = {**GRID, "coefficients": [-2, 3, 7], "prompts": [*PROMPTS, "She felt good"], "path": path}
    assert al.plan_sweep(quickest, PAIRS[0], **larger).cost.stored == 12
    expected = al.sweep(quickest, PAIRS[0], **{**larger, "path": None})
    found = al.sweep(quickest, PAIRS[0], **larger).steered
    np.testing.assert_allclose(found, expected.steered, atol=1e-5)  # the batches are others, so rounding is too


def bound_to(index: int) -> Any:
    return lambda logits: logits[:, index]


class Shifted:
    """A metric that is an object."""

    def __init__(self, by: Any) -> None:
        self.by = by

    def __call__(self, logits: Tensor) -> Tensor:
        return logits[:, 3] + self.by.sum()


CHANGES: dict[str, dict[str, Any]] = {
    "a function's closure": {"metric": bound_to(4)},
    "an object's attribute": {"metric": Shifted(torch.tensor([2.0]))},
    "a metric's argument behind its name": {"metric": metrics.token_set_logprob([1, 2, 3, 5])},
    "another metric": {"metric": metrics.next_token_logprob(10)},
    "the pair": {"pairs": PAIRS[1]},
    "the pad": {"pairs": al.PromptPair("Love", "The girl", pad=" a")},
    "a layer": {"layers": [2]},
    "a coefficient": {"coefficients": [2.5]},
    "the position": {"positions": "back"},
    "the prompt": {"prompts": "The girl was good"},
    "BOS": {"prepend_bos": False},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_setting_never_meets_old_rows(quickest: Any, tmp_path: Path, change: str) -> None:
    common: dict[str, Any] = {"pairs": PAIRS[0], "layers": [1], "coefficients": [2], "prompts": PROMPTS[0]}
    origin = {"an object's attribute": Shifted(torch.tensor([1.0])), "the pad": metrics.entropy()}
    old = {**common, "metric": origin.get(change, bound_to(3)), "path": tmp_path / "sweep.sqlite"}
    if change.startswith("a metric's"):
        old["metric"] = metrics.token_set_logprob([1, 2, 3, 4])
    if change == "the pad":
        old["pairs"] = al.PromptPair("Love", "The girl", pad=" was")
    al.sweep(quickest, **old)
    assert al.plan_sweep(quickest, **old).cost.stored == 1
    assert al.plan_sweep(quickest, **{**old, **CHANGES[change]}).cost.stored == 0


def test_changed_nulls_never_meet_old_nulls(quickest: Any, tmp_path: Path) -> None:
    settings = {**GRID, "path": tmp_path / "sweep.sqlite"}
    al.sweep(quickest, PAIRS[0], **settings, nulls=2)
    for change in ({"nulls": 3}, {"nulls": 2, "seed": 1}, {"nulls": 2, "null_kind": "gaussian"}):
        assert al.plan_sweep(quickest, PAIRS[0], **settings, **change).cost.stored == 12  # the vector's own rows


def test_changed_weights_and_hooks_never_meet_old_rows(quickest: Any, tmp_path: Path) -> None:
    settings = {**GRID, "path": tmp_path / "sweep.sqlite"}
    al.sweep(quickest, PAIRS[0], **settings)

    def stored() -> int:
        return al.plan_sweep(quickest, PAIRS[0], **settings).cost.stored

    assert stored() == 12
    with quickest.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda out, hook: 2 * out)]):
        assert stored() == 0
    weight = next(quickest.parameters())
    with torch.no_grad():
        weight += 1.0
        assert stored() == 0
        weight -= 1.0


@pytest.mark.parametrize("family", ["hooked", "bridge"])
def test_a_run_that_is_cut_anywhere_resumes_to_the_same_table(load: Any, tmp_path: Path, family: str) -> None:
    model = load("gpt2", family)
    settings = {**GRID, "nulls": 3, "batch_size": 5}
    expected = al.sweep(model, PAIRS[0], **settings)
    ran = passes_of(model, lambda: al.sweep(model, PAIRS[0], **settings))
    for cut in np.linspace(1, ran - 1, 4).astype(int):
        path, left = tmp_path / f"{cut}.sqlite", int(cut)

        def stop() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), watched(model.blocks[-1], stop):
            al.sweep(model, PAIRS[0], **settings, path=path)
        found = al.sweep(model, PAIRS[0], **settings, path=path)
        assert np.array_equal(found.steered, expected.steered, equal_nan=True)
        assert np.array_equal(found.nulls, expected.nulls, equal_nan=True)


def in_another_process(work: Callable[[], Any]) -> int:
    """A copy of this process that does something and ends; its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch holds idle threads
        child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed only where they can be forked")
def test_a_run_that_is_killed_resumes_to_the_same_table(quickest: Any, tmp_path: Path) -> None:
    settings = {**GRID, "layers": range(4), "coefficients": range(1, 9), "nulls": 4, "batch_size": 16}
    expected = al.sweep(quickest, PAIRS[0], **settings)
    start = time.perf_counter()
    os.waitpid(in_another_process(lambda: al.sweep(quickest, PAIRS[0], **settings, path=tmp_path / "whole.sqlite")), 0)
    seconds = time.perf_counter() - start
    killed = 0
    for attempt, share in enumerate(np.random.default_rng(0).uniform(0, 1, size=10)):
        path = tmp_path / f"{attempt}.sqlite"
        child = in_another_process(partial(al.sweep, quickest, PAIRS[0], **settings, path=path))
        time.sleep(share * seconds)
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        found = al.sweep(quickest, PAIRS[0], **settings, path=path)
        assert np.array_equal(found.steered, expected.steered, equal_nan=True)
        assert np.array_equal(found.nulls, expected.nulls, equal_nan=True)
    assert killed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
def test_processes_that_share_a_file_leave_it_sound(quickest: Any, tmp_path: Path) -> None:
    settings = {**GRID, "coefficients": range(1, 9), "nulls": 4, "batch_size": 8, "path": tmp_path / "sweep.sqlite"}
    children = [in_another_process(lambda: al.sweep(quickest, PAIRS[0], **settings)) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    expected = al.sweep(quickest, PAIRS[0], **{**settings, "path": None})
    again = []
    assert passes_of(quickest, lambda: again.append(al.sweep(quickest, PAIRS[0], **settings))) == 0
    assert np.array_equal(again[0].nulls, expected.nulls, equal_nan=True)


def test_a_file_of_another_kind_is_refused(quickest: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to look like something " * 40)
    with pytest.raises(al.SettingError, match="cannot hold the results of a sweep"):
        al.sweep(quickest, PAIRS[0], **GRID, path=path)


def test_what_cannot_be_told_apart_is_refused_where_results_are_kept(quickest: Any, tmp_path: Path) -> None:
    source = iter(())
    metric = lambda logits: logits[:, 0] + len(list(source))  # noqa: E731
    with pytest.raises(al.SettingError, match="cannot be distinguished from another one"):
        al.sweep(quickest, PAIRS[0], **{**GRID, "metric": metric, "path": tmp_path / "sweep.sqlite"})


# -- memory ----------------------------------------------------------------------------------------------------


def test_a_batch_that_does_not_fit_is_halved_without_loss(quickest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = type(backend_of(quickest))
    settings = {**GRID, "coefficients": [-2, 1, 3], "nulls": 2}
    expected = al.sweep(quickest, PAIRS[0], **settings)
    start, resume, read = backend.starts, backend.ends_from, backend.read_out

    def small_start(self: Any, tokens: Tensor, *args: Any) -> Any:
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return start(self, tokens, *args)

    def small_resume(self: Any, rows: Start, *args: Any) -> Any:
        if len(rows) > 4:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"
            )
        return resume(self, rows, *args)

    def small_read(self: Any, ends: Tensor) -> Any:
        if len(ends) > 3:
            raise MemoryError
        return read(self, ends)

    monkeypatch.setattr(backend, "starts", small_start)
    monkeypatch.setattr(backend, "ends_from", small_resume)
    monkeypatch.setattr(backend, "read_out", small_read)
    found = al.sweep(quickest, PAIRS[0], **settings)
    np.testing.assert_allclose(found.steered, expected.steered, atol=1e-5)
    np.testing.assert_allclose(found.nulls, expected.nulls, atol=1e-5)


def test_another_error_is_not_swallowed(quickest: Any) -> None:
    def fail(logits: Tensor) -> Tensor:
        raise RuntimeError("my metric failed")

    with pytest.raises(RuntimeError, match="my metric failed"):
        al.sweep(quickest, PAIRS[0], **{**GRID, "metric": fail})


def test_the_cost_that_is_told_is_what_is_run(hooked: Any) -> None:
    settings = {**GRID, "nulls": 2, "batch_size": 4}
    cost = al.plan_sweep(hooked, PAIRS[0], **settings).cost
    assert (cost.cells, cost.rows) == (4, 4 * 3 * 3)
    ran = passes_of(hooked, lambda: al.sweep(hooked, PAIRS[0], **settings))
    assert cost.passes == ran + 2  # two passes for vectors stop below the last block
    assert "4 cells × 3 prompts × (1 + 2 nulls) = 36 steered rows" in str(cost)


# -- wrong input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layers": [9]}, al.LayerError, "Layer 9 does not exist"),
        ({"layers": []}, al.LayerError, "no layers"),
        ({"layers": [1, 1]}, al.SettingError, "contains 1 twice"),
        ({"coefficients": [float("nan")]}, al.CoefficientError, "not finite"),
        ({"positions": [-1]}, al.PositionError, "is negative"),
        ({"positions": ["front", 8]}, al.PositionError, "does not fit"),
        ({"positions": "all"}, al.PositionError, "takes a vector of one row"),
        ({"prompts": []}, al.PromptError, "No prompt"),
        ({"metric": []}, al.SettingError, "one or more"),
        ({"metric": [metrics.entropy(), metrics.entropy()]}, al.SettingError, "a different name"),
        ({"nulls": -1}, al.SettingError, "nulls is -1"),
        ({"batch_size": 0}, al.SettingError, "batch_size is 0"),
        ({"seed": -1}, al.SettingError, "seed is -1"),
    ],
)
def test_wrong_input_fails_before_any_pass(quickest: Any, change: dict[str, Any], error: Any, message: str) -> None:
    def run() -> None:
        with pytest.raises(error, match=message):
            al.sweep(quickest, PAIRS[0], **{**GRID, **change})

    assert passes_of(quickest, run) == 0


# -- statistics ------------------------------------------------------------------------------------------------


def made_up(effects: np.ndarray, nulls: np.ndarray | None = None) -> al.Sweep:
    """A sweep with given numbers: effects [metrics, layers, coefficients, prompts], nulls [metrics, nulls, ...]."""
    count, layers, coefficients, texts = effects.shape
    nulls = np.zeros((count, 0, layers, coefficients, texts)) if nulls is None else nulls
    grid = Grid(
        (al.PromptPair("a", "b"),), tuple(range(layers)), tuple(map(float, range(coefficients))), ("front",),
        tuple(map(str, range(texts))), nulls.shape[1],
    )  # fmt: skip
    names = tuple(f"metric {index}" for index in range(count))
    return al.Sweep(
        grid, names, ("nats",) * count, effects[:, None, :, :, None, :, None], np.zeros((count, 1, 1, texts, 1)),
        nulls[:, :, None, :, :, None],
    )  # fmt: skip


def test_intervals_are_those_of_each_cell_alone() -> None:
    random = np.random.default_rng(0)
    found = made_up(random.normal(size=(1, 2, 3, 14)))
    found.steered[0, 0, 1, 2, 0, 5] = np.nan
    low, high, covers = found.intervals()
    assert covers == "prompts"
    for layer, coefficient in np.ndindex(2, 3):
        effect = found.effect(layer=layer, coefficient=coefficient)
        ends = low[0, layer, coefficient, 0], high[0, layer, coefficient, 0]
        assert (effect.low, effect.high) == pytest.approx(ends, abs=1e-12)
    assert found.effect(layer=1, coefficient=2).n_prompts == 13


def test_adjusted_p_values_keep_the_error_of_a_whole_grid() -> None:
    """Vector and nulls alike, cells of very different sizes: any is significant in at most 5 % of the grids."""
    random = np.random.default_rng(0)
    scale = np.array([0.01, 1.0, 100.0])
    stood = 0
    for _ in range(400):
        conditions = random.normal(size=(1, 20, 4, 3, 1)) * scale[None, None, None, :, None]
        stood += bool(made_up(conditions[:, 0], conditions[:, 1:]).significant().any())
    assert 1 <= stood <= 400 * 0.05 + 3 * np.sqrt(400 * 0.05 * 0.95)


def test_the_old_name_of_significant_cells_works_and_says_the_new_one() -> None:
    found = made_up(np.array([0.08, 50.0]).reshape(1, 1, 2, 1))
    with pytest.warns(DeprecationWarning, match="is now Sweep.significant"):
        assert np.array_equal(found.stands(), found.significant())


def test_a_small_cell_can_be_significant_beside_a_large_one() -> None:
    random = np.random.default_rng(0)
    nulls = random.normal(size=(1, 40, 1, 2, 1)) * np.array([0.01, 100.0])[:, None]
    effects = np.array([0.08, 50.0]).reshape(1, 1, 2, 1)
    assert made_up(effects, nulls).significant()[0, 0, :, 0].tolist() == [True, False]


def test_a_cell_is_not_significant_while_its_interval_holds_zero() -> None:
    random = np.random.default_rng(1)
    nulls = 5.0 + 0.01 * random.normal(size=(1, 40, 1, 1, 12))
    effects = random.normal(size=(1, 1, 1, 12))
    found = made_up(effects - effects.mean(), nulls)  # no effect, where all nulls have the same one
    assert found.p_values()[0, 0, 0, 0] <= 0.05
    assert not found.significant().any()


def test_without_nulls_a_cell_stands_when_flipped_signs_say_so() -> None:
    effects = np.zeros((1, 2, 1, 10))
    effects[0, 0], effects[0, 1] = np.linspace(1.0, 2.0, 10), np.linspace(-1.0, 1.1, 10)
    assert made_up(effects).significant().ravel().tolist() == [True, False]
    assert not made_up(effects[..., :5]).significant().any()  # 2 of 32 flips are as large, whatever the prompts do


def test_a_null_without_an_allowed_cell_finds_nothing_as_the_vector_might() -> None:
    random = np.random.default_rng(2)
    effects, damage = np.full((1, 1, 8), 3.0), np.zeros((1, 1, 8))
    nulls = random.normal(size=(4, 1, 1, 8))
    harm = np.zeros((4, 1, 1, 8))
    harm[:2] = 9.0
    best = made_up(np.stack([effects, damage]), np.stack([nulls, harm])).best(at_most={1: 1.0})
    assert (len(best.effect.nulls), best.without_cell, best.p_value) == (2, 2, 1 / 3)
    assert "2 nulls have no allowed cell" in repr(best)
    with pytest.raises(al.SettingError, match="2 of 4 nulls have none either"):
        made_up(np.stack([effects, damage + 9]), np.stack([nulls, harm])).best(at_most={1: 1.0})


def test_several_pairs_of_one_concept_are_a_sample_of_such_pairs() -> None:
    random = np.random.default_rng(3)
    alone = made_up(random.normal(size=(1, 1, 1, 20)))
    by_pair = np.array([1.0, 5.0, 9.0])[:, None] + 0.1 * random.normal(size=(3, 20))
    pairs = dataclasses.replace(alone.grid, pairs=tuple(al.PromptPair(name, "b") for name in "abc"))
    found = dataclasses.replace(
        alone, grid=pairs, steered=by_pair[None, :, None, None, None, :, None],
        unsteered=np.zeros((1, 3, 1, 20, 1)), nulls=np.zeros((1, 0, 3, 1, 1, 1, 20)),
    ).concept()  # fmt: skip
    assert found.mean == pytest.approx(by_pair.mean())
    assert found.low < 0 < found.high  # three pairs that differ so much say little of a fourth


def test_the_best_cell_is_chosen_without_the_prompts_that_it_is_reported_on() -> None:
    effects = np.zeros((1, 1, 2, 8))
    choose, report = split_prompts(8)
    effects[0, 0, 0, list(choose)], effects[0, 0, 0, list(report)] = 2.0, -1.0
    effects[0, 0, 1, list(choose)], effects[0, 0, 1, list(report)] = 1.0, 5.0
    best = made_up(effects).best()
    assert (best.coefficient, best.chosen.mean, best.effect.mean) == (0.0, 2.0, -1.0)
    assert made_up(effects).best(alternative="less").effect.mean == 5.0


def test_nulls_choose_their_own_best_cell() -> None:
    """A vector like its nulls is significant no more often than it ought to be, though it is the best of many."""
    random = np.random.default_rng(0)
    p_values = []
    for _ in range(300):
        conditions = random.normal(size=(1, 20, 3, 4, 1)) + 0.1 * random.normal(size=(1, 20, 3, 4, 8))
        p_values.append(made_up(conditions[:, 0], conditions[:, 1:]).best().p_value)
    assert 0.01 < np.mean(np.array(p_values) <= 0.05) < 0.09


def test_the_best_cell_keeps_its_limits() -> None:
    effects = np.stack([np.full((1, 3, 8), [[1.0], [2.0], [3.0]]), np.full((1, 3, 8), [[0.1], [0.2], [0.9]])])
    assert made_up(effects).best(at_most={"metric 1": 0.5}).coefficient == 1.0
    with pytest.raises(al.SettingError, match="No cell stays below"):
        made_up(effects).best(at_most={1: 0.0})


@given(numbers=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_frontier_is_what_no_cell_dominates(numbers: list[tuple[int, int]]) -> None:
    effects = np.array(numbers, dtype=float).T.reshape(2, 1, -1, 1)
    found = made_up(effects).frontier().undominated.ravel()
    for index, (gain, cost) in enumerate(numbers):
        beaten = any((g >= gain and c <= cost and (g, c) != (gain, cost)) for g, c in numbers)
        assert found[index] != beaten


def test_effect_and_damage_may_come_from_other_prompts(quickest: Any) -> None:
    on_target = al.sweep(quickest, PAIRS[0], **GRID)
    elsewhere = al.sweep(quickest, PAIRS[0], **{**GRID, "prompts": "She said", "metric": metrics.kl_divergence()})
    frontier = on_target.frontier(elsewhere)
    assert frontier.damage_metric == "KL(steered || unsteered)"
    assert len(frontier.frame()) == 4
    other = al.sweep(quickest, PAIRS[0], **{**GRID, "layers": [0]})
    with pytest.raises(al.SettingError, match="cannot share a frontier"):
        on_target.frontier(other)


# -- texts -----------------------------------------------------------------------------------------------------

TEXTS: dict[str, Any] = {
    "layers": [1, 3], "coefficients": [-2, 3], "positions": ["front", "back"], "prompts": PROMPTS, "n": 2,
    "max_new_tokens": 6, "scorers": [scorers.word_count(["the"]), scorers.contains_word(["dog", "girl"])],
}  # fmt: skip


def test_the_texts_of_a_cell_are_those_of_complete(model: Any) -> None:
    found = al.sweep_completions(model, PAIRS[:2], **TEXTS, seed=3, top_p=0.9, batch_size=10)
    for pair, layer, coefficient, position in [(0, 0, 1, 0), (1, 1, 0, 1)]:
        number, scale = found.grid.layers[layer], found.grid.coefficients[coefficient]
        vector = scale * al.compute_steering_vector(model, PAIRS[pair], layer=number)
        place = found.grid.positions[position]
        alone = al.complete(model, PROMPTS, vector, position=place, n=2, max_new_tokens=6, seed=3, top_p=0.9)
        assert found.texts[pair, layer, coefficient, position].tolist() == [list(row) for row in alone.steered]
        assert found.unsteered_texts.tolist() == [list(row) for row in alone.unsteered]
        expected = alone.score(TEXTS["scorers"][0])
        cell = found.effect(0, pair=pair, layer=number, coefficient=scale, position=place)
        assert (cell.mean, cell.low, cell.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_nulls_of_texts_are_those_of_measure_completions(quickest: Any) -> None:
    settings = {**TEXTS, "layers": [2], "coefficients": [3], "positions": "front"}
    found = al.sweep_completions(quickest, PAIRS[0], **settings, nulls=3)
    vector = 3 * al.compute_steering_vector(quickest, PAIRS[0], layer=2)
    expected = al.measure_completions(quickest, PROMPTS, vector, TEXTS["scorers"], n=2, nulls=3, max_new_tokens=6)
    for index, measured in enumerate(expected):
        assert found.effect(index).mean == pytest.approx(measured.effect.mean)
        assert found.null_effects[index].ravel() == pytest.approx(measured.effect.nulls)


def test_texts_are_kept_and_scored_again_without_any_pass(quickest: Any, tmp_path: Path) -> None:
    settings = {**TEXTS, "nulls": 2, "path": tmp_path / "texts.sqlite"}
    first = al.sweep_completions(quickest, PAIRS[0], **settings)
    again = []
    other = {**settings, "scorers": lambda texts: [float(len(text)) for text in texts]}
    assert passes_of(quickest, lambda: again.append(al.sweep_completions(quickest, PAIRS[0], **other))) == 0
    assert np.array_equal(first.texts, again[0].texts)
    assert repr(first).startswith(
        "CompletionSweep(1 pair × 2 layers × 2 coefficients × 2 positions, 3 prompts, 2 nulls"
    )
    assert al.plan_sweep_completions(quickest, PAIRS[0], **settings).cost.passes == 0
    for change in ({"max_new_tokens": 7}, {"seed": 1}, {"temperature": 0.5}, {"n": 1}, {"stop": "."}):
        changed = {**settings, **change}
        assert al.plan_sweep_completions(quickest, PAIRS[0], **changed).cost.stored == 0


def test_a_decoding_that_is_cut_resumes_to_the_same_texts(quickest: Any, tmp_path: Path) -> None:
    settings = {**TEXTS, "nulls": 2, "batch_size": 6}
    expected = al.sweep_completions(quickest, PAIRS[0], **settings)
    left = 60

    def stop() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), watched(quickest.blocks[-1], stop):
        al.sweep_completions(quickest, PAIRS[0], **settings, path=tmp_path / "texts.sqlite")
    assert al.plan_sweep_completions(quickest, PAIRS[0], **settings, path=tmp_path / "texts.sqlite").cost.stored > 0
    found = al.sweep_completions(quickest, PAIRS[0], **settings, path=tmp_path / "texts.sqlite")
    assert np.array_equal(found.texts, expected.texts)
    np.testing.assert_allclose(found.nulls, expected.nulls)


def test_a_decoding_that_does_not_fit_is_halved_without_loss(quickest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = type(backend_of(quickest))
    expected = al.sweep_completions(quickest, PAIRS[0], **TEXTS)
    step = backend.last_logits

    def small(self: Any, tokens: Tensor, **options: Any) -> Any:
        if len(tokens) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self, tokens, **options)

    monkeypatch.setattr(backend, "last_logits", small)
    found = al.sweep_completions(quickest, PAIRS[0], **TEXTS)
    assert np.array_equal(found.texts, expected.texts)


# -- showing ---------------------------------------------------------------------------------------------------


def test_frame_and_pictures_show_every_cell(quickest: Any) -> None:
    found = al.sweep(quickest, PAIRS[0], **{**GRID, "metric": [metrics.entropy(), metrics.kl_divergence()]}, nulls=2)
    frame = found.frame()
    assert len(frame) == 2 * 4
    assert {"layer", "coefficient", "effect", "low", "high", "adjusted p", "significant"} <= set(frame.columns)
    hatched = [patch for patch in found.plot().patches if patch.get_hatch()]
    assert len(hatched) == int((~found.significant()).sum()) == 4  # with two nulls no p-value can be small
    assert len(found.plot_lines("entropy").get_lines()) >= 2
    assert found.frontier().plot().get_xlabel().startswith("damage: KL")
    assert "2 layers × 2 coefficients" in repr(found)
    assert "<table" in found._repr_html_()


def test_a_cell_that_is_not_there_is_named(quickest: Any) -> None:
    found = al.sweep(quickest, PAIRS[0], **GRID)
    with pytest.raises(al.SettingError, match="There is no layer 2 in this sweep: it has 1, 3"):
        found.effect(layer=2, coefficient=3)
    with pytest.raises(al.SettingError, match="No coefficient was named"):
        found.effect(layer=1)


def test_the_best_cell_gives_its_vector(embedded: Any) -> None:
    texts = al.storybook.neutral_prompts()[:8]
    found = al.sweep(embedded, PAIRS[0], layers=[2, 5], coefficients=[1, 4], prompts=texts, metric=metrics.entropy())
    best = found.best()
    vector = best.vector(embedded)
    assert isinstance(vector, al.SteeringVector)
    assert (vector.layer, vector.coefficient, vector.position) == (best.layer, best.coefficient, "front")
    again = al.measure(embedded, texts, vector, metrics.entropy()).effect.by_prompt
    place = found.grid.layers.index(best.layer), found.grid.coefficients.index(best.coefficient)
    np.testing.assert_allclose(again, found.by_prompt[0, 0, place[0], place[1], 0], atol=2e-5)


# -- the command line ------------------------------------------------------------------------------------------

COMMAND = ["sweep", "--pair", "Love", "Hate", "--layers", "0:4:3", "--coefficients=-1,2", "--entropy", *PROMPTS]


def test_the_command_line_sweeps_writes_and_resumes(
    gpt2_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*COMMAND, "--model", str(gpt2_folder), "--out", str(tmp_path / "out")]
    assert main([*command, "--json"]) == 0
    told = capsys.readouterr()
    cells = json.loads(told.out)["cells"]
    assert [(cell["layer"], cell["coefficient"]) for cell in cells] == [(0, -1.0), (0, 2.0), (3, -1.0), (3, 2.0)]
    assert cells[0]["low"] < cells[0]["effect"] < cells[0]["high"]
    assert "4 cells × 3 prompts = 12 steered rows" in told.err
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"sweep.csv", "sweep_0_0_0.png", "results.sqlite"}
    assert main(command) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert "12 of them stored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume"], "give --out FOLDER"),
        (["--prompts", "nowhere.txt"], "There is no file nowhere.txt"),
    ],
)
def test_the_command_line_tells_wrong_settings(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main([*COMMAND, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("text", "numbers"), [("0:3", [0, 1, 2]), ("0:5:2,7", [0, 2, 4, 7]), ("all", "all")])
def test_layers_are_read_as_people_write_them(text: str, numbers: Any) -> None:
    assert numbers_of(text) == numbers


@pytest.mark.parametrize("text", ["", "1-3", "0:4:0", "-1", "1:2:3:4"])
def test_what_is_no_layer_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", "--pair", "a", "b", "--layers=" + text, "--coefficients", "1"])
    assert "--layers" in capsys.readouterr().err


# -- plans -----------------------------------------------------------------------------------------------------


def test_a_registered_plan_is_named_by_its_result_and_cannot_be_changed_unseen(quickest: Any, tmp_path: Path) -> None:
    plan = plan_sweep(quickest, PAIRS[0], **GRID)
    file = tmp_path / "plan.json"
    assert plan.run(progress=False).plan == ""
    found = plan.register(file, question="is the effect of the first cell significant?")
    assert plan.run(progress=False).plan == found == plan.hash == read_plan(file)["hash"]
    assert read_plan(file)["plan"]["prompts"] == list(GRID["prompts"])
    assert plan.register(file) == found  # the same again
    other = plan_sweep(quickest, PAIRS[0], **{**GRID, "coefficients": [9.0]})
    with pytest.raises(al.SettingError, match="holds another plan"):
        other.register(file)
    with pytest.raises(al.SettingError, match="another plan .* or question"):
        plan.register(file, question="is any cell significant?")
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(al.SettingError, match="was changed after it was registered"):
        read_plan(file)
    with pytest.raises(al.SettingError, match="holds no registered plan"):
        read_plan(tmp_path / "none.json")


def test_a_plan_tells_its_power_from_a_pilot(quickest: Any) -> None:
    plan = plan_sweep(quickest, PAIRS[0], **{**GRID, "nulls": 19})
    pilot = paired_effect(np.random.default_rng(0).normal(0.5, 1.0, size=(12, 1)), np.zeros((12, 1)))
    told = plan.power(pilot, effect=0.7)
    assert (told.n_prompts, told.smallest_p) == (len(GRID["prompts"]), 0.05)
    assert told.power < 0.8 < effect_power(told.smallest_effect, told.spread, told.n_prompts) + 1e-6
    assert effect_power(0.7, told.spread, told.prompts_needed) >= 0.8
    with pytest.raises(al.SettingError, match="without spread"):
        plan.power(paired_effect(np.ones((3, 1)), np.zeros((3, 1))))


def test_nulls_of_unpaired_additions_that_0_1_stored_are_not_read_again(quickest: Any) -> None:
    pairs = [al.PromptPair("Love", "Hate"), al.PromptPair("Love", None)]
    placed = plan_sweep(quickest, pairs, **{**GRID, "nulls": 2}).passes.placed
    paired, unpaired = (SweepKeys(placed, [1])._nulls[index] for index in (0, 1))
    assert paired != unpaired
