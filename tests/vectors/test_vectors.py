"""The algebra of steering vectors, as laws."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import actadd_lens as al

numbers = st.floats(-20, 20).filter(lambda number: number == 0 or abs(number) > 1e-3)


def made(seed: int, rows: int = 3, layer: int = 2, width: int = 8) -> al.SteeringVector:
    random = torch.Generator().manual_seed(seed)
    return al.SteeringVector.from_tensor(torch.randn(rows, width, generator=random), layer=layer, source=f"made {seed}")


def same(left: Tensor, right: Tensor) -> bool:
    return bool(torch.allclose(left, right, atol=1e-4, rtol=1e-5))


vectors = st.builds(made, st.integers(0, 50), st.integers(1, 4))


@given(v=vectors, c=numbers, d=numbers)
def test_scalars_touch_the_coefficient_only(v: al.SteeringVector, c: float, d: float) -> None:
    assert (c * v).activations is v.activations or torch.equal((c * v).activations, v.activations)
    assert (c * v).coefficient == c
    assert (d * (c * v)).coefficient == pytest.approx(d * c)
    assert ((c * v) * d).coefficient == pytest.approx(c * d)
    assert same((c * v).injection, c * v.activations)
    assert torch.equal((-v).injection, -v.injection)
    if c:
        assert ((c * v) / c).coefficient == pytest.approx(1.0)


@given(v=vectors, w=vectors, c=numbers)
def test_sums_are_sums_of_injections(v: al.SteeringVector, w: al.SteeringVector, c: float) -> None:
    rows = max(v.rows, w.rows)
    padded = [torch.cat([u.injection, torch.zeros(rows - u.rows, u.d_model)]) for u in (v, c * w)]
    total = v + c * w
    assert same(total.injection, padded[0] + padded[1])
    assert total.coefficient == 1.0
    assert same((v - c * w).injection, padded[0] - padded[1])
    assert same((c * w + v).injection, total.injection)
    assert [coefficient for coefficient, _ in total.provenance.terms] == pytest.approx([1.0, c])
    assert [term.source for _, term in total.provenance.terms] == [v.provenance.source, w.provenance.source]


@given(u=vectors, v=vectors, w=vectors)
def test_addition_is_associative_and_has_a_zero(
    u: al.SteeringVector, v: al.SteeringVector, w: al.SteeringVector
) -> None:
    assert same(((u + v) + w).injection, (u + (v + w)).injection)
    assert same(sum([v, w], start=u).injection, (u + v + w).injection)
    assert len((u + v + w).provenance.terms) == 3
    assert same((v + 0 * w).injection[: v.rows], v.injection)
    assert same((v - v).injection, torch.zeros_like(v.injection))


@given(u=vectors, v=vectors, c=numbers)
def test_scaling_distributes_over_sums(u: al.SteeringVector, v: al.SteeringVector, c: float) -> None:
    assert same((c * (u + v)).injection, (c * u + c * v).injection)


@given(v=vectors, norm=st.floats(0, 50))
def test_with_norm_sets_every_row_that_is_not_zero(v: al.SteeringVector, norm: float) -> None:
    with_zero = dataclasses.replace(v, activations=torch.cat([torch.zeros(1, v.d_model), v.activations]))
    rescaled = (3 * with_zero).with_norm(norm)
    assert same(rescaled.norms, torch.tensor([0.0] + [norm] * v.rows))
    assert rescaled.coefficient == 3
    if norm > 0.1:
        cosines = torch.nn.functional.cosine_similarity(rescaled.activations[1:], v.activations)
        assert same(cosines, torch.ones(v.rows))
    each = torch.arange(1.0, v.rows + 1)
    assert same(v.with_norm(each).norms, each)


@given(v=vectors, data=st.data())
def test_rows_means_and_dimensions(v: al.SteeringVector, data: st.DataObject) -> None:
    index = data.draw(st.integers(-v.rows, v.rows - 1))
    assert torch.equal(v.row(index).activations[0], v.activations[index])
    with_zero = dataclasses.replace(v, activations=torch.cat([torch.zeros(1, v.d_model), v.activations]))
    assert same(with_zero.mean_rows().activations[0], v.activations.mean(dim=0))
    low, high = v.keep_dimensions(slice(0, 5)), v.keep_dimensions([5, 6, 7])
    assert torch.equal(low.activations + high.activations, v.activations)
    assert (low.activations[:, 5:] == 0).all()


def test_every_change_is_recorded_and_makes_a_new_vector() -> None:
    v = made(1)
    before = v.activations.clone()
    changed = v.at_layer(5).row(1).with_norm(2).keep_dimensions(slice(0, 4)).mean_rows()
    assert changed.provenance.steps == (
        "at_layer(5)", "row(1)", "with_norm(2)", "keep_dimensions(slice(0, 4, None))", "mean_rows()",
    )  # fmt: skip
    assert (changed.layer, changed.hook_name) == (5, "blocks.5.hook_resid_pre")
    assert torch.equal(v.activations, before)
    with pytest.raises(dataclasses.FrozenInstanceError):
        v.layer = 3  # type: ignore[misc]  # it is frozen


def test_a_vector_does_not_follow_the_tensor_it_was_made_from() -> None:
    rows = torch.ones(2, 4)
    vector = al.SteeringVector.from_tensor(rows, layer=0, source="mine")
    rows.zero_()
    assert vector.norms.tolist() == [2.0, 2.0]


def test_one_direction_is_one_row() -> None:
    assert al.SteeringVector.from_tensor(torch.ones(4), layer=0, source="a probe").rows == 1


def test_numpy_numbers_are_coefficients_and_layers(unchecked: None) -> None:
    coefficient: Any = np.float32(2.5)
    integer: Any = np.int64(3)
    vector = coefficient * made(1)
    assert isinstance(vector, al.SteeringVector)
    assert (vector.coefficient, type(vector.coefficient)) == (2.5, float)
    assert (made(1) * integer).coefficient == 3.0
    assert type(made(1).at_layer(integer).layer) is int


def test_half_precision_stays_half_precision() -> None:
    vector = made(1).to(dtype=torch.bfloat16)
    assert vector.activations.dtype == torch.bfloat16
    assert (2 * vector).injection.dtype == torch.bfloat16
    assert vector.with_norm(3).activations.dtype == torch.bfloat16
    assert vector.norms.dtype == torch.float32


def test_a_vector_shows_itself(embedded: Any) -> None:
    vector = 5 * al.compute_steering_vector(embedded, ("<b>Love", "Hate"), layer=3).at(position="back")
    assert repr(vector).startswith("SteeringVector('<b>Love' − 'Hate', layer=3, coefficient=5, position='back', rows=")
    html = vector._repr_html_()
    assert "&lt;b&gt;Love" in html
    assert "<b>" not in html
    assert "blocks.3.hook_resid_pre" in html
    assert len(vector.plot().patches) == vector.rows
