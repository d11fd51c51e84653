"""Cosine similarity of steering vectors, compared with that of unrelated pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import check_choice, check_flags, check_run
from actadd_lens.errors import SettingError
from actadd_lens.measuring.nulls import unrelated_rows
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.vectors.naming import row_names, signed_shade, vector_names
from actadd_lens.vectors.vector import SteeringVector, as_vectors, check_vectors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SimilarityBy = Literal["rows", "aligned", "pooled"]

_ROUNDING = 1e-5
"""Cosines closer than this differ by rounding only."""


@dataclass(frozen=True, eq=False)
class CosineSimilarity:
    """Cosines of steering vectors, and the scale to judge them by.

    Attributes:
        by: What was compared: `rows`, `aligned` or `pooled`.
        names: Names of the rows or vectors down the side.
        other_names: Names across the top.
        cosines: Their cosine similarities; 0 if one of the two is zero.
        null_mean: Mean cosine of unrelated pairs in the same cell; NaN without nulls.
        null_sd: Its standard deviation.
        null_low: 2.5 % quantile of unrelated pairs.
        null_high: 97.5 % quantile.
        nulls: Number of unrelated pairs; each is compared with every other, or with itself where both sides come from
            one pair.
        centred: Whether each row's mean over `d_model` was subtracted.
    """

    by: SimilarityBy
    names: tuple[str, ...]
    other_names: tuple[str, ...]
    cosines: Float[np.ndarray, "a b"]
    null_mean: Float[np.ndarray, "a b"]
    null_sd: Float[np.ndarray, "a b"]
    null_low: Float[np.ndarray, "a b"]
    null_high: Float[np.ndarray, "a b"]
    nulls: int
    centred: bool

    @property
    def z(self) -> Float[np.ndarray, "a b"]:
        """(cosine - mean of unrelated pairs) / their standard deviation; NaN where they have none."""
        spread = np.where(self.null_sd > _ROUNDING, self.null_sd, np.nan)
        return np.asarray((self.cosines - self.null_mean) / spread)

    def frame(self) -> "pd.DataFrame":
        """One line per pair of rows or vectors."""
        import pandas as pd

        numbers = {"cosine": self.cosines, "null mean": self.null_mean, "null low": self.null_low,
                   "null high": self.null_high, "z": self.z}  # fmt: skip
        lines = [
            {"a": name, "b": other, **{key: table[row, column] for key, table in numbers.items()}}
            for row, name in enumerate(self.names)
            for column, other in enumerate(self.other_names)
        ]
        return pd.DataFrame(lines, columns=["a", "b", *numbers])

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Heat map of the cosines; a star marks those outside the 95 % of unrelated pairs, cell by cell."""
        from actadd_lens.plots.analysis import plot_similarity

        return plot_similarity(self, ax=ax)

    @property
    def outside(self) -> np.ndarray:
        """Which cosines lie outside the 95 % of unrelated pairs, cell by cell; none without nulls."""
        return (self.cosines < self.null_low - _ROUNDING) | (self.cosines > self.null_high + _ROUNDING)

    def __repr__(self) -> str:
        return f"CosineSimilarity(by={self.by!r}, {self.cosines.shape[0]} x {self.cosines.shape[1]})"

    def _repr_html_(self) -> str:
        from html import escape

        head = "<th></th>" + "".join(f"<th>{escape(name)}</th>" for name in self.other_names)
        body = ""
        for name, cosines, lows, highs in zip(self.names, self.cosines, self.null_low, self.null_high, strict=True):
            cells = "".join(
                f"<td style='background:{signed_shade(cosine, 1.0)}' title='unrelated pairs: {low:.2f} to {high:.2f}'>"
                f"{cosine:+.2f}</td>"
                for cosine, low, high in zip(cosines, lows, highs, strict=True)
            )
            body += f"<tr><th style='text-align:left'>{escape(name)}</th>{cells}</tr>"
        return f"<table><caption>cosine similarity, by {self.by}</caption><tr>{head}</tr>{body}</table>"


