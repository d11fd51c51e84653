"""Quantised models: a bridge runs them as transformers does, a HookedTransformer refuses them; nothing is ignored."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import actadd_lens as al
from tests.conftest import FAMILIES, HAS_HOOKED

PROMPT = "The girl looked at the old dog"
PAIR = ("Love", "Hate")


def quantised_folder(folder: Path, place: Path, **config: Any) -> Path:
    """A copy of a model folder that says its weights are quantised."""
    shutil.copytree(folder, place)
    told = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(told | {"quantization_config": config}))
    return place


def in_bits(bits: int) -> Any:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not here: pip install 'actadd-lens[quantised]'")
    return transformers.BitsAndBytesConfig(
        load_in_8bit=bits == 8, load_in_4bit=bits == 4, bnb_4bit_compute_dtype=torch.float32
    )


@cache
def loaded(bits: int) -> Any:
    return al.load_model(family="bridge", device="cpu", quantization_config=in_bits(bits))


@pytest.fixture(params=[8, 4])
def quantised(request: pytest.FixtureRequest) -> Any:
    return loaded(request.param)


def test_steering_is_a_hook_on_hugging_faces_own_block(quantised: Any) -> None:
    vector = 3 * al.compute_steering_vector(quantised, PAIR, layer=4)
    tokens = quantised.to_tokens(PROMPT)

    def add(module: Any, args: Any, kwargs: Any) -> Any:
        stream = (args[0] if args else kwargs["hidden_states"]).clone()
        stream[:, : vector.rows] += vector.injection
        return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})

    with torch.no_grad():
        with al.steer(quantised, vector):
            found = quantised(tokens)
        plain = quantised(tokens)
        block = quantised.original_model.transformer.h[4]
        handle = getattr(block, "_original_component", block).register_forward_pre_hook(add, with_kwargs=True)
        try:
            expected = quantised(tokens)
        finally:
            handle.remove()
    assert (found - expected).abs().max() < 1e-3
    assert (found - plain).abs().max() > 1


def test_tools_that_need_no_weights_run(quantised: Any) -> None:
    vector = 10 * al.compute_steering_vector(quantised, PAIR, layer=4)
    written = al.complete(quantised, PROMPT, vector, max_new_tokens=4, temperature=0, progress=False)
    assert written.steered != written.unsteered
    assert len(al.logit_lens(quantised, vector).frame())
    found = al.measure(quantised, [PROMPT, "He said no."], vector, al.metrics.entropy(), nulls=2, progress=False)
    assert torch.tensor(found.steered).isfinite().all()


def test_tools_that_need_packed_weights_say_so_before_a_pass(quantised: Any) -> None:
    vector = 3 * al.compute_steering_vector(quantised, PAIR, layer=4)
    with pytest.raises(al.ModelError, match="are quantised, so what each of its heads writes cannot be calculated"):
        al.trace_injection(quantised, PROMPT, vector, metric=al.metrics.entropy())
    with pytest.raises(al.ActAddError):
        al.methods.kl_then_steer(quantised, [vector], [PROMPT], steps=1, progress=False)


def test_a_vector_of_the_plain_model_is_one_of_another_model(quantised: Any, embedded: Any) -> None:
    vector = al.compute_steering_vector(embedded, PAIR, layer=4)
    with pytest.raises(al.FingerprintError, match="for_model"):
        al.complete(quantised, PROMPT, vector)
    assert al.complete(quantised, PROMPT, vector.for_model(quantised), max_new_tokens=2, progress=False).steered


@pytest.mark.skipif(not HAS_HOOKED, reason="this TransformerLens has no HookedTransformer")
def test_a_hooked_transformer_holds_no_quantised_weights(gpt2_folder: Path, tmp_path: Path) -> None:
    folder = quantised_folder(gpt2_folder, tmp_path / "packed", quant_method="gptq", bits=4)
    with pytest.raises(al.ModelError, match=r"is quantised \(gptq\).*use family='bridge'"):
        al.load_model(folder, family="hooked")
    with pytest.raises(al.ModelError, match=r"is quantised \(bitsandbytes\)"):
        al.load_model(family="hooked", quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True))


def test_a_library_that_is_missing_is_named(gpt2_folder: Path, tmp_path: Path) -> None:
    folder = quantised_folder(gpt2_folder, tmp_path / "packed", quant_method="gptq", bits=4)
    with pytest.raises(al.ModelError, match="(?i)gptq"):
        al.load_model(folder, family="bridge")


def test_a_quantisation_that_is_none_is_refused() -> None:
    with pytest.raises(al.ModelError, match="expected a quantisation config of transformers"):
        al.load_model(family="bridge", quantization_config=8)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_and_a_tokenizer_that_are_given_are_taken(gpt2_folder: Path, family: Any) -> None:
    """They were ignored: the folder's own weights were loaded in their place."""
    if family == "hooked" and not HAS_HOOKED:
        pytest.skip("this TransformerLens has no HookedTransformer")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder)
    with torch.no_grad():
        theirs.transformer.h[2].mlp.c_fc.weight += 0.1
    tokens = torch.tensor([[1, 2, 3, 4]])
    expected = theirs(tokens).logits.log_softmax(dim=-1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt2_folder)
    model = al.load_model(gpt2_folder, family=family, hf_model=theirs, tokenizer=tokenizer)
    assert (model(tokens).log_softmax(dim=-1) - expected).abs().max() < 1e-3
    with pytest.raises(al.ModelError, match="from objects of this process"):
        al.model_source(model)
