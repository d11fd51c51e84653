"""Logit lens of a steering vector: which tokens it promotes and demotes, and what becomes of it in later layers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.checks import check_run, is_count, require
from actadd_lens.errors import PositionError, SettingError
from actadd_lens.measuring.measure import Arm, ArmRows, null_arms
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.models.readout import Readout, readout_of
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.spans import as_span
from actadd_lens.prompts.texts import encode_prompts, token_id
from actadd_lens.statistics import LEVEL, adjusted_over_lists
from actadd_lens.steering.interventions import placed
from actadd_lens.steering.landings import Prompts, touched
from actadd_lens.vectors.naming import html_token, row_names, signed_shade, vector_names
from actadd_lens.vectors.vector import SteeringVector, as_vectors, check_vectors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LensReading = Literal["direction", "anchored"]
LensOrder = Literal["value", "z"]


@dataclass(frozen=True)
class LensToken:
    """One token in the lens of one row.

    Attributes:
        token: Token id.
        text: The token.
        rank: 1 for the most promoted token of the vocabulary, in the order asked for.
        value: `direction`: the centred logit before the final norm's scale; `anchored`: the change of the logit.
        z: The value in standard deviations of random directions of the same size (closed form).
        adjusted_p: P-value of a listed token, adjusted for being picked from the vocabulary and over all lists of the
            call (min-P: each null picks its own for each list); NaN without nulls, and for followed tokens.
    """

    token: int
    text: str
    rank: int
    value: float
    z: float
    adjusted_p: float = float("nan")

    @property
    def stands(self) -> bool:
        """Whether it is larger than what a null vector lists, in all but 5 % of runs."""
        return self.adjusted_p <= LEVEL


@dataclass(frozen=True, eq=False)
class LensRow:
    """The lens of one row. A row of zeros reads 0, and lists no tokens.

    Attributes:
        vector: Which vector, by its place among those given.
        name: The vector in a few characters.
        layer: The layer at which it is read.
        row: Row of the vector; None for a carried stream.
        row_name: The row by its tokens.
        norm: Norm of what is read, as the final norm centres it.
        promoted: The k most promoted tokens, the first one first.
        demoted: The k most demoted tokens, the lowest first.
        followed: The tokens that were asked for.
        values: The value of every token.
        z: The z-score of every token.
        order: What tokens are ranked by: `value` or `z`.
        null_promoted: The k-th largest value, or z-score, of each null vector's row.
        null_demoted: The k-th smallest.
        null_largest: The largest value, or z-score, of each null vector's row.
        null_smallest: The smallest.
    """

    vector: int
    name: str
    layer: int
    row: int | None
    row_name: str
    norm: float
    promoted: tuple[LensToken, ...]
    demoted: tuple[LensToken, ...]
    followed: tuple[LensToken, ...]
    values: Float[Tensor, " d_vocab"]
    z: Float[Tensor, " d_vocab"]
    order: LensOrder
    null_promoted: Float[np.ndarray, " nulls"]
    null_demoted: Float[np.ndarray, " nulls"]
    null_largest: Float[np.ndarray, " nulls"] = field(default_factory=lambda: np.zeros(0))
    null_smallest: Float[np.ndarray, " nulls"] = field(default_factory=lambda: np.zeros(0))

    @property
    def promoted_share(self) -> float:
        """Share of null vectors whose k-th promoted token is as extreme as the row's; NaN without nulls."""
        if not self.promoted or not len(self.null_promoted):
            return float("nan")
        return float((self.null_promoted >= getattr(self.promoted[-1], self.order)).mean())

    @property
    def demoted_share(self) -> float:
        """Share of null vectors whose k-th demoted token is as extreme as the row's; NaN without nulls."""
        if not self.demoted or not len(self.null_demoted):
            return float("nan")
        return float((self.null_demoted <= getattr(self.demoted[-1], self.order)).mean())


