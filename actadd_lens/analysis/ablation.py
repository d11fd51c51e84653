"""Token ablation: which tokens of a prompt pair, and which rows of its vector, carry the effect."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import check_run, many
from actadd_lens.errors import SettingError
from actadd_lens.measuring.measure import Condition, measure_conditions, null_conditions
from actadd_lens.measuring.metrics import Metric, as_metric
from actadd_lens.measuring.nulls import NullKind, check_nulls, null_vectors
from actadd_lens.measuring.values import with_value
from actadd_lens.methods.actadd import differences
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.pairs import PairTokens, PromptPair, as_pair, pad_token_of
from actadd_lens.prompts.positions import Position, check_position
from actadd_lens.prompts.texts import as_texts, each_once, encode_prompts, token_id
from actadd_lens.statistics import Effect, max_t_p, monte_carlo_p, on_one_scale, paired_effect
from actadd_lens.vectors.provenance import Provenance
from actadd_lens.vectors.vector import SteeringVector, as_vectors, check_coefficient

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Side = Literal["positive", "negative"]
"""p+ or p-."""

Span = tuple[Side, int, int]
"""Side, first token, and the token after the last; 0-based, BOS counted."""

AblationKind = Literal["token", "span", "row dropped", "row alone"]

_SIDES: tuple[Side, Side] = ("positive", "negative")


@dataclass(frozen=True, eq=False)
class Ablation:
    """One token, span or row removed, and the effect that is left.

    Attributes:
        kind: `token` or `span` of the pair, `row dropped` (one row of the vector set to zero) or `row alone` (all
            others set to zero).
        side: p+ or p-; None for rows.
        start: First token or row.
        stop: The one after the last.
        text: The tokens; for a row, the tokens of p+ and p- whose difference it is.
        replacement: `remove`, `pad`, or the neutral token; None for rows.
        vector: The recomputed vector, with the coefficient; it has as many rows as the whole vector.
        norm: Norm of its injection over all rows; on LayerNorm models without each row's mean, which no part of the
            model reads.
        cosine: Cosine similarity of its injection and the whole vector's, computed in the same way; 0 if either is
            zero.
        effect: Its effect on the metric: steered by it, minus unsteered.
        drop: What the ablation costs: steered by the whole vector, minus steered by this one. Its nulls are the drops
            when null vectors with the row norms of the lost part are subtracted from the whole vector instead.
    """

    kind: AblationKind
    side: Side | None
    start: int
    stop: int
    text: str
    replacement: str | None
    vector: SteeringVector
    norm: float
    cosine: float
    effect: Effect
    drop: Effect


@dataclass(frozen=True, eq=False)
class TokenAblation:
    """Which tokens of a prompt pair carry its effect.

    Attributes:
        pair: The prompt pair.
        metric: What was measured.
        prompts: The prompts that it was measured on.
        whole: The whole vector, with the coefficient.
        effect: The effect of the whole vector, with its nulls.
        tokens: Texts of the tokens of p+ and of p-, BOS and pads included; no second row for an unpaired addition.
        ablations: Everything that was removed, one entry each.
    """

    pair: PromptPair
    metric: Metric
    prompts: tuple[str, ...]
    whole: SteeringVector
    effect: Effect
    tokens: tuple[tuple[str, ...], ...]
    ablations: tuple[Ablation, ...]

    @property
    def replacements(self) -> tuple[str, ...]:
        """The replacements for removed tokens, in the order requested."""
        return tuple(dict.fromkeys(item.replacement for item in self.ablations if item.replacement is not None))

    def of_kind(self, kind: AblationKind) -> tuple[Ablation, ...]:
        """The ablations of one kind, in order."""
        return tuple(item for item in self.ablations if item.kind == kind)

    def frame(self) -> "pd.DataFrame":
        """One row per ablation.

        `share` is the drop as a share of the whole effect. `p` is two-sided and compares each drop with its own nulls,
        in units of their common spread; `adjusted p` compares it with the largest drop of every null (max-T).
        """
        import pandas as pd

        frame = pd.DataFrame([self._row(item) for item in self.ablations])
        if self.ablations and len(self.ablations[0].drop.nulls):
            drops = [item.drop for item in self.ablations]
            nulls = np.stack([drop.nulls for drop in drops], axis=1)
            frame["null mean"], frame["null sd"] = nulls.mean(axis=0), nulls.std(axis=0, ddof=min(1, len(nulls) - 1))
            scaled = on_one_scale(np.concatenate([np.array([[drop.mean for drop in drops]]), nulls]))
            frame["p"] = [monte_carlo_p(float(cell[0]), cell[1:], "two-sided") for cell in scaled.T]
            frame["adjusted p"] = max_t_p(scaled[0], scaled[1:], "two-sided")
        return frame

    def _row(self, item: Ablation) -> dict[str, Any]:
        whole = self.effect.mean
        return {
            "kind": item.kind,
            "side": item.side,
            "start": item.start,
            "stop": item.stop,
            "text": item.text,
            "replacement": item.replacement,
            "effect": item.effect.mean,
            "drop": item.drop.mean,
            "drop low": item.drop.low,
            "drop high": item.drop.high,
            "share": item.drop.mean / whole if whole else float("nan"),
            "norm": item.norm,
            "cosine": item.cosine,
        }

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Heat map of the drops over the tokens of the pair, and over the vector's rows."""
        from actadd_lens.plots.tracing import plot_ablation

        return plot_ablation(self, ax=ax)

    def __repr__(self) -> str:
        tokens = self.of_kind("token")
        if not tokens:
            return f"TokenAblation({self.pair.label}: {self.metric.name} {self.effect.mean:+.3g})"
        most = max(tokens, key=lambda item: abs(item.drop.mean))
        return (
            f"TokenAblation({self.pair.label}: {self.metric.name} {self.effect.mean:+.3g}; most carried by "
            f"{most.text!r} of the {most.side} prompt, drop {most.drop.mean:+.3g})"
        )

    def _repr_html_(self) -> str:
        from actadd_lens.plots.tracing import ablation_html

        return ablation_html(self) + f"<p>{escape(self.metric.name)}, whole vector: {escape(str(self.effect))}</p>"


def ablate_tokens(
    model: LensModel,
    pair: PromptPair | tuple[str, str | None],
    *,
    layer: int,
    prompts: str | Sequence[str],
    metric: Any,
    coefficient: float = 1.0,
    position: Position = "front",
    replacement: str | int | Sequence[str | int] = "remove",
    spans: Sequence[Span] = (),
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 64,
    progress: bool = True,
) -> TokenAblation:
    """Remove each token of p+ and p- in turn, recompute the vector, and measure what is left of its effect.

    Tokens are removed as ids, so nothing is tokenised again. BOS and pads stay. Where `remove` makes the pair shorter,
    zero rows are appended to the vector, so that its rows land on the same tokens as those of the whole vector. Each
    row of the vector is also dropped, and used alone. All variants share forward passes, both for reading and for
    measuring.

    Args:
        model: The model.
        pair: A `PromptPair`, or (positive, negative).
        layer: Layer at which the vector is read and added.
        prompts: Texts that are steered.
        metric: A metric, or a function of the last token's logits.
        coefficient: Injection coefficient.
        position: Prompt token that receives row 0.
        replacement: `remove` (the following tokens move up), `pad` (the pair's pad takes its place), or a neutral token
            as text or id; or several of these.
        spans: Spans of tokens to remove as well: (side, first token, token after the last), BOS counted.
        nulls: Number of null vectors to compare the whole vector and each drop with.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether prompts start with BOS.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: The pair, a prompt or the neutral token cannot be used.
        LayerError: The model has no such layer.
        CoefficientError: The coefficient is not a finite number.
        PositionError: The vector does not fit onto a prompt.
        SettingError: A span or another setting is out of range.
    """
    check_run(seed=seed, batch_size=batch_size)
    check_nulls(nulls, null_kind)
    position = check_position(position, rows=1)
    backend, chosen = backend_of(model), as_metric(metric)
    source, layer = _Source.of(model, as_pair(pair)), backend.check_layer(layer)
    texts = each_once(as_texts(prompts))
    prompt_tokens = encode_prompts(backend, texts, prepend_bos=prepend_bos)
    cuts = list(source.cuts(_as_list(replacement), spans))
    whole, vectors = _recomputed(source, cuts, layer, check_coefficient(coefficient))
    cuts += source.row_cuts(whole)
    vectors += [_with_rows(whole, cut) for cut in cuts[len(vectors) :]]
    parts = _null_parts(model, whole, vectors, nulls, null_kind, seed)
    conditions = [(), (whole,), *((vector,) for vector in vectors), *parts]
    distinct, places = _distinct(conditions)
    values = measure_conditions(
        backend, prompt_tokens, distinct, chosen,
        measured=(whole,), position=position, batch_size=batch_size, progress=progress,
    )[places]  # fmt: skip
    effects = _effects(values, chosen, len(vectors), nulls)
    sizes = [_sizes(vector, whole, backend) for vector in vectors]
    found = tuple(
        Ablation(**vars(cut.told), vector=vector, norm=norm, cosine=cosine, effect=effect, drop=drop)
        for cut, vector, (effect, drop), (norm, cosine) in zip(cuts, vectors, effects[1:], sizes, strict=True)
    )
    return TokenAblation(source.pair, chosen, texts, whole, effects[0][0], source.texts, found)


