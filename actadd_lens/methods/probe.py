"""A probe's direction, added only where the probe finds its class (after arXiv 2306.03341 and 2409.05907)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from actadd_lens.checks import require
from actadd_lens.errors import VectorError
from actadd_lens.methods.layers import one_layer
from actadd_lens.methods.reading import BATCH_SIZE, Prompt, provenance_of, read_prompts, told_read
from actadd_lens.methods.together import Together
from actadd_lens.models import LensModel, backend_of
from actadd_lens.models.protocol import Spot
from actadd_lens.steering.interventions import Gate, gate, gated
from actadd_lens.vectors.interventions import Intervention
from actadd_lens.vectors.vector import SteeringVector, check_coefficient


@dataclass(frozen=True, eq=False)
class Probe(Together):
    """A direction that separates two kinds of texts, behind a gate that opens on the first kind.

    Attributes:
        vector: What is added: coefficient 1 is the distance along the direction from the others' mean to the class
            mean.
        gate: Opens on prompts that the probe assigns to the class; `gated(anything, found.gate)` acts on these too.
    """

    vector: SteeringVector
    gate: Gate

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """The vector behind its gate."""
        return (gated(self.vector, self.gate),)

    def times(self, coefficient: float) -> "Probe":
        """The same, scaled by a factor behind the same gate; -1 moves the class mean to that of the others."""
        return replace(self, vector=coefficient * self.vector)

    def at(self, *, position: Any, bos: bool | None = None) -> "Probe":
        """The same on other tokens; the gate reads where it did."""
        return replace(self, vector=self.vector.at(position=position, bos=bos))

    def opens(self, model: LensModel, prompts: Any) -> Bool[Tensor, " prompts"]:
        """Which prompts the probe assigns to its class."""
        return torch.gt(self.gate.scores(model, prompts), self.gate.threshold)

    def accuracy(self, model: LensModel, texts: Any, others: Any) -> float:
        """Share of texts classified correctly, averaged over both kinds; the texts that it was fitted on flatter it."""
        return float(self.opens(model, texts).double().mean() + (~self.opens(model, others)).double().mean()) / 2


def probe(
    model: LensModel, texts: Sequence[Prompt], others: Sequence[Prompt], *, layer: int | None = None,
    paper_layer: int | None = None, fit: Literal["logistic", "means"] = "logistic", ridge: float = 0.01,
    token: int = -1, prepend_bos: bool = True, batch_size: int = BATCH_SIZE, progress: bool = False,
) -> Probe:  # fmt: skip
    """A probe of two kinds of texts, whose direction is added only on prompts that it assigns to the first kind.

    Read: one token of each text. Lands: on every token but BOS, generated ones too. Does: x + c g v, where g is 0 or 1
    for a whole prompt, decided at the same token. The papers steer by a probe and by a condition; neither is
    reproduced.

    Args:
        model: The model to read; if it is being steered, the unsteered model is read.
        texts: Texts of the class, chat prompts, or token ids; they should end as the prompts will.
        others: Texts that are not of the class.
        layer: In this package's count: the stream that enters this block.
        paper_layer: A paper's l, the output of block l, which is our l + 1.
        fit: `logistic`: regression with equal weight for both kinds; `means`: their difference, cut at the midpoint.
        ridge: For `logistic`, the weight of the normal's squared length, with rows of mean length 1.
        token: The token that is read, in texts and in prompts; -1 is the last.
        prepend_bos: Whether texts start with BOS; token ids are read as they are.
        batch_size: Maximum number of texts per pass.
        progress: Whether to show a bar.

    Raises:
        ActAddError: A text cannot be read, there is no such layer, or both kinds are the same at that token.
    """
    require(fit in ("logistic", "means"), "fit", fit, "logistic or means")
    require(isinstance(token, int) and not isinstance(token, bool), "token", token, "an integer")
    require(check_coefficient(ridge) > 0, "ridge", ridge, "a number above 0")
    backend = backend_of(model)
    number, translated = one_layer(backend, layer, paper_layer)
    sides = [read_prompts(backend, some, [Spot(number)], read=token, prepend_bos=prepend_bos, batch_size=batch_size,
                          progress=progress) for some in (texts, others)]  # fmt: skip
    rows = [side.of_prompts(Spot(number)) for side in sides]
    middle, apart = (rows[0].mean(0) + rows[1].mean(0)) / 2, rows[0].mean(0) - rows[1].mean(0)
    if not bool(apart.any()):
        raise VectorError(f"At layer {number} both kinds of texts are equal at token {token}: nothing separates them.")
    normal, bias = _logistic(rows[0] - middle, rows[1] - middle, ridge) if fit == "logistic" else (apart, 0.0)
    unit, threshold = normal / normal.norm(), float((middle @ normal - bias) / normal.norm())
    steps = (*translated, told_read(f"{fit} probe", token, *sides))
    told = provenance_of(backend, f"probe of {len(texts)} texts against {len(others)}", layer=number, steps=steps)
    found = SteeringVector(unit.float()[None], number, position="all", provenance=told)
    return Probe(found.with_norm(float((apart @ unit).abs())), gate(found, threshold, token=token))


def _logistic(
    texts: Float[Tensor, "texts d_model"], others: Float[Tensor, "others d_model"], ridge: float
) -> tuple[Float[Tensor, " d_model"], float]:
    """Normal and bias of the plane beyond which a row is of the class, for rows about the middle."""
    size = torch.cat([texts, others]).norm(dim=1).mean()
    found = torch.zeros(texts.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([found], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        scores = [rows / size @ found[:-1] + found[-1] for rows in (texts, others)]
        total: Tensor = softplus(-scores[0]).mean() + softplus(scores[1]).mean() + ridge * found[:-1].square().sum()
        total.backward()
        return total

    solver.step(loss)
    return found.detach()[:-1] / size, float(found.detach()[-1])
