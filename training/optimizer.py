"""Muon for the matrices of the blocks: momentum, made orthogonal by Newton-Schulz (Jordan et al., 2024).

At this size it needs about half the tokens that AdamW needs for the same held-out loss. Embeddings, gains
and biases stay with AdamW.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.model import StoryModel


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """A stack of matrices with all singular values pushed near one."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Steps matrices along their orthogonalised Nesterov momentum, all of one shape at once."""

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # torch types it by overloads
        """Step every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self.step_alike(parameters, group)

    def step_alike(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Step parameters of one shape together: one batched iteration costs less than many small ones."""
        directions = []
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            buffer = state.setdefault("momentum", torch.zeros_like(parameter))
            buffer.lerp_(parameter.grad, 1 - group["momentum"])
            directions.append(parameter.grad.lerp(buffer, group["momentum"]))
        stacked = torch.stack(directions)
        rows, columns = stacked.shape[-2:]
        # Query, key and value share a matrix but are three maps: each is made orthogonal by itself.
        maps = rows // columns if rows == 3 * columns else 1
        updates = orthogonalise(stacked.view(-1, rows // maps, columns)).view_as(stacked)
        scale = max(1.0, rows / maps / columns) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-group["lr"] * scale)


def make_optimizers(model: StoryModel, *, matrix_lr: float, other_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest; each group remembers its peak as `peak_lr`."""
    matrices = [parameter for parameter in model.blocks.parameters() if parameter.ndim == 2]
    embeddings = [model.embed.weight, model.positions.weight]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    muon = Muon(matrices, lr=matrix_lr, weight_decay=0.01)
    adam = torch.optim.AdamW(
        [{"params": embeddings, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}],
        lr=other_lr,
        betas=(0.9, 0.95),
        eps=1e-10,
        fused=True,
    )
    optimizers: list[torch.optim.Optimizer] = [muon, adam]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers
