"""Every tool on a model whose blocks, unembedding and tokens lie on different devices, told apart without any GPU."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import actadd_lens as al
from actadd_lens.models import backend_of
from actadd_lens.models.placing import place_blocks
from tests.devices.logical import LogicalDevices, MixedDevicesError
from tests.support import FAMILIES_HERE, WORDS

PAIR = ("The dog", "The cat")
PROMPTS = ["The girl looked at the", "The dog", "A good day"]
NINE = [" ".join(WORDS[start : start + 4]) for start in range(9)]
FIRST, LAST = "cuda:0", "cuda:1"


def spread(model: Any, family: str) -> None:
    """Half of the blocks on each of two devices, and what follows them on the second."""
    if family == "hooked":
        model.cfg.device, model.cfg.n_devices = FIRST, 2
        place_blocks(model)
    else:
        dispatch(model.original_model)
        model.cfg.device, model.cfg.n_devices = FIRST, 2


def dispatch(hf_model: Any) -> None:
    """What accelerate does: each part has its weights on its device, and moves what it is called with there."""
    trunk = hf_model.transformer
    blocks = list(trunk.h)
    places = {block: FIRST if place < len(blocks) // 2 else LAST for place, block in enumerate(blocks)}
    parts = {trunk.wte: FIRST, trunk.wpe: FIRST, **places, trunk.ln_f: LAST, hf_model.lm_head: LAST}
    hf_model.lm_head.weight = torch.nn.Parameter(hf_model.lm_head.weight.detach().clone())  # tied weights lie once
    for part, device in parts.items():
        part.to(device)
        part.register_forward_pre_hook(mover(device), with_kwargs=True)


def mover(device: str) -> Callable[..., Any]:
    def moved(values: Any) -> Any:
        if isinstance(values, Tensor):
            return values.to(device)
        if type(values) in (tuple, list):
            return type(values)(map(moved, values))
        return values

    def move(module: Any, args: Any, kwargs: Any) -> Any:
        return moved(args), {name: moved(value) for name, value in kwargs.items()}

    return move


@pytest.fixture(params=FAMILIES_HERE, scope="module")
def both(request: pytest.FixtureRequest, gpt2_folder: Path) -> Iterator[tuple[Any, Any, LogicalDevices]]:
    """The same model twice: in one piece, and spread over logical devices."""
    from actadd_lens.sweeps import batches

    patch = pytest.MonkeyPatch()
    patch.setattr(batches, "_free_memory", lambda device: 2**32)  # of GPUs that are not there
    plain = al.load_model(gpt2_folder, family=request.param)
    model = al.load_model(gpt2_folder, family=request.param)
    mode = LogicalDevices()
    with mode:
        spread(model, request.param)
    yield plain, model, mode
    patch.undo()


def vector(model: Any) -> al.SteeringVector:
    return 5 * al.compute_steering_vector(model, PAIR, layer=1)


def steered(model: Any, **options: Any) -> Any:
    tokens = model.to_tokens(PROMPTS[0], prepend_bos=True)
    with al.steer(model, vector(model), **options):
        return model(tokens.to(backend_of(model).device))


def hooked_pass(model: Any) -> Any:
    tokens = model.to_tokens(PROMPTS[0], prepend_bos=True)
    return model.run_with_hooks(
        tokens.to(backend_of(model).device), fwd_hooks=al.fwd_hooks(model, vector(model), prompt_lengths=[6])
    )


def written(model: Any, intervention: Any) -> Any:
    """Texts under an intervention of another kind, on every token."""
    return al.complete(model, PROMPTS, intervention, position="all", max_new_tokens=3, progress=False).frame()


def swept(model: Any) -> al.Sweep:
    several = [al.metrics.entropy(), al.metrics.perplexity(), al.metrics.kl_divergence(), al.metrics.cross_entropy()]
    answers = al.metrics.precision_at(3, dict.fromkeys(PROMPTS, " dog"))
    return al.sweep(
        model, PAIR, layers=range(5), coefficients=[-1, 5.0], positions=["front", "back"], prompts=PROMPTS,
        metric=[*several, answers, al.metrics.token_set_logprob([5, 6])], nulls=2, progress=False,
    )  # fmt: skip


CASES: dict[str, Callable[[Any], Any]] = {
    "ablate_tokens": lambda model: al.ablate_tokens(
        model, PAIR, layer=2, prompts=PROMPTS, metric=al.metrics.entropy(), progress=False
    ).frame(),
    "calibrate": lambda model: al.calibrate(model, vector(model), NINE, nulls=1, progress=False).frame(),
    "complete": lambda model: al.complete(
        model, PROMPTS, vector(model), n=2, max_new_tokens=4, frequency_penalty=1.0, top_p=0.9, progress=False
    ).frame(),
    "compute_steering_vector": lambda model: vector(model).activations,
    "compute_steering_vectors": lambda model: al.compute_steering_vectors(model, [PAIR], layers=range(5))[0, 4].norms,
    "cosine_similarity": lambda model: al.cosine_similarity(
        model, [vector(model), -1 * vector(model)], nulls=2
    ).frame(),
    "fwd_hooks": hooked_pass,
    "linearity": lambda model: al.linearity(
        model, PROMPTS, vector(model), al.metrics.entropy(), nulls=1, progress=False
    ).frame(),
    "logit_lens": lambda model: al.logit_lens(model, vector(model), nulls=2).frame(),
    "logit_lens_carried": lambda model: al.logit_lens_carried(model, vector(model), PROMPTS[0]).frame(),
    "measure": lambda model: al.measure(
        model, PROMPTS, vector(model), al.metrics.perplexity(), nulls=2, progress=False
    ).frame(),
    "measure_completions": lambda model: al.measure_completions(
        model, PROMPTS, vector(model), lambda texts: [float(len(text)) for text in texts], nulls=1, max_new_tokens=3,
        progress=False,
    )[0].completions.frame(),
    "next_token_shift": lambda model: al.next_token_shift(
        model, PROMPTS, vector(model), nulls=1, progress=False
    ).frame(),
    "norm_profile": lambda model: al.norm_profile(model, vector(model), PROMPTS[0]).frame(),
    "null_vectors": lambda model: al.null_vectors(model, vector(model), n=2)[1].activations,
    "plan_sweep": lambda model: al.plan_sweep(
        model, PAIR, layers=1, coefficients=1, prompts=PROMPTS, metric=al.metrics.entropy()
    ).record["model_hash"] and 0.0,
    "preview": lambda model: al.preview(model, PROMPTS[0], vector(model)).frame(),
    "replace": lambda model: written(model, al.replace("clean", layer=3, site="attn_out")),
    "scale": lambda model: written(model, al.scale(torch.full((32,), 0.5), layer=2, site="mlp_out", model=model)),
    "project_out": lambda model: written(model, al.project_out(vector(model).row(-1))),
    "gated": lambda model: written(
        model, al.gated(vector(model).row(-1).at(position="all"), al.gate(vector(model).row(-1), threshold=0.0))
    ),
    "steer": steered,
    "sweep": lambda model: swept(model).steered,
    "sweep_completions": lambda model: al.sweep_completions(
        model, vector(model).row(-1), layers=[0, 3], coefficients=1.0, positions=["all"], prompts=PROMPTS, n=2,
        max_new_tokens=3, scorers=lambda texts: [float(len(text)) for text in texts], progress=False,
    ).texts,
    "text_shift": lambda model: al.text_shift(model, PROMPTS, vector(model), progress=False).frame(),
    "trace_injection": lambda model: al.trace_injection(
        model, PROMPTS[0], vector(model), metric=al.metrics.entropy()
    ).frame(),
    "trace_layers": lambda model: al.trace_layers(
        model, PROMPTS, PAIR, layers=[0, 2], metric=al.metrics.entropy()
    ).frame(),
    "ablate_dimensions": lambda model: al.ablate_dimensions(
        model, PROMPTS, vector(model), al.metrics.entropy(), keep=[4], nulls=2, progress=False
    ).frame(),
    "attention_or_value": lambda model: al.attention_or_value(
        model, PROMPTS, vector(model), al.metrics.entropy(), progress=False
    ).frame(),
    "attribute_injection": lambda model: al.attribute_injection(
        model, PROMPTS, vector(model), al.metrics.entropy(), steps=2, progress=False
    ).frame(),
    "fit_jacobian": lambda model: al.fit_jacobian(model, PROMPTS, [1], skip_first=1, progress=False).matrices,
    "head_reading": lambda model: al.head_reading(model, vector(model).row(-1), PROMPTS).frame(),
    "interaction": lambda model: al.interaction(
        model, [vector(model), -1 * vector(model)], al.metrics.entropy(), PROMPTS, progress=False
    ).frame(),
    "low_rank": lambda model: al.low_rank(model, [vector(model), -1 * vector(model)], 1).frame(),
    "minimal_set": lambda model: al.minimal_set(
        model, PROMPTS, vector(model), al.metrics.entropy(), progress=False
    ).frame(),
    "project": lambda model: al.project(model, PROMPTS, vector(model).row(-1)).frame(),
}  # fmt: skip
"""Each public tool that takes a model, and numbers or texts that come of it."""

ELSEWHERE = {
    "plan_sweep_completions": "shown by sweep_completions",
    "model_source": "reads no tensor",
    "chat": "texts only",
    "from_sae": "takes a row of a decoder, and reads no model",
    "compare": "calibrates, measures and writes by the tools that have cases",
    "adapter_tradeoff": "takes a trained adapter, and measures it by measure_conditions, as measure does",
}
"""Tools without a case of their own, and why."""


def takes_a_model(name: str) -> bool:
    found = getattr(al, name)
    return inspect.isfunction(found) and "model" in inspect.signature(found).parameters


def test_every_public_tool_has_a_case() -> None:
    """As they are here; a tool that is added later has to be added to the cases too."""
    assert {name for name in al.__all__ if takes_a_model(name)} - set(ELSEWHERE) <= set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_tool_runs_across_devices(both: tuple[Any, Any, LogicalDevices], name: str) -> None:
    plain, model, mode = both
    expected = CASES[name](plain)
    with mode:
        found = CASES[name](model)
    assert same(found, expected)


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, Tensor):
        return torch.allclose(found.float(), expected.float(), atol=1e-5)
    if isinstance(expected, np.ndarray) and expected.dtype.kind == "f":
        return np.allclose(found, expected, atol=1e-5, equal_nan=True)
    if isinstance(expected, float | np.ndarray):
        return bool(np.all(found == expected))
    return [shown(row) for row in found.to_numpy().tolist()] == [shown(row) for row in expected.to_numpy().tolist()]


def shown(row: list[Any]) -> list[str]:
    """Numbers as far as they are sure, everything else as it stands."""
    return [f"{round(value, 3) + 0.0:.3f}" if isinstance(value, float) else str(value) for value in row]


def test_the_mode_refuses_what_gpus_refuse() -> None:
    with LogicalDevices():
        first, second = torch.ones(3, device=FIRST), torch.ones(3, device=LAST)
        for mix in (
            lambda: first + second,
            lambda: torch.cat([first, torch.ones(3)]),
            lambda: first[torch.tensor([0], device=LAST)],
            lambda: torch.nn.Linear(3, 3).to(LAST)(first),
        ):
            with pytest.raises(MixedDevicesError):
                mix()
        with pytest.raises(TypeError, match="copy it to the CPU first"):
            first.numpy()
        assert (first.to(LAST) + second).device == torch.device(LAST)
        assert (first[torch.tensor([0])] * torch.tensor(2.0)).device == torch.device(FIRST)


# -- loading ---------------------------------------------------------------------------------------------------


def test_a_folder_loads_with_a_device_map(gpt2_folder: Path) -> None:
    spread = al.load_model(gpt2_folder, family="bridge", device_map={"": "cpu"})
    plain = al.load_model(gpt2_folder, family="bridge")
    tokens = plain.to_tokens(PROMPTS[0], prepend_bos=True)
    assert torch.equal(spread(tokens), plain(tokens))
    assert al.model_source(spread).keywords["device_map"] == {"": "cpu"}


def test_what_cannot_be_spread_is_told(gpt2_folder: Path) -> None:
    if "hooked" in FAMILIES_HERE:
        with pytest.raises(al.ModelError, match="HookedTransformer takes no device_map: distribute it with n_devices="):
            al.load_model(gpt2_folder, family="hooked", device_map="auto")
    with pytest.raises(al.ModelError, match="device_map says where .* leave device='cpu' out"):
        al.load_model(gpt2_folder, family="bridge", device_map="auto", device="cpu")
    with pytest.raises(al.ModelError, match="n_devices=64 asks for as many GPUs, but torch finds"):
        al.load_model(gpt2_folder, n_devices=64)