@dataclass(frozen=True, eq=False)
class LogitLens:
    """The logit lens of steering vectors, row by row.

    Attributes:
        reading: `direction` or `anchored`.
        rows: The rows of all vectors, in order.
        k: Tokens in each list.
        prompt: The prompt that the rows land on, where the reading is `anchored`.
        nulls: Number of null vectors.
        title: What was read, in words.
    """

    reading: LensReading
    rows: tuple[LensRow, ...]
    k: int
    prompt: str | None
    nulls: int
    title: str

    def frame(self) -> "pd.DataFrame":
        """One line per row and token: the promoted, then the demoted."""
        return _frame((row, list_name, token) for row in self.rows for list_name, token in _listed(row))

    @property
    def standing(self) -> tuple[LensToken, ...]:
        """The listed tokens that stand; a null vector has one in at most 5 % of calls. None without nulls."""
        return tuple(token for row in self.rows for _, token in _listed(row) if token.stands)

    def followed_frame(self) -> "pd.DataFrame":
        """One line per row and token that was asked for by `tokens=`."""
        return _frame((row, "followed", token) for row in self.rows for token in row.followed)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The k tokens of each row that is not zero, promoted above and demoted below, coloured by z-score."""
        from actadd_lens.plots.analysis import plot_logit_lens

        return plot_logit_lens(self, ax=ax)

    def __repr__(self) -> str:
        return f"LogitLens({self.title}: {len(self.rows)} rows, {self.reading} reading, k={self.k})"

    def __str__(self) -> str:
        lines = [self.title]
        for row in self.rows:
            told = f"{row.name}, {row.row_name}"
            lines.append(f"{told} (zero)" if not row.promoted else told)
            for sign, tokens in (("+", row.promoted), ("-", row.demoted)):
                if tokens:
                    lines.append(f"  {sign} " + "  ".join(f"{token.text!r} {token.z:+.1f}" for token in tokens))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        largest = max((abs(token.z) for row in self.rows for _, token in _listed(row)), default=0.0)
        style = "style='text-align:left; vertical-align:top'"
        body = ""
        for row in self.rows:
            cells = [f"{escape(row.name)}<br><small>{escape(row.row_name)}</small>"]
            for tokens, share in ((row.promoted, row.promoted_share), (row.demoted, row.demoted_share)):
                shown = "".join(
                    html_token(token.text, title=f"z = {token.z:+.2f}", shade=signed_shade(token.z, largest))
                    for token in tokens
                )
                note = f"<br><small>{share:.0%} of {self.nulls} nulls as extreme</small>" if np.isfinite(share) else ""
                cells.append(shown + note if tokens else "<i>zero row</i>")
            body += "<tr>" + "".join(f"<td {style}>{cell}</td>" for cell in cells) + "</tr>"
        head = "".join(f"<th {style}>{name}</th>" for name in ("row", "promoted", "demoted"))
        return f"<table><caption>{escape(self.title)}</caption><tr>{head}</tr>{body}</table>"


@dataclass(frozen=True, eq=False)
class CarriedLens:
    """What an injection has become at each later layer of a prompt: the steered minus the unsteered stream.

    Attributes:
        direction: The lens of the difference at each layer; the last entry is the end of the model, where `layer` is
            the number of layers.
        anchored: The change of the lens of the stream there; at the end of the model, of the logits themselves, before
            any soft cap on them.
        prompt: The prompt.
        at: The prompt token at which the stream is read.
        token: That token.
        relative_norms: Norm of the difference in units of the unsteered stream's, at each layer.
    """

    direction: LogitLens
    anchored: LogitLens
    prompt: str
    at: int
    token: str
    relative_norms: tuple[float, ...]

    def frame(self) -> "pd.DataFrame":
        """One line per reading, layer and token."""
        import pandas as pd

        readings = {"direction": self.direction.frame(), "anchored": self.anchored.frame()}
        return pd.concat(readings, names=["reading"]).reset_index(level=0).reset_index(drop=True)

    def plot(self, ax: "Axes | None" = None, *, reading: LensReading = "anchored") -> "Axes":
        """The k tokens at each layer, promoted above and demoted below, coloured by z-score."""
        return (self.direction if reading == "direction" else self.anchored).plot(ax=ax)

    def __repr__(self) -> str:
        return f"CarriedLens({self.anchored.title})"

    def _repr_html_(self) -> str:
        return self.anchored._repr_html_() + self.direction._repr_html_()


# -- the verbs -------------------------------------------------------------------------------------------------


@torch.no_grad()
def logit_lens(
    model: LensModel,
    vectors: SteeringVector | Sequence[SteeringVector],
    *,
    k: int = 10,
    reading: LensReading = "direction",
    prompt: str | None = None,
    order: LensOrder = "value",
    tokens: Sequence[str | int] = (),
    position: Position = "front",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
) -> LogitLens:
    """Read steering vectors through the model's own unembedding, row by row.

    `direction` reads the injection as it is: centred as the final norm would, times its gain, through the unembedding,
    without biases, centred over the vocabulary. It needs no prompt, and is the same on folded and raw weights.
    `anchored` reads what the injection changes where it lands in a prompt: lens(stream + row) - lens(stream), each
    vector alone. Beside every value stands its z-score against random directions of the same size. Logits are those
    before any soft cap (Gemma 2), times any scale that the model puts on them (Granite, Cohere).

    Args:
        model: The model.
        vectors: One steering vector or several, of any layers.
        k: Tokens in each list.
        reading: `direction` or `anchored`.
        prompt: The prompt that the rows land on; needed for `anchored`.
        order: Rank tokens by their `value`, or by their `z` score, which leaves out what any vector of that size does.
        tokens: Tokens to follow, as texts of one token or ids, wherever they rank.
        position: Where row 0 lands, for vectors without a position of their own; `all` is read at the last token.
        nulls: Number of null vectors, each rescaled to what the readout sees of the row.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether the prompt starts with BOS.

    Raises:
        SettingError: A setting is out of its range, or the anchored reading has no prompt.
        PromptError: The prompt is no text or outgrows the context, or a followed text is not one token.
        PositionError: A vector does not fit onto the prompt.
        VectorError: A vector does not go with the model.
        ModelError: What the model makes its logits of is not known.
    """
    check_run(seed=seed)
    backend = backend_of(model)
    found = check_vectors(backend, vectors, what="the logit lens")
    lens = _Lens.of(backend, k, tokens, order)
    require(reading in ("direction", "anchored"), "reading", reading, "'direction' or 'anchored'")
    if reading == "anchored" and prompt is None:
        raise SettingError("The anchored reading is made where the rows land in a prompt: pass prompt=.")
    anchors = None
    if reading == "anchored":
        anchors = _anchors(backend, found, prompt, position=position, prepend_bos=prepend_bos)
    drawn = null_arms(model, found, nulls, null_kind, seed)
    rows: list[LensRow] = []
    for number, (vector, name) in enumerate(zip(found, vector_names(found), strict=True)):
        told = [
            {"vector": number, "name": name, "layer": vector.layer, "row": row, "row_name": row_name}
            for row, row_name in enumerate(row_names(backend, vector))
        ]
        null_rows = torch.stack([as_vectors(arm)[number].injection for arm in drawn]) if drawn else None
        rows += lens.read(vector.injection, None if anchors is None else anchors[number], null_rows, told)
    title = f"logit lens, {reading} reading" + (f", on {prompt!r}" if anchors is not None else "")
    if len({vector.label for vector in found}) == 1:
        title += f": {found[0].label}" + (f", layer {found[0].layer}" if len(found) == 1 else "")
    return LogitLens(reading, _adjusted(rows), k, prompt if anchors is not None else None, nulls, title)


@torch.no_grad()
def logit_lens_carried(
    model: LensModel,
    vectors: SteeringVector | Sequence[SteeringVector],
    prompt: str,
    *,
    at: int | None = None,
    k: int = 5,
    order: LensOrder = "value",
    tokens: Sequence[str | int] = (),
    position: Position = "front",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 64,
) -> CarriedLens:
    """Read what an injection has become at each later layer of a prompt: the steered minus the unsteered stream there.

    Args:
        model: The model.
        vectors: One steering vector or several, all injected together.
        prompt: One text.
        at: The prompt token at which the stream is read, BOS counted; None for the last.
        k: Tokens in each list.
        order: Rank tokens by their `value`, or by their `z` score, which leaves out what any vector of that size does.
        tokens: Tokens to follow, as texts of one token or ids.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        nulls: Number of null vectors that are run through the same prompt.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether the prompt starts with BOS.
        batch_size: Most rows in one pass.

    Raises:
        SettingError: A setting is out of its range.
        PromptError: The prompt is no text or outgrows the context, or a followed text is not one token.
        PositionError: A vector does not fit onto the prompt, or `at` is no token of it.
        VectorError: A vector does not go with the model.
        ModelError: What the model makes its logits of is not known.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend = backend_of(model)
    found = check_vectors(backend, vectors, what="the logit lens")
    lens = _Lens.of(backend, k, tokens, order)
    require(is_count(batch_size), "batch_size", batch_size, "an integer from 1")
    (ids,) = encode_prompts(backend, (prompt,), prepend_bos=prepend_bos)
    column = _check_at(at, len(ids))
    pass_rows = ArmRows(backend, [ids], [found], found, position)
    arms = [(), found, *null_arms(model, found, nulls, null_kind, seed)]
    streams = _streams(backend, ids, arms, column, measured=found, position=position, batch_size=batch_size)
    first = min(vector.layer for vector in found)
    plain, changes = streams[first:, 0], streams[first:, 1:] - streams[first:, :1]
    changes[: _reached(backend, found, position, pass_rows.prompts, column) - first] = 0.0
    text = backend.token_strings(ids)[column]
    names = [f"layer {layer}" for layer in range(first, backend.n_layers)] + ["the end"]
    told = [
        {"vector": 0, "name": name, "layer": first + index, "row": None, "row_name": f"at {column}: {text}"}
        for index, name in enumerate(names)
    ]
    null_rows = changes[:, 1:].transpose(0, 1) if nulls else None
    where = f"carried to token {column} {text!r} of {prompt!r}: " + " and ".join(vector_names(found))
    direction = lens.read(changes[:, 0], None, null_rows, told, rescale=False)
    anchored = lens.read(changes[:, 0], plain, null_rows, told, rescale=False)
    both = _adjusted([*direction, *anchored])
    direction, anchored = both[: len(direction)], both[len(direction) :]
    relative = (changes[:, 0].norm(dim=-1) / plain.norm(dim=-1)).tolist()
    return CarriedLens(
        LogitLens("direction", direction, k, prompt, nulls, f"direction reading, {where}"),
        LogitLens("anchored", anchored, k, prompt, nulls, f"anchored reading, {where}"),
        prompt,
        column,
        text,
        tuple(relative),
    )


