"""The libraries themselves: their code reads our files, ours reads theirs, and both steer to the same logits.

`make libraries` installs them beside the pinned versions and runs this; a library that is not there is skipped.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import actadd_lens as al
from actadd_lens.models.fetching import fetched_folder
from actadd_lens.models.hooked import hooked_transformer
from actadd_lens.models.loading import Family
from tests.support import apart

pytestmark = [
    pytest.mark.slow,
    # What the libraries and their own dependencies warn of is theirs.
    *(pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning", "UserWarning")),
    pytest.mark.filterwarnings("ignore::actadd_lens.ExchangeWarning"),
    pytest.mark.filterwarnings("ignore::actadd_lens.MassiveActivationWarning"),
]
FAMILY: Family = "bridge" if hooked_transformer() is None else "hooked"
PROMPT = "The girl looked at the old dog. She felt that it was"
PAIR = ("I love it", "I hate it")
TOLERANCE = 1e-4
LAYERS = {"storybook": (1, 3, 5, 8), "smollm2": (1, 8, 18, 30)}
smollm2 = pytest.param(
    "smollm2",
    marks=[
        pytest.mark.smollm2,
        pytest.mark.skipif(fetched_folder("smollm2") is None, reason="smollm2 is not here: run `actadd fetch smollm2`"),
    ],
)
both = pytest.mark.parametrize("name", ["storybook", smollm2])


@cache
def ours(name: str) -> Any:
    return al.load_model(name, family=FAMILY)


def folder(name: str) -> Path:
    found = al.storybook.model_folder() if name == "storybook" else fetched_folder(name)
    assert found is not None
    return found


@cache
def tokens(name: str) -> Tensor:
    return ours(name).to_tokens(PROMPT)


def theirs(name: str) -> Any:
    """The plain Hugging Face model, anew: the libraries wrap and change it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder(name), dtype=torch.float32, local_files_only=True).eval()


def tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder(name), local_files_only=True)


def vector(name: str, layer: int) -> al.SteeringVector:
    """One row, long enough to be felt; read where there is a block to read at, and moved to the end of the model."""
    read = al.compute_steering_vector(ours(name), PAIR, layer=min(layer, ours(name).cfg.n_layers - 1)).row(2)
    return (3 * read.at_layer(layer)).at(position="all+bos")


@torch.no_grad()
def steered(name: str, *vectors: al.SteeringVector) -> Tensor:
    with al.steer(ours(name), *vectors) if vectors else nullcontext():
        return ours(name)(tokens(name))[0]


@torch.no_grad()
def logits(model: Any, name: str) -> Tensor:
    return model(tokens(name)).logits[0]


def same(name: str, found: Tensor, *vectors: al.SteeringVector) -> None:
    """The same logits as ours at these layers, and others at the layers beside them and without steering."""
    exact = apart(found, steered(name, *vectors))
    assert exact <= TOLERANCE
    for step in (-1, 1):
        moved = [v.layer + step for v in vectors]
        if min(moved) >= 0 and max(moved) <= ours(name).cfg.n_layers:
            assert apart(found, steered(name, *(v.at_layer(v.layer + step) for v in vectors))) > 10 * max(exact, 1e-6)
    assert apart(found, steered(name)) > 10 * max(exact, 1e-6)


# -- steering-vectors ------------------------------------------------------------------------------------------


@pytest.fixture
def steering_vectors() -> Any:
    return pytest.importorskip("steering_vectors", reason="steering-vectors is not here: make libraries")


@both
def test_steering_vectors_steers_to_the_same_logits_at_its_layer_numbers(
    steering_vectors: Any, name: str, tmp_path: Path
) -> None:
    model = theirs(name)
    for layer in LAYERS[name]:
        v = vector(name, layer)
        made = steering_vectors.SteeringVector({layer - 1: v.injection[0]})
        with made.apply(model), torch.no_grad():
            same(name, logits(model, name), v)
        torch.save(made, tmp_path / "v.pt")
        [read] = al.load_vectors(tmp_path / "v.pt")
        assert read.layer == layer
        assert torch.equal(read.injection, v.injection)
    v = vector(name, 3)
    made = steering_vectors.SteeringVector({2: v.injection[0]})
    with made.apply(model, min_token_index=1):
        same(name, logits(model, name), v.at(position="all"))
    with made.apply(model, min_token_index=None, token_indices=[4], multiplier=-2.0):
        same(name, logits(model, name), -2 * v.at(position=4))


