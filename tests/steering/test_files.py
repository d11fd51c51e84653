"""Files of interventions: what is written is read to the bit, and whatever else lies in a file is refused by name."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import actadd_lens as al
from actadd_lens import methods
from actadd_lens.vectors import tensor_files
from tests.support import PAIRS, vector_of

TEXTS = ["The dog ran home and", "She was sad, so she"]


def kinds(model: Any) -> dict[str, Any]:
    """One of each kind, at other places and in other precisions."""
    vector, generator = vector_of(model, PAIRS[0], 2), torch.Generator().manual_seed(0)
    row, heads = vector.row(1), int(model.cfg.n_heads)
    rows = torch.randn(2, int(model.cfg.d_model), generator=generator)
    return {
        "a vector": -2.5 * vector.at(position="back"),
        "a projection": al.set_projection(row, 3.25).at(position="all+bos"),
        "a projection for each token": al.set_projection(row, [1.0, -2.0, 0.5]).at(position=1),
        "directional ablation": al.project_out(3 * row),
        "a factor": al.scale(0.5, layer=1, site="attn_out").at(position=al.since([2, 3])),
        "factors of heads": al.scale(rows[0, :heads].double(), layer=1, site="head", model=model),
        "values": al.replace(rows.half(), layer=3, model=model, source="noise").at(position=0),
        "clean values": al.replace("clean", layer=2, site="mlp_out").at(position=al.after("so")),
        "a gated vector": al.gated(5 * row, al.gate(row, 0.125, token=-2)).at(position=slice(1, 4)),
        "a gate of gates": al.gated(al.gated(al.scale(2.0, layer=3), al.gate(row, -1.0)), al.gate(-row, 0.1)),
    }


def equal(found: Any, expected: Any) -> bool:
    """Whether two interventions are the same in all their parts, tensors bit for bit."""
    if isinstance(expected, torch.Tensor):
        return bool(torch.equal(found, expected)) and found.dtype == expected.dtype
    if dataclasses.is_dataclass(expected) and type(found) is type(expected):
        names = [item.name for item in dataclasses.fields(expected)]
        return all(equal(getattr(found, name), getattr(expected, name)) for name in names)
    return bool(found == expected)


def test_each_kind_is_read_as_it_was_written(quickest: Any, tmp_path: Path) -> None:
    for name, item in kinds(quickest).items():
        path = tmp_path / f"{name}.safetensors"
        for save in (item.save, lambda path, item=item: al.save_interventions(item, path)):
            save(path)
            (found,) = al.load_interventions(path)
            assert equal(found, item), name


def test_several_act_as_they_did(small: Any, tmp_path: Path) -> None:
    some = list(kinds(small).values())[1:]
    some = [item for item in some if item.label != "resid_pre replaced by noise"]
    al.save_interventions(some, tmp_path / "all.safetensors")
    found = al.load_interventions(tmp_path / "all.safetensors")
    assert len(found) == len(some)
    assert all(equal(one, other) for one, other in zip(found, some, strict=True))
    texts = ["He was so glad, so the", "She was sad, so she"]
    options: dict[str, Any] = {"metric": al.metrics.next_token_logprob(0), "position": "all", "progress": False}
    before, after = (al.measure(small, texts, what, **options).steered for what in (some, found))
    assert np.array_equal(before, after)


def test_what_a_method_made_of_several_is_kept(small: Any, tmp_path: Path) -> None:
    made = [
        methods.sadi(small, [(TEXTS[0], TEXTS[1])], site="head", k=2, strength=3.0),
        methods.infer_aligner(small, small, TEXTS[:1], TEXTS[1:], layers=[2, 3]),
        methods.probe(small, TEXTS[:1], TEXTS[1:], layer=2).times(-2),
    ]
    for number, some in enumerate(made):
        path = tmp_path / f"{number}.safetensors"
        some.save(path)
        found = al.load_interventions(path)
        assert [equal(one, other) for one, other in zip(found, some, strict=True)] == [True] * len(some)


def test_a_learnt_tensor_is_kept_without_its_graph(tmp_path: Path) -> None:
    factor = torch.ones(1, 8, requires_grad=True)
    al.scale(factor, layer=1).save(tmp_path / "learnt.safetensors")
    (found,) = al.load_interventions(tmp_path / "learnt.safetensors")
    assert not found.factor.requires_grad  # type: ignore[attr-defined]


def test_files_of_vectors_are_read_too(quickest: Any, tmp_path: Path) -> None:
    vector = vector_of(quickest, PAIRS[0], 2)
    vector.save(tmp_path / "vector.safetensors")
    (found,) = al.load_interventions(tmp_path / "vector.safetensors")
    assert equal(found, vector)
    al.project_out(vector.row(1)).save(tmp_path / "other.safetensors")
    for read in (al.SteeringVector.load, al.load_vectors):
        with pytest.raises(al.VectorFileError, match=r"read it with al\.load_interventions"):
            read(tmp_path / "other.safetensors")


def test_another_model_is_refused_after_loading(quickest: Any, load: Any, tmp_path: Path) -> None:
    al.project_out(vector_of(quickest, PAIRS[0], 2).row(1)).save(tmp_path / "one.safetensors")
    found = al.load_interventions(tmp_path / "one.safetensors")
    with pytest.raises(al.FingerprintError):
        al.measure(load("storybook", "bridge"), TEXTS, found, al.metrics.entropy(), position="all", progress=False)


# -- what cannot be kept ---------------------------------------------------------------------------------------


def test_a_gate_that_is_a_function_is_refused_and_nothing_is_written(quickest: Any, tmp_path: Path) -> None:
    vector = vector_of(quickest, PAIRS[0], 2).row(1)
    item = al.gated(vector, lambda clean: torch.ones(len(clean.lengths)), reads=[2])
    with pytest.raises(al.VectorError, match="is a function, which no file can hold"):
        item.save(tmp_path / "one.safetensors")
    with pytest.raises(al.VectorError, match="is a function"):
        al.save_interventions([vector, al.gated(item, al.gate(vector, 0.0))], tmp_path / "one.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_intervention_is_refused(quickest: Any, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    for wrong in ([], None, "dog", [vector_of(quickest, PAIRS[0], 2), 3]):
        with pytest.raises(al.VectorError):
            al.save_interventions(wrong, path)
    learnt = methods.ActivationScaling("scalars", {}, al.Provenance("nothing"))
    assert not hasattr(learnt, "position")
    with pytest.raises(al.VectorFileError, match="There is no folder"):
        al.scale(2.0, layer=1).save(tmp_path / "no" / "folder.safetensors")
    assert not path.exists()


# -- files that are not well -----------------------------------------------------------------------------------


@pytest.fixture
def saved(quickest: Any, tmp_path: Path) -> Path:
    path = tmp_path / "some.safetensors"
    al.save_interventions(list(kinds(quickest).values()), path)
    return path


def forged(path: Path, change: Any) -> Path:
    """The file with another body and the hash that goes with it."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["actadd_lens"])
    change(header["body"], tensors)
    header["content_hash"] = tensor_files._content_hash(header, tensors)
    save_file(tensors, path, metadata={"actadd_lens": json.dumps(header)})
    return path