# -- reading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Lens:
    """A readout with what is to be listed."""

    backend: Backend
    readout: Readout
    k: int
    followed: tuple[int, ...]
    size: int
    order: LensOrder

    @classmethod
    def of(cls, backend: Backend, k: int, tokens: Sequence[str | int], order: LensOrder) -> "_Lens":
        if isinstance(tokens, str):
            raise SettingError(f"tokens is the text {tokens!r}: pass a list of texts or ids.")
        require(order in ("value", "z"), "order", order, "'value' or 'z'")
        readout = readout_of(backend)
        # An unembedding may be padded beyond the tokenizer; such tokens have no text.
        size = min(len(backend.tokenizer), readout.bias.shape[0])
        require(is_count(k) and k <= size, "k", k, f"an integer from 1 to {size}")
        return cls(backend, readout, k, tuple(token_id(backend, token) for token in tokens), size, order)

    def read(
        self,
        rows: Float[Tensor, "rows d_model"],
        anchors: Float[Tensor, "rows d_model"] | None,
        null_rows: Float[Tensor, "nulls rows d_model"] | None,
        told: Sequence[dict[str, Any]],
        *,
        rescale: bool = True,
    ) -> tuple[LensRow, ...]:
        """The lens of each row, beside the same rows of null vectors."""
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


