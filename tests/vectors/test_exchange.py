"""Files of other libraries: what a format holds comes back to the bit; what it cannot hold is refused or told."""

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import actadd_lens as al
from tests.support import PAIRS, vector_of

D = 16


def made(rows: int = 1, layer: int = 5, **at: Any) -> al.SteeringVector:
    values = torch.randn(rows, D, generator=torch.Generator().manual_seed(rows))
    vector = al.SteeringVector.from_tensor(values, layer=layer, source="a probe")
    return vector.at(**at) if at else vector


def gguf_file(path: Path, directions: dict[str, np.ndarray], *, architecture: str = "controlvector") -> Path:
    """As repeng writes it."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", len(directions))
    for name, values in directions.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quietly(load: Callable[..., Any], *args: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", al.ExchangeWarning)
        return load(*args, **options)


def refused(path: Path, match: str, **options: Any) -> None:
    with pytest.raises(al.VectorFileError, match=match) as caught:
        al.SteeringVector.load(path, **options)
    assert path.name in str(caught.value)


# -- llama.cpp -------------------------------------------------------------------------------------------------


def test_a_gguf_file_says_what_llama_cpp_asks_for(tmp_path: Path) -> None:
    vector = 3 * made(layer=5, position="all+bos")
    with pytest.warns(al.ExchangeWarning, match="the coefficient 3 is multiplied in"):
        vector.export(tmp_path / "v.gguf")
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.layer_count"].contents() == 1
    [tensor] = reader.tensors
    assert (tensor.name, tensor.tensor_type.name, tensor.data.shape) == ("direction.4", "F32", (D,))
    assert np.array_equal(tensor.data, vector.injection[0].numpy())


def test_an_exported_gguf_file_gives_back_the_injection_and_where_it_comes_from(quickest: Any, tmp_path: Path) -> None:
    vector = vector_of(quickest, PAIRS[0], 2).row(1).at(position="all+bos")
    vector.export(tmp_path / "v.gguf")
    loaded = al.SteeringVector.load(tmp_path / "v.gguf")
    assert torch.equal(loaded.injection, vector.injection)
    assert (loaded.layer, loaded.position, loaded.provenance) == (2, "all+bos", vector.provenance)
    with pytest.warns(al.ExchangeWarning):
        (5 * vector).export(tmp_path / "v.gguf")
    loaded = al.SteeringVector.load(tmp_path / "v.gguf")
    assert torch.equal(loaded.injection, (5 * vector).injection)
    assert loaded.provenance.steps[-1] == "coefficient 5 multiplied in for GGUF"


@pytest.mark.parametrize("position", ["front", "back", 3, "generated", "last", al.since(4), slice(2, 5)], ids=str)
def test_llama_cpp_adds_at_every_token_so_places_are_refused(tmp_path: Path, position: Any) -> None:
    with pytest.raises(al.PositionError, match=r"every token, BOS too.*all\+bos.*vllm-lens"):
        made(position=position).export(tmp_path / "v.gguf")
    assert not list(tmp_path.iterdir())


def test_llama_cpp_has_no_layers_below_2_and_no_rows(tmp_path: Path) -> None:
    for layer in (0, 1):
        with pytest.raises(al.LayerError, match=f"no direction for layer {layer}.*layer 2 or above"):
            made(layer=layer).export(tmp_path / "v.gguf")
    with pytest.raises(al.VectorError, match=r"holds one row.* has 3.*\.row\(i\).*mean_rows.*vllm-lens"):
        made(3).export(tmp_path / "v.gguf")


@pytest.mark.parametrize(("position", "told"), [("all", "BOS too, which position 'all' leaves out"), (None, "front")])
def test_that_llama_cpp_adds_at_bos_is_told(tmp_path: Path, position: Any, told: str) -> None:
    vector = made() if position is None else made(position=position)
    with pytest.warns(al.ExchangeWarning, match=told):
        vector.export(tmp_path / "v.gguf")
    assert al.SteeringVector.load(tmp_path / "v.gguf").position == "all+bos"


def test_every_direction_of_repengs_file_is_read_at_the_layer_above(tmp_path: Path) -> None:
    directions = {f"direction.{block}": np.full(D, block, dtype=np.float32) for block in (0, 3, 11)}
    path = gguf_file(tmp_path / "happy.gguf", directions)
    with pytest.warns(al.ExchangeWarning, match=r"directions 0 to 11 .* layers 1 to 12 here.*BOS too"):
        vectors = al.load_vectors(path)
    assert [(vector.layer, vector.rows, vector.position) for vector in vectors] == [
        (1, 1, "all+bos"), (4, 1, "all+bos"), (12, 1, "all+bos"),
    ]  # fmt: skip
    assert [float(vector.activations[0, 0]) for vector in vectors] == [0, 3, 11]
    assert (
        quietly(al.SteeringVector.load, path, layer=12).label == "direction.11 of happy.gguf (GGUF, model hint mistral)"
    )
    refused(path, r"vectors at the layers 1, 4, 12 .*layer=.*load_vectors")
    refused(path, r"none at 11, but vectors at the layers 1, 4, 12", layer=11)


def test_gguf_files_of_other_things_are_named(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "model.gguf", {"token_embd.weight": np.ones((2, 8), np.float32)}, architecture="llama")
    refused(path, "architecture 'llama', so it seems to be a model.*load_model")
    path = gguf_file(tmp_path / "odd.gguf", {"layer.3": np.ones(8, np.float32)})
    refused(path, "holds a tensor 'layer.3', which is not a direction")
    path = gguf_file(tmp_path / "rows.gguf", {"direction.3": np.ones((2, 8), np.float32)})
    refused(path, r"shape \(2, 8\)")
    path = gguf_file(tmp_path / "nan.gguf", {"direction.3": np.full(8, np.nan, np.float32)})
    refused(path, "NaN or infinite")


def test_a_gguf_file_that_was_changed_after_its_export_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    made(position="all+bos").export(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    refused(path, "changed or damaged")


# -- vllm-lens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "position", "places"),
    [(3, 2, [2, 3, 4]), (2, "front", [0, 1]), (1, "all+bos", None), (1, slice(2, 5), [2, 3, 4]), (1, 7, [7])],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_vllm_lens_holds_rows_and_places_to_the_bit(
    tmp_path: Path, rows: int, position: Any, places: Any, dtype: torch.dtype
) -> None:
    vector = -2.5 * made(rows, position=position).to(dtype=dtype)
    vector.export(tmp_path / "v.json")
    told = json.loads((tmp_path / "v.json").read_text())
    assert (told["layer_indices"], told["scale"], told["position_indices"]) == ([4], -2.5, places)
    assert told["activations"]["shape"] == ([1, D] if places is None else [1, len(places), D])
    loaded = al.SteeringVector.load(tmp_path / "v.json")
    assert torch.equal(loaded.activations, vector.activations)
    assert (loaded.layer, loaded.coefficient, loaded.position) == (5, -2.5, vector.position)
    assert loaded.provenance == vector.provenance
    del told["actadd_lens"]  # as vllm-lens itself writes it
    (tmp_path / "v.json").write_text(json.dumps(told))
    with pytest.warns(al.ExchangeWarning, match="output of block 4, which is layer 5 here"):
        plain = al.SteeringVector.load(tmp_path / "v.json")
    assert torch.equal(plain.activations, vector.activations.expand(plain.rows, -1))
    assert (plain.layer, plain.coefficient) == (5, -2.5)
    assert plain.position == ("all+bos" if places is None else places[0])


def test_positions_that_hang_on_the_prompt_and_layer_0_are_refused(tmp_path: Path) -> None:
    for position in ("mid", "back", "generated", "last", al.after("x")):
        with pytest.raises(al.PositionError, match="depends on the prompt.*preview"):
            made(position=position).export(tmp_path / "v.json")
    with pytest.raises(al.LayerError, match="no block's output enters layer 0"):
        made(layer=0).export(tmp_path / "v.json")
    made(layer=1, position=0).export(tmp_path / "v.json")
    with pytest.warns(al.ExchangeWarning, match="BOS too"):
        made(position="all").export(tmp_path / "v.json")
    with pytest.warns(al.ExchangeWarning, match="row 0 is for token 0"):
        made(2).export(tmp_path / "v.json")


def vllm_json(path: Path, values: np.ndarray, **changes: Any) -> Path:
    import base64

    array = {
        "data": base64.b64encode(values.tobytes()).decode(),
        "dtype": str(values.dtype),
        "shape": list(values.shape),
    }
    path.write_text(json.dumps({"activations": array, "layer_indices": [4], "scale": 1.0, **changes}))
    return path


def test_rows_at_scattered_tokens_get_zero_rows_between_them(tmp_path: Path) -> None:
    values = np.arange(3 * 4, dtype=np.float32).reshape(1, 3, 4)
    path = vllm_json(tmp_path / "v.json", values, position_indices=[9, 6, 6])
    loaded = quietly(al.SteeringVector.load, path)
    expected = np.zeros((4, 4), np.float32)
    expected[3], expected[0] = values[0, 0], values[0, 1] + values[0, 2]
    assert loaded.position == 6
    assert np.array_equal(loaded.activations.numpy(), expected)
    two = vllm_json(tmp_path / "w.json", np.ones((2, 4), np.float32), layer_indices=[7, 3])
    assert [vector.layer for vector in quietly(al.load_vectors, two)] == [4, 8]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"norm_match": True}, "norm_match"), ({"layer_indices": [4, 4]}, "do not go|different"),
        ({"layer_indices": [-1]}, "integers from 0"), ({"layer_indices": "4"}, "integers"),
        ({"layer_indices": [True]}, "integers"), ({"scale": "2"}, "number is expected"), ({"scale": None}, "number"),
        ({"position_indices": [-1]}, "integers from 0"), ({"scale": float("nan")}, "not finite"),
        ({"activations": {"data": "?", "dtype": "float32", "shape": [1, 4]}}, "base64"),
        ({"activations": 3}, "not an array"),
        ({"activations": {"data": "AAAA", "dtype": "float32", "shape": [2**40, 4]}}, "shape"),
        ({"activations": {"data": "AAAA", "dtype": "object", "shape": [1, 4]}}, "not known"),
        ({"activations": {"dtype": "float32", "shape": [1, 4]}}, "data"), ({"actadd_lens": 3}, "header"),
    ],
    ids=str,
)  # fmt: skip
def test_vllm_lens_files_that_are_none_or_mean_more_than_adding_are_refused(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    refused(vllm_json(tmp_path / "v.json", np.ones((1, 4), np.float32), **changes), match)


def test_compressed_files_are_read_where_zstandard_is(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    import base64

    values = np.ones((1, 4), np.float32)
    packed = base64.b64encode(zstandard.ZstdCompressor().compress(values.tobytes())).decode()
    array = {"data": packed, "dtype": "float32", "shape": [1, 4], "compression": "zstd"}
    path = vllm_json(tmp_path / "v.json", values, activations=array)
    assert quietly(al.SteeringVector.load, path).activations.tolist() == [[1.0] * 4]


# -- RemoteBridge ----------------------------------------------------------------------------------------------


def test_remote_bridge_gets_rows_under_the_name_of_the_stream_below(tmp_path: Path) -> None:
    vector = 2 * made(3, position=4)
    zeros = vector.activations.clone()
    zeros[0] = 0
    [(name, item)] = al.remote_intervention(al.SteeringVector(zeros, 5, 2.0, 4)).items()
    assert (name, item["op"], item["pos"]) == ("blocks.4.hook_out", "add", [5, 6])
    assert torch.equal(torch.tensor(item["value"]), vector.injection[1:])
    assert al.remote_intervention(made(layer=0, position=1)).keys() == {"blocks.0.hook_in"}
    assert "pos" not in al.remote_intervention(made(position="all+bos"))["blocks.4.hook_out"]
    with pytest.warns(al.ExchangeWarning, match="refused by vLLM's"):
        vector.export(tmp_path / "v.json", format="remote-bridge")
    with pytest.warns(al.ExchangeWarning, match="is layer 5 here"):
        loaded = al.SteeringVector.load(tmp_path / "v.json")
    assert torch.equal(loaded.injection, vector.injection)
    assert (loaded.layer, loaded.position) == (5, 4)


@pytest.mark.parametrize(
    ("specification", "match"),
    [
        ({"blocks.3.hook_in": {"op": "scale", "factor": 2.0}}, "is not an addition: al.scale"),
        ({"blocks.3.attn.hook_out": {"op": "add", "value": [1.0]}}, "stream between blocks"),
        ({"blocks.3.hook_in": {"op": "add", "value": 2.0}}, "not a row of numbers"),
        ({"blocks.3.hook_in": {"op": "add", "value": [1.0, "a"]}}, "damaged"),
        ({"blocks.3.hook_in": {"op": "add", "value": [[1.0], [2.0]]}}, "no pos"),
        ({"blocks.3.hook_in": {"op": "add", "value": [1.0], "pos": [-1]}}, "indices from 0"),
        ({"blocks.3.hook_in": {"op": "add", "value": [[1.0]], "pos": [1, 2]}}, "1 rows do not go with 2"),
        ({"blocks.3.hook_in": {"op": "add", "value": [1.0], "positions": [1]}}, "not known"),
        ({"blocks.3.hook_in": {"op": "add"}}, "damaged"),
    ],
    ids=str,
)  # fmt: skip
def test_other_specifications_are_refused(tmp_path: Path, specification: Any, match: str) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"intervene": specification}))
    refused(tmp_path / "r.json", match)


# -- steering-vectors, CAA, numpy ------------------------------------------------------------------------------


class _Vector:
    """As steering-vectors' dataclass pickles itself, wherever it is installed or not."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


