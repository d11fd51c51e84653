"""A steering vector in terms of a dictionary: cosines with its directions, and a sparse sum of a few of them.

Decoder directions are used, not encoder activations: an encoder is trained on whole streams and misreads a difference
of streams (Mayne et al. 2024, arXiv 2411.08790).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import check_run, is_count, is_whole, require
from actadd_lens.errors import SettingError, VectorError
from actadd_lens.statistics import LEVEL, adjusted_over_lists
from actadd_lens.vectors.exchange.sae import decoder_of, hook_of, layer_of
from actadd_lens.vectors.naming import vector_names
from actadd_lens.vectors.vector import SteeringVector, as_vectors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class DictionaryFeature:
    """One direction of a dictionary, as it was found in one row.

    Attributes:
        feature: Its row in the decoder.
        name: Its name; empty if no names were given.
        value: For a listed direction, its cosine with the row; for a picked one, its cosine with what was left of the
            row when it was picked. Signed.
        weight: For a picked direction, its weight in the sum, in units of the row's norm and for directions of length
            one; NaN for a listed one.
        explained: For a picked direction, the share of the row's squared norm that the sum up to and including it
            explains; NaN for a listed one.
        adjusted_p: P-value, adjusted for the selection from the whole dictionary and over all lists of the call (min-P:
            each null selects its own); NaN without nulls.
    """

    feature: int
    name: str
    value: float
    weight: float = float("nan")
    explained: float = float("nan")
    adjusted_p: float = float("nan")

    @property
    def significant(self) -> bool:
        """Whether it is significant after correction: `adjusted_p` is at most 0.05."""
        return self.adjusted_p <= LEVEL


@dataclass(frozen=True, eq=False)
class DictionaryRow:
    """What was found in one row of a vector. For a row of zeros, that is nothing.

    Attributes:
        vector: Which vector, by its index among those given.
        name: A short label of the vector.
        row: Row of the vector.
        norm: Norm of the row, as it was read.
        largest: The k directions with the largest absolute cosines, the largest first.
        pursuit: The directions of the sparse sum, in the order in which they were picked.
        cosines: The cosine with every direction; 0 for a direction of zero length.
        null_largest: The largest absolute cosine that each null has in its own list or sum.
        null_explained: For each null, the share that its own sum explains after each pick.
    """

    vector: int
    name: str
    row: int
    norm: float
    largest: tuple[DictionaryFeature, ...]
    pursuit: tuple[DictionaryFeature, ...]
    cosines: Float[np.ndarray, " features"]
    null_largest: Float[np.ndarray, " nulls"]
    null_explained: Float[np.ndarray, "nulls picks"]


@dataclass(frozen=True, eq=False)
class DictionaryReading:
    """Steering vectors in terms of a dictionary.

    Attributes:
        rows: The rows of all vectors, in order.
        k: Directions in each list.
        features: Directions in the dictionary.
        nulls: Number of nulls.
        null_kind: `random directions`, or `vectors given`.
    """

    rows: tuple[DictionaryRow, ...]
    k: int
    features: int
    nulls: int
    null_kind: str

    @property
    def significant(self) -> tuple[DictionaryFeature, ...]:
        """Directions significant after correction (a null has one in at most 5 % of calls); none without nulls."""
        return tuple(item for row in self.rows for item in (*row.largest, *row.pursuit) if item.significant)

    def frame(self) -> "pd.DataFrame":
        """One line per row and direction: the largest cosines, then the picks of the sparse sum."""
        import pandas as pd

        columns = ["vector", "row", "list", "rank", "feature", "name", "value", "weight", "explained",
                   "explained by nulls", "adjusted p"]  # fmt: skip
        lines = []
        for row in self.rows:
            for kind, items in (("largest", row.largest), ("pursuit", row.pursuit)):
                for rank, item in enumerate(items):
                    nulls = row.null_explained[:, rank] if kind == "pursuit" else np.zeros(0)
                    usual = float(nulls.mean()) if len(nulls) else float("nan")
                    lines.append(
                        (row.name, row.row, kind, rank + 1, item.feature, item.name, item.value, item.weight,
                         item.explained, usual, item.adjusted_p)
                    )  # fmt: skip
        return pd.DataFrame(lines, columns=columns)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The picked directions of each row that is not zero, by their weights, and the share that they explain."""
        from actadd_lens.plots.dictionary import plot_dictionary_reading

        return plot_dictionary_reading(self, ax=ax)

    def __repr__(self) -> str:
        beside = f"against {self.nulls} {self.null_kind}" if self.nulls else "without nulls"
        return f"DictionaryReading({len(self.rows)} rows, {self.features} directions, k={self.k}, {beside})"

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in ("row", "largest cosines", "sparse sum"))
        body = ""
        for row in self.rows:
            cells = [f"{escape(row.name)}<br><small>row {row.row}</small>", _cells(row.largest, "value"),
                     _cells(row.pursuit, "weight")]  # fmt: skip
            body += "<tr>" + "".join(f"<td style='vertical-align:top;text-align:left'>{cell}</td>" for cell in cells)
            body += "</tr>"
        told = (
            f"* significant after correction against {self.nulls} {self.null_kind}" if self.nulls else "without nulls"
        )
        return f"<table><caption>in terms of a dictionary; {told}</caption><tr>{head}</tr>{body}</table>"


