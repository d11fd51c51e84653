"""The real llama.cpp with exported files: the same logits as here on the same weights, and others beside the layer."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens.models.fetching import fetched_folder
from tests.support import apart

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not here: pip install llama-cpp-python")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(fetched_folder("smollm2") is None, reason="smollm2 is not here: run `actadd fetch smollm2`"),
    pytest.mark.smollm2,
]
LAYERS = (2, 8, 15, 22, 30)
PROMPT = "The weather this morning was cold and wet, so"
NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}  # fmt: skip


@cache
def source() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(fetched_folder("smollm2"), local_files_only=True).eval()


def write_model(path: Path) -> None:
    """The fetched model's float32 weights as llama.cpp reads them; tokens are given as ids, so no tokenizer."""
    model = source()
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    for name, weight in model.named_parameters():
        values = weight.detach().numpy()
        if name == "model.embed_tokens.weight":
            writer.add_tensor("token_embd.weight", values)
        elif name == "model.norm.weight":
            writer.add_tensor("output_norm.weight", values)
        else:
            _, _, block, *middle, _ = name.split(".")
            if middle[-1] in ("q_proj", "k_proj"):  # the halves of a rotary pair lie side by side there
                heads = config.num_attention_heads if middle[-1] == "q_proj" else config.num_key_value_heads
                values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
            writer.add_tensor(f"blk.{block}.{NAMES['.'.join(middle)]}.weight", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Llama:
    """llama.cpp by its C functions."""

    def __init__(self, path: Path) -> None:
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert self.model
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_threads = 256, 256, 1
        options.type_k = options.type_v = 0  # a float32 cache, and no flash attention, which rounds to half precision
        options.flash_attn_type = 0
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.width = llama_cpp.llama_model_n_embd(self.model)
        self.blocks = llama_cpp.llama_model_n_layer(self.model)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def steer(self, path: Path | None) -> None:
        """Lay a file's directions out as llama.cpp's own loader does, and hand them over; None takes them away."""
        if path is None:
            llama_cpp.llama_set_adapter_cvec(self.context, None, 0, 0, 0, 0)
            return
        buffer = np.zeros((self.blocks - 1, self.width), dtype=np.float32)
        for tensor in gguf.GGUFReader(path).tensors:
            buffer[int(tensor.name.removeprefix("direction.")) - 1] = tensor.data
        data = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        done = llama_cpp.llama_set_adapter_cvec(self.context, data, buffer.size, self.width, 1, self.blocks - 1)
        assert done == 0

    def logits(self, tokens: list[int]) -> torch.Tensor:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, place, 1
            batch.seq_id[place][0], batch.logits[place] = 0, True
        assert llama_cpp.llama_decode(self.context, batch) == 0
        pointer = llama_cpp.llama_get_logits(self.context)
        found = np.ctypeslib.as_array(pointer, shape=(len(tokens), self.vocabulary)).copy()
        llama_cpp.llama_batch_free(batch)
        return torch.from_numpy(found)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    path = tmp_path_factory.mktemp("llama") / "smollm2-f32.gguf"
    write_model(path)
    return Llama(path)


@pytest.fixture(scope="module")
def model() -> Any:
    return al.load_model("smollm2")


@torch.no_grad()
def test_exported_files_make_the_same_logits_in_llama_cpp(llama: Llama, model: Any, tmp_path: Path) -> None:
    tokens = model.to_tokens(PROMPT)
    assert apart(llama.logits(tokens[0].tolist()), model(tokens)[0]) <= 1e-3
    pair = al.PromptPair("I love it", "I hate it", prepend_bos=False)
    measured = {}
    for layer in LAYERS:
        vector = 2 * al.compute_steering_vector(model, pair, layer=layer).row(1).at(position="all+bos")
        with pytest.warns(al.ExchangeWarning, match="multiplied in"):
            vector.export(tmp_path / "v.gguf")
        llama.steer(tmp_path / "v.gguf")
        theirs = llama.logits(tokens[0].tolist())
        beside = []
        for other in (layer - 1, layer, layer + 1):
            if 0 <= other <= model.cfg.n_layers:
                with al.steer(model, vector.at_layer(other)):
                    difference = apart(theirs, model(tokens)[0])
                if other == layer:
                    exact = difference
                else:
                    beside.append(difference)
        moved = apart(theirs, model(tokens)[0])
        measured[layer] = (exact, min(beside), moved)
        assert exact <= 1e-3, measured
        assert min(beside) > 10 * exact, measured
        assert moved > 10 * exact, measured
    llama.steer(None)