# -- taking tokens out -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Told:
    """What is removed, as an `Ablation` describes it."""

    kind: AblationKind
    side: Side | None
    start: int
    stop: int
    text: str
    replacement: str | None


@dataclass(frozen=True)
class _Cut:
    """What is removed, and the rows of tokens that are left; None where rows of the vector are removed."""

    told: _Told
    tokens: PairTokens | None = None

    @property
    def step(self) -> str:
        """For the provenance."""
        told = self.told
        where = "" if told.side is None else f" of the {told.side} prompt, {told.replacement}"
        return f"ablated: {told.kind} {told.start}:{told.stop}{where}"


@dataclass(frozen=True, eq=False)
class _Source:
    """A prompt pair as rows of token ids.

    Attributes:
        own: Each side's tokens without pads.
        first: Each side's first token that is not BOS.
    """

    backend: Backend
    pair: PromptPair
    tokens: PairTokens
    own: dict[Side, tuple[int, ...]]
    first: dict[Side, int]

    @classmethod
    def of(cls, model: LensModel, pair: PromptPair) -> "_Source":
        backend, tokens = backend_of(model), pair.tokens(model)
        written = {"positive": pair.positive, "negative": pair.negative}
        own = {
            side: tuple(backend.encode(text, prepend_bos=pair.prepend_bos))
            for side in _SIDES
            if (text := written[side]) is not None
        }
        first = {side: int(pair.prepend_bos and row[:1] == (backend.bos_token_id,)) for side, row in own.items()}
        return cls(backend, pair, tokens, own, first)

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The padded rows."""
        return tuple(row for row in (self.tokens.positive, self.tokens.negative) if row is not None)

    @property
    def texts(self) -> tuple[tuple[str, ...], ...]:
        """Texts of the padded rows' tokens."""
        return tuple(tuple(self.backend.token_strings(row)) for row in self.rows)

    def cuts(self, replacements: Sequence[str | int], spans: Sequence[Span]) -> Iterator[_Cut]:
        """Every token and span, in every way, and the rows of tokens that are left."""
        singles: list[Span] = [
            (side, index, index + 1) for side, row in self.own.items() for index in range(self.first[side], len(row))
        ]
        wider = [self._check_span(span) for span in spans]
        for replacement in replacements:
            label, token = self._replacement(replacement)
            for number, (side, start, stop) in enumerate([*singles, *wider]):
                kind: AblationKind = "token" if number < len(singles) else "span"
                text = "".join(self.backend.token_strings(self.own[side][start:stop]))
                told = _Told(kind, side, start, stop, text, label)
                yield _Cut(told, self._without(side, start, stop, token))

    def row_cuts(self, whole: SteeringVector) -> list[_Cut]:
        """Every row of the vector dropped, then every row alone."""
        kinds: tuple[AblationKind, AblationKind] = ("row dropped", "row alone")
        texts = [" − ".join(repr(text) for text in texts) for texts in zip(*self.texts, strict=True)]
        return [_Cut(_Told(kind, None, row, row + 1, texts[row], None)) for kind in kinds for row in range(whole.rows)]

    def _without(self, side: Side, start: int, stop: int, token: int | None) -> PairTokens:
        """The padded rows without a span, or with a token in each of its places."""
        own = dict(self.own)
        middle = () if token is None else (token,) * (stop - start)
        own[side] = (*own[side][:start], *middle, *own[side][stop:])
        length = max(1, *map(len, own.values()))
        pad = self.tokens.pad_token
        if pad is None and any(len(row) < length for row in own.values()):
            pad = pad_token_of(self.backend, self.pair.pad)
        padded = {name: row + (pad,) * (length - len(row)) for name, row in own.items() if pad is not None} or own
        return PairTokens(padded["positive"], padded.get("negative"), pad)

    def _replacement(self, replacement: str | int) -> tuple[str, int | None]:
        """Label of a replacement, and the token; None to remove."""
        if replacement == "remove":
            return "remove", None
        if replacement == "pad":
            pad = self.tokens.pad_token
            return "pad", pad_token_of(self.backend, self.pair.pad) if pad is None else pad
        token = token_id(self.backend, replacement)
        return repr(self.backend.token_strings([token])[0]), token

    def _check_span(self, span: Span) -> Span:
        try:
            side, start, stop = span
            fits = side in self.own and self.first[side] <= start < stop <= len(self.own[side])
        except (TypeError, ValueError):
            fits = False
        if not fits:
            reach = " or ".join(f"({side!r}, {self.first[side]} to {len(row)})" for side, row in self.own.items())
            raise SettingError(
                f"The span {span!r} is none of this pair: expected (side, first token, token after the last) within "
                f"{reach}; BOS and pads stay."
            )
        return span


