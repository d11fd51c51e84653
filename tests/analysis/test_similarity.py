"""Cosines against torch's own, and their scale against a loop over pairs of unrelated vectors."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity as torch_cosine

import actadd_lens as al
from actadd_lens.measuring.nulls import unrelated_rows

LONG, SHORT = ("I talk about weddings", "I hate"), ("Love", "Hate")


def two(model: Any) -> tuple[al.SteeringVector, al.SteeringVector]:
    first, second = (5 * al.compute_steering_vector(model, pair, layer=2) for pair in (LONG, SHORT))
    return first, second


def test_rows_are_compared_with_rows_and_zero_rows_give_zero(model: Any) -> None:
    left, right = two(model)
    found = al.cosine_similarity(model, left, right, centred=False, nulls=0)
    for row in range(left.rows):
        for column in range(right.rows):
            by_hand = torch_cosine(left.activations[row], right.activations[column], dim=0)
            assert found.cosines[row, column] == pytest.approx(float(by_hand), abs=1e-5)
    assert not found.cosines[0].any()
    assert np.isfinite(found.cosines).all()


def test_aligned_compares_flat_matrices_and_pooled_compares_means(small: Any) -> None:
    left, right = two(small)
    flat = torch.zeros_like(left.activations)
    flat[: right.rows] = right.activations
    aligned = al.cosine_similarity(small, [left, right], by="aligned", centred=False, nulls=0)
    assert aligned.cosines[0, 1] == pytest.approx(float(torch_cosine(left.activations.ravel(), flat.ravel(), dim=0)))
    pooled = al.cosine_similarity(small, [left, right], by="pooled", centred=False, nulls=0)
    means = [vector.activations[vector.norms > 0].mean(dim=0) for vector in (left, right)]
    assert pooled.cosines[0, 1] == pytest.approx(float(torch_cosine(means[0], means[1], dim=0)), abs=1e-6)
    assert np.allclose(np.diag(pooled.cosines), 1)
    assert np.allclose(al.cosine_similarity(small, left, -left, by="aligned", nulls=0).cosines, -1)


def test_centring_takes_the_all_ones_direction_away_where_the_model_discards_it(model: Any) -> None:
    left, right = two(model)
    shifted = al.SteeringVector.from_tensor(left.activations + 100, layer=2, source="shifted")
    plain, moved = (al.cosine_similarity(model, one, right, nulls=0) for one in (left, shifted))
    is_layer_norm = model.cfg.normalization_type.startswith("LN")
    assert plain.centred == is_layer_norm
    assert np.allclose(plain.cosines[2:], moved.cosines[2:], atol=2e-2) == is_layer_norm


def test_scale_is_that_of_unrelated_pairs_compared_with_each_other(small: Any) -> None:
    left, right = two(small)
    found = al.cosine_similarity(small, left, right, nulls=6, seed=3)
    ours, theirs = (unrelated_rows(small, vector, n=6, seed=3) for vector in (left, right))
    row, column = 3, 1
    cosines = []
    for i, one in enumerate(ours):
        for j, other in enumerate(theirs):
            if i != j:
                a, b = one[row] - one[row].mean(), other[column] - other[column].mean()
                cosines.append(float(torch_cosine(a, b, dim=0)))
    assert len(cosines) == 30
    assert found.null_mean[row, column] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert found.null_low[row, column] == pytest.approx(np.quantile(cosines, 0.025, method="weibull"), abs=1e-5)
    assert found.null_high[row, column] == pytest.approx(np.quantile(cosines, 0.975, method="weibull"), abs=1e-5)
    z = (found.cosines[row, column] - np.mean(cosines)) / np.std(cosines, ddof=1)
    assert found.z[row, column] == pytest.approx(z, abs=1e-3)
    assert np.isnan(found.z[0]).all()


def test_unrelated_pairs_mostly_lie_within_their_own_scale(embedded: Any) -> None:
    like = al.compute_steering_vector(embedded, SHORT, layer=4)
    drawn = al.null_vectors(embedded, like, n=24, seed=11)
    found = al.cosine_similarity(embedded, drawn, by="pooled", nulls=64)
    others = ~np.eye(24, dtype=bool)
    assert found.outside[others].mean() < 0.15
    assert not found.outside[~others].any()  # any pair is itself


@pytest.mark.slow
def test_a_pair_across_layers_is_judged_by_unrelated_pairs_across_layers(embedded: Any) -> None:
    phrases = [text.split() for text in al.storybook.neutral_prompts()[:24]]
    outside = []
    for first, second in zip(phrases[::2], phrases[1::2], strict=True):
        pair = (" " + " ".join(first[:2]), " " + " ".join(second[:2]))
        across = al.compute_steering_vectors(embedded, [pair], layers=range(2, 6))
        found = al.cosine_similarity(embedded, list(across), by="pooled", seed=1)
        outside.append(found.outside[~np.eye(4, dtype=bool)])
    assert np.mean(outside) < 0.2  # all of them, when each null is compared with other pairs
    rows = al.cosine_similarity(embedded, across[0, 3], across[0, 3].row(-1), by="pooled")
    assert np.isnan(rows.null_mean).all()


def test_both_families_agree(load: Any) -> None:
    tables = []
    for family in ("hooked", "bridge"):
        model = load("gpt2", family)
        tables.append(al.cosine_similarity(model, two(model), nulls=4))
    assert np.allclose(tables[0].cosines, tables[1].cosines, atol=1e-4)
    assert np.allclose(tables[0].null_mean, tables[1].null_mean, atol=1e-4, equal_nan=True)


def test_one_pair_across_layers_is_a_table_of_layers(small: Any) -> None:
    vectors = al.compute_steering_vectors(small, [LONG], layers=range(4))
    found = al.cosine_similarity(small, list(vectors), by="pooled", nulls=4)
    assert found.names == tuple(f"layer {layer}" for layer in range(4))
    assert len(found.frame()) == 16
    assert len(found.plot().texts) == 16
    assert "layer 3" in found._repr_html_()
    rows = al.cosine_similarity(small, two(small), nulls=0)
    assert len(rows.plot().texts) == sum((rows.cosines != 0).any(axis=1)) ** 2
