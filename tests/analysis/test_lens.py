"""The logit lens against TransformerLens's own final norm and unembedding, planted directions and random ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import actadd_lens as al
from actadd_lens.analysis.lens import read_rows
from actadd_lens.models import backend_of
from actadd_lens.models.hooked import hooked_transformer
from actadd_lens.models.readout import readout_of

HAS_HOOKED = hooked_transformer() is not None

PAIR = ("I talk about weddings", "I hate")
PROMPT = "The girl looked at the old dog and said"


def vector(model: Any, layer: int = 2) -> al.SteeringVector:
    return 3 * al.compute_steering_vector(model, PAIR, layer=layer)


def values_of(lens: al.LogitLens) -> Tensor:
    return torch.stack([row.values for row in lens.rows])


def centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(dim=-1, keepdim=True)


@torch.no_grad()
def own_readout(model: Any, stream: Tensor) -> Tensor:
    """TransformerLens's own path from the stream to logits."""
    return centred(model.unembed(model.ln_final(stream[None]))[0])


@torch.no_grad()
def test_direction_reading_is_what_the_models_own_norm_and_unembedding_make_of_a_large_stream(model: Any) -> None:
    v = vector(model)
    rows = v.injection[(v.norms > 0)]
    seen = rows - rows.mean(dim=-1, keepdim=True) if backend_of(model).normalization == "LN" else rows
    size = seen.square().mean(dim=-1, keepdim=True).sqrt()
    by_hand = size * (own_readout(model, 1e3 * rows) - own_readout(model, -1e3 * rows)) / 2
    found = values_of(al.logit_lens(model, v))[(v.norms > 0)]
    assert torch.allclose(found, by_hand, atol=1e-4 * float(by_hand.abs().max()))


@pytest.mark.parametrize("name", ["gpt2", pytest.param("stories", marks=pytest.mark.shared)])
def test_direction_reading_is_the_same_on_folded_raw_and_bridged_weights(
    name: str, gpt2_folder: Path, request: pytest.FixtureRequest
) -> None:
    folder = gpt2_folder if name == "gpt2" else request.getfixturevalue("shared_folder") / "models" / "stories-260k"
    raw: dict[str, Any] = {
        "fold_ln": False,
        "center_writing_weights": False,
        "center_unembed": False,
        "fold_value_biases": False,
    }
    compatible: Any = al.load_model(folder, family="bridge")
    compatible.enable_compatibility_mode()
    models = [compatible, al.load_model(folder, family="bridge")]
    if HAS_HOOKED:
        models += [al.load_model(folder, family="hooked"), al.load_model(folder, family="hooked", **raw)]
    lenses = [al.logit_lens(model, vector(model)) for model in models]
    size = float(values_of(lenses[0]).abs().max())
    for lens in lenses[1:]:
        assert torch.allclose(values_of(lens), values_of(lenses[0]), atol=1e-4 * size)
        for row, other in zip(lens.rows, lenses[0].rows, strict=True):
            assert torch.allclose(row.z, other.z, atol=1e-3)
            assert row.row_name == other.row_name


def test_vector_set_to_an_unembedding_direction_is_found_on_top(model: Any) -> None:
    directions = readout_of(backend_of(model)).token_directions
    # The token whose direction is longest: no other direction can lie further along it.
    token = int(directions.norm(dim=0).argmax())
    planted = al.SteeringVector.from_tensor(directions[:, token], layer=1, source="planted")
    (row,) = al.logit_lens(model, planted, k=1, nulls=5).rows
    assert row.promoted[0].token == token
    assert row.promoted[0].rank == 1
    assert row.promoted_share == 0.0
    assert row.promoted[0].z == pytest.approx(row.z.max())
    assert al.logit_lens(model, -planted, k=1).rows[0].demoted[0].token == token


def test_zero_rows_read_zero_and_list_nothing(small: Any) -> None:
    v = vector(small)
    for reading in ("direction", "anchored"):
        lens = al.logit_lens(small, [v, 0 * v], reading=reading, prompt=PROMPT, nulls=2)
        for row in lens.rows:
            zero = row.vector == 1 or row.row in (0, 1)  # BOS and the shared I
            assert zero == (row.norm == 0)
            if zero:
                assert not row.values.any()
                assert not row.z.any()
                assert row.promoted == row.demoted == ()
    assert "zero row" in lens._repr_html_()