def _adjusted(rows: Sequence[LensRow]) -> tuple[LensRow, ...]:
    """The same with adjusted p-values, over both lists of every row that is not zero."""
    members = [index for index, row in enumerate(rows) if row.promoted and len(row.null_largest)]
    if not members:
        return tuple(rows)
    lists, best = [], []
    for row in (rows[index] for index in members):
        for sign, tokens, ends in ((1, row.promoted, row.null_largest), (-1, row.demoted, row.null_smallest)):
            lists.append(sign * np.array([getattr(token, row.order) for token in tokens]))
            best.append(sign * ends)
    found = adjusted_over_lists(lists, np.stack(best).astype(float))
    changed = list(rows)
    for place, index in enumerate(members):
        row = rows[index]
        promoted, demoted = (
            tuple(replace(token, adjusted_p=float(p)) for token, p in zip(tokens, p_values, strict=True))
            for tokens, p_values in ((row.promoted, found[2 * place]), (row.demoted, found[2 * place + 1]))
        )
        changed[index] = replace(row, promoted=promoted, demoted=demoted)
    return tuple(changed)


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


def _anchors(
    backend: Backend, vectors: Arm, prompt: Any, *, position: Position, prepend_bos: bool
) -> list[Float[Tensor, "rows d_model"]]:
    """The unsteered stream where each vector's rows land."""
    (ids,) = encode_prompts(backend, (prompt,), prepend_bos=prepend_bos)
    pass_rows = ArmRows(backend, [ids], [()], vectors, position)
    streams = pass_rows.streams(torch.arange(len(ids), device=backend.device)[None])[:, 0]
    anchors = []
    for vector in vectors:
        places = touched(vector, position, pass_rows.prompts.facts(0, backend))
        is_span = as_span(placed(vector, position)) is not None
        tokens = [token for _, token in (places[-1:] if is_span else places)]
        anchors.append(streams[vector.layer, tokens])
    return anchors