def _as_list(replacement: str | int | Sequence[str | int]) -> list[str | int]:
    found = many(replacement)
    if not found:
        raise SettingError("No replacement was given: 'remove', 'pad', or a neutral token.")
    return found


# -- vectors ---------------------------------------------------------------------------------------------------


def _recomputed(
    source: _Source, cuts: Sequence[_Cut], layer: int, coefficient: float
) -> tuple[SteeringVector, list[SteeringVector]]:
    """The whole vector, and that of each cut with as many rows, all from the same passes."""
    left = [cut.tokens for cut in cuts if cut.tokens is not None]
    provenance = Provenance.of_model(source.backend, source="prompt pair").of_pair(source.pair, source.tokens, layer)
    tensors = [rows for (rows,) in differences(source.backend, [source.tokens, *left], [layer])]
    whole = SteeringVector(tensors[0], layer, coefficient, provenance=provenance)
    vectors = []
    for cut, tokens, rows in zip(cuts, left, tensors[1:], strict=True):
        told = dataclasses.replace(
            provenance.after(cut.step), positive_tokens=tokens.positive, negative_tokens=tokens.negative
        )
        filled = torch.nn.functional.pad(rows, (0, 0, 0, whole.rows - rows.shape[0]))
        vectors.append(SteeringVector(filled, layer, coefficient, provenance=told))
    return whole, vectors


def _with_rows(whole: SteeringVector, cut: _Cut) -> SteeringVector:
    """The whole vector with one row set to zero, or all others."""
    is_row = torch.arange(whole.rows, device=whole.activations.device)[:, None] == cut.told.start
    kept = is_row if cut.told.kind == "row alone" else ~is_row
    return dataclasses.replace(whole, activations=whole.activations * kept, provenance=whole.provenance.after(cut.step))