@torch.no_grad()
def cosine_similarity(
    model: LensModel,
    vectors: SteeringVector | Sequence[SteeringVector],
    others: SteeringVector | Sequence[SteeringVector] | None = None,
    *,
    by: SimilarityBy = "rows",
    centred: bool = True,
    nulls: int = 39,
    seed: int = 0,
    texts: Sequence[str] | None = None,
) -> CosineSimilarity:
    """Compare steering vectors with each other: many pairs at one layer, one pair across layers, or any others.

    `rows` compares every row with every row. `aligned` compares whole vectors, row i with row i, with zero rows
    appended to the shorter one. `pooled` compares the means of the rows that are not zero, so that order and length of
    the pairs do not matter.

    Whether a cosine is large depends on the layer: differences of activations share directions even between pairs that
    have nothing to do with each other. So each cell has its own scale: the cosines of unrelated pairs, read at the same
    layers and treated alike, before any rescaling. Vectors of different pairs are judged by different unrelated pairs;
    the same pair at two layers, or two rows of it, by one unrelated pair at these layers and rows.

    Args:
        model: The model.
        vectors: One steering vector or several, of any layers.
        others: What to compare them with; None for themselves.
        by: What is compared: `rows`, `aligned` or `pooled`.
        centred: Subtract each row's mean over `d_model` first, on LayerNorm models: every reader discards it, it
            depends on how the weights were processed, and it would make rows look similar. No effect on other models.
        nulls: Number of unrelated pairs for the scale; 0 for none.
        seed: Seed of their draw.
        texts: Texts to cut them from, instead of the package's.

    Raises:
        VectorError: A vector does not match the model.
        SettingError: A setting is out of range.
    """
    check_run(seed=seed)
    backend = backend_of(model)
    left = check_vectors(backend, vectors, what="cosine similarity")
    right = left if others is None else check_vectors(backend, as_vectors(others), what="cosine similarity")
    check_choice(by, "by", "rows", "aligned", "pooled")
    check_flags(centred=centred)
    is_number = isinstance(nulls, int) and not isinstance(nulls, bool)
    if not is_number or nulls < 0 or nulls == 1:
        raise SettingError(f"nulls is {nulls!r}: expected 0, or 2 or more to compare with each other.")
    centre = centred and backend.normalization == "LN"
    length = max(vector.rows for vector in (*left, *right))
    sides = [
        torch.cat([_units(vector.injection, vector, by, length, centre) for vector in side]) for side in (left, right)
    ]
    cosines = _cosines(*sides).double().cpu().numpy()
    scale = np.full((4, *cosines.shape), np.nan)
    if nulls:
        drawn = _Unrelated(model, nulls, seed, texts)
        units = [[drawn.units(vector, by, length, centre) for vector in side] for side in (left, right)]
        links = [[_link(one, other) for other in right] for one in left]
        scale = np.concatenate(
            [
                np.concatenate(
                    [_null_scale(one, other, link) for other, link in zip(units[1], row, strict=True)], axis=2
                )
                for one, row in zip(units[0], links, strict=True)
            ],
            axis=1,
        )
    mean, spread, low, high = scale
    return CosineSimilarity(
        by, _names(backend, left, by), _names(backend, right, by), cosines, mean, spread, low, high, nulls, centre
    )


def _units(
    rows: Float[Tensor, "rows d_model"], vector: SteeringVector, by: SimilarityBy, length: int, centre: bool
) -> Float[Tensor, "units size"]:
    """What is compared: rows, one flat matrix, or one mean."""
    rows = rows.float()
    if centre:
        rows = rows - rows.mean(dim=-1, keepdim=True)
    if by == "rows":
        return rows
    if by == "aligned":
        return torch.nn.functional.pad(rows, (0, 0, 0, length - rows.shape[0])).reshape(1, -1)
    kept = rows[(vector.norms > 0).to(rows.device)]
    return kept.mean(dim=0, keepdim=True) if len(kept) else rows[:1]


