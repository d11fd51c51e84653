"""How few directions hold most of several vectors."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import check_run, is_count, require
from actadd_lens.errors import VectorError
from actadd_lens.measuring.measure import null_conditions
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import LensModel, backend_of
from actadd_lens.statistics import max_t_p, on_one_scale
from actadd_lens.vectors.vector import SteeringVector, as_vectors, check_vectors

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class LowRank:
    """Several vectors, projected onto the few directions that hold most of them.

    Attributes:
        vectors: The original vectors.
        rank: Number of directions that are kept.
        kept: The vectors, each row projected onto those directions.
        shares: Share of the squared lengths of all rows that lie in the first directions, by their number.
        null_shares: The same for each set of null vectors, in the directions that hold most of that set.
    """

    vectors: tuple[SteeringVector, ...]
    rank: int
    kept: tuple[SteeringVector, ...]
    shares: Float[np.ndarray, " ranks"]
    null_shares: Float[np.ndarray, "nulls ranks"]

    def frame(self) -> "pd.DataFrame":
        """One row per number of directions; with nulls, one-sided p-values adjusted over all numbers (max-T)."""
        import pandas as pd

        frame = pd.DataFrame({"directions": np.arange(1, len(self.shares) + 1), "share": self.shares})
        if len(self.null_shares) > 1:
            frame["null mean"] = self.null_shares.mean(axis=0)
            scaled = on_one_scale(np.concatenate([self.shares[None], self.null_shares]))
            frame["adjusted p"] = max_t_p(scaled[0], scaled[1:], "greater")
        return frame

    def __repr__(self) -> str:
        share = self.shares[self.rank - 1]
        return f"LowRank({len(self.vectors)} vectors, {self.rank} directions hold {share:.0%} of them)"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>" + self.frame().to_html(index=False, float_format="{:.3g}".format)


def low_rank(
    model: LensModel,
    vectors: Sequence[SteeringVector],
    rank: int,
    *,
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
) -> LowRank:
    """Project vectors of one layer onto the few directions that hold most of all their rows (SVD, not centred).

    Measure both `kept` and `vectors` to see whether what the vectors share is what works.

    Args:
        model: The model.
        vectors: Two steering vectors or more, of one layer.
        rank: Number of directions.
        nulls: Number of sets of null vectors, one null for each vector in a set.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.

    Raises:
        VectorError: Vectors do not go with the model, differ in layer, or are zero.
        SettingError: There are fewer directions than `rank`.
    """
    check_run(seed=seed)
    backend = backend_of(model)
    found = check_vectors(backend, vectors, what="low rank")
    if len({vector.layer for vector in found}) > 1:
        raise VectorError("Vectors of several layers share no directions: pass those of one layer.")
    rows = _rows(found)
    most = min(rows.shape)
    require(is_count(rank) and rank <= most, "rank", rank, f"an integer from 1 to {most}")
    if not bool(rows.norm() > 0):
        raise VectorError("All rows are zero, so they have no direction.")
    directions = torch.linalg.svd(rows, full_matrices=False).Vh[:rank]
    kept = tuple(
        dataclasses.replace(
            vector,
            activations=(vector.activations.float() @ directions.T @ directions).to(vector.activations),
            provenance=vector.provenance.after(f"low_rank({rank} of {len(found)} vectors)"),
        )
        for vector in found
    )
    sets = [
        _shares(_rows(as_vectors(condition))) for condition in null_conditions(model, found, nulls, null_kind, seed)
    ]
    shares = _shares(rows)
    return LowRank(found, int(rank), kept, shares, np.array(sets).reshape(len(sets), len(shares)))


def _rows(vectors: Sequence[SteeringVector]) -> Float[Tensor, "rows d_model"]:
    """Rows of all vectors that are not zero, in the sizes that are added."""
    rows = torch.cat([vector.injection.float() for vector in vectors])
    return rows[rows.norm(dim=-1) > 0] if bool((rows != 0).any()) else rows


def _shares(rows: Float[Tensor, "rows d_model"]) -> Float[np.ndarray, " ranks"]:
    squares = torch.linalg.svdvals(rows).square()
    found: np.ndarray = (squares.cumsum(dim=0) / squares.sum()).cpu().numpy()
    return found
