"""J-lenses against plain Hugging Face modules and TransformerLens's own, files, and rates under null vectors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import actadd_lens as al
from actadd_lens.models import backend_of
from actadd_lens.models.readout import readout_of

TEXTS = ("The girl looked at the old dog. She felt that it was a good day and then she said that", "A cold wind blew "
         "over the sea and the boats came home to the bride and the groom, who had a big party")  # fmt: skip
SKIPPED = 3


@pytest.fixture(scope="module")
def fitted(load: Any) -> dict[str, al.JacobianLens]:
    """The lens of the quickest model in each family that is there."""
    families = [family for family in ("hooked", "bridge") if family == "bridge" or al_has_hooked()]
    return {family: fit(load("gpt2", family)) for family in families}


def al_has_hooked() -> bool:
    from actadd_lens.models.hooked import hooked_transformer

    return hooked_transformer() is not None


def fit(model: Any, layers: Any = range(5), **settings: Any) -> al.JacobianLens:
    return al.fit_jacobian(model, TEXTS, layers, skip_first=SKIPPED, max_tokens=16, progress=False, **settings)


def centred(matrix: Tensor) -> Tensor:
    """Without the mean over output and input dimensions, which a LayerNorm model's readers do not see."""
    matrix = matrix - matrix.mean(dim=0, keepdim=True)
    return matrix - matrix.mean(dim=1, keepdim=True)


def by_hand(folder: Path, rows: list[list[int]], layer: int) -> Tensor:
    """The whole Jacobian of the last stream of a plain Hugging Face model, then its mean and sum."""
    from transformers import GPT2LMHeadModel

    blocks = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval().transformer
    total = torch.zeros(32, 32)
    for row in rows:
        tokens = torch.tensor([row])
        with torch.no_grad():
            stream = blocks(tokens, output_hidden_states=True).hidden_states[layer]

        def last(start: Tensor, tokens: Tensor = tokens) -> Tensor:
            found: list[Tensor] = []
            handles = [
                blocks.h[layer].register_forward_pre_hook(lambda module, args: (start, *args[1:])),
                blocks.ln_f.register_forward_pre_hook(lambda module, args: found.append(args[0])),
            ]
            blocks(tokens)
            for handle in handles:
                handle.remove()
            return found[0][0]

        whole = torch.autograd.functional.jacobian(last, stream, vectorize=True)[:, :, 0]  # [to, dim, from, dim]
        kept = range(SKIPPED, len(row) - 1)
        parts = [sum(whole[target, :, source] for target in kept) for source in kept]
        total += torch.stack(parts).mean(dim=0)
    return total / len(rows)


@pytest.mark.parametrize("layer", [0, 2])
def test_a_jacobian_is_that_of_plain_hugging_face_blocks(
    fitted: dict[str, al.JacobianLens], load: Any, gpt2_folder: Path, layer: int
) -> None:
    rows = [backend_of(load("gpt2", "bridge")).encode(text)[:16] for text in TEXTS]
    expected = by_hand(gpt2_folder, rows, layer)
    scale = float(expected.abs().max())
    assert torch.allclose(fitted["bridge"].at(layer), expected, atol=1e-4 * scale)
    for lens in fitted.values():
        assert torch.allclose(centred(lens.at(layer)), centred(expected), atol=1e-4 * scale)


def test_transformer_lenss_own_fit_agrees_and_its_files_can_be_read(
    fitted: dict[str, al.JacobianLens], load: Any, tmp_path: Path
) -> None:
    theirs = pytest.importorskip("transformer_lens.tools.analysis").JacobianLens
    model = load("gpt2", "bridge")
    found = theirs.fit(model, TEXTS, corpus="test", skip_first_positions=SKIPPED, max_seq_len=16, show_progress=False)
    for block in range(3):
        ours = fitted["bridge"].at(block + 1)
        assert torch.allclose(ours, found.jacobians[block], atol=1e-5 * float(ours.abs().max()))
    found.save(str(tmp_path / "published.pt"), dtype=torch.float32)
    read = al.JacobianLens.load(tmp_path / "published.pt")
    assert read.layers == (1, 2, 3)
    assert read.texts == 2
    assert read.skipped == SKIPPED
    assert torch.equal(read.at(2), found.jacobians[1])
    v = al.compute_steering_vector(model, ("Love", "Hate"), layer=2)
    our_row, their_row = (al.logit_lens(model, v, through=lens).rows[1] for lens in (fitted["bridge"], read))
    assert torch.allclose(our_row.values, their_row.values, atol=1e-3)


def test_the_stream_after_the_last_block_has_the_identity(fitted: dict[str, al.JacobianLens]) -> None:
    for lens in fitted.values():
        assert torch.equal(lens.at(4), torch.eye(32))
        assert lens.frame()["gain"].iloc[-1] == pytest.approx(1.0)
        assert lens.frame()["kept"].iloc[-1] == pytest.approx(1.0)


def test_batches_steering_that_is_open_and_one_layer_alone_change_nothing(small: Any) -> None:
    lens, v = fit(small, [2]), al.compute_steering_vector(small, ("Love", "Hate"), layer=1)
    with al.steer(small, 50 * v):
        other = fit(small, [1, 2], batch_size=5)
    assert torch.allclose(lens.at(2), other.at(2), atol=1e-5 * float(lens.at(2).abs().max()))