def _directions(units: Float[Tensor, "*units size"]) -> Float[Tensor, "*units size"]:
    """Units of length one; zeros stay zeros."""
    norms = units.norm(dim=-1, keepdim=True)
    return torch.where(norms > 0, units / norms.clamp_min(1e-30), 0.0)


def _cosines(left: Float[Tensor, "a size"], right: Float[Tensor, "b size"]) -> Float[Tensor, "a b"]:
    return (_directions(left) @ _directions(right).T).clamp(-1.0, 1.0)


class _Unrelated:
    """Rows of unrelated pairs that match vectors in layer, length and kind, each drawn once."""

    def __init__(self, model: LensModel, n: int, seed: int, texts: Sequence[str] | None) -> None:
        self._settings: dict[str, Any] = {"n": n, "seed": seed, "texts": texts}
        self._model = model
        self._found: dict[tuple[Any, ...], list[Tensor]] = {}

    def units(
        self, vector: SteeringVector, by: SimilarityBy, length: int, centre: bool
    ) -> Float[Tensor, "nulls units size"]:
        """Unrelated pairs, treated as the vector is."""
        told = vector.provenance
        zero = tuple((vector.norms == 0).tolist())
        layer = vector.layer if told.read_layer is None else told.read_layer
        key = (layer, zero, told.negative_tokens is None, told.positive_tokens, told.steps)
        if key not in self._found:
            self._found[key] = unrelated_rows(self._model, vector, **self._settings)
        return torch.stack([_units(null, vector, by, length, centre) for null in self._found[key]])


_Link = Literal["one pair", "different pairs", "not known"]


def _link(one: SteeringVector, other: SteeringVector) -> _Link:
    """Whether two vectors are of one pair, so that null i of both must be one pair too.

    Where rows of one pair were picked, null i of both need not be; then there is no scale.
    """
    if one is other:
        return "one pair"
    ours, theirs = one.provenance, other.provenance
    is_same = ours.positive_tokens is not None and (ours.positive_tokens, ours.negative_tokens) == (
        theirs.positive_tokens, theirs.negative_tokens
    )  # fmt: skip
    if not is_same:
        return "different pairs"
    return "one pair" if one.rows == other.rows and torch.equal(one.norms > 0, other.norms > 0) else "not known"


def _null_scale(
    left: Float[Tensor, "nulls a size"], right: Float[Tensor, "nulls b size"], link: _Link
) -> Float[np.ndarray, "numbers a b"]:
    """Mean, sd and the 95 % of the cosines of unrelated pairs; NaN where they are zero rows.

    The quantiles are those that one more draw lies outside in 5 % of cases (Weibull's places).
    """
    left, right = _directions(left), _directions(right)
    scale = np.full((4, left.shape[1], right.shape[1]), np.nan)
    if link == "not known":
        return scale
    count = len(left)
    kept = torch.eye(count, dtype=torch.bool) if link == "one pair" else ~torch.eye(count, dtype=torch.bool)
    for unit in range(left.shape[1]):
        cosines = torch.einsum("is,jbs->ijb", left[:, unit], right)[kept].double().cpu().numpy()
        ends = np.quantile(cosines, [0.025, 0.975], axis=0, method="weibull")
        scale[:, unit] = [cosines.mean(0), cosines.std(0, ddof=1), *ends]
    is_zero = (left == 0).all(-1).all(0).cpu().numpy()[:, None] | (right == 0).all(-1).all(0).cpu().numpy()
    scale[:, is_zero] = np.nan
    return scale


def _names(backend: Backend, vectors: Sequence[SteeringVector], by: SimilarityBy) -> tuple[str, ...]:
    names = vector_names(vectors)
    if by != "rows":
        return names
    alone = len(vectors) == 1
    return tuple(
        row if alone else f"{name}, {row}"
        for name, vector in zip(names, vectors, strict=True)
        for row in row_names(backend, vector)
    )
