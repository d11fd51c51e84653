"""Dimensions kept, low rank and interactions: against hand arithmetic and plain Hugging Face modules."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens import metrics
from actadd_lens.analysis.dimensions import DimensionOrder
from actadd_lens.models import backend_of
from actadd_lens.statistics import max_t_p, on_one_scale
from tests.plain_gpt2 import plain_run
from tests.support import vector_of

PROMPTS = (
    "The girl looked at the old dog and then she",
    "She felt that it was",
    "It was a good day and the old dog said",
)
PAIR, OTHER = ("The girl was", "The dog said"), ("Love", "Hate")
METRIC = metrics.logit_difference(5, 9)


@torch.no_grad()
def effects(model: Any, folder: Path, *vectors: al.SteeringVector) -> list[float]:
    """The change of the metric by plain passes; vectors of one layer are added up first."""
    found = []
    for text in PROMPTS:
        tokens = backend_of(model).encode(text)
        runs = [plain_run(folder, tokens), plain_run(folder, tokens, sum(vectors[1:], start=vectors[0]))]
        before, after = (float(run.logits[-1, 5] - run.logits[-1, 9]) for run in runs)
        found.append(after - before)
    return found


def ablate(model: Any, vector: al.SteeringVector, **settings: Any) -> al.DimensionAblation:
    return al.ablate_dimensions(model, PROMPTS, vector, METRIC, progress=False, **({"keep": [4, 16]} | settings))


def test_what_is_kept_is_what_the_order_says(small: Any, gpt2_folder: Path) -> None:
    vector = 3.0 * vector_of(small, PAIR, 2)
    lens = al.fit_jacobian(small, PROMPTS, [2], skip_first=1, max_tokens=8, progress=False)
    found = ablate(small, vector, orders=["largest", "random", "jacobian"], through=lens)
    rows = vector.activations - vector.activations.mean(dim=-1, keepdim=True)
    orders: dict[DimensionOrder, list[int]] = {
        "largest": rows.norm(dim=0).argsort(descending=True).tolist(),
        "random": np.random.default_rng(0).permutation(32).tolist(),
        "jacobian": (rows.norm(dim=0) * lens.at(2).norm(dim=0)).argsort(descending=True).tolist(),
    }
    for name, order in orders.items():
        for keep in (4, 16):
            kept = vector.keep_dimensions(order[:keep])
            expected = effects(small, gpt2_folder, kept)
            np.testing.assert_allclose(found.effect(name, keep).by_prompt, expected, atol=3e-4)
            norm = found.norms[found.orders.index(name), found.keep.index(keep)]
            assert norm == pytest.approx(float(kept.activations.norm() / vector.activations.norm()), rel=1e-4)
    np.testing.assert_allclose(found.whole_effect.by_prompt, effects(small, gpt2_folder, vector), atol=3e-4)


def test_all_dimensions_are_the_whole_vector(small: Any) -> None:
    found = ablate(small, 3.0 * vector_of(small, PAIR, 1), keep=32)
    for order in ("largest", "random"):
        assert found.effect(order, 32).mean == pytest.approx(found.whole_effect.mean, abs=1e-5)
    assert found.frame()["share"].tolist() == pytest.approx([1.0, 1.0], abs=1e-4)


def test_nulls_are_cut_by_orders_of_their_own_and_stand_seldom(quickest: Any) -> None:
    vector = 3.0 * vector_of(quickest, PAIR, 2)
    found = ablate(quickest, vector, nulls=30, null_kind="gaussian")
    null = al.null_vectors(quickest, vector, kind="gaussian", n=30)[4]
    alone = ablate(quickest, null)
    np.testing.assert_allclose(found.steered[5], alone.steered[0], atol=1e-4)
    table = (found.steered[1:] - found.unsteered).mean(axis=-1).reshape(30, -1)
    stood = []
    for index in range(30):
        scaled = on_one_scale(np.concatenate([table[index][None], np.delete(table, index, axis=0)]))
        stood.append((max_t_p(scaled[0], scaled[1:], "two-sided") <= 0.05).any())
    assert np.mean(stood) <= 0.05
    assert found.frame()["adjusted p"].between(1 / 31, 1).all()
    assert found.plot().get_xlabel().startswith("dimensions kept")
    assert "<table" in found._repr_html_()


def test_vectors_that_lie_in_two_directions_are_found_to(small: Any) -> None:
    first, second = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    mixes = [(1.0, 0.5), (-2.0, 1.0), (0.3, 3.0)]
    vectors = [
        al.SteeringVector.from_tensor(one * first + other * second, layer=1, source=f"mix {one}").for_model(small)
        for one, other in mixes
    ]
    found = al.low_rank(small, vectors, 2, nulls=3, null_kind="gaussian")
    assert found.shares[1] == pytest.approx(1.0, abs=1e-5)
    for one, other in zip(vectors, found.kept, strict=True):
        assert torch.allclose(one.activations, other.activations, atol=1e-4)
    by_hand = np.linalg.svd(torch.cat([vector.activations for vector in vectors]).numpy(), compute_uv=False) ** 2
    np.testing.assert_allclose(found.shares, by_hand.cumsum() / by_hand.sum(), atol=1e-5)
    assert (found.null_shares[:, 1] < 1.0).all()
    assert found.frame()["adjusted p"].iloc[1] == 0.25
    assert "2 directions hold 100%" in repr(found)


def test_together_minus_sum_is_that_of_plain_passes(small: Any, gpt2_folder: Path) -> None:
    first, second = 2.0 * vector_of(small, PAIR, 2), 3.0 * vector_of(small, OTHER, 2)
    found = al.interaction(small, [first, second], METRIC, PROMPTS, nulls=2, progress=False)
    alone = [effects(small, gpt2_folder, vector) for vector in (first, second)]
    joint = effects(small, gpt2_folder, first, second)
    np.testing.assert_allclose(found.joint.by_prompt, joint, atol=3e-4)
    np.testing.assert_allclose(found.effect.by_prompt, np.array(joint) - np.sum(alone, axis=0), atol=6e-4)
    np.testing.assert_allclose(found.alone[1].by_prompt, alone[1], atol=3e-4)
    assert len(found.effect.nulls) == 2
    assert list(found.frame()["added"])[-2:] == ["together", "together − sum"]
    assert "<table" in found._repr_html_()


def test_what_is_read_by_a_linear_function_does_not_interact(small: Any) -> None:
    last = small.cfg.n_layers
    vectors = [0.01 * vector_of(small, pair, last).row(-1).at(position="back") for pair in (PAIR, OTHER)]
    found = al.interaction(small, vectors, METRIC, PROMPTS, progress=False)
    assert abs(found.effect.mean) < 0.02 * abs(found.joint.mean) + 1e-4


@pytest.mark.usefixtures("unchecked")
def test_settings_that_cannot_be_are_refused(quickest: Any) -> None:
    vector = vector_of(quickest, PAIR, 1)
    with pytest.raises(al.SettingError, match="integers from 1 to 32"):
        ablate(quickest, vector, keep=[33])
    with pytest.raises(al.SettingError, match="needs a J-lens"):
        ablate(quickest, vector, orders="jacobian")
    with pytest.raises(al.SettingError, match="expected one or more of"):
        ablate(quickest, vector, orders="smallest")
    with pytest.raises(al.SettingError, match="two or more"):
        al.interaction(quickest, [vector], METRIC, PROMPTS)
    with pytest.raises(al.VectorError, match="several layers"):
        al.low_rank(quickest, [vector, vector_of(quickest, PAIR, 2)], 1)
    with pytest.raises(al.SettingError, match="rank is 9"):
        al.low_rank(quickest, [vector, vector], 9)
