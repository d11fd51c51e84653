"""Reading rows through a readout: values, z-scores, and the ends of the nulls' lists."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.analysis.lens.results import LensOrder, LensRow, LensToken
from actadd_lens.checks import check_choice, is_count, require
from actadd_lens.models import Backend
from actadd_lens.models.readout import Readout, readout_of
from actadd_lens.prompts.texts import token_ids


@dataclass(frozen=True, eq=False)
class Lens:
    """A readout, and what it is to list."""

    backend: Backend
    readout: Readout
    k: int
    followed: tuple[int, ...]
    size: int
    order: LensOrder

    @classmethod
    def of(cls, backend: Backend, k: int, tokens: Sequence[str | int], order: LensOrder) -> "Lens":
        """The lens of a model, after its settings are checked.

        Raises:
            SettingError: A setting is out of range.
            PromptError: A followed text is not one token.
            ModelError: It is not known how the model computes its logits.
        """
        check_choice(order, "order", "value", "z")
        readout = readout_of(backend)
        # An unembedding may be padded beyond the tokenizer; such tokens have no text.
        size = min(len(backend.tokenizer), readout.bias.shape[0])
        require(is_count(k) and k <= size, "k", k, f"an integer from 1 to {size}")
        return cls(backend, readout, k, token_ids(backend, tokens), size, order)

    def through(self, jacobian: Float[Tensor, "d_model d_model"]) -> "Lens":
        """The same lens behind a Jacobian."""
        return replace(self, readout=replace(self.readout, jacobian=jacobian.to(self.readout.gain)))

    def read(
        self,
        rows: Float[Tensor, "rows d_model"],
        anchors: Float[Tensor, "rows d_model"] | None,
        null_rows: Float[Tensor, "nulls rows d_model"] | None,
        told: Sequence[dict[str, Any]],
        *,
        rescale: bool = True,
    ) -> tuple[LensRow, ...]:
        """The lens of each row, with the same rows of null vectors."""
        values, z = read_rows(self.readout, rows, anchors)
        values, z = values[:, : self.size], z[:, : self.size]
        centred = self.readout.centre(rows)
        norms = centred.norm(dim=-1)
        ends = self._null_ends(norms if rescale else None, anchors, null_rows, len(rows))
        return tuple(
            self._row(values[index], z[index], float(norms[index]), ends[:, :, index], facts)
            for index, facts in enumerate(told)
        )

    def _null_ends(
        self,
        norms: Tensor | None,
        anchors: Tensor | None,
        null_rows: Tensor | None,
        count: int,
    ) -> Float[np.ndarray, "ends nulls rows"]:
        """The k-th largest and smallest value of each null's rows, and its largest and smallest."""
        ends: list[Tensor] = []
        for null in () if null_rows is None else null_rows:
            rows = self.readout.centre(null)
            if norms is not None:
                rows = rows * (norms / rows.norm(dim=-1).clamp_min(1e-30))[:, None]
            values, z = read_rows(self.readout, rows, anchors)
            scores = (z if self.order == "z" else values)[:, : self.size]
            tops, bottoms = (scores.topk(self.k, dim=-1, largest=largest).values for largest in (True, False))
            ends.append(torch.stack([tops[:, -1], bottoms[:, -1], tops[:, 0], bottoms[:, 0]]))
        return torch.stack(ends, dim=1).cpu().numpy() if ends else np.zeros((4, 0, count))

    def _row(
        self,
        values: Float[Tensor, " d_vocab"],
        z: Float[Tensor, " d_vocab"],
        norm: float,
        ends: Float[np.ndarray, "ends nulls"],
        told: dict[str, Any],
    ) -> LensRow:
        count = self.k if norm > 0 else 0
        scores = z if self.order == "z" else values
        promoted = self._tokens(scores.topk(count).indices, values, z)
        demoted = self._tokens(scores.topk(count, largest=False).indices, values, z)
        followed = self._tokens(torch.tensor(self.followed, dtype=torch.long), values, z)
        return LensRow(
            **told,
            norm=norm,
            promoted=promoted,
            demoted=demoted,
            followed=followed,
            values=values.cpu(),
            z=z.cpu(),
            order=self.order,
            null_promoted=ends[0],
            null_demoted=ends[1],
            null_largest=ends[2],
            null_smallest=ends[3],
        )

    def _tokens(self, ids: Int[Tensor, " some"], values: Tensor, z: Tensor) -> tuple[LensToken, ...]:
        texts = self.backend.token_strings(ids.tolist()) if len(ids) else []
        scores = z if self.order == "z" else values
        return tuple(
            LensToken(token, text, 1 + int((scores > scores[token]).sum()), float(values[token]), float(z[token]))
            for token, text in zip(ids.tolist(), texts, strict=True)
        )


def read_rows(
    readout: Readout, rows: Float[Tensor, "rows d_model"], anchors: Float[Tensor, "rows d_model"] | None
) -> tuple[Float[Tensor, "rows d_vocab"], Float[Tensor, "rows d_vocab"]]:
    """Value and z-score of every token for differences of the stream, alone or at anchors in it.

    The z-score is against a direction drawn at random in the dimensions that the readout sees, of the row's own norm
    there. Alone, value = u . w for a token's direction w, so its mean is 0 and its variance |u|^2 |w|^2 / dimensions.
    """
    added = readout.centre(rows)
    if anchors is None or readout.normalization is None:
        values = added @ readout.token_directions
        sizes = readout.token_directions.norm(dim=0)
        spread = added.norm(dim=-1, keepdim=True) * sizes / readout.freedom**0.5
        return values, _ratio(values, spread)
    anchored = readout.centre(anchors)
    before = anchored @ readout.token_directions
    after = (anchored + added) @ readout.token_directions
    values = after / readout.scale(anchored + added) - before / readout.scale(anchored)
    mean, spread = _anchored_null(readout, added, anchored, before)
    return values, _ratio(values - mean, spread)


def _anchored_null(
    readout: Readout,
    added: Float[Tensor, "rows d_model"],
    anchored: Float[Tensor, "rows d_model"],
    before: Float[Tensor, "rows d_vocab"],
) -> tuple[Float[Tensor, "rows d_vocab"], Float[Tensor, "rows d_vocab"]]:
    """Mean and standard deviation of the anchored value over random directions u with the norm of each row.

    With r the anchor and s^2 = (|r|^2 + |u|^2) / d + eps, one over the scale of r + u is, to second order in r . u,
    1/s - r.u / (d s^3) + 3/2 (r.u)^2 / (d^2 s^5). The mean takes the second order, the spread the first.
    """
    d_model, freedom = anchored.shape[-1], readout.freedom
    r2, u2 = (rows.square().sum(dim=-1, keepdim=True) for rows in (anchored, added))
    s2 = (r2 + u2) / d_model + readout.eps
    s = s2.sqrt()
    bend = -u2 / (freedom * d_model * s2 * s) + 1.5 * r2 * u2 / (freedom * d_model**2 * s2**2 * s)
    mean = before * (1 / s - 1 / readout.scale(anchored) + bend)
    sizes = readout.token_directions.square().sum(dim=0)
    variance = sizes / s2 - before**2 * (2 / (d_model * s2**2) - r2 / (d_model**2 * s2**3))
    return mean, (u2 / freedom).sqrt() * variance.clamp_min(0).sqrt()


def _ratio(values: Tensor, spread: Tensor) -> Tensor:
    """Values in units of a spread; 0 where there is none, as for a row of zeros."""
    return torch.where(spread > 0, values / spread.clamp_min(1e-30), 0.0)