_Vector.__module__, _Vector.__qualname__, _Vector.__name__ = "steering_vectors.steering_vector", *["SteeringVector"] * 2


@pytest.fixture
def steering_vectors(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module by its name, so that torch.save can write its class."""
    import sys

    module = SimpleNamespace(SteeringVector=_Vector)
    monkeypatch.setitem(sys.modules, "steering_vectors", SimpleNamespace(steering_vector=module))
    monkeypatch.setitem(sys.modules, "steering_vectors.steering_vector", module)
    return _Vector


def test_vectors_of_steering_vectors_are_read_without_their_class(
    steering_vectors: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {11: torch.randn(D), 3: torch.randn(D)}
    torch.save(steering_vectors(layer_activations=tensors, layer_type="decoder_block"), tmp_path / "v.pt")
    torch.save(steering_vectors(layer_activations=tensors, layer_type="mlp"), tmp_path / "mlp.pt")
    monkeypatch.undo()
    for path in (tmp_path / "v.pt", tmp_path / "dict.pt"):
        torch.save(tensors, tmp_path / "dict.pt")
        with pytest.warns(al.ExchangeWarning, match="layers 3 to 11 .* layers 4 to 12 here.*tokens"):
            vectors = al.load_vectors(path)
        assert [vector.layer for vector in vectors] == [4, 12]
        assert torch.equal(vectors[1].activations[0], tensors[11])
    refused(tmp_path / "mlp.pt", "for 'mlp': a steering vector is added to the stream between blocks")


def test_a_file_of_caa_tells_its_layer_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "vec_layer_13_Llama-2-7b-chat-hf.pt"
    torch.save(torch.arange(4.0), path)
    with pytest.warns(al.ExchangeWarning, match="output of block 13, which is layer 14 here"):
        vector = al.SteeringVector.load(path)
    assert (vector.layer, vector.activations.tolist()) == (14, [[0, 1, 2, 3]])
    assert "Llama-2-7b-chat-hf" in vector.label


def test_numbers_without_words_need_a_layer(tmp_path: Path) -> None:
    row = np.arange(4, dtype=np.float64)
    np.save(tmp_path / "a.npy", row)
    np.savez(tmp_path / "b.npz", happy=row, sad=-row)
    np.savez_compressed(tmp_path / "c.npz", row.astype(np.float16))
    torch.save(torch.from_numpy(row), tmp_path / "d.pt")
    torch.save({"happy": torch.from_numpy(row), "note": "x"}, tmp_path / "e.pt")
    refused(tmp_path / "a.npy", "does not say at which layer: pass layer=, counted as here")
    refused(tmp_path / "b.npz", r"2 arrays \(happy, sad\): say which with name=", layer=3)
    for name, options in (("a.npy", {}), ("b.npz", {"name": "happy"}), ("c.npz", {}), ("d.pt", {}), ("e.pt", {})):
        with pytest.warns(al.ExchangeWarning, match="not in the file"):
            vector = al.SteeringVector.load(tmp_path / name, layer=3, **options)
        assert (vector.layer, vector.activations.tolist()) == (3, [[0, 1, 2, 3]])
    np.save(tmp_path / "a.npy", np.ones((5, 4), np.float32))
    with pytest.warns(al.ExchangeWarning, match="5 rows are taken as rows at tokens"):
        assert al.SteeringVector.load(tmp_path / "a.npy", layer=3).rows == 5


# -- SAEs ------------------------------------------------------------------------------------------------------


def sae_at(hook: str | None, **settings: Any) -> Any:
    metadata = SimpleNamespace(hook_name=hook, model_name="gpt2-small", hook_name_out=settings.pop("out", None))
    cfg = SimpleNamespace(metadata=metadata, normalize_activations=settings.pop("norm", "none"))
    return SimpleNamespace(W_dec=torch.nn.Parameter(torch.randn(8, D)), cfg=cfg)


def test_a_feature_of_an_sae_is_its_decoder_row_at_its_hook_point() -> None:
    sae = sae_at("blocks.4.hook_resid_pre")
    vector = al.from_sae(sae, 6)
    assert torch.equal(vector.activations[0], sae.W_dec[6])
    assert not vector.activations.requires_grad
    assert (vector.layer, vector.provenance.model) == (4, "gpt2-small")
    assert vector.label == "feature 6 of an SAE at blocks.4.hook_resid_pre (gpt2-small, normalisation none)"
    with pytest.warns(al.ExchangeWarning, match="hook_resid_post is the input of layer 5"):
        assert al.from_sae(sae_at("blocks.4.hook_resid_post"), 0).layer == 5
    with pytest.warns(al.ExchangeWarning, match="layer 8"):
        assert al.from_sae(sae_at("blocks.7.ln2.hook_normalized", out="blocks.7.hook_resid_post"), 0).layer == 8


def test_what_an_saes_activations_mean_is_told() -> None:
    for norm, told in (("layer_norm", "rescales each token"), ("expected_average_only_in", "units of a scale")):
        with pytest.warns(al.ExchangeWarning, match=told):
            assert norm in al.from_sae(sae_at("blocks.4.hook_resid_pre", norm=norm), 0).label
    with pytest.raises(al.VectorError, match="fold the whitening"):
        al.from_sae(sae_at("blocks.4.hook_resid_pre", norm="covariance_whitening"), 0)


def test_saes_elsewhere_and_features_that_are_not_there_are_refused(quickest: Any, unchecked: None) -> None:
    with pytest.raises(al.VectorError, match="stands at blocks.4.attn.hook_z, and a steering vector"):
        al.from_sae(sae_at("blocks.4.attn.hook_z"), 0)
    with pytest.raises(al.VectorError, match="has no hook point"):
        al.from_sae(sae_at(None), 0)
    for feature in (8, -1, 1.5, True):
        with pytest.raises(al.VectorError, match="features 0 to 7"):
            al.from_sae(sae_at("blocks.4.hook_resid_pre"), feature)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(al.VectorError, match="no decoder W_dec"):
        al.from_sae(torch.randn(3), 0)
    with pytest.raises(al.VectorError, match="d_model 16, but small has 32"):
        al.from_sae(sae_at("blocks.2.hook_resid_pre"), 0, model=quickest)


# -- folders and the Hub ---------------------------------------------------------------------------------------


def test_a_folder_holds_the_vector_and_the_formats_that_can(quickest: Any, tmp_path: Path) -> None:
    vector = 3 * vector_of(quickest, PAIRS[0], 2)
    with pytest.warns(al.ExchangeWarning, match=r"no vector.gguf: .*holds one row"):
        vector.export(tmp_path / "love")
    assert {path.name for path in (tmp_path / "love").iterdir()} == {"vector.safetensors", "vector.json", "README.md"}
    loaded = al.SteeringVector.load(tmp_path / "love")
    assert torch.equal(loaded.activations, vector.activations)
    assert (loaded.coefficient, loaded.provenance) == (3, vector.provenance)
    quietly(vector.row(1).at(position="all+bos").export, tmp_path / "love")  # again, with other files
    assert (tmp_path / "love" / "vector.gguf").is_file()
    (tmp_path / "love" / "thesis.tex").write_text("mine")
    with pytest.raises(al.VectorFileError, match="holds other things .thesis.tex."):
        vector.export(tmp_path / "love")


def test_the_card_tells_prompts_place_and_measured_effect_with_its_null(quickest: Any, tmp_path: Path) -> None:
    vector = 3 * vector_of(quickest, PAIRS[0], 2)
    prompts = ["The girl looked at the dog", "A boy went home with his friend", "They saw the sea today"]
    measured = al.measure(quickest, prompts, vector, al.metrics.entropy(), nulls=3)
    quietly(vector.export, tmp_path / "love", measurements=[measured], licence="mit", base_model="me/small")
    card = (tmp_path / "love" / "README.md").read_text()
    head = card.split("---")[1]
    assert 'base_model: "me/small"' in head
    assert 'license: "mit"' in head
    effect = measured.effect
    wanted = (
        "`Love` minus `Hate`", "| layer | 2 ", "| coefficient | 3 |", f"{effect.mean:+.3g}", "3 (unrelated_pairs)",
        f"[{effect.low:.3g}, {effect.high:.3g}]", "3 prompts x 1", f"p = {effect.p_value('two-sided'):.3g}",
    )  # fmt: skip
    for told in wanted:
        assert told in card, told
    with pytest.raises(al.SettingError, match="not of this vector"):
        (2 * vector).export(tmp_path / "hate", measurements=[measured])
    with pytest.raises(al.SettingError, match="is not a measurement"):
        vector.export(tmp_path / "hate", measurements=[effect])
    with pytest.raises(al.SettingError, match="belong on a folder's card"):
        vector.row(1).export(tmp_path / "v.gguf", licence="mit")
    assert not (tmp_path / "hate").exists()


def test_no_prompt_breaks_out_of_the_card(tmp_path: Path) -> None:
    hostile = "``` | </table>\n---\nlicense: evil\n# Heading"
    vector = al.SteeringVector.from_tensor(torch.ones(1, 4), layer=3, source=hostile)
    quietly(vector.export, tmp_path / "v")
    card = (tmp_path / "v" / "README.md").read_text()
    assert "\nlicense: evil" not in card
    assert "\n# Heading" not in card
    with pytest.raises(al.SettingError, match="one line"):
        vector.export(tmp_path / "w", licence="mit\nx: y")


class Hub:
    """A Hub on this machine: what is uploaded can be downloaded."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[Any] = []

    def __call__(self) -> "Hub":
        return self

    def create_repo(self, name: str, *, exist_ok: bool) -> None:
        assert exist_ok
        (self.root / name).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str, revision: str | None) -> None:
        self.calls.append((repo_id, revision, commit_message))
        for file in Path(folder_path).iterdir():
            (self.root / repo_id / file.name).write_bytes(file.read_bytes())

    def snapshot_download(self, name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.calls.append((name, revision, allow_patterns))
        return str(self.root / name)


def test_the_hub_gets_the_folder_and_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    hub = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    vector = 3 * made(position="all+bos")
    vector.save("hf://me/love", licence="mit")
    assert 'SteeringVector.load("hf://me/love")' in (tmp_path / "me/love/README.md").read_text()
    assert (tmp_path / "me/love/vector.gguf").is_file()
    loaded = al.SteeringVector.load("hf://me/love@v2")
    assert torch.equal(loaded.activations, vector.activations)
    assert hub.calls == [("me/love", None, "Add a steering vector"), ("me/love", "v2", ["vector.safetensors"])]
    (tmp_path / "me/empty").mkdir()
    with pytest.raises(al.VectorFileError, match="is not a folder of a steering vector"):
        al.SteeringVector.load("hf://me/empty")


def test_a_hub_out_of_reach_is_told_with_the_way_that_needs_none() -> None:
    told = r"hf://me/love could not be {} \(\w+.*\)\. Is there a network.*v\.export\('folder'\)"
    with pytest.raises(al.VectorFileError, match=told.format("written")):
        made(position="all+bos").save("hf://me/love")
    with pytest.raises(al.VectorFileError, match=told.format("read")):
        al.SteeringVector.load("hf://me/love")
    for address in ("hf://love", "hf://me/love/file", "hf:// / ", "hf://me/../x"):
        with pytest.raises(al.SettingError, match="is not an address on the Hub"):
            al.SteeringVector.load(address)


# -- unknown and damaged files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(40), "a picture"), ("a.txt", b"Dear Sir or Madam,", "a text"),
        ("a.gguf", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS"),
        ("a.gz", b"\x1f\x8b\x08" + bytes(20), "gzip"), ("a.pdf", b"%PDF-1.7 ...", "a PDF"), ("a", b"", "empty"),
        ("a.html", b"<!doctype html><html>", "a web page"), ("a.db", b"SQLite format 3\x00" + bytes(40), "sweeps keep"),
        ("a.json", b'{"vectors": [1, 2]}', "neither of vllm-lens.*nor of RemoteBridge.*holds vectors"),
        ("a.json", b"[1, 2", "not JSON"), ("a.json", b"[" * 100_000, "not JSON"),
        ("a.pkl", b"\x80\x04K\x01.", "a pickle"),
    ],
    ids=str,
)  # fmt: skip
def test_an_unknown_file_is_named_by_what_it_seems_to_be(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, match)


