"""Passes of a bridge that begin at a layer: the same logits from fewer blocks, or a whole pass."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

import actadd_lens as al
from actadd_lens.models import backend_of
from actadd_lens.models.protocol import Start
from actadd_lens.models.resuming import entrances, known_forms, skipped
from tests.support import PAIRS

PROMPTS = ["The girl looked at the dog", "It was a good day and she", "The old dog"]


@pytest.fixture(params=["gpt2", "storybook", "stories"])
def bridge(request: pytest.FixtureRequest, load: Any) -> Any:
    """Each architecture as a bridge."""
    return load(request.param, "bridge")


@pytest.fixture
def small_bridge(load: Any) -> Any:
    return load("gpt2", "bridge")


def tokens_of(model: Any) -> Tensor:
    """Two prompts of equal length, and something behind the shorter one's end."""
    rows = [backend_of(model).encode(prompt)[:5] for prompt in PROMPTS[:2]]
    return torch.tensor([[*row, *row[:1] * (5 - len(row))] for row in rows])


@torch.no_grad()
def test_a_pass_from_any_layer_gives_the_logits_of_a_whole_one(bridge: Any) -> None:
    backend, tokens = backend_of(bridge), tokens_of(bridge)
    layers = range(backend.n_layers + 1)
    for columns in (None, torch.tensor([2, 4])):
        starts, logits = backend.starts(tokens, list(layers), columns)
        assert [layer for layer in layers if starts[layer].stream is None] == [0]
        for layer in layers:
            torch.testing.assert_close(backend.ends_from(starts[layer], layer, columns), logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_pass_from_a_layer_runs_no_block_below_it(small_bridge: Any) -> None:
    backend, ran = backend_of(small_bridge), []
    starts, _ = backend.starts(tokens_of(small_bridge), [2], None)
    with ExitStack() as stack:
        for number, block in enumerate(small_bridge.blocks):
            hook = block.original_component.register_forward_hook(lambda *args, number=number: ran.append(number))
            stack.callback(hook.remove)
        backend.ends_from(starts[2], 2, None)
    assert ran == list(range(2, backend.n_layers))
    assert not any("forward" in block.__dict__ for block in small_bridge.blocks)


def test_a_sweep_and_a_measurement_are_those_of_whole_passes(bridge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    top = backend_of(bridge).n_layers
    vector = al.compute_steering_vector(bridge, PAIRS[0], layer=top - 1) * 3

    def run() -> tuple[al.Sweep, al.Measurement]:
        grid: dict[str, Any] = {
            "layers": [0, 1, top],
            "coefficients": [-2, 3],
            "nulls": 2,
            "prompts": PROMPTS,
            "progress": False,
        }
        sweep = al.sweep(bridge, PAIRS[0], metric=al.metrics.entropy(), **grid)
        return sweep, al.measure(bridge, PROMPTS, vector, al.metrics.entropy(), nulls=2, progress=False)

    sweep, measured = run()
    monkeypatch.setattr("actadd_lens.models.bridge.known_forms", lambda model, layers, *rest: dict.fromkeys(layers))
    whole, also = run()
    torch.testing.assert_close(torch.tensor(sweep.steered), torch.tensor(whole.steered), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.tensor(sweep.nulls), torch.tensor(whole.nulls), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.tensor(measured.steered), torch.tensor(also.steered), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("small", ["hooked", "bridge"], indirect=False)
def test_a_measurement_runs_the_blocks_below_the_vector_once(small: str, load: Any) -> None:
    if small == "hooked":
        pytest.importorskip("transformer_lens.HookedTransformer")
    model, rows = load("gpt2", small), {1: 0, 2: 0}
    vector = al.compute_steering_vector(model, PAIRS[0], layer=2)
    backend = backend_of(model)
    al.measure(model, PROMPTS, vector, al.metrics.entropy(), nulls=5, null_kind="gaussian", progress=False)

    def counter(layer: int) -> Callable[..., None]:
        def count(stream: Tensor, hook: Any) -> None:
            rows[layer] += len(stream)

        return count

    with ExitStack() as stack:
        for layer in rows:
            stack.callback(backend.add_hook(backend.hook_name(layer), counter(layer)).remove)
        al.measure(model, PROMPTS, vector, al.metrics.entropy(), nulls=5, null_kind="gaussian", progress=False)
    assert rows == {1: len(PROMPTS), 2: len(PROMPTS) * (2 + 5)}


@torch.no_grad()
def test_other_threads_pass_through_all_blocks(small_bridge: Any) -> None:
    backend, tokens = backend_of(small_bridge), tokens_of(small_bridge)
    starts, whole = backend.starts(tokens, [3], None)
    found: list[Tensor] = []
    stream = starts[3].stream
    assert stream is not None
    forms = known_forms(small_bridge, [3], tokens, backend.logits, entrances(backend, [3]))[3]
    assert forms is not None
    with skipped(list(small_bridge.blocks)[:3], forms, torch.zeros_like(stream)):
        other = threading.Thread(target=lambda: found.append(backend.logits(tokens).detach()))
        other.start()
        other.join()
        mine = backend.logits(tokens)
    torch.testing.assert_close(found[0], whole)
    assert (mine - whole).abs().max() > 0.01


def test_a_pass_that_does_not_skip_is_an_error(small_bridge: Any) -> None:
    blocks = list(small_bridge.blocks)[:2]
    with (
        pytest.raises(al.ModelError, match="skipped 0"),
        skipped(blocks, [lambda stream: stream] * 2, torch.zeros(1, 1, 1)),
    ):
        pass
    assert not any("forward" in block.__dict__ for block in blocks)


@pytest.fixture
def crossed(gpt2_folder: Any) -> Iterator[Any]:
    """A model whose last block also uses what the first one leaves, beside the stream."""
    model = al.load_model(str(gpt2_folder), family="bridge")
    kept: dict[str, Tensor] = {}
    first, last = model.blocks[0].original_component, model.blocks[-1]
    handles = [
        first.register_forward_hook(lambda module, args, output: kept.update(stream=args[0])),
        last.register_forward_pre_hook(lambda module, args: (args[0] + kept.pop("stream", 0.0), *args[1:])),
    ]
    yield model
    for handle in handles:
        handle.remove()


@torch.no_grad()
def test_a_model_that_looks_past_the_stream_gets_whole_passes(crossed: Any) -> None:
    backend, tokens = backend_of(crossed), tokens_of(crossed)
    starts, whole = backend.starts(tokens, [2], None)
    assert starts[2].stream is None
    torch.testing.assert_close(backend.ends_from(starts[2], 2, None), whole)


def test_rows_of_a_start_can_be_picked_and_repeated() -> None:
    start = Start(torch.arange(4)[:, None], torch.arange(4.0)[:, None, None])
    picked = start[torch.tensor([2, 2, 0])]
    assert len(picked) == 3
    assert picked.tokens.flatten().tolist() == [2, 2, 0]
    assert picked.stream is not None
    assert picked.stream.flatten().tolist() == [2, 2, 0]
    assert Start(torch.zeros(3, 2).long())[torch.tensor([1])].stream is None