@pytest.mark.parametrize("relative", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("anchored", [False, True])
@torch.no_grad()
def test_z_scores_of_random_directions_are_standard_normal(model: Any, anchored: bool, relative: float) -> None:
    readout = readout_of(backend_of(model))
    _, cache = model.run_with_cache(model.to_tokens(PROMPT))
    anchor = cache["blocks.2.hook_resid_pre"][0, -1].float()
    torch.manual_seed(0)
    rows = torch.randn(600, len(anchor))
    rows = readout.centre(rows)
    rows *= relative * readout.centre(anchor).norm() / rows.norm(dim=-1, keepdim=True)
    _, z = read_rows(readout, rows, anchor.expand(600, -1) if anchored else None)
    sizes = z.square().mean(dim=0).sqrt()
    assert abs(float(z.mean())) < 0.02
    assert abs(float(sizes.median()) - 1) < 0.05
    assert float(sizes.min()) > 0.85
    assert float(sizes.max()) < 1.2


@torch.no_grad()
def test_anchored_reading_is_the_change_of_the_models_own_readout_where_rows_land(model: Any) -> None:
    v = vector(model)
    _, cache = model.run_with_cache(model.to_tokens(PROMPT))
    stream = cache["blocks.2.hook_resid_pre"][0, 2 : 2 + v.rows]
    by_hand = own_readout(model, stream + v.injection) - own_readout(model, stream)
    found = values_of(al.logit_lens(model, v, reading="anchored", prompt=PROMPT, position=2))
    assert torch.allclose(found, by_hand, atol=2e-4 * float(by_hand.abs().max()))


@torch.no_grad()
def test_carried_lens_reads_the_change_of_the_stream_and_ends_in_that_of_the_logits(model: Any) -> None:
    v = vector(model, layer=1)
    tokens = model.to_tokens(PROMPT)
    plain, before = model.run_with_cache(tokens)
    with al.steer(model, v):
        steered, after = model.run_with_cache(tokens)
    carried = al.logit_lens_carried(model, v, PROMPT)
    n_layers = model.cfg.n_layers
    assert [row.layer for row in carried.anchored.rows] == list(range(1, n_layers + 1))
    change = centred(steered[0, -1] - plain[0, -1])
    assert torch.allclose(carried.anchored.rows[-1].values, change, atol=2e-4 * float(change.abs().max()))
    streams = [(cache["blocks.3.hook_resid_pre"][0, -1]) for cache in (before, after)]
    by_hand = own_readout(model, streams[1][None]) - own_readout(model, streams[0][None])
    row = carried.anchored.rows[2]
    assert torch.allclose(row.values, by_hand[0], atol=2e-4 * float(by_hand.abs().max()))
    size = (streams[1] - streams[0]).norm() / streams[0].norm()
    assert carried.relative_norms[2] == pytest.approx(float(size), rel=1e-3)


def test_carried_change_is_exactly_zero_where_causality_lets_nothing_through(small: Any) -> None:
    v = vector(small, layer=1)
    landed = [row.norm > 0 for row in al.logit_lens_carried(small, v, PROMPT, at=3).direction.rows]
    assert v.rows < len(small.to_tokens(PROMPT)[0])
    later = [row.norm > 0 for row in al.logit_lens_carried(small, v, PROMPT, at=v.rows).direction.rows]
    before = [row.norm > 0 for row in al.logit_lens_carried(small, v, PROMPT, at=1).direction.rows]
    assert landed == [True] * 4
    assert later == [False, True, True, True]
    assert before == [False] * 4
    here = al.logit_lens_carried(small, v, PROMPT, at=3).direction.rows[0]
    assert torch.allclose(here.values, al.logit_lens(small, v).rows[3].values, atol=1e-3)


def test_share_of_nulls_counts_nulls_whose_kth_token_is_as_extreme(small: Any) -> None:
    v, k = vector(small), 3
    found = al.logit_lens(small, v, k=k, nulls=12).rows[-1]
    size = (v.injection[-1] - v.injection[-1].mean()).norm()
    ends = []
    for null in al.null_vectors(small, v, n=12, seed=0):
        row = null.injection[-1] - null.injection[-1].mean()
        one = al.SteeringVector.from_tensor(row * size / row.norm(), layer=2, source="null")
        values = al.logit_lens(small, one).rows[0].values.sort(descending=True).values
        ends.append((float(values[k - 1]), float(values[-k])))
    tops, bottoms = np.array(ends).T
    assert np.allclose(np.sort(found.null_promoted), np.sort(tops), rtol=1e-4)
    assert np.allclose(np.sort(found.null_demoted), np.sort(bottoms), rtol=1e-4)
    assert found.promoted_share == (tops >= found.promoted[-1].value).mean()
    assert found.demoted_share == (bottoms <= found.demoted[-1].value).mean()


def test_shares_of_nulls_of_the_same_kind_are_spread_evenly(small: Any) -> None:
    v = al.compute_steering_vector(small, ("Love", "Hate"), layer=2)
    nulls = al.null_vectors(small, v, kind="gaussian", n=30, seed=5)
    lens = al.logit_lens(small, nulls, nulls=20, null_kind="gaussian")
    shares = [row.promoted_share for row in lens.rows if row.norm > 0]
    assert 0.3 < np.mean(shares) < 0.7


@pytest.mark.slow
def test_a_null_vector_lists_a_token_that_stands_in_few_runs(small: Any) -> None:
    v = al.compute_steering_vector(small, ("Love", "Hate"), layer=2)
    stood = 0
    for null in al.null_vectors(small, v, kind="gaussian", n=60, seed=5):
        lens = al.logit_lens(small, null, nulls=59, null_kind="gaussian", k=3)
        listed = [token for row in lens.rows for token in (*row.promoted, *row.demoted)]
        assert sum(token.significant for token in listed) == len(lens.significant)
        stood += bool(lens.significant)
    assert stood <= 60 * 0.05 + 3 * (60 * 0.05 * 0.95) ** 0.5
    assert not al.logit_lens(small, v).significant


def test_order_by_z_ranks_by_z_and_followed_tokens_know_their_rank(small: Any) -> None:
    v = vector(small)
    for order in ("value", "z"):
        lens = al.logit_lens(small, v, order=order, k=4, tokens=[7, " the"])
        row = lens.rows[-1]
        scores = getattr(row, "z" if order == "z" else "values")
        assert [token.token for token in row.promoted] == scores.topk(4).indices.tolist()
        assert [token.token for token in row.demoted] == scores.topk(4, largest=False).indices.tolist()
        assert row.followed[0].rank == 1 + int((scores > scores[7]).sum())
        assert list(lens.followed_frame()["rank"])[-2] == row.followed[0].rank


def test_sign_and_coefficient_count(small: Any) -> None:
    v = vector(small)
    plain, negated = (values_of(al.logit_lens(small, one)) for one in (v, -2 * v))
    assert torch.allclose(negated, -2 * plain, rtol=1e-4, atol=1e-4)


def test_lens_of_several_layers_is_one_table_and_picture(small: Any) -> None:
    vectors = al.compute_steering_vectors(small, [PAIR], layers=range(4))
    lens = al.logit_lens(small, list(vectors), k=3, nulls=2)
    assert list(lens.frame()["layer"].unique()) == [0, 1, 2, 3]
    ax = lens.plot()
    live = [row for row in lens.rows if row.promoted]
    assert len(ax.get_xticks()) == len(live)
    assert len(ax.texts) == 2 * 3 * len(live)
    assert str(lens).count("(zero)") == len(lens.rows) - len(live)
    carried = al.logit_lens_carried(small, vectors[0, 1], PROMPT, nulls=2)
    assert len(carried.plot(reading="direction").get_xticks()) == sum(row.norm > 0 for row in carried.direction.rows)
    assert set(carried.frame()["reading"]) == {"direction", "anchored"}
    assert "layer 2" in carried._repr_html_()


def test_open_steering_does_not_reach_the_lens(small: Any) -> None:
    v = vector(small)
    plain = values_of(al.logit_lens(small, v, reading="anchored", prompt=PROMPT))
    with al.steer(small, 5 * v.at_layer(1)):
        inside = values_of(al.logit_lens(small, v, reading="anchored", prompt=PROMPT))
    assert torch.equal(plain, inside)