def _streams(
    backend: Backend,
    ids: Sequence[int],
    arms: Sequence[Arm],
    column: int,
    *,
    measured: Arm,
    position: Position,
    batch_size: int,
) -> Float[Tensor, "depths arms d_model"]:
    """The stream of one prompt's token under each arm, at every depth."""
    found = []
    for first in range(0, len(arms), batch_size):
        some = arms[first : first + batch_size]
        rows = ArmRows(backend, [ids] * len(some), some, measured, position)
        columns = torch.full((len(some), 1), column, device=backend.device)
        found.append(rows.streams(columns)[:, :, 0])
    return torch.cat(found, dim=1)


def _reached(
    backend: Backend, vectors: Sequence[SteeringVector], position: Position, prompts: Prompts, column: int
) -> int:
    """The first depth at which the stream of a column can differ: where a row lands on it, or after one lands before.

    Up to there causality makes the difference zero, and rounding must not be read as a direction.
    """
    depths = [backend.n_layers + 1]
    for vector in vectors:
        lands = (vector.injection != 0).any(dim=-1).nonzero().flatten().tolist()
        places = touched(vector, position, prompts.facts(0, backend))
        columns = [token for row, token in places if row in lands]
        if not lands or column < min(columns, default=column + 1):
            continue
        depths.append(vector.layer + (column not in columns))
    return min(depths)


def _check_at(at: Any, length: int) -> int:
    """The column at which a stream is read.

    Raises:
        PositionError: It is no token of the prompt.
    """
    if at is None:
        return length - 1
    if isinstance(at, bool) or not isinstance(at, int) or not 0 <= at < length:
        raise PositionError(
            f"at is {at!r}, but the prompt has tokens 0 to {length - 1} (BOS counted): use None for the last."
        )
    return at


def _listed(row: LensRow) -> list[tuple[str, LensToken]]:
    return [("promoted", token) for token in row.promoted] + [("demoted", token) for token in row.demoted]


def _frame(lines: Any) -> "pd.DataFrame":
    import pandas as pd

    columns = ["vector", "layer", "row", "tokens of the row", "list", "rank", "token", "text", "value", "z",
               "share of nulls as extreme", "adjusted p"]  # fmt: skip
    shares = {"promoted": "promoted_share", "demoted": "demoted_share"}
    table = [
        (row.name, row.layer, row.row, row.row_name, list_name, token.rank, token.token, token.text, token.value,
         token.z, getattr(row, shares[list_name]) if list_name in shares else float("nan"), token.adjusted_p)
        for row, list_name, token in lines
    ]  # fmt: skip
    return pd.DataFrame(table, columns=columns).astype({"row": "Int64"})
