"""The layout of weights: other strides, the same values, logits and texts, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens.models import loading
from tests.conftest import HAS_HOOKED
from tests.models.gguf_files import source_model

pytestmark = pytest.mark.skipif(not HAS_HOOKED, reason="this TransformerLens has no HookedTransformer")
TEXT = "Once upon a time there was a girl who looked at the dog. She felt"


@pytest.fixture(params=["gpt2", "storybook", "grouped llama"])
def folder(request: pytest.FixtureRequest, gpt2_folder: Path, tmp_path: Path) -> Path:
    """Learned positions with LayerNorm; local windows; grouped keys with RMSNorm and a gated MLP."""
    if request.param == "gpt2":
        return gpt2_folder
    if request.param == "storybook":
        from actadd_lens.storybook import model_folder

        return model_folder()
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(gpt2_folder, local_files_only=True).save_pretrained(tmp_path)
    model = source_model()
    model.resize_token_embeddings(500)
    model.save_pretrained(tmp_path)
    return tmp_path


def by_transformer_lens(folder: Path) -> Any:
    """The model as TransformerLens loads it by itself: all steps, copies and calls."""
    from transformer_lens import HookedTransformer
    from transformer_lens import loading_from_pretrained as theirs

    settings = {"device": "cpu", "dtype": torch.float32}
    with loading._quiet(), loading._neutral(folder) as neutral:
        source, tokenizer = loading._hf_parts(folder, settings)
        config = theirs.get_pretrained_model_config(str(neutral), fold_ln=True, **settings)
        weights = theirs.get_pretrained_state_dict(str(neutral), config, source, dtype=torch.float32)
        model = HookedTransformer(config, tokenizer, move_to_device=False)
        model.load_and_process_state_dict(weights)
    return model


@pytest.mark.parametrize("fast_layout", [True, False])
def test_loading_at_once_gives_the_weights_of_transformer_lens_bit_for_bit(folder: Path, fast_layout: bool) -> None:
    theirs, ours = by_transformer_lens(folder), al.load_model(folder, family="hooked", fast_layout=fast_layout)
    expected, found = theirs.state_dict(), ours.state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name
        assert found[name].dtype == weight.dtype
        assert fast_layout or found[name].stride() == weight.stride(), name
    with torch.no_grad():
        assert torch.equal(ours(ours.to_tokens(TEXT)), theirs(theirs.to_tokens(TEXT)))


def test_the_layout_changes_no_logit_and_no_token(folder: Path) -> None:
    fast, plain = (al.load_model(folder, family="hooked", fast_layout=value) for value in (True, False))
    tokens, written, values = fast.to_tokens(TEXT), [], []
    for model in (fast, plain):
        vector = 3 * al.compute_steering_vector(model, ("Love", "Hate"), layer=2)
        values.append((vector.activations, model(tokens)))
        settings: dict[str, Any] = {"n": 2, "max_new_tokens": 8, "seed": 1, "progress": False}
        written.append(al.complete(model, [TEXT, "The dog"], vector, **settings).steered_continuations)
    assert torch.equal(values[0][0], values[1][0])
    assert torch.equal(values[0][1], values[1][1])
    assert written[0] == written[1]


def test_what_a_pass_turns_around_lies_turned(folder: Path) -> None:
    fast = al.load_model(folder, family="hooked")
    attention = fast.blocks[0].attn
    assert fast.unembed.W_U.T.is_contiguous()
    assert attention.W_Q.transpose(1, 2).is_contiguous()
    assert attention.W_O.permute(2, 0, 1).is_contiguous()
    if hasattr(fast.blocks[0].mlp, "W_gate"):
        assert fast.blocks[0].mlp.W_out.T.is_contiguous()
        assert attention._W_K.transpose(1, 2).is_contiguous()
    else:
        assert fast.blocks[0].mlp.W_out.is_contiguous()


def test_no_two_weights_share_memory_and_all_can_be_trained(folder: Path) -> None:
    model = al.load_model(folder, family="hooked", fold_ln=False, center_unembed=False)
    storages = [parameter.untyped_storage().data_ptr() for parameter in model.parameters()]
    assert len(set(storages)) == len(storages)
    assert all(type(parameter) is torch.nn.Parameter and parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        before = model.unembed.W_U.clone()
        model.embed.W_E.zero_()
    assert torch.equal(model.unembed.W_U, before)


def test_half_precision_lies_turned_as_well(folder: Path) -> None:
    fast, plain = (
        al.load_model(folder, family="hooked", dtype="bfloat16", fast_layout=value) for value in (True, False)
    )
    assert fast.unembed.W_U.dtype == torch.bfloat16
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
