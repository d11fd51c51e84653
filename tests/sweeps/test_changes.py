"""What changes a model or a metric never meets old values; what changes neither finds them again."""

import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import actadd_lens as al
from actadd_lens import metrics
from actadd_lens.identity.digests import digest
from actadd_lens.identity.model_state import model_key, module_state
from actadd_lens.identity.tensors import tensor_digest
from actadd_lens.models import backend_of
from tests.support import PAIRS

HELPERS = """
SCALE = 2.0
def scaled(logits): return SCALE * logits[:, 0]
def measured(logits): return scaled(logits)
class Base:
    factor = 1.0
    def __call__(self, logits): return self.factor * self.first(logits)
    def first(self, logits): return logits[:, 0]
class Metric(Base): pass
"""


@pytest.fixture
def helpers(tmp_path: Path) -> Iterator[Any]:
    """A module of the user's own."""
    path = tmp_path / "my_helpers.py"
    path.write_text(HELPERS)
    spec = importlib.util.spec_from_file_location("my_helpers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["my_helpers"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["my_helpers"]


def through_module(helpers: Any) -> Any:
    return lambda logits: helpers.scaled(logits) + 0


def through_import(helpers: Any) -> Any:
    def metric(logits: Tensor) -> Tensor:
        import my_helpers  # type: ignore[import-not-found]

        return my_helpers.scaled(logits)

    return metric


def of_object(helpers: Any) -> Any:
    return helpers.Metric()


def of_bound(helpers: Any) -> Any:
    return helpers.Metric().first


def of_cell(helpers: Any) -> Any:
    return lambda logits: helpers.Metric().first(logits)


MADE: dict[str, Callable[[Any], Any]] = {
    "function": lambda helpers: helpers.measured,
    "through a module": through_module,
    "through an import": through_import,
    "object": of_object,
    "bound method": of_bound,
    "object made in the call": of_cell,
}

EDITS: list[tuple[str, Callable[[Any], Any]]] = [
    ("function", lambda module: setattr(module, "SCALE", 3.0)),
    ("function", lambda module: setattr(module, "scaled", lambda logits: logits[:, 1])),
    ("function", lambda module: setattr(module.measured, "__defaults__", (0,))),
    ("through a module", lambda module: setattr(module, "SCALE", 3.0)),
    ("through a module", lambda module: setattr(module, "scaled", lambda logits: logits[:, 1])),
    ("through an import", lambda module: setattr(module, "SCALE", 3.0)),
    ("through an import", lambda module: setattr(module, "scaled", lambda logits: logits[:, 1])),
    ("object", lambda module: setattr(module.Base, "factor", 2.0)),
    ("object", lambda module: setattr(module.Base, "__call__", lambda self, logits: logits[:, 2])),
    ("object", lambda module: setattr(module.Base, "first", lambda self, logits: logits[:, 2])),
    ("object", lambda module: setattr(module.Metric, "factor", 2.0)),
    ("bound method", lambda module: setattr(module.Base, "first", lambda self, logits: logits[:, 2])),
    ("object made in the call", lambda module: setattr(module.Base, "first", lambda self, logits: logits[:, 2])),
]


@pytest.mark.parametrize(("made", "edit"), EDITS, ids=[f"{number} {made}" for number, (made, _) in enumerate(EDITS)])
def test_an_edit_of_what_a_metric_reaches_changes_its_hash(helpers: Any, made: str, edit: Callable[[Any], Any]) -> None:
    metric = MADE[made](helpers)
    before = digest(metrics.as_metric(metric).bind)
    assert digest(metrics.as_metric(metric).bind) == before
    edit(helpers)
    assert digest(metrics.as_metric(metric).bind) != before


def test_values_of_one_kind_that_differ_inside_have_hashes_of_their_own() -> None:
    masked = np.ma.masked_array([1.0, 2.0], [True, False])
    alike = [
        ({"a": 1}.get, {"a": 2}.get),
        (masked, np.ma.masked_array([1.0, 2.0], [False, False])),
        (torch.ones(2), torch.ones(2, dtype=torch.float64)),
        ([1, 2], (1, 2)),
        (0.0, -0.0),
        (True, 1),
        ({1: 2, 3: 4}, {1: 4, 3: 2}),
        (torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)),
    ]
    for one, other in alike:
        assert digest(one) != digest(other), (one, other)
        assert digest(one) == digest(one)