def _cells(items: Sequence[DictionaryFeature], number: str) -> str:
    if not items:
        return "<i>zero row</i>"
    return "<br>".join(
        f"{getattr(item, number):+.2f} {escape(item.name or f'feature {item.feature}')}{'*' * item.significant}"
        for item in items
    )


@torch.no_grad()
def dictionary_reading(
    vectors: SteeringVector | Sequence[SteeringVector],
    decoder: Any,
    names: Sequence[str] | Mapping[int, str] | None = None,
    *,
    nulls: int | Sequence[SteeringVector] = 20,
    k: int = 8,
    seed: int = 0,
) -> DictionaryReading:
    """Describe steering vectors by a dictionary of directions, row by row; no model runs.

    There are two readings. The cosines with every direction show what the row is similar to. A sparse sum shows what
    the row is made of, without counting similar directions twice: the direction closest to the row is picked, signed
    weights are fitted to all directions picked so far, and the next one is picked by what is left (orthogonal matching
    pursuit, Pati et al. 1993).

    Directions are listed because their cosines are large. So each null picks its own largest, and p is adjusted over
    all rows: it says that a cosine is larger than those that nulls have with any direction. Random directions are easy
    to beat. Null vectors, as `null_vectors(model, vector)` makes them, are differences of activations too, and the
    dictionary describes them as well as it does the vector. What is significant against them is closer to one direction
    than such differences usually are.

    Args:
        vectors: One steering vector or several, all as wide as the dictionary.
        decoder: The dictionary: a tensor or array [features, d_model], or an SAE with `W_dec`, whose hook point must
            then be at the vectors' layer. The lengths of the directions do not matter.
        names: A name for each direction, or for some by their number.
        nulls: Number of random directions to compare each row with; or, for one vector, null vectors with as many rows.
        k: Directions in each list.
        seed: Seed of the random directions.

    Raises:
        VectorError: A vector's width differs from the dictionary's, or its layer from the SAE's; or the nulls do not
            match the vector.
        SettingError: A setting is out of range.
    """
    check_run(seed=seed)
    found = as_vectors(vectors, what="the reading by a dictionary")
    directions = _directions(decoder, found)
    require(is_count(k) and k <= len(directions), "k", k, f"an integer from 1 to {len(directions)}")
    named = _names(names, len(directions))
    rows: list[DictionaryRow] = []
    for number, (vector, name) in enumerate(zip(found, vector_names(found), strict=True)):
        drawn = _null_rows(found, vector, nulls, seed + number)
        for row in range(vector.rows):
            made = _row(vector.injection[row], drawn[:, row], directions, named, k)
            rows.append(replace(made, vector=number, name=name, row=row))
    count = nulls if isinstance(nulls, int) else len(nulls)
    kind = "random directions" if isinstance(nulls, int) else "vectors given"
    return DictionaryReading(_adjusted(rows), k, len(directions), count, kind)


def _directions(decoder: Any, vectors: Sequence[SteeringVector]) -> Float[Tensor, "features d_model"]:
    """The dictionary's rows at length one; those without length stay zero."""
    rows = torch.from_numpy(decoder.copy()) if isinstance(decoder, np.ndarray) else decoder
    if not isinstance(rows, Tensor):
        rows = decoder_of(decoder)
        _check_layers(decoder, vectors)
    if rows.ndim != 2 or 0 in rows.shape or not rows.is_floating_point() or not bool(torch.isfinite(rows).all()):
        raise VectorError(f"The dictionary has shape {tuple(rows.shape)}: expected finite floats, [features, d_model].")
    for vector in vectors:
        if vector.d_model != rows.shape[1]:
            raise VectorError(
                f"The vector {vector.label} has d_model {vector.d_model}, but the dictionary's directions have "
                f"{rows.shape[1]}."
            )
    return _units(rows.detach().float().cpu())


def _check_layers(sae: Any, vectors: Sequence[SteeringVector]) -> None:
    if hook_of(sae) is None:
        return
    layer = layer_of(sae)
    for vector in vectors:
        if vector.layer != layer:
            raise VectorError(
                f"The SAE is at {hook_of(sae)}, which is layer {layer}, but {vector.label} is at layer "
                f"{vector.layer}: pass sae.W_dec to compare them all the same."
            )