@both
def test_a_vector_that_steering_vectors_trains_is_ours_at_the_layer_above(
    steering_vectors: Any, name: str, tmp_path: Path
) -> None:
    model, layer = theirs(name), LAYERS[name][1]
    pairs = [PAIR, ("This was a good day", "This was a bad day")]
    trained = steering_vectors.train_steering_vector(
        model, tokenizer(name), pairs, layers=[layer - 1], read_token_index=-1
    )
    torch.save(trained, tmp_path / "v.pt")
    read = al.SteeringVector.load(tmp_path / "v.pt")
    with_bos = tokenizer(name)(PAIR[0])["input_ids"][0] == tokenizer(name).bos_token_id
    mine = [
        al.compute_steering_vector(ours(name), al.PromptPair(*pair, prepend_bos=with_bos), layer=layer).injection[-1]
        for pair in pairs
    ]
    expected = torch.stack(mine).mean(dim=0)
    assert read.layer == layer
    assert apart(read.injection, expected[None]) <= TOLERANCE  # a LayerNorm model here is centred


# -- repeng ----------------------------------------------------------------------------------------------------


@pytest.fixture
def repeng(monkeypatch: pytest.MonkeyPatch) -> Any:
    """repeng 0.4 mentions a name that NumPy 2 no longer has, in the annotation of one method."""
    if not hasattr(np, "float_"):
        monkeypatch.setattr(np, "float_", np.float64, raising=False)
    return pytest.importorskip("repeng", reason="repeng is not here: make libraries")


@both
def test_repeng_reads_our_files_and_steers_to_the_same_logits(repeng: Any, name: str, tmp_path: Path) -> None:
    for layer in LAYERS[name][1:]:
        v = vector(name, layer)
        v.export(tmp_path / "v.gguf")
        control = repeng.ControlVector.import_gguf(tmp_path / "v.gguf")
        assert list(control.directions) == [layer - 1]
        assert np.array_equal(control.directions[layer - 1], v.injection[0].numpy())
        model = repeng.ControlModel(theirs(name), [layer - 1])
        model.set_control(control, coeff=1.5)
        same(name, logits(model, name), 1.5 * v)


@both
def test_what_repeng_trains_and_writes_is_read_and_steers_to_its_logits(repeng: Any, name: str, tmp_path: Path) -> None:
    words = tokenizer(name)
    words.pad_token = words.pad_token or words.eos_token
    texts = [("happy", "sad"), ("good", "bad"), ("kind", "mean"), ("glad", "cross")]
    dataset = [repeng.DatasetEntry(f"The girl was {one}", f"The girl was {other}") for one, other in texts]
    blocks = [layer - 1 for layer in LAYERS[name][1:3]]
    model = repeng.ControlModel(theirs(name), blocks)
    trained = repeng.ControlVector.train(model, words, dataset, batch_size=2)
    trained.export_gguf(tmp_path / "v.gguf")
    read = al.load_vectors(tmp_path / "v.gguf")
    assert [v.layer for v in read] == sorted(block + 1 for block in trained.directions)
    for v in read:
        assert np.array_equal(v.activations[0].numpy(), trained.directions[v.layer - 1])
    model.set_control(trained, coeff=30.0)
    same(name, logits(model, name), *(30 * v for v in read if v.layer - 1 in blocks))


# -- vllm-lens -------------------------------------------------------------------------------------------------


@pytest.fixture
def vllm_lens() -> Any:
    return pytest.importorskip("vllm_lens", reason="vllm-lens is not here: make libraries")


