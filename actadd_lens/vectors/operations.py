"""Operations: what is done to the stream at the chosen tokens, each of them one pure function.

Every tensor of an operation is [rows, width], or [batch, rows, width] if each row of a batch has its own; one row goes
to all tokens, several go one per token. Nothing here knows about models, caches or prompts.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Parameter = Float[Tensor, "*batch rows width"]


@dataclass(frozen=True, eq=False)
class Operation(ABC):
    """A function of the stream at some tokens."""

    @abstractmethod
    def __call__(self, stream: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos width"]:
        """The stream as it goes on."""

    @property
    def changes_nothing(self) -> bool:
        """Whether the operation leaves any stream as it is, bit for bit."""
        return False

    @property
    def learns(self) -> bool:
        """Whether one of its tensors requires a gradient."""
        return any(tensor.requires_grad for tensor in self._tensors())

    @property
    def rows(self) -> int:
        """Rows of its tensors; 1 if the same goes to every token."""
        return max(tensor.shape[-2] for tensor in self._tensors())

    def of_tokens(self, rows: slice | Int[Tensor, "batch pos"]) -> "Operation":
        """The operation for some tokens, given the row that each one gets."""
        return self._mapped(lambda tensor: _rows_of(tensor, rows))

    def of_batch(self, members: Int[Tensor, " some"]) -> "Operation":
        """The operation for some rows of the batch."""
        return self._mapped(lambda tensor: tensor[members.to(tensor.device)] if tensor.ndim == 3 else tensor)

    def repeated(self, times: int) -> "Operation":
        """The operation for a batch in which each row is repeated that many times, side by side."""
        return self._mapped(lambda tensor: tensor.repeat_interleave(times, dim=0) if tensor.ndim == 3 else tensor)

    def like(self, stream: Tensor) -> "Operation":
        """The operation on the device and in the precision of a stream."""
        return self._mapped(lambda tensor: tensor.to(stream))

    def _tensors(self) -> list[Tensor]:
        values = [getattr(self, item.name) for item in dataclasses.fields(self)]
        inner = [tensor for value in values if isinstance(value, Operation) for tensor in value._tensors()]
        return [value for value in values if isinstance(value, Tensor)] + inner

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "Operation":
        changed = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            changed[item.name] = value._mapped(change) if isinstance(value, Operation) else change(value)
        return dataclasses.replace(self, **changed)


def _rows_of(tensor: Tensor, rows: slice | Tensor) -> Tensor:
    if tensor.shape[-2] == 1:
        return tensor
    if isinstance(rows, slice):
        return tensor[..., rows, :]
    if tensor.ndim == 2:
        return tensor[rows.to(tensor.device)]
    return tensor.gather(1, rows.to(tensor.device)[..., None].expand(-1, -1, tensor.shape[-1]))


@dataclass(frozen=True, eq=False)
class Add(Operation):
    """x + v.

    >>> Add(torch.tensor([[1.0, 2.0]]))(torch.zeros(1, 2, 2)).tolist()
    [[[1.0, 2.0], [1.0, 2.0]]]
    """

    values: Parameter

    def __call__(self, stream: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos width"]:
        """The sum."""
        return stream + self.values

    @property
    def changes_nothing(self) -> bool:
        """Whether all that is added is zero."""
        return not bool((self.values != 0).any())


@dataclass(frozen=True, eq=False)
class Project(Operation):
    """x + (z - x·u) u: the projection on the unit vector u becomes z.

    >>> Project(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0]]))(torch.ones(1, 1, 2)).tolist()
    [[[3.0, 1.0]]]
    """

    unit: Parameter
    value: Float[Tensor, "*batch values 1"]

    def __call__(self, stream: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos width"]:
        """The stream with its component along u replaced."""
        along = (stream * self.unit).sum(dim=-1, keepdim=True)
        return stream + (self.value - along) * self.unit


@dataclass(frozen=True, eq=False)
class Multiply(Operation):
    """s x, with one factor, or one for each element.

    >>> Multiply(torch.tensor([[2.0, 0.0]]))(torch.ones(1, 1, 2)).tolist()
    [[[2.0, 0.0]]]
    """

    factor: Parameter

    def __call__(self, stream: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos width"]:
        """The product."""
        return stream * self.factor

    @property
    def changes_nothing(self) -> bool:
        """Whether every factor is 1."""
        return not bool((self.factor != 1).any())


@dataclass(frozen=True, eq=False)
class Overwrite(Operation):
    """The values given, whatever was there.

    >>> Overwrite(torch.tensor([[5.0, 6.0]]))(torch.ones(1, 1, 2)).tolist()
    [[[5.0, 6.0]]]
    """

    values: Parameter

    def __call__(self, stream: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos width"]:
        """The values, one for each token of the stream."""
        return self.values.expand_as(stream).clone()


@dataclass(frozen=True, eq=False)
class Blend(Operation):
    """x + g (f(x) - x), with a weight g for each row of the batch: at 0 nothing is changed, at 1 all of f acts.

    >>> Blend(Multiply(torch.tensor([[3.0]])), torch.tensor([[[0.5]]]))(torch.ones(1, 1, 1)).tolist()
    [[[2.0]]]
    """

    inner: Operation
    weight: Float[Tensor, "batch 1 1"]

    def __call__(self, stream: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos width"]:
        """Between the stream and what the inner operation makes of it; exact at 0 and at 1."""
        whole = self.inner(stream)
        between = stream + self.weight * (whole - stream)
        return torch.where(self.weight == 0, stream, torch.where(self.weight == 1, whole, between))

    @property
    def changes_nothing(self) -> bool:
        """Whether every weight is 0, or the inner operation changes nothing."""
        return self.inner.changes_nothing or not bool((self.weight != 0).any())