def test_what_leads_back_to_itself_has_a_hash() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    assert digest(loop) == digest(loop)


@pytest.mark.parametrize("what", ["file", "generator", "lock", "eval"])
def test_what_cannot_be_told_is_refused_unless_it_is_named(
    quickest: Any, tmp_path: Path, request: pytest.FixtureRequest, what: str
) -> None:
    file = Path(__file__).open()  # noqa: SIM115
    request.addfinalizer(file.close)
    makers: dict[str, Callable[[], Any]] = {
        "file": lambda: file,
        "generator": lambda: iter([]),
        "lock": threading.Lock,
        "eval": lambda: None,
    }
    found = makers[what]()

    def by_eval(logits: Tensor) -> Tensor:
        return logits[:, eval("0")]

    def by_content(logits: Tensor) -> Tensor:
        return logits[:, len(repr(found)) % 2]

    metric = by_eval if what == "eval" else by_content

    settings: dict[str, Any] = {"layers": 1, "coefficients": 2, "prompts": "The girl looked at the dog"}
    refusal = r'cannot be distinguished from another one.*metrics.named\("mine", metric\)'
    with pytest.raises(al.SettingError, match=refusal):
        al.sweep(quickest, PAIRS[0], **settings, metric=metric, path=tmp_path / "sweep.sqlite")
    named = {**settings, "metric": metrics.named("mine", metric), "path": tmp_path / "sweep.sqlite"}
    al.sweep(quickest, PAIRS[0], **named)
    assert al.plan_sweep(quickest, PAIRS[0], **named).cost.stored == 1
    other = {**named, "metric": metrics.named("another", metric)}
    assert al.plan_sweep(quickest, PAIRS[0], **other).cost.stored == 0


# -- models ----------------------------------------------------------------------------------------------------


@contextmanager
def changed(target: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(target, name)
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, before)


@contextmanager
def written(weight: Tensor, place: Any, *, counted: bool = True) -> Iterator[None]:
    target = weight.detach() if counted else weight.data
    before = target[place].clone()
    target[place] += 0.25
    try:
        yield
    finally:
        target[place] = before


@contextmanager
def hooked_by_torch(module: Any, hook: Any, *, pre: bool = False) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook) if pre else module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def last_weight(model: Any) -> Tensor:
    weights = [weight for weight in model.parameters() if weight.ndim >= 2]
    return weights[-1]


@contextmanager
def precision(name: Any) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


MODEL_CHANGES: dict[str, Callable[[Any], Any]] = {
    "a row of the embedding": lambda model: written(next(model.parameters()), 3),
    "one number, past torch's count": lambda model: written(next(model.parameters()), (5, 1), counted=False),
    "one neuron": lambda model: written(last_weight(model), (slice(None), 7) if last_weight(model).ndim > 1 else 7),
    "a hook on a block": lambda model: hooked_by_torch(model.blocks[1], lambda *_: None),
    "a pre-hook on a block": lambda model: hooked_by_torch(model.blocks[2], lambda *_: None, pre=True),
    "a hook on a hook point": lambda model: hooked_by_torch(model.blocks[2].hook_resid_pre, lambda *_: None),
    "a hook of TransformerLens": lambda model: model.hooks(
        fwd_hooks=[("blocks.1.hook_resid_post", lambda stream, hook: 2 * stream)]
    ),
    "training": lambda model: changed(model.blocks[0], "training", not model.blocks[0].training),
    "a setting of the model": lambda model: changed(model.cfg, "n_ctx", 63),
    "a soft cap": lambda model: changed(model.cfg, "output_logits_soft_cap", 5.0),
    "the eps of the settings": lambda model: changed(model.cfg, "eps", 0.1),
    "precision of products": lambda model: precision("medium"),
}


@pytest.mark.parametrize("change", MODEL_CHANGES)
def test_a_changed_model_never_meets_old_values(small: Any, tmp_path: Path, change: str) -> None:
    settings: dict[str, Any] = {
        "layers": [1], "coefficients": [2], "prompts": "The girl looked at the dog", "metric": metrics.entropy(),
        "path": tmp_path / "sweep.sqlite",
    }  # fmt: skip
    al.sweep(small, PAIRS[0], **settings)
    with MODEL_CHANGES[change](small):
        assert al.plan_sweep(small, PAIRS[0], **settings).cost.stored == 0
    assert al.plan_sweep(small, PAIRS[0], **settings).cost.stored == 1


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [("blocks.1.attn", "attn_scale", 3.0), ("blocks.1.ln1", "eps", 0.1), ("ln_final", "eps", 0.1)],
)
def test_a_setting_of_one_part_changes_the_models_key(hooked: Any, path: str, name: str, value: float) -> None:
    backend = backend_of(hooked)
    before = model_key(backend)
    with changed(hooked.get_submodule(path), name, value):
        assert model_key(backend) != before
    assert model_key(backend) == before