def test_safetensors_and_archives_of_other_things_are_named(tmp_path: Path, unchecked: None) -> None:
    for names, match in (
        (["W_enc", "W_dec"], "sparse autoencoder.*from_sae"), (["model.layers.0.mlp.weight"], "weights of a model"),
        (["base.lora_A.weight"], "a LoRA adapter"), (["weight"], r"other tensors \(weight\)"),
    ):  # fmt: skip
        save_file({name: torch.ones(2) for name in names}, tmp_path / "a.safetensors")
        refused(tmp_path / "a.safetensors", match)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("notes.txt", "hello")
    refused(tmp_path / "a.zip", "a zip archive")
    with pytest.raises(al.SettingError, match="gives no format"):
        made().export(tmp_path / "a.csv")
    with pytest.raises(al.SettingError, match="expected one of gguf"):
        made().export(tmp_path / "a.csv", format="csv")  # type: ignore[arg-type]


class Bomb:
    """Unpickling it would be noticed."""

    went_off = False

    def __reduce__(self) -> Any:
        return (setattr, (Bomb, "went_off", True))


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    import pickle

    torch.save({3: Bomb()}, tmp_path / "a.pt")
    torch.save({3: Bomb()}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Bomb()))
    np.save(tmp_path / "d.npy", np.array([Bomb()]), allow_pickle=True)
    np.savez(tmp_path / "e.npz", np.array([Bomb()]))
    for path in sorted(tmp_path.iterdir()):
        refused(path, "would have to run|damaged|holds no floats", layer=3)
    assert not Bomb.went_off


