"""Vector files: what is written is read to the bit; whatever else lies in a file is refused by name."""

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import actadd_lens as al
from actadd_lens.models.hooked import hooked_transformer
from actadd_lens.vectors import files
from tests.support import PAIRS, vector_of


@pytest.fixture
def vector(quickest: Any) -> al.SteeringVector:
    return -2.5 * vector_of(quickest, PAIRS[0], 2)


@pytest.fixture
def saved(vector: al.SteeringVector, tmp_path: Path) -> Path:
    path = tmp_path / "love.safetensors"
    vector.save(path)
    return path


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["actadd_lens"])
        return found


def forged(path: Path, rows: torch.Tensor | None = None, *, honest: bool = True, **changes: Any) -> Path:
    """The file with other content and, where it is honest, the hash that goes with it."""
    with safe_open(path, framework="pt") as file:
        rows = file.get_tensor("activations") if rows is None else rows
    header = {**header_of(path), **changes}
    if honest:
        header["content_hash"] = files._content_hash(header, rows)
    save_file({"activations": rows}, path, metadata={"actadd_lens": json.dumps(header)})
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(al.VectorFileError, match=match) as caught:
        al.SteeringVector.load(path)
    assert str(path) in str(caught.value)


# -- round trips -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_file_gives_back_every_bit_and_every_word(vector: Any, tmp_path: Path, dtype: torch.dtype) -> None:
    vector = vector.to(dtype=dtype)
    for number, kept in enumerate(
        (vector, vector.at(position="back"), vector.at(position=1), vector + vector.at_layer(2))
    ):
        path = tmp_path / f"{number}.safetensors"
        kept.save(path)
        loaded = al.SteeringVector.load(path)
        assert torch.equal(loaded.activations, kept.activations)
        assert loaded.activations.dtype == dtype
        assert (loaded.layer, loaded.coefficient, loaded.position) == (kept.layer, kept.coefficient, kept.position)
        assert loaded.provenance == kept.provenance


@settings(max_examples=15)
@given(text=st.text(max_size=30), coefficient=st.floats(allow_nan=False, allow_infinity=False))
def test_any_text_and_any_number_survives(tmp_path_factory: Any, text: str, coefficient: float) -> None:
    made = coefficient * al.SteeringVector.from_tensor(torch.ones(1, 4), layer=3, source=text)
    path = tmp_path_factory.mktemp("texts") / "vector.safetensors"
    made.save(path)
    loaded = al.SteeringVector.load(path)
    assert (loaded.provenance.source, loaded.coefficient) == (text, coefficient)


def test_the_header_tells_where_the_vector_comes_from(saved: Path, quickest: Any) -> None:
    header = header_of(saved)
    told = header["provenance"]
    rows = al.PromptPair(*PAIRS[0]).tokens(quickest)
    assert (header["layer"], header["coefficient"], header["hook_name"]) == (2, -2.5, "blocks.2.hook_resid_pre")
    assert (told["positive"], told["negative"], told["model"]) == ("Love", "Hate", "small")
    assert (tuple(told["positive_tokens"]), tuple(told["negative_tokens"])) == (rows.positive, rows.negative)
    assert (told["pad_token"], told["prepend_bos"], told["read_layer"]) == (rows.pad_token, True, 2)
    processed = "norms folded, writing weights centred" if hooked_transformer() else "raw"
    assert told["weight_processing"] == processed
    assert told["dtype"] == "float32"
    assert told["fingerprint"]["d_model"] == 32
    assert {"actadd_lens", "torch", "transformer_lens"} <= told["versions"].keys()
    assert len(header["content_hash"]) == 64


def test_a_loaded_vector_steers_as_the_saved_one(saved: Path, vector: Any, quickest: Any) -> None:
    tokens = quickest.to_tokens("The girl looked at the dog")
    with al.steer(quickest, vector):
        expected = quickest(tokens)
    with al.steer(quickest, al.SteeringVector.load(saved)):
        assert torch.equal(quickest(tokens), expected)


# -- damage ----------------------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        refused(saved, "truncated, damaged or not a safetensors file")


def test_a_changed_byte_anywhere_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for place in range(0, len(whole), 37):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 0x01]) + whole[place + 1 :])
        with pytest.raises(al.VectorFileError):
            al.SteeringVector.load(saved)
    data = bytearray(whole)
    data[-1] ^= 0x40
    saved.write_bytes(bytes(data))
    refused(saved, "does not match its hash, so it was changed or damaged")


def test_another_kind_of_file_is_refused(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2, 2)}, other)
    refused(other, "is a safetensors file, but holds no steering vector")
    save_file({"activations": torch.ones(2, 2)}, other)
    refused(other, "is a safetensors file, but holds no steering vector")
    with safe_open(saved, framework="pt") as file:
        metadata, rows = file.metadata(), file.get_tensor("activations")
    save_file({"activations": rows, "extra": torch.ones(1)}, other, metadata=metadata)
    refused(other, "holds no steering vector")
    refused(forged(saved, kind="sweep"), "it is a 'sweep', not a steering vector")
    refused(tmp_path / "absent.safetensors", "There is no file")
    refused(tmp_path, "There is no file")
    (tmp_path / "text.txt").write_text("hello, this is a text and no vector at all")
    refused(tmp_path / "text.txt", "truncated, damaged or not a safetensors file")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_not_finite_are_refused(saved: Path, number: float) -> None:
    rows = torch.ones(2, 32)
    rows[1, 7] = number
    refused(forged(saved, rows), "hold NaN or infinite numbers")