def _null_parts(
    model: LensModel,
    whole: SteeringVector,
    vectors: Sequence[SteeringVector],
    nulls: int,
    kind: NullKind,
    seed: int,
) -> list[Condition]:
    """Nulls of the whole vector, then for each ablated vector the whole with null parts taken off.

    A null part has the row norms of the part that the ablation takes off. All come from the same draws, so that the
    drops of one null can be compared over tokens.
    """
    conditions = null_conditions(model, (whole,), nulls, kind, seed)
    if not nulls:
        return conditions
    parts = [whole.activations - vector.activations for vector in vectors]
    largest = torch.stack([part.norm(dim=-1) for part in parts]).amax(dim=0)
    # The whole vector's rows, in the size of what is taken off them: BOS stays BOS, and a zero row may not stay one.
    shape = torch.nn.functional.normalize(whole.activations.float(), dim=-1)
    shape[:, 0] += (whole.norms == 0).to(shape)
    shape = (shape * largest[:, None]).to(whole.activations)
    drawn = null_vectors(model, dataclasses.replace(whole, activations=shape), kind=kind, n=nulls, seed=seed)
    for part in parts:
        for null in drawn:
            rows = whole.activations - null.with_norm(part.norm(dim=-1).float()).activations
            conditions.append((dataclasses.replace(whole, activations=rows, provenance=null.provenance),))
    return conditions


def _distinct(conditions: Sequence[Condition]) -> tuple[list[Condition], list[int]]:
    """Conditions without repetition, and which of them each one was: equal vectors have exactly equal effects.

    Zero vectors count as the unsteered condition.
    """
    keys: dict[bytes, int] = {b"": 0}
    distinct, places = [conditions[0]], []
    for condition in conditions:
        vector = as_vectors(condition)[0] if condition else None
        rows = None if vector is None or not bool(vector.injection.any()) else vector.activations.cpu().float()
        key = b"" if rows is None else (rows + 0.0).numpy().tobytes()  # + 0.0: minus zero is zero
        if key not in keys:
            keys[key] = len(distinct)
            distinct.append(condition)
        places.append(keys[key])
    return distinct, places


def _sizes(vector: SteeringVector, whole: SteeringVector, backend: Backend) -> tuple[float, float]:
    """Norm of the part of an injection that the model reads, over all rows, and its cosine with the whole vector."""
    ours, theirs = (_read(found.injection.double(), backend) for found in (vector, whole))
    norm, product = float(ours.norm()), float(ours.norm() * theirs.norm())
    return norm, float((ours * theirs).sum()) / product if product else 0.0


def _read(rows: Float[Tensor, "pos d_model"], backend: Backend) -> Float[Tensor, "pos d_model"]:
    """Rows without their mean on LayerNorm models, where every reader subtracts it."""
    return rows - rows.mean(dim=-1, keepdim=True) if backend.normalization == "LN" else rows


# -- effects ---------------------------------------------------------------------------------------------------


def _effects(
    values: Float[np.ndarray, "conditions prompts"], metric: Metric, count: int, nulls: int
) -> list[tuple[Effect, Effect]]:
    """Effect and drop of the whole vector and of each ablated one, from the conditions in their order.

    Prompts on which the metric has no value are left out.
    """
    values = values[:, with_value(metric.name, values)]
    plain, whole, null_values = values[0], values[1], values[2 + count :]
    by_prompt = null_values.reshape(count + 1, nulls, values.shape[1])
    found = []
    for index, ablated in enumerate(values[1 : 2 + count]):
        effect = paired_effect(ablated[:, None], plain[:, None], zeros="numbers")
        drop = paired_effect(whole[:, None], ablated[:, None], zeros="numbers")
        if index == 0:
            effect = effect.with_nulls((by_prompt[0] - plain).mean(axis=1), by_prompt[0] - plain)
        else:
            drop = drop.with_nulls((whole - by_prompt[index]).mean(axis=1), whole - by_prompt[index])
        found.append((effect, drop))
    return found
