"""The reading by a dictionary, against sums that are known, and how often a null stands."""

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al


def vector_of(rows: torch.Tensor) -> al.SteeringVector:
    return al.SteeringVector.from_tensor(rows, layer=3, source="made")


@pytest.fixture(scope="module")
def decoder() -> torch.Tensor:
    return 3 * torch.randn(60, 32, generator=torch.Generator().manual_seed(0))


def test_a_sparse_sum_is_taken_apart_with_its_signs(decoder: torch.Tensor) -> None:
    units = decoder / decoder.norm(dim=1, keepdim=True)
    row = 4 * units[7] - 2 * units[21]
    reading = al.dictionary_reading(vector_of(torch.stack([0 * row, row])), decoder, {7: "seven"}, k=4)
    zero, found = reading.rows
    assert (zero.largest, zero.pursuit) == ((), ())
    assert {item.feature for item in found.pursuit[:2]} == {7, 21}
    weights = {item.feature: item.weight * found.norm for item in found.pursuit}
    assert weights[7] == pytest.approx(4, abs=1e-3)
    assert weights[21] == pytest.approx(-2, abs=1e-3)
    assert found.pursuit[1].explained == pytest.approx(1, abs=1e-5)
    assert found.cosines == pytest.approx(torch.cosine_similarity(decoder, row[None]).numpy(), abs=1e-5)
    assert found.largest[0].name == "seven"
    assert found.largest[0].adjusted_p == pytest.approx(1 / 21)
    assert {"feature", "weight", "adjusted p"} <= set(reading.frame().columns)
    assert reading.plot() is not None
    assert "seven" in reading._repr_html_()


def test_lengths_of_directions_do_not_count_and_those_without_any_are_left_out(decoder: torch.Tensor) -> None:
    scaled = decoder * torch.linspace(0, 9, 60)[:, None]
    vector = vector_of(torch.randn(1, 32, generator=torch.Generator().manual_seed(1)))
    [left], [right] = (al.dictionary_reading(vector, each.numpy(), nulls=0).rows for each in (decoder, scaled))
    assert right.cosines[0] == 0
    assert np.allclose(left.cosines[1:], right.cosines[1:], atol=1e-5)
    assert np.isnan(left.largest[0].adjusted_p)


@pytest.mark.slow
def test_a_random_vector_stands_in_few_calls(decoder: torch.Tensor) -> None:
    stood = 0
    for seed in range(100):
        rows = torch.randn(3, 32, generator=torch.Generator().manual_seed(seed + 100))
        stood += bool(al.dictionary_reading(vector_of(rows), decoder, k=3, nulls=20, seed=1000 + seed).significant)
    assert stood <= 12  # more than 12 of 100 at 5 % come in 2 of 1,000 runs


def test_wrong_input_is_refused(decoder: torch.Tensor, unchecked: None) -> None:
    vector = vector_of(torch.ones(1, 32))
    for bad in (torch.ones(3), torch.ones(3, 8), torch.full((3, 32), float("nan")), "x"):
        with pytest.raises(al.VectorError):
            al.dictionary_reading(vector, bad)
    for settings in ({"k": 0}, {"k": 61}, {"nulls": -1}, {"names": ["a"]}, {"seed": -1}):
        with pytest.raises(al.SettingError):
            al.dictionary_reading(vector, decoder, **settings)
    with pytest.raises(al.VectorError, match="null_vectors"):
        al.dictionary_reading(vector, decoder, nulls=[vector_of(torch.ones(2, 32))])
    cfg = SimpleNamespace(metadata=SimpleNamespace(hook_name="blocks.5.hook_resid_pre"))
    with pytest.raises(al.VectorError, match=r"layer 5, but made is at layer 3: pass sae.W_dec"):
        al.dictionary_reading(vector, SimpleNamespace(W_dec=decoder, cfg=cfg))


def test_the_embedded_models_dictionary_goes_with_the_model(embedded: Any) -> None:
    words = al.storybook.dictionary()
    assert words.decoder.shape == (len(words.names), embedded.cfg.d_model)
    assert words.decoder.norm(dim=1).numpy() == pytest.approx(1, abs=2e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        happy = al.compute_steering_vector(embedded, (" happy", " sad"), layer=words.layer)
    reading = al.dictionary_reading(happy, words.decoder, words.names)
    assert len(reading.rows[1].pursuit) == 8