def _names(names: Any, count: int) -> list[str]:
    if names is None:
        return [""] * count
    if isinstance(names, Mapping):
        return [str(names.get(index, "")) for index in range(count)]
    if isinstance(names, str) or len(names) != count:
        raise SettingError(f"{len(names)} names were given for {count} directions: give one for each, or a dictionary.")
    return [str(name) for name in names]


def _null_rows(
    found: Sequence[SteeringVector], vector: SteeringVector, nulls: int | Sequence[SteeringVector], seed: int
) -> Float[Tensor, "nulls rows d_model"]:
    if isinstance(nulls, int) and not isinstance(nulls, bool):
        require(is_whole(nulls), "nulls", nulls, "an integer from 0, or null vectors")
        random = np.random.default_rng(seed)
        return torch.from_numpy(random.standard_normal((nulls, vector.rows, vector.d_model))).float()
    given = as_vectors(nulls, what="the reading by a dictionary")
    if len(found) > 1:
        raise VectorError("Null vectors belong to one vector: read vectors one by one, or pass a number of nulls.")
    for null in given:
        if null.injection.shape != vector.injection.shape:
            raise VectorError(
                f"A null of shape {tuple(null.injection.shape)} does not match a vector of shape "
                f"{tuple(vector.injection.shape)}: use null_vectors(model, vector)."
            )
    return torch.stack([null.injection.detach().float().cpu() for null in given])


def _row(
    values: Float[Tensor, " d_model"],
    nulls: Float[Tensor, "nulls d_model"],
    directions: Float[Tensor, "features d_model"],
    names: Sequence[str],
    k: int,
) -> DictionaryRow:
    """The reading of a row; the vector's name and the numbers are filled in later."""
    values = values.detach().float().cpu()
    norm = float(values.norm())
    cosines = directions @ _units(values[None])[0]
    largest = cosines.abs().topk(k).indices.tolist() if norm > 0 else []
    null_largest = (_units(nulls) @ directions.T).abs().amax(dim=1).numpy() if len(nulls) else np.zeros(0)
    picked = _pursuit(values, directions, k) if norm > 0 else []
    beside = [_pursuit(null, directions, k) for null in nulls] if picked else []
    explained = np.zeros((len(nulls), k))
    for index, picks in enumerate(beside):  # a pursuit that has explained everything picks no more
        shares = [pick[3] for pick in picks]
        explained[index] = shares + [shares[-1] if shares else 0.0] * (k - len(picks))
        null_largest[index] = max([null_largest[index], *(abs(pick[1]) for pick in picks)])
    weights = picked[-1][2] if picked else []
    return DictionaryRow(
        0, "", 0, norm,
        tuple(DictionaryFeature(index, names[index], float(cosines[index])) for index in largest),
        tuple(
            DictionaryFeature(index, names[index], cosine, float(weight) / norm, share)
            for (index, cosine, _, share), weight in zip(picked, weights, strict=True)
        ),
        cosines.numpy(), null_largest, explained,
    )  # fmt: skip


_Pick = tuple[int, float, list[float], float]


def _pursuit(values: Float[Tensor, " d_model"], directions: Float[Tensor, "features d_model"], k: int) -> list[_Pick]:
    """Up to k picks: the direction, its cosine with what was left, all weights so far, and the share explained."""
    picks: list[_Pick] = []
    left, total, chosen = values, float(values.square().sum()), list[int]()
    for _ in range(k):
        norm = float(left.norm())
        if norm <= 1e-6 * total**0.5:
            break
        cosines = directions @ (left / norm)
        cosines[chosen] = 0.0
        index = int(cosines.abs().argmax())
        if cosines[index] == 0:
            break
        chosen.append(index)
        basis = directions[chosen].T
        weights = torch.linalg.lstsq(basis, values[:, None]).solution[:, 0]
        left = values - basis @ weights
        share = 1 - float(left.square().sum()) / total
        picks.append((index, float(cosines[index]), weights.tolist(), share))
    return picks


def _units(rows: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows d_model"]:
    norms = rows.norm(dim=-1, keepdim=True)
    return torch.where(norms > 0, rows / norms.clamp_min(1e-30), 0.0)


def _adjusted(rows: Sequence[DictionaryRow]) -> tuple[DictionaryRow, ...]:
    """P-values over the rows of the call; what is listed and what is picked of a row are one list."""
    judged = [row for row in rows if row.largest and len(row.null_largest)]
    if not judged:
        return tuple(rows)
    lists = [np.array([abs(item.value) for item in (*row.largest, *row.pursuit)]) for row in judged]
    found = adjusted_over_lists(lists, np.stack([row.null_largest for row in judged]))
    made = {}
    for row, values in zip(judged, found, strict=True):
        items = [
            replace(item, adjusted_p=float(value))
            for item, value in zip((*row.largest, *row.pursuit), values, strict=True)
        ]
        cut = len(row.largest)
        made[id(row)] = replace(row, largest=tuple(items[:cut]), pursuit=tuple(items[cut:]))
    return tuple(made.get(id(row), row) for row in rows)