@pytest.fixture
def adding(vllm_lens: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """vllm-lens's own code that adds to a block's output; two modules stand in for what it imports of vLLM before."""
    context: Any = ModuleType("vllm.forward_context")
    context.get_forward_context = context.is_forward_context_available = lambda: None
    utils: Any = ModuleType("vllm.model_executor.models.utils")
    utils.PPMissingLayer = type("PPMissingLayer", (), {})
    for module in ("vllm", "vllm.model_executor", "vllm.model_executor.models"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    monkeypatch.setitem(sys.modules, context.__name__, context)
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    import importlib

    found: Callable[..., None] = importlib.import_module("vllm_lens._worker_ext")._apply_steering
    return found


def in_chunks(
    model: Any, name: str, adding: Callable[..., None], vectors: Sequence[Any], sizes: Sequence[int]
) -> Tensor:
    """Logits where vllm-lens adds to every block's output, the prompt coming in chunks as in chunked prefill."""
    blocks = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    past, found, cache_ = 0, [], None
    for size in sizes:

        def hook(index: int, past: int = past, size: int = size) -> Any:
            def after(module: Any, args: Any, output: Any) -> Any:
                stream = (output[0] if isinstance(output, tuple) else output).clone()
                adding(vectors, index, stream[0], 0, size, past, stream[0])
                return (stream, *output[1:]) if isinstance(output, tuple) else stream

            return after

        with ExitStack() as stack, torch.no_grad():
            for index, block in enumerate(blocks):
                stack.callback(block.register_forward_hook(hook(index)).remove)
            out = model(tokens(name)[:, past : past + size], past_key_values=cache_, use_cache=True)
        found.append(out.logits[0])
        past, cache_ = past + size, out.past_key_values
    return torch.cat(found)


@both
def test_vllm_lens_reads_our_files_and_adds_as_we_do(
    vllm_lens: Any, adding: Callable[..., None], name: str, tmp_path: Path
) -> None:
    model, length = theirs(name), tokens(name).shape[1]
    rows = 3 * al.compute_steering_vector(ours(name), PAIR, layer=LAYERS[name][1])
    placed = [rows.at(position=1), rows.row(2).at(position=5)]
    for v in (*(vector(name, layer) for layer in LAYERS[name]), *placed):
        v.export(tmp_path / "v.json")
        read = vllm_lens.SteeringVector.model_validate_json((tmp_path / "v.json").read_text())
        assert (read.layer_indices, read.scale, read.norm_match) == ([v.layer - 1], v.coefficient, False)
        assert torch.equal(read.activations.reshape(-1, v.activations.shape[1]), v.activations)
        same(name, in_chunks(model, name, adding, [read], [length]), v)
        assert apart(in_chunks(model, name, adding, [read], [3, length - 3]), steered(name, v)) <= TOLERANCE


@both
def test_what_vllm_lens_writes_is_read_and_steers_to_its_logits(
    vllm_lens: Any, adding: Callable[..., None], name: str, tmp_path: Path
) -> None:
    pytest.importorskip("zstandard", reason="vllm-lens compresses with zstandard, which is not here")
    model, (_, first, second, _) = theirs(name), LAYERS[name]
    rows = torch.stack([vector(name, layer).activations for layer in (first, second)])
    for places in (None, [2, 3, 7]):
        activations = rows[:, 0] if places is None else rows * torch.tensor([1.0, 0.5, -1.0])[:, None]
        made = vllm_lens.SteeringVector(
            activations=activations, layer_indices=[first - 1, second - 1], scale=-2.0, position_indices=places
        )
        (tmp_path / "v.json").write_text(made.model_dump_json())
        read = al.load_vectors(tmp_path / "v.json")
        assert [v.layer for v in read] == [first, second]
        same(name, in_chunks(model, name, adding, [made], [tokens(name).shape[1]]), *read)


# -- SAELens ---------------------------------------------------------------------------------------------------


@pytest.fixture
def sae_lens() -> Any:
    return pytest.importorskip(
        "sae_lens", reason="sae-lens is not here, or not for this TransformerLens: make libraries"
    )


def sae_of(sae_lens: Any, name: str, hook: str, **settings: Any) -> Any:
    """A random SAE; its features lie in every direction."""
    width = ours(name).cfg.d_model
    metadata = sae_lens.saes.sae.SAEMetadata(hook_name=hook, model_name=name)
    cfg = sae_lens.StandardSAEConfig(
        d_in=width, d_sae=2 * width, dtype="float32", device="cpu", metadata=metadata, **settings
    )
    torch.manual_seed(1)
    sae = sae_lens.StandardSAE(cfg)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn_like(parameter) / width**0.5)
    return sae.eval()


def sae_model(sae_lens: Any, name: str, family: str) -> Any:
    """Their model with our weights: their loaders ask the network."""
    if family == "bridge":
        model: Any = al.load_model(name, family="bridge")
        model.__class__ = sae_lens.SAETransformerBridge
        model._acts_to_saes, model._transcoder_output_hooks = {}, {}
        return model
    plain = ours(name)
    model = sae_lens.HookedSAETransformer(plain.cfg, tokenizer=plain.tokenizer)
    model.load_state_dict(plain.state_dict())
    return model.eval()


families = pytest.mark.parametrize("family", ["hooked", "bridge"] if FAMILY == "hooked" else ["bridge"])


@contextmanager
def attached(model: Any, sae: Any, **settings: Any) -> Iterator[None]:
    model.add_sae(sae, **settings)
    try:
        yield
    finally:
        model.reset_saes()


def raised(feature: int, amount: float) -> Any:
    """Raises a feature's activation inside the SAE."""

    def hook(activations: Tensor, hook: Any) -> Tensor:
        found = activations.clone()
        found[..., feature] += amount
        return found

    return hook


@both
@families
@torch.no_grad()
def test_a_model_of_sae_lens_is_read_and_steered_and_a_taken_hook_point_is_an_error(
    sae_lens: Any, name: str, family: str
) -> None:
    model, (_, layer, above, _) = sae_model(sae_lens, name, family), LAYERS[name]
    v = vector(name, layer)
    read = al.compute_steering_vector(model, PAIR, layer=layer).row(2)
    assert apart(read.injection, (v / v.coefficient).injection) <= TOLERANCE
    with al.steer(model, v):
        same(name, model(tokens(name))[0], v)
    for hook in (f"blocks.{above}.hook_resid_pre", f"blocks.{layer - 1}.hook_resid_pre"):
        with attached(model, sae_of(sae_lens, name, hook)):
            point = f"blocks.{layer}." + ("hook_resid_pre" if family == "hooked" else "hook_in")
            hooks = [(point, lambda stream, hook: stream + v.injection[0])]
            expected = model.run_with_hooks(tokens(name), fwd_hooks=hooks)
            with al.steer(model, v):
                found = model(tokens(name))
            assert torch.equal(found, expected)
            assert apart(found[0], steered(name, v)) > 100 * TOLERANCE  # the SAE acts too
        with attached(model, sae_of(sae_lens, name, hook), use_error_term=True), al.steer(model, v):
            assert apart(model(tokens(name))[0], steered(name, v)) <= 10 * TOLERANCE
    sae = sae_of(sae_lens, name, f"blocks.{layer}.hook_resid_pre")
    with attached(model, sae):
        for attempt in (
            lambda: al.compute_steering_vector(model, PAIR, layer=layer),
            lambda: al.complete(model, PROMPT, v, max_new_tokens=1, progress=False),
        ):
            with pytest.raises(al.ActAddError, match="sparse autoencoder"):
                attempt()
    with al.steer(model, v):  # and it is gone without a trace
        same(name, model(tokens(name))[0], v)


@both
@families
@torch.no_grad()
def test_a_feature_as_a_vector_does_what_raising_it_inside_the_sae_does(sae_lens: Any, name: str, family: str) -> None:
    model, layer = sae_model(sae_lens, name, family), LAYERS[name][1]
    for hook in (f"blocks.{layer}.hook_resid_pre", f"blocks.{layer - 1}.hook_resid_post"):
        sae = sae_of(sae_lens, name, hook)
        v = al.from_sae(sae, 5, model=model).at(position="all+bos")
        assert v.layer == layer
        assert torch.equal(v.activations[0], sae.W_dec[5])
        with attached(model, sae, use_error_term=True):
            inside = f"{hook}.hook_sae_acts_post" if family == "hooked" else model.get_sae_hook_name(sae)
            found = model.run_with_hooks(tokens(name), fwd_hooks=[(inside, raised(5, 20.0))])[0]
        same(name, found, 20 * v)
    with pytest.raises(al.VectorError, match="stands at blocks.1.attn.hook_z"):
        al.from_sae(sae_of(sae_lens, name, "blocks.1.attn.hook_z"), 0)


def test_what_an_sae_of_sae_lens_says_of_its_normalisation_is_told(sae_lens: Any) -> None:
    for kind in ("layer_norm", "constant_norm_rescale", "expected_average_only_in"):
        sae = sae_of(sae_lens, "storybook", "blocks.3.hook_resid_pre", normalize_activations=kind)
        with pytest.warns(al.ExchangeWarning, match="rescales each token|units of a scale"):
            al.from_sae(sae, 0)


def test_a_dictionary_of_sae_lens_reads_a_vector(sae_lens: Any) -> None:
    sae = sae_of(sae_lens, "storybook", "blocks.3.hook_resid_pre")
    v = vector("storybook", 3)
    reading = al.dictionary_reading(v, sae.W_dec, nulls=19)
    cosines = torch.nn.functional.cosine_similarity(v.injection, sae.W_dec)
    frame = reading.frame()
    found = frame[frame["list"] == "largest"]["value"].abs().max()
    assert found == pytest.approx(float(cosines.abs().max()), abs=1e-5)
