"""The tests' own checks of annotations: what they catch, and that the package is under them."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import actadd_lens as al
from tests.checks import _checked


@_checked
def added(
    rows: Float[Tensor, "pos d_model"], row: Float[Tensor, " d_model"], times: float = 1.0
) -> Float[Tensor, "pos d_model"]:
    return (rows + times * row) if times < 9 else rows[:1]


@_checked
@dataclass
class Held:
    """Two tensors of one length."""

    first: Float[Tensor, " pos"]
    second: Float[Tensor, " pos"]
    name: str = ""


@_checked
def named(name: str, count: "int" = 1) -> str:
    return name * count if count else None  # type: ignore[return-value]


def test_shapes_that_belong_together_are_held_together() -> None:
    assert added(torch.ones(2, 3), torch.ones(3)).shape == (2, 3)
    wrong: tuple[tuple[Any, ...], ...] = ((torch.ones(2, 3), torch.ones(2)), (torch.ones(3), torch.ones(3)))
    for arguments in (*wrong, (torch.ones(2, 3), torch.ones(3).int())):
        with pytest.raises(TypeError):
            added(*arguments)
    with pytest.raises(TypeError, match="return"):
        added(torch.ones(2, 3), torch.ones(3), times=9)


def test_a_dataclass_is_held_to_its_shapes() -> None:
    assert Held(torch.ones(2), torch.ones(2)).name == ""
    with pytest.raises(TypeError, match="second"):
        Held(torch.ones(2), torch.ones(3))


def test_what_has_no_shape_is_checked_too() -> None:
    wrong: Any = 3
    assert named("ab", 2) == "abab"
    for arguments in ((wrong,), ("ab", "ab"), ("ab", 0)):
        with pytest.raises(TypeError):
            named(*arguments)


def test_a_test_may_do_without(unchecked: None) -> None:
    wrong: Any = 0
    assert named("ab", wrong) is None
    assert Held(torch.ones(2), torch.ones(3)).second.shape == (3,)


def test_the_package_is_under_them() -> None:
    wrong: Any = object()
    with pytest.raises(TypeError, match="violates type hint"):
        al.PromptPair("a", wrong)
    with pytest.raises(TypeError, match="violates type hint"):
        al.compute_steering_vector(wrong, ("a", "b"), layer="three")  # type: ignore[arg-type]