def test_the_eps_of_a_hugging_face_norm_changes_the_models_key(load: Any) -> None:
    bridge = load("gpt2", "bridge")
    before = model_key(backend_of(bridge))
    norm = next(module for module in bridge.modules() if isinstance(module, torch.nn.LayerNorm))
    with changed(norm, "eps", 0.1):
        assert model_key(backend_of(bridge)) != before
    with changed(norm, "forward", lambda hidden: hidden):
        assert model_key(backend_of(bridge)) != before
    del norm.__dict__["forward"]
    assert model_key(backend_of(bridge)) == before


def test_passes_and_open_steering_leave_the_models_key(small: Any) -> None:
    before = model_key(backend_of(small))
    vector = al.compute_steering_vector(small, PAIRS[0], layer=1)
    al.complete(small, "The girl looked at", vector, max_new_tokens=2)
    with al.steer(small, vector):
        small(small.to_tokens("The girl looked at the dog", prepend_bos=True))
        assert model_key(backend_of(small)) == before
    small.run_with_cache(small.to_tokens("The girl looked at the dog"))
    assert model_key(backend_of(small)) == before


def test_what_transformers_leaves_after_hidden_states_were_asked_for_is_no_change(gpt2_folder: Path) -> None:
    """It keeps hooks that only watch on every block, and a note on the model, for good."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder)
    before = module_state(theirs)
    theirs(torch.tensor([[1, 2, 3]]), output_hidden_states=True)
    assert theirs.transformer.h[0]._forward_hooks, "otherwise there is nothing to tell apart"
    assert module_state(theirs) == before
    with hooked_by_torch(theirs.transformer.h[0], lambda *_: None):
        assert module_state(theirs) != before


def test_a_hook_of_torch_acts_once_in_every_cell(small: Any) -> None:
    """Below, at and above the injection, in place too, and from the end of prompts of several lengths."""

    def scale(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (1.5 * inputs[0], *inputs[1:])

    texts = ("The girl looked at the dog", "She felt that it was a good day and then")
    settings: dict[str, Any] = {"layers": [1, 2], "coefficients": [2], "metric": metrics.next_token_logprob(10)}
    handle = small.blocks[1].register_forward_pre_hook(scale)
    try:
        found = al.sweep(small, PAIRS[0], **settings, prompts=texts)
        for layer in (1, 2):
            vector = 2 * al.compute_steering_vector(small, PAIRS[0], layer=layer)
            for number, text in enumerate(texts):
                tokens = small.to_tokens(text, prepend_bos=True)
                with torch.no_grad(), al.steer(small, vector):
                    expected = float(small(tokens)[0, -1].log_softmax(-1)[10])
                assert found.steered[0, 0, layer - 1, 0, 0, number, 0] == pytest.approx(expected, abs=1e-5)
    finally:
        handle.remove()


# -- tensors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (700, 3), (5, 513)])
def test_every_entry_of_a_tensor_counts(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.zeros(shape, dtype=dtype)
    seen = {tensor_digest(tensor)}
    assert tensor_digest(tensor) in seen
    flat = tensor.data.reshape(-1)
    for place in {0, 1, len(flat) // 2, len(flat) - 1} & set(range(len(flat))):
        flat[place] = 1
        found = tensor_digest(tensor)
        assert found not in seen
        assert found == tensor_digest(tensor.clone())
        seen.add(found)
    assert tensor_digest(tensor[None]) not in seen


def test_parts_of_tensors_that_lie_anyhow_have_the_hash_of_their_copies() -> None:
    whole = torch.arange(700, dtype=torch.int8).reshape(70, 10)
    for part in (whole[:, 3], whole.T, whole[1:], whole.reshape(-1)[3:]):
        assert tensor_digest(part) == tensor_digest(part.clone().contiguous())
