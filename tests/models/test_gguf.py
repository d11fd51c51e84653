"""GGUF files: the same weights, logits and tokens as their source, or a refusal that says what is in the way."""

from pathlib import Path
from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens.models.gguf import convert_gguf
from tests.conftest import FAMILIES, HAS_HOOKED
from tests.models.gguf_files import source_model, write_gguf

pytest.importorskip("gguf", reason="the package gguf is not installed")
TOKENS = torch.tensor([[1, 40, 7, 99, 200, 31, 5, 260]])


def converted(file: Path, folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    convert_gguf(file, folder)
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("tied", [True, False])
def test_full_numbers_come_out_as_they_went_in(tmp_path: Path, tied: bool) -> None:
    source = source_model(tied=tied)
    write_gguf(tmp_path / "small.gguf", source)
    found = converted(tmp_path / "small.gguf", tmp_path / "folder")
    ours, theirs = found.state_dict(), source.state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert torch.equal(ours[name], weight), name
    with torch.no_grad():
        assert torch.equal(found(TOKENS).logits, source(TOKENS).logits)


@pytest.mark.parametrize("kinds", [("F16",), ("Q8_0", "Q4_1"), ("Q4_0", "Q5_1"), ("BF16",)])
def test_packed_numbers_come_out_as_the_package_gguf_reads_them(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    held = write_gguf(tmp_path / "small.gguf", source_model(), kinds=kinds)
    found = converted(tmp_path / "small.gguf", tmp_path / "folder")
    for name, weight in held.items():
        assert torch.equal(found.get_parameter(name), weight), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_loads_like_the_folder_it_came_from(tmp_path: Path, family: Any) -> None:
    if family == "hooked" and not HAS_HOOKED:
        pytest.skip("this TransformerLens has no HookedTransformer")
    source = source_model()
    write_gguf(tmp_path / "a llama.gguf", source)
    model = al.load_model(tmp_path / "a llama.gguf", family=family)
    assert model.cfg.model_name == "a llama"
    with torch.no_grad():
        difference = model(TOKENS).log_softmax(-1) - source(TOKENS).logits.log_softmax(-1)
    assert difference.abs().max() < 1e-4
    vector = al.compute_steering_vector(model, ("Love", "Hate"), layer=1)
    assert al.complete(model, "Hello the dog", vector, max_new_tokens=3).steered
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a llama.gguf"]


@pytest.mark.parametrize(
    ("rule", "pieces"),
    [
        ("smollm", ["ĊĊ", "1", "2", "ĠĠ", "Ġdog", "ĠĠ", "7"]),
        ("gpt-2", ["Ċ", "Ċ", "1", "2", "ĠĠ", "Ġdog", "Ġ", "Ġ", "7"]),
    ],
)
def test_texts_are_cut_by_the_rule_that_the_file_names(tmp_path: Path, rule: str, pieces: list[str]) -> None:
    from transformers import AutoTokenizer

    write_gguf(tmp_path / "small.gguf", source_model(), rule=rule)
    convert_gguf(tmp_path / "small.gguf", tmp_path / "folder")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder", local_files_only=True)
    text = "\n\n12   dog  7"
    assert tokenizer.tokenize(text) == pieces
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.tokenize("<|im_start|>user") == ["<|im_start|>", "user"]
    marks = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert marks == (1, 2, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "qwen2"}, "its architecture is 'qwen2', and only 'llama' is understood"),
        ({"rule": "tekken"}, "rule 'tekken': only byte-level BPE"),
        ({"keys": {"llama.attention.sliding_window": 64}}, "it sets llama.attention.sliding_window to 64"),
        ({"keys": {"llama.rope.scaling.type": "yarn"}}, "it sets llama.rope.scaling.type to 'yarn'"),
        ({"keys": {"llama.attention.key_length": 8}}, "llama.rope.dimension_count is 16, but heads are 8 wide"),
        ({"extra": ("rope_freqs.weight",)}, "it holds a tensor rope_freqs.weight"),
        ({"extra": ("blk.0.attn_q.bias",)}, "it holds a tensor blk.0.attn_q.bias"),
        ({"leave_out": ("blk.1.ffn_up.weight",)}, "it holds no tensor blk.1.ffn_up.weight"),
    ],
)
def test_what_cannot_be_converted_exactly_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    write_gguf(tmp_path / "small.gguf", source_model(), **settings)
    with pytest.raises(al.ModelError, match=message):
        convert_gguf(tmp_path / "small.gguf", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_neutral_scaling_key_is_no_hindrance(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf", source_model(), keys={"llama.rope.scaling.type": "none"})
    convert_gguf(tmp_path / "small.gguf", tmp_path / "folder")


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"no model at all")
    with pytest.raises(al.ModelError, match=r"small\.gguf cannot be read as a GGUF file"):
        al.load_model(tmp_path / "small.gguf")
    write_gguf(tmp_path / "whole.gguf", source_model())
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "whole.gguf").read_bytes()[:-5000])
    with pytest.raises(al.ModelError, match=r"cut\.gguf cannot be read as a GGUF file"):
        al.load_model(tmp_path / "cut.gguf")


def test_without_the_package_gguf_the_way_to_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "small.gguf", source_model())
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(al.ModelError, match=r"pip install 'actadd-lens\[smollm2\]'"):
        al.load_model(tmp_path / "small.gguf")