def put(place: tuple[Any, ...], value: Any) -> Any:
    def change(body: Any, tensors: Any) -> None:
        for step in place[:-1]:
            body = body[step]
        body[place[-1]] = value

    return change


ITEM = ("items", 1)


@pytest.mark.parametrize(
    "change",
    [
        put(("items",), []),
        put(("items",), {"kind": "scale"}),
        put(ITEM, None),
        put((*ITEM, "kind"), "exec"),
        put((*ITEM, "kind"), ["scale"]),
        put((*ITEM, "value"), "no such tensor"),
        put((*ITEM, "value"), ["0"]),
        put((*ITEM, "position"), "nowhere"),
        put((*ITEM, "position"), {"since": "x"}),
        put((*ITEM, "position"), [True, False]),
        put((*ITEM, "direction", "kind"), "scale"),
        put((*ITEM, "direction", "header"), []),
        put((*ITEM, "direction", "header", "layer"), 1),
        put(("items", 4, "layer"), -1),
        put(("items", 4, "layer"), True),
        put(("items", 4, "site"), "resid_mid"),
        put(("items", 4, "provenance"), {}),
        put(("items", 4, "position"), -3),
        put(("items", 6, "values"), 7),
        put(("items", 8, "gate", "threshold"), "0.1"),
        put(("items", 8, "gate", "threshold"), float("nan")),
        put(("items", 8, "gate", "token"), 0.5),
        put(("items", 8, "gate"), None),
        put(("items", 8, "inner"), {"kind": "gated"}),
        lambda body, tensors: tensors.update({"0": torch.zeros(3)}),
        lambda body, tensors: body.pop("items"),
    ],
)
def test_a_forged_header_is_refused(saved: Path, change: Any) -> None:
    with pytest.raises(al.VectorFileError, match=r"some\.safetensors"):
        al.load_interventions(forged(saved, change))


def test_a_header_nested_beyond_reason_is_refused(saved: Path) -> None:
    deep: Any = None
    for _ in range(400):
        deep = {"kind": "gated", "inner": deep, "gate": None}
    with pytest.raises(al.VectorFileError):
        al.load_interventions(forged(saved, put(ITEM, deep)))


def test_a_damaged_file_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:size])
        with pytest.raises(al.VectorFileError):
            al.load_interventions(saved)
    saved.write_bytes(whole[:-20] + bytes(20))
    with pytest.raises(al.VectorFileError, match="does not match its hash"):
        al.load_interventions(saved)
    with pytest.raises(al.VectorFileError, match="no file"):
        al.load_interventions(saved.with_name("missing.safetensors"))