def sound_files(folder: Path) -> list[Path]:
    """One of each kind."""
    vector = made(position="all+bos")
    vector.save(folder / "ours.safetensors")
    vector.export(folder / "ours.gguf")
    gguf_file(folder / "theirs.gguf", {f"direction.{block}": np.ones(D, np.float32) for block in (2, 3)})
    vector.export(folder / "ours.json")
    vllm_json(folder / "theirs.json", np.ones((1, 2, D), np.float32), position_indices=[3, 4])
    quietly(vector.export, folder / "remote.json", format="remote-bridge")
    torch.save({3: torch.ones(D), 4: torch.ones(D)}, folder / "dict.pt")
    torch.save(torch.ones(D), folder / "old.pt", _use_new_zipfile_serialization=False)
    np.save(folder / "array.npy", np.ones(D))
    np.savez(folder / "arrays.npz", np.ones(D))
    return sorted(folder.iterdir())


@pytest.mark.parametrize("name", ["ours.safetensors", "ours.gguf", "theirs.gguf", "ours.json", "theirs.json",
                                  "remote.json", "dict.pt", "old.pt", "array.npy", "arrays.npz"])  # fmt: skip
def test_two_hundred_damaged_files_of_each_kind_are_clear_errors(name: str, tmp_path: Path, unchecked: None) -> None:
    """Bytes changed, cut out, put in, and ends cut off; what can still be read must be sound."""
    sound_files(tmp_path)
    path, random = tmp_path / name, np.random.default_rng(0)
    whole = path.read_bytes()
    outcomes = []
    for trial in range(200):
        data = bytearray(whole)
        place = int(random.integers(len(data)) if trial % 2 else random.integers(min(len(data), 200)))
        match trial % 4:
            case 0:
                data = data[:place]
            case 1:
                data[place : place + 1 + trial % 7] = random.bytes(1 + trial % 7)
            case 2:
                del data[place : place + 1 + trial % 11]
            case 3:
                data[place:place] = random.bytes(1 + trial % 11)
        path.write_bytes(bytes(data))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                vectors = al.load_vectors(path, layer=3)
            except al.VectorFileError as error:
                outcomes.append(str(error))
                continue
        outcomes.append("")
        assert all(bool(torch.isfinite(vector.activations).all()) for vector in vectors)
    refusals = [told for told in outcomes if told]
    assert len(refusals) >= 60
    assert all(str(path) in told and len(told) < 700 for told in refusals)


def test_what_is_no_steering_vector_says_that_other_formats_cannot_hold_it(quickest: Any, tmp_path: Path) -> None:
    direction = al.compute_steering_vector(quickest, ("Love", "Hate"), layer=1).row(-1)
    for found in (al.project_out(direction), al.gated(direction, al.gate(direction, 0.0))):
        with pytest.raises(al.VectorError, match="is not a steering vector.*save"):
            found.export(tmp_path / "found.gguf")
