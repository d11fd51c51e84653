"""Each operation on each span does what hooks written by hand on Hugging Face's own modules do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import actadd_lens as al
from actadd_lens.models import backend_of
from tests.conftest import FAMILIES, HAS_HOOKED
from tests.support import PAIRS, cached, close, generate, vector_of

LAYER = 2
TEXTS = ["The girl looked at the dog. She felt", "A boy was in"]
WRITTEN = 4


@pytest.fixture(params=FAMILIES, scope="module")
def raw(request: pytest.FixtureRequest, gpt2_folder: Path) -> Any:
    """A model with its weights as Hugging Face has them, so that single elements mean the same in both."""
    if request.param == "hooked" and not HAS_HOOKED:
        pytest.skip("this TransformerLens has no HookedTransformer")
    names = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    processing: dict[str, Any] = dict.fromkeys(names, False) if request.param == "hooked" else {}
    return al.load_model(gpt2_folder, family=request.param, **processing)


@pytest.fixture(scope="module")
def theirs(gpt2_folder: Path) -> Any:
    """The same model in plain transformers."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(gpt2_folder, attn_implementation="eager").eval()


@torch.no_grad()
def written_by_theirs(
    theirs: Any, tokens: list[int], change: Callable[[Tensor, int], Tensor], count: int = WRITTEN
) -> tuple[Tensor, list[int]]:
    """Log-probs after the prompt and greedy tokens, from whole passes with a block's input changed by hand."""
    prompt = len(tokens)

    def hook(module: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        return ((change(args[0], prompt), *args[1:]), kwargs)

    handle = theirs.transformer.h[LAYER].register_forward_pre_hook(hook, with_kwargs=True)
    first = None
    try:
        for _ in range(count):
            logits = theirs(torch.tensor([tokens])).logits[0, -1]
            first = logits.log_softmax(dim=-1) if first is None else first
            tokens = [*tokens, int(logits.argmax())]
    finally:
        handle.remove()
    assert first is not None
    return first, tokens[prompt:]


SPANS: dict[str, tuple[Any, Callable[[int, int], list[int]]]] = {
    "all": ("all", lambda n, prompt: list(range(1, n))),
    "all+bos": ("all+bos", lambda n, prompt: list(range(n))),
    "prompt": ("prompt", lambda n, prompt: list(range(1, prompt))),
    "prompt+bos": ("prompt+bos", lambda n, prompt: list(range(prompt))),
    "generated": ("generated", lambda n, prompt: list(range(prompt, n))),
    "last": ("last", lambda n, prompt: list(range(prompt - 1, n))),
    "since": (al.since(3), lambda n, prompt: list(range(3, n))),
    "first": (al.first(2), lambda n, prompt: [0, 1]),
    "slice": (slice(-3, -1), lambda n, prompt: [prompt - 3, prompt - 2]),
    "open slice": (slice(2, None), lambda n, prompt: list(range(2, n))),
    "mask": ([True, False, True], lambda n, prompt: [0, 2]),
    "index": (2, lambda n, prompt: [2]),
    "back": ("back", lambda n, prompt: [prompt - 1]),
}
"""A position, and by hand the tokens that it means of n, when the prompt has so many."""


def made(model: Any) -> dict[str, tuple[Any, Callable[[Tensor], Tensor]]]:
    """Interventions, and the same by hand arithmetic."""
    vector = 4 * vector_of(model, PAIRS[0], LAYER).row(-1)
    row = vector.injection[0]
    unit = row / row.norm()
    factor = torch.linspace(-1, 2, len(row))
    return {
        "add": (vector, lambda x: x + row),
        "set the projection": (al.set_projection(vector, 3.0), lambda x: x + (3.0 - x @ unit)[..., None] * unit),
        "project out": (al.project_out(vector), lambda x: x - (x @ unit)[..., None] * unit),
        "scale": (al.scale(1.5, layer=LAYER), lambda x: 1.5 * x),
        "scale elements": (al.scale(factor, layer=LAYER), lambda x: factor * x),
        "replace": (al.replace(2 * row, layer=LAYER), (2 * row).expand_as),
    }


def by_hand(operation: Callable[[Tensor], Tensor], tokens_of: Callable[[int, int], list[int]]) -> Any:
    def change(stream: Tensor, prompt: int) -> Tensor:
        changed = stream.clone()
        places = tokens_of(stream.shape[1], prompt)
        changed[:, places] = operation(stream[:, places])
        return changed

    return change


OPERATIONS = ["add", "set the projection", "project out", "scale", "scale elements", "replace"]


@pytest.mark.parametrize("kind", OPERATIONS)
@pytest.mark.parametrize("span", SPANS)
def test_every_operation_on_every_span_is_what_hooks_by_hand_do(raw: Any, theirs: Any, kind: str, span: str) -> None:
    intervention, operation = made(raw)[kind]
    position, tokens_of = SPANS[span]
    found = [written_by_theirs(theirs, backend_of(raw).encode(text), by_hand(operation, tokens_of)) for text in TEXTS]
    for use_cache in (True, False):
        ours = al.complete(
            raw, TEXTS, intervention, position=position, temperature=0, max_new_tokens=WRITTEN, stop_at_eos=False,
            progress=False, use_past_kv_cache=use_cache,
        )  # fmt: skip
        assert [list(row[0].tokens) for row in ours.steered_continuations] == [tokens for _, tokens in found]
    for text, (expected, written) in zip(TEXTS, found, strict=True):
        tokens = torch.tensor([backend_of(raw).encode(text)])
        with torch.no_grad(), al.steer(raw, intervention, position=position):
            assert close(raw(tokens)[0, -1].log_softmax(dim=-1), expected)
        with al.steer(raw, intervention, position=position):
            assert generate(raw, tokens, WRITTEN)[0, -WRITTEN:].tolist() == written


@pytest.mark.parametrize("span", SPANS)
@torch.no_grad()
def test_operations_reach_the_same_tokens_in_chunks_and_behind_padding(raw: Any, theirs: Any, span: str) -> None:
    position, tokens_of = SPANS[span]
    prompts = [backend_of(raw).encode(text) for text in TEXTS]
    width = max(map(len, prompts))
    padded = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    for kind, (intervention, operation) in made(raw).items():
        change = by_hand(operation, tokens_of)
        expected = torch.stack([written_by_theirs(theirs, ids, change, 1)[0] for ids in prompts])
        with al.steer(raw, intervention, position=position):
            together = raw(padded, attention_mask=mask)[:, -1].log_softmax(dim=-1)
        assert close(together, expected), kind
        tokens, cache = torch.tensor([prompts[0]]), None
        with al.steer(raw, intervention, position=position, prompt_lengths=[len(prompts[0])]):
            for chunk in tokens.split([4, 3, tokens.shape[1] - 7], dim=1):
                logits, cache = cached(raw, chunk, cache)
        assert close(logits[0, -1].log_softmax(dim=-1), expected[0]), kind


@torch.no_grad()
def test_sites_inside_a_block_are_changed_as_by_hand(raw: Any, theirs: Any) -> None:
    tokens = torch.tensor([backend_of(raw).encode(TEXTS[0])])
    block, width = theirs.transformer.h[LAYER], 32
    heads = torch.tensor([2.0, 0.0, 1.0, -1.0])

    def on_output(factor: float) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            return (factor * output[0], *output[1:]) if isinstance(output, tuple) else factor * output

        return hook

    def on_input(factor: Tensor) -> Any:
        return lambda module, args: (args[0] * factor, *args[1:])

    neurons = torch.linspace(0, 2, 4 * width)
    cases: list[tuple[al.Intervention, Any]] = [
        (al.scale(0.5, layer=LAYER, site="attn_out"), lambda: block.attn.register_forward_hook(on_output(0.5))),
        (al.scale(-1.0, layer=LAYER, site="mlp_out"), lambda: block.mlp.register_forward_hook(on_output(-1.0))),
        (
            al.scale(heads, layer=LAYER, site="head"),
            lambda: block.attn.c_proj.register_forward_pre_hook(on_input(heads.repeat_interleave(8))),
        ),
        (
            al.scale(neurons, layer=LAYER, site="neuron"),
            lambda: block.mlp.c_proj.register_forward_pre_hook(on_input(neurons)),
        ),
    ]
    for intervention, hang in cases:
        handle = hang()
        expected = theirs(tokens).logits
        handle.remove()
        with al.steer(raw, intervention, position="all+bos"):
            assert close(raw(tokens).log_softmax(-1), expected.log_softmax(-1)), intervention.label


@torch.no_grad()
def test_the_stream_after_the_last_block_is_read_and_steered(model: Any) -> None:
    backend = backend_of(model)
    tokens = model.to_tokens("The girl looked")
    last = backend.n_layers
    vector = al.compute_steering_vector(model, PAIRS[0], layer=last)
    rows = [
        backend.residuals(torch.tensor([tokens]), [last])[last][0]
        for tokens in (vector.provenance.positive_tokens, vector.provenance.negative_tokens)
    ]
    assert close(vector.activations[1:], (rows[0] - rows[1])[1:])

    def add(stream: Tensor, hook: Any) -> Tensor:
        return torch.cat([stream[:, : vector.rows] + 3 * vector.activations, stream[:, vector.rows :]], dim=1)

    name = f"blocks.{last - 1}.hook_resid_post"
    assert vector.hook_name == name
    expected = model.run_with_hooks(tokens, fwd_hooks=[(name, add)])
    with al.steer(model, 3 * vector):
        assert close(model(tokens), expected)
    metric = al.metrics.entropy()
    swept = al.sweep(model, vector, layers=[last], coefficients=[3], prompts="The girl looked", metric=metric)
    measured = al.measure(model, "The girl looked", 3 * vector, metric)
    np.testing.assert_allclose(swept.by_prompt.ravel(), measured.effect.by_prompt.ravel(), atol=1e-5)


@torch.no_grad()
def test_operations_at_one_place_act_in_the_order_given(small: Any) -> None:
    vector = 4 * vector_of(small, PAIRS[0], LAYER).row(-1)
    double = al.scale(2.0, layer=LAYER)
    tokens = small.to_tokens(TEXTS[0])

    def run(*found: Any) -> Tensor:
        with al.steer(small, *found, position="all+bos"):
            return small(tokens)

    assert close(run(vector, double), run(double, 2 * vector))
    assert not close(run(vector, double), run(double, vector), 1e-2)


@torch.no_grad()
def test_clean_values_undo_what_came_before(small: Any) -> None:
    tokens = small.to_tokens(TEXTS[0])
    unsteered = small(tokens)
    vector = 9 * vector_of(small, PAIRS[0], 0)
    with al.steer(small, vector, al.replace("clean", layer=2).at(position="all+bos")):
        assert close(small(tokens), unsteered)
    with al.steer(small, vector, al.replace("clean", layer=2).at(position="last")):
        logits = small(tokens)
    assert close(logits[0, -1], unsteered[0, -1], 10)
    assert not close(logits, unsteered, 1e-3)


def test_a_gate_is_read_once_for_each_prompt_and_kept_while_it_writes(small: Any) -> None:
    vector = 15 * vector_of(small, PAIRS[0], LAYER).row(-1).at(position="all+bos")
    probe = vector_of(small, PAIRS[1], 1).row(1)
    prompts = ["The girl looked at", "A boy was in", "It was good", "She said that the old dog"]
    scores = al.gate(probe, 0.0).scores(small, prompts)
    middle = float(scores.sort().values[1:3].mean())
    gate = al.gate(probe, middle)
    open_for = (scores > middle).tolist()
    assert sorted(open_for) == [False, False, True, True]
    plain, whole, gated = (
        al.complete(small, prompts, item, temperature=0, max_new_tokens=6, progress=False)
        for item in (0 * vector, vector, al.gated(vector, gate))
    )
    for number, is_open in enumerate(open_for):
        expected = whole if is_open else plain
        assert gated.steered[number] == expected.steered[number]
        tokens = small.to_tokens(prompts[number])
        with al.steer(small, al.gated(vector, gate)):
            written = generate(small, tokens, 6)[0, tokens.shape[1] :].tolist()
        kept = list(gated.steered_continuations[number][0].tokens)
        assert written[: len(kept)] == kept


def test_each_prompt_may_have_a_vector_or_a_coefficient_of_its_own(small: Any) -> None:
    vector, other = (vector_of(small, PAIRS[0], layer) for layer in (1, 2))
    each = [10 * vector, None, [-10 * vector, 3 * other]]
    prompts = ["The girl looked at the dog", "A boy was in", "It was good and"]
    together = al.complete(small, prompts, al.per_prompt(each), n=2, max_new_tokens=5, progress=False)
    for number, (prompt, item) in enumerate(zip(prompts, each, strict=True)):
        alone = al.complete(small, prompt, 0 * vector if item is None else item, n=2, max_new_tokens=5, progress=False)
        assert together.steered[number] == alone.steered[0]
    metric = al.metrics.entropy()
    measured = al.measure(small, prompts, al.per_prompt(each), metric, progress=False)
    each_alone = [
        float(al.measure(small, prompt, item or 0 * vector, metric, progress=False).steered[0])
        for prompt, item in zip(prompts, each, strict=True)
    ]
    np.testing.assert_allclose(measured.steered, each_alone, atol=1e-5)
    with pytest.raises(al.VectorError, match="3 entries for 2 prompts"):
        al.complete(small, prompts[:2], al.per_prompt(each))
    tokens = small.to_tokens(["The girl looked", "The dog looked", "The boy looked"])
    with torch.no_grad(), al.steer(small, al.per_prompt([vector, None, 2 * vector])):
        logits = small(tokens)
    assert close(logits[1], small(tokens)[1].detach())


def test_a_vector_is_learnt_through_steer(small: Any) -> None:
    theta = torch.zeros(1, small.cfg.d_model, requires_grad=True)
    vector = al.SteeringVector.from_tensor(theta, layer=1, source="learnt").at(position="all")
    tokens = small.to_tokens(TEXTS[0])
    optimiser, losses = torch.optim.Adam([theta], lr=0.3), []
    for _ in range(12):
        with al.steer(small, vector):
            loss = -small(tokens)[0, -1].log_softmax(dim=-1)[7]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1
    factor = torch.ones(1, small.cfg.d_model, requires_grad=True)
    with al.steer(small, al.scale(factor, layer=1), position="all"):
        small(tokens)[0, -1, 7].backward()
    assert factor.grad is not None
    assert factor.grad.abs().max() > 0
    small.zero_grad()  # other tests share the model


def test_numpy_rows_make_a_vector(small: Any) -> None:
    rows = np.ones((2, small.cfg.d_model), dtype=np.float32)
    vector = al.SteeringVector.from_tensor(rows, layer=1, source="ones")
    rows[:] = 5
    assert torch.equal(vector.activations, torch.ones(2, small.cfg.d_model))


def test_after_finds_the_last_token_of_a_mark(small: Any) -> None:
    backend = backend_of(small)
    ids = backend.encode("the dog and the dog ran on")
    texts = backend.token_strings(ids)
    spelt = ["".join(texts[1 : end + 1]) for end in range(1, len(ids))]
    ends = next(end for end, text in enumerate(spelt, 1) if text.count("dog") == 2)
    facts = al.preview(
        small, "the dog and the dog ran on", vector_of(small, PAIRS[0], 1).row(-1), position=al.after("dog")
    )
    assert [touch.token for touch in facts.touches] == list(range(ends, len(ids)))
    by_ids = al.after(torch.tensor(ids[ends : ends + 1]))
    same = al.preview(small, "the dog and the dog ran on", vector_of(small, PAIRS[0], 1).row(-1), position=by_ids)
    assert [touch.token for touch in same.touches] == list(range(ends, len(ids)))
    with pytest.raises(al.PositionError, match="does not occur in prompt 0"):
        al.preview(small, "A boy", vector_of(small, PAIRS[0], 1).row(-1), position=al.after("[/INST]"))


@pytest.mark.usefixtures("unchecked")
def test_other_tools_take_interventions_or_say_why_not(small: Any) -> None:
    vector = vector_of(small, PAIRS[0], LAYER).row(-1)
    out: Any = al.project_out(vector)
    half: Any = al.scale(0.5, layer=LAYER)
    gated: Any = al.gated(vector, al.gate(vector, 0.0))
    metric = al.metrics.entropy()
    options: dict[str, Any] = {"position": "all", "progress": False}
    measured = al.measure(small, TEXTS, out, metric, nulls=3, **options)
    assert measured.nulls.shape == (3, 2)
    swept = al.sweep(small, [out, half], layers=[1, 2], coefficients=1, positions="all", prompts=TEXTS, metric=metric)
    alone = al.measure(small, TEXTS, out, metric, **options)
    np.testing.assert_allclose(swept.by_prompt[0, 0, 1, 0, 0].ravel(), alone.effect.by_prompt.ravel(), atol=1e-5)
    written = al.sweep_completions(
        small, out, layers=LAYER, coefficients=1, positions="all", prompts=TEXTS, scorers=len_of, max_new_tokens=4
    )
    assert written.texts.shape[-2:] == (2, 1) or written.texts.size
    with pytest.raises(al.SettingError, match="no null vector"):
        al.measure(small, TEXTS, half, metric, nulls=3, **options)
    with pytest.raises(al.CoefficientError, match="has no coefficient"):
        al.sweep(small, half, layers=1, coefficients=2, positions="all", prompts=TEXTS, metric=metric)
    for tool in (
        lambda: al.logit_lens(small, out),
        lambda: al.cosine_similarity(small, [out, half]),
        lambda: al.trace_injection(small, TEXTS[0], gated, metric=metric),
        lambda: al.norm_profile(small, half, TEXTS[0]),
    ):
        with pytest.raises(al.VectorError, match="has no rows to read"):
            tool()


def len_of(texts: Any) -> list[float]:
    return [float(len(text)) for text in texts]


def test_projections_and_elements_refuse_other_coordinates(load: Any) -> None:
    folded, bridged = load("gpt2", "hooked"), load("gpt2", "bridge")
    vector = vector_of(folded, PAIRS[0], LAYER).row(-1)
    with pytest.raises(al.VectorError, match="projections and single elements differ"):
        al.complete(bridged, TEXTS, al.project_out(vector), position="all")
    al.complete(bridged, TEXTS, vector, position="all", max_new_tokens=1)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: al.scale(float("nan"), layer=1), al.CoefficientError, "not finite"),
        (lambda: al.scale(torch.ones(2, 3, 4), layer=1), al.VectorError, "cannot be a factor"),
        (lambda: al.scale(2.0, layer=-1), al.LayerError, "is not a layer"),
        (lambda: al.scale(2.0, layer=1, site="resid_mid"), al.SettingError, "expected one of"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: al.replace("dirty", layer=1), al.SettingError, "or 'clean'"),
        (lambda: al.set_projection(torch.ones(4), 1.0), al.LayerError, "needs layer="),
        (lambda: al.set_projection(torch.zeros(4), 1.0, layer=1), al.VectorError, "is zero"),
        (lambda: al.project_out(torch.ones(2, 4), layer=1), al.VectorError, "has 2 rows"),
        (lambda: al.set_projection(torch.ones(4), "much", layer=1), al.SettingError, "expected finite numbers"),
        (lambda: al.gated(al.scale(1.0, layer=1), "gate"), al.VectorError, "is not a gate"),
        (lambda: al.gated(al.scale(1.0, layer=1), len), al.SettingError, "names no layer"),
        (lambda: al.per_prompt([]), al.VectorError, "an entry for each prompt"),
        (lambda: al.per_prompt([None, None]), al.VectorError, "no vector at all"),
        (lambda: al.since(-1), al.PositionError, "use 'last'"),
        (lambda: al.first(0), al.PositionError, "covers no token"),
        (lambda: al.after(""), al.PositionError, "has no mark"),
        (lambda: al.scale(1.0, layer=1).at(position=slice(0, 9, 2)), al.PositionError, "has steps"),
        (lambda: al.scale(1.0, layer=1).at(position="front", bos=True), al.PositionError, "is for a span"),
        (lambda: al.scale(1.0, layer=1).at(position=al.since(0), bos=False), al.PositionError, "begin it at 1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_makes_no_intervention_is_refused(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()