def test_through_a_lens_a_row_is_carried_and_then_read(small: Any) -> None:
    lens = fit(small, [2])
    v = 3 * al.compute_steering_vector(small, ("Love", "Hate"), layer=2)
    readout, row = readout_of(backend_of(small)), al.logit_lens(small, v, through=lens, tokens=[7]).rows[1]
    carried = readout.centre(v.injection[1:2] @ lens.at(2).T)
    expected = carried @ readout.token_directions
    assert torch.allclose(row.values, expected[0], atol=1e-4 * float(expected.abs().max()))
    random = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    random = readout.centre(random)
    random = random / random.norm(dim=-1, keepdim=True) * readout.centre(v.injection[1]).norm()
    spread = (readout.centre(random @ lens.at(2).T) @ readout.token_directions).std(dim=0)
    assert torch.allclose(row.values / row.z, spread, rtol=0.08)
    assert row.followed[0].value == pytest.approx(float(row.values[7]))


def test_at_the_end_of_the_model_both_lenses_agree(small: Any) -> None:
    rows = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    v = al.SteeringVector.from_tensor(rows, layer=4, source="random").for_model(small)
    plain, through = al.logit_lens(small, v), al.logit_lens(small, v, through=fit(small, [4]))
    for one, other in zip(plain.rows, through.rows, strict=True):
        assert torch.allclose(one.values, other.values, atol=1e-4)
        assert torch.allclose(one.z, other.z, atol=1e-4)


@pytest.mark.parametrize("draws", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_a_null_vector_has_a_token_that_stands_in_at_most_one_of_twenty_calls(quickest: Any, draws: int) -> None:
    lens = fit(quickest, [2])
    v = al.compute_steering_vector(quickest, ("Love", "Hate"), layer=2)
    drawn = al.null_vectors(quickest, v, kind="gaussian", n=draws, seed=5)
    stand = [
        bool(al.logit_lens(quickest, null, through=lens, nulls=19, null_kind="gaussian", seed=number, k=3).significant)
        for number, null in enumerate(drawn, 100_000)
    ]
    assert np.mean(stand) <= 0.05 + 2.5 * (0.05 * 0.95 / len(stand)) ** 0.5


def test_a_lens_comes_back_from_its_file_as_it_was(fitted: dict[str, al.JacobianLens], tmp_path: Path) -> None:
    lens = next(iter(fitted.values()))
    lens.save(tmp_path / "lens.safetensors")
    back = al.JacobianLens.load(tmp_path / "lens.safetensors")
    assert torch.equal(back.matrices, lens.matrices)
    assert back.provenance == lens.provenance
    assert (back.layers, back.texts, back.skipped, back.longest) == (lens.layers, 2, SKIPPED, lens.longest)
    assert back.digest == lens.digest
    assert "mean over 2 texts" in repr(back)
    assert "<table" in back._repr_html_()


def test_a_damaged_file_is_refused(fitted: dict[str, al.JacobianLens], tmp_path: Path) -> None:
    lens, path = next(iter(fitted.values())), tmp_path / "lens.safetensors"
    lens.save(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 64
    path.write_bytes(data)
    with pytest.raises(al.VectorFileError, match="changed or damaged"):
        al.JacobianLens.load(path)
    path.write_bytes(data[:200])
    with pytest.raises(al.VectorFileError, match="truncated, damaged"):
        al.JacobianLens.load(path)
    with pytest.raises(al.VectorFileError, match="no file"):
        al.JacobianLens.load(tmp_path / "none.safetensors")
    torch.save({"K": {}}, tmp_path / "other.pt")
    with pytest.raises(al.VectorFileError, match="no matrices under 'J'"):
        al.JacobianLens.load(tmp_path / "other.pt")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"layers": [5]}, al.LayerError, "does not exist"),
        ({"layers": []}, al.LayerError, "No layer was given"),
        ({"skip_first": -1}, al.SettingError, "skip_first"),
        ({"skip_first": 60}, al.PromptError, "tokens that are read"),
        ({"max_tokens": 0}, al.SettingError, "max_tokens"),
        ({"batch_size": 0}, al.SettingError, "batch_size"),
        ({"texts": []}, al.PromptError, "No prompt"),
    ],
)
def test_what_cannot_be_fitted_is_refused(quickest: Any, settings: Any, error: Any, match: str) -> None:
    told = {"texts": TEXTS, "layers": [2]} | settings
    with pytest.raises(error, match=match):
        al.fit_jacobian(quickest, told.pop("texts"), told.pop("layers"), **told)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_read_through_a_lens_is_refused(load: Any, quickest: Any) -> None:
    lens, v = fit(quickest, [2]), al.compute_steering_vector(quickest, ("Love", "Hate"), layer=1)
    with pytest.raises(al.LayerError, match="fitted at layers 2, not at 1"):
        al.logit_lens(quickest, v, through=lens)
    with pytest.raises(al.SettingError, match="expected a J-lens"):
        al.logit_lens(quickest, v, through=lens.matrices)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(al.SettingError, match="reads directions"):
        al.logit_lens(quickest, v, through=lens, reading="anchored", prompt=TEXTS[0])
    other = load("storybook", "bridge")
    with pytest.raises(al.FingerprintError, match="fit one on it"):
        al.logit_lens(other, al.compute_steering_vector(other, ("Love", "Hate"), layer=2), through=lens)