@pytest.mark.parametrize(
    "coefficient", [float("nan"), float("inf"), "5", None, True, [1], 10**400], ids=lambda value: str(value)[:6]
)
def test_a_coefficient_that_is_no_finite_number_is_refused(saved: Path, coefficient: Any, unchecked: None) -> None:
    refused(forged(saved, coefficient=coefficient), "coefficient|finite|number")


def test_a_broken_hash_is_refused(saved: Path) -> None:
    refused(forged(saved, honest=False, coefficient=3.0), "does not match its hash")
    refused(forged(saved, honest=False, content_hash="0" * 64), "does not match its hash")
    refused(forged(saved, honest=False, content_hash=None), "does not match its hash")


def test_a_newer_format_is_refused_with_what_to_do(saved: Path) -> None:
    refused(forged(saved, format=3), "has format 3, but this version reads up to 2; update actadd_lens")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "1"}, {"format": None}, {"format": 0}, {"format": True}, {"format": 1.5}, {"layer": -1},
        {"layer": "3"}, {"layer": 2.5}, {"layer": True}, {"layer": None}, {"position": "middle"}, {"position": -1},
        {"position": [1]},
        {"position": "all"}, {"position": True}, {"provenance": None}, {"provenance": []}, {"provenance": "x"},
        {"hook_name": "blocks.7.hook_mlp_out"}, {"hook_name": 3}, {"surprise": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_hostile_header_is_refused(saved: Path, changes: dict[str, Any], unchecked: None) -> None:
    refused(forged(saved, **changes), "is not a sound steering vector")


@pytest.mark.parametrize(
    "changes",
    [
        {"source": None}, {"source": 3}, {"positive": 3}, {"positive_tokens": "abc"}, {"positive_tokens": [1, "a"]},
        {"positive_tokens": [True]}, {"pad_token": "x"}, {"prepend_bos": 1}, {"read_layer": 1.5}, {"model": {}},
        {"fingerprint": 3}, {"fingerprint": {"d_model": 1}}, {"versions": []}, {"versions": {"torch": 2}},
        {"terms": {}},
        {"fingerprint": {"d_model": 32, "n_layers": 4, "weights": "x"}}, {"terms": [[1.0]]}, {"terms": [["a", {}]]},
        {"fingerprint": {"d_model": 32, "n_layers": 4, "weights": [None]}}, {"terms": [[1.0, None]]}, {"steps": [3]},
        {"fingerprint": {"d_model": True, "n_layers": 4, "weights": []}}, {"steps": None}, {"surprise": 1},
        {"steps": "ab"},
        {"fingerprint": {"d_model": 32, "n_layers": 4, "weights": [10**400]}}, {"terms": [[10**400, {}]]},
        {"fingerprint": {"d_model": 32, "n_layers": 4, "weights": [float("nan")] * 40}},
    ],
    ids=lambda changes: str(changes)[:60],
)  # fmt: skip
def test_a_hostile_provenance_is_refused(saved: Path, changes: dict[str, Any], unchecked: None) -> None:
    provenance = {**header_of(saved)["provenance"], **changes}
    refused(forged(saved, provenance=provenance), "is not a sound steering vector")


@pytest.mark.parametrize(
    "name", ["format", "kind", "layer", "coefficient", "position", "hook_name", "provenance", "content_hash"]
)
def test_a_header_that_lacks_something_is_refused(saved: Path, name: str) -> None:
    with safe_open(saved, framework="pt") as file:
        rows = file.get_tensor("activations")
    header = header_of(saved)
    del header[name]
    save_file({"activations": rows}, saved, metadata={"actadd_lens": json.dumps(header)})
    refused(saved, f"is not a sound steering vector.*{'None' if name in ('format', 'kind') else name}")


def test_deep_and_huge_headers_are_refused(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        rows = file.get_tensor("activations")
    for text in (
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "[1]",
        "3",
        "null",
        '"x"',
        "{",
        "",
    ):
        save_file({"activations": rows}, saved, metadata={"actadd_lens": text})
        refused(saved, "not a safetensors file|header that is not an object|not a sound")
    save_file({"activations": rows}, saved, metadata={"actadd_lens": " " * (16 * 2**20 + 1)})
    refused(saved, r"has a header of 16,777,217 characters")
    saved.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    refused(saved, "truncated, damaged or not a safetensors file")


def header_of_plain() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        json.dumps(al.SteeringVector.from_tensor(torch.ones(1, 2), layer=0, source="x").provenance.to_json())
    )
    return found


def test_terms_nested_beyond_reason_are_refused(saved: Path) -> None:
    inner = json.dumps(header_of_plain())
    before, after = inner.split('"terms": []')
    for depth in (400, 5_000):
        nested = (before + '"terms": [[1.0, ') * depth + inner + ("]]" + after) * depth
        with safe_open(saved, framework="pt") as file:
            rows = file.get_tensor("activations")
        header = json.dumps({**header_of(saved), "provenance": 0}).replace('"provenance": 0', f'"provenance": {nested}')
        saved_again = saved.with_name(f"deep{depth}.safetensors")
        save_file({"activations": rows}, saved_again, metadata={"actadd_lens": header})
        refused(saved_again, "not a sound steering vector|not a safetensors file")


@pytest.mark.parametrize(
    "rows", [torch.ones(3), torch.ones(0, 4), torch.ones(2, 2, 2), torch.ones(2, 4, dtype=torch.int64)]
)
def test_a_tensor_of_another_shape_or_type_is_refused(saved: Path, rows: torch.Tensor, unchecked: None) -> None:
    refused(forged(saved, rows), "is not a sound steering vector: Activations")


class Bomb:
    """Unpickling it would be noticed."""

    went_off = False

    def __reduce__(self) -> Any:
        return (setattr, (Bomb, "went_off", True))


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "vector.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    refused(path, "truncated, damaged or not a safetensors file")
    torch.save(Bomb(), path)
    refused(path, "would have to run .* to be read|damaged file of torch.save")
    assert not Bomb.went_off


# -- whole or not at all ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace", "os.fdopen"])
def test_an_interrupted_write_leaves_nothing_and_keeps_the_old_file(
    vector: Any, saved: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old = saved.read_bytes()

    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            (7 * vector).save(saved)
        with pytest.raises(KeyboardInterrupt):
            vector.save(saved.with_name("new.safetensors"))
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert saved.read_bytes() == old


def test_saving_replaces_and_makes_an_ordinary_file(vector: Any, saved: Path) -> None:
    (7 * vector).save(str(saved))
    assert al.SteeringVector.load(saved).coefficient == 7 * vector.coefficient
    ordinary = saved.with_name("ordinary")
    ordinary.write_text("")
    assert saved.stat().st_mode == ordinary.stat().st_mode


def test_a_folder_that_is_not_there_is_named(vector: Any, tmp_path: Path) -> None:
    with pytest.raises(al.VectorFileError, match="There is no folder .*absent to save in: make it first"):
        vector.save(tmp_path / "absent" / "love.safetensors")
    with pytest.raises(al.VectorFileError, match="is a folder: give the name of a file in it"):
        vector.save(tmp_path)


# -- which model -----------------------------------------------------------------------------------------------


def test_another_model_is_refused_unless_that_is_meant(vector: Any, gpt2_folder: Path, tmp_path: Path) -> None:
    from transformers import GPT2LMHeadModel

    other = GPT2LMHeadModel.from_pretrained(gpt2_folder)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    folder = tmp_path / "twin"
    other.save_pretrained(folder)
    for file in gpt2_folder.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    model = al.load_model(folder)
    told = r"was read from small \(4 layers, d_model 32\), but the model here is twin .* other weights.*for_model"
    for run in (lambda: al.complete(model, "The girl looked", vector), lambda: al.fwd_hooks(model, vector),
                lambda: al.preview(model, "The girl looked", vector), lambda: al.null_vectors(model, vector),
                lambda: al.steer(model, vector).__enter__()):  # fmt: skip
        with pytest.raises(al.FingerprintError, match=told):
            run()
    moved = vector.for_model(model)
    assert moved.provenance.steps == ("for_model(twin)",)
    with al.steer(model, moved):
        model(model.to_tokens("The girl looked at the dog"))


def test_a_vector_of_another_width_never_fits(vector: Any, embedded: Any) -> None:
    with pytest.raises(al.VectorError, match="has d_model 32, but storybook has 192"):
        vector.for_model(embedded)
    with pytest.raises(al.VectorError, match=r"d_model 32.*storybook \(8 layers, d_model 192\)"):
        al.fwd_hooks(embedded, vector)
    unknown = al.SteeringVector.from_tensor(torch.ones(1, 32), layer=2, source="mine")
    with pytest.raises(al.VectorError, match="d_model 32, but storybook has 192"):
        al.fwd_hooks(embedded, unknown)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("gpt2", None), ("storybook", "storybook"), pytest.param("stories", None, marks=pytest.mark.shared)],
)
def test_folded_raw_bridged_and_half_precision_copies_are_one_model(
    load: Any, gpt2_folder: Path, name: str, folder: Any
) -> None:
    from tests.conftest import SHARED

    source = folder or {"gpt2": gpt2_folder, "stories": SHARED / "models" / "stories-260k"}[name]
    hooked, bridge = load(name, "hooked"), load(name, "bridge")
    raw = al.load_model(source, fold_ln=False, center_writing_weights=False, center_unembed=False)
    half = al.load_model(source, dtype=torch.bfloat16)
    copies = [hooked, bridge, raw, half, al.load_model(source, family="bridge", dtype=torch.bfloat16)]
    for maker in copies:
        vector = al.compute_steering_vector(maker, ("Love", "Hate"), layer=2)
        for reader in copies:
            assert al.fwd_hooks(reader, vector)
