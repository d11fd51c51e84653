"""Token by token: the projection of each token's stream on a vector, unsteered and steered."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import check_run
from actadd_lens.errors import VectorError
from actadd_lens.measuring.measure import Condition, ConditionRows
from actadd_lens.measuring.nulls import null_texts
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.models.readout import centred_rows
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import as_texts, encode_prompts
from actadd_lens.steering.landings import touched
from actadd_lens.vectors.naming import html_token, signed_shade
from actadd_lens.vectors.vector import SteeringVector, check_vectors

if TYPE_CHECKING:
    import pandas as pd

_ENDS = 3.0
"""Z-score at which a token has its full colour."""


@dataclass(frozen=True, eq=False)
class TextProjection:
    """One text, projected on a vector.

    Attributes:
        text: The text.
        tokens: Its tokens as texts.
        unsteered: Projection of each token's stream on the vector, in units of the stream.
        steered: The same, steered; None if nothing was added.
        injected: Tokens on which a row that is not zero lands.
        has_bos: Whether the first token is BOS, which is unlike any other token.
    """

    text: str
    tokens: tuple[str, ...]
    unsteered: Float[np.ndarray, " pos"]
    steered: Float[np.ndarray, " pos"] | None
    injected: tuple[int, ...]
    has_bos: bool


@dataclass(frozen=True, eq=False)
class Projection:
    """Texts, projected on a vector token by token.

    Attributes:
        name: A short label of the vector.
        layer: The layer at which the stream is read.
        texts: Each text.
        mean: Mean over the tokens of other texts, BOS left out.
        spread: Standard deviation over them.
        tokens: Number of such tokens.
    """

    name: str
    layer: int
    texts: tuple[TextProjection, ...]
    mean: float
    spread: float
    tokens: int

    def z(self, values: Float[np.ndarray, " pos"]) -> Float[np.ndarray, " pos"]:
        """Values in standard deviations of the tokens of other texts; NaN where those do not differ."""
        return (values - self.mean) / (self.spread if self.spread > 0 else np.nan)

    def frame(self) -> "pd.DataFrame":
        """One row per token."""
        import pandas as pd

        lines: list[dict[str, Any]] = []
        for number, text in enumerate(self.texts):
            z = self.z(text.unsteered)
            for place, token in enumerate(text.tokens):
                line = {"text": number, "position": place, "token": token, "unsteered": text.unsteered[place],
                        "z": z[place]}  # fmt: skip
                if text.steered is not None:
                    line |= {"steered": text.steered[place], "z steered": self.z(text.steered)[place],
                             "injected": place in text.injected}  # fmt: skip
                lines.append(line)
        return pd.DataFrame(lines)

    def __repr__(self) -> str:
        return (
            f"Projection(on {self.name}, layer {self.layer}: {len(self.texts)} texts; z against {self.tokens} tokens)"
        )

    def __str__(self) -> str:
        lines = [repr(self)]
        for text in self.texts:
            for condition, values in (("unsteered", text.unsteered), ("steered", text.steered)):
                if values is not None:
                    z = self.z(values)
                    shown = " ".join(f"{token!r} {z[place]:+.1f}" for place, token in enumerate(text.tokens))
                    lines.append(f"  {condition:<9} | {shown}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        caption = (
            f"stream at layer {self.layer} along {self.name}; z against the tokens of other texts, full colour at "
            f"{_ENDS:g}; injected tokens are underlined"
        )
        body = ""
        for text in self.texts:
            for condition, values in (("unsteered", text.unsteered), ("steered", text.steered)):
                if values is not None:
                    body += f"<tr><td style='vertical-align:top'>{condition}</td><td style='text-align:left'>"
                    body += self._coloured(text, values, marked=condition == "steered") + "</td></tr>"
        return f"<table><caption>{escape(caption)}</caption>{body}</table>"

    def _coloured(self, text: TextProjection, values: Float[np.ndarray, " pos"], *, marked: bool) -> str:
        shown = []
        for place, (token, z) in enumerate(zip(text.tokens, self.z(values), strict=True)):
            is_bos = text.has_bos and place == 0
            shade = "transparent" if is_bos else signed_shade(float(z), _ENDS)
            told = "BOS, unlike any other token" if is_bos else f"{place}: {values[place]:.3g}, z = {z:+.2f}"
            piece = html_token(token, title=told, shade=shade)
            shown.append(f"<u>{piece}</u>" if marked and place in text.injected else piece)
        return "".join(shown)


@torch.no_grad()
def project(
    model: LensModel,
    texts: str | Sequence[str],
    vector: SteeringVector,
    *,
    layer: int | None = None,
    steered_by: SteeringVector | Sequence[SteeringVector] | None = None,
    position: Position = "front",
    others: Sequence[str] | None = None,
    prepend_bos: bool = True,
    batch_size: int = 64,
) -> Projection:
    """Project the stream of every token of texts on a vector.

    The direction is that of the sum of the vector's rows, including the sign of the coefficient; on LayerNorm models
    without its mean over `d_model`, which no reader sees. Each number has a z-score against the tokens of other texts,
    which is a description, not a test.

    Args:
        model: The model; steering that is open around the call is ignored.
        texts: One text or several.
        vector: The vector that gives the direction.
        layer: The layer at which streams are read; the vector's own by default.
        steered_by: What is added for a second, steered reading; None for no such reading.
        position: Token that receives row 0, for vectors without a position of their own.
        others: Texts whose tokens give the scale; by default the package's neutral ones.
        prepend_bos: Whether texts start with BOS.
        batch_size: Maximum number of rows per pass.

    Raises:
        PromptError: A text is not a string, or is longer than the context.
        PositionError: A vector does not fit onto a text.
        VectorError: A vector does not match the model, or has no direction.
        LayerError: There is no such layer.
    """
    check_run(batch_size=batch_size)
    backend = backend_of(model)
    (found,) = check_vectors(backend, [vector], what="a projection")
    place = found.layer if layer is None else backend.check_layer(layer)
    added = None if steered_by is None else check_vectors(backend, steered_by, what="the steered condition")
    shown, scale = as_texts(texts), as_texts(null_texts() if others is None else others)
    ids, other_ids = (encode_prompts(backend, some, prepend_bos=prepend_bos) for some in (shown, scale))
    along = _Along(backend, _direction(backend, found), place, position, batch_size)
    plain = along.values(ids, (), added or ())
    steered = [None] * len(ids) if added is None else along.values(ids, added, added)
    bos = backend.bos_token_id
    others_along = zip(other_ids, along.values(other_ids, (), ()), strict=True)
    known = np.concatenate([values[int(row[0] == bos) :] for row, values in others_along])
    rows = tuple(
        TextProjection(
            text, tuple(backend.token_strings(row)), plain[number], steered[number],
            () if added is None else along.injected(row, added), row[0] == bos,
        )
        for number, (text, row) in enumerate(zip(shown, ids, strict=True))
    )  # fmt: skip
    return Projection(found.label, place, rows, float(known.mean()), float(known.std(ddof=1)), len(known))


def _direction(backend: Backend, vector: SteeringVector) -> Float[Tensor, " d_model"]:
    """The unit direction of the sum of the rows.

    Raises:
        VectorError: The rows are zero, or cancel.
    """
    rows = centred_rows(backend, vector.injection.float().sum(dim=0))
    size = rows.norm()
    if not float(size) > 1e-6 * float(vector.injection.float().norm()):
        raise VectorError(f"The rows of {vector.label} sum to zero, so they have no direction: pick one by row(...).")
    unit: Tensor = rows / size
    return unit


@dataclass(frozen=True, eq=False)
class _Along:
    """Streams of texts along a direction."""

    backend: Backend
    direction: Float[Tensor, " d_model"]
    layer: int
    position: Position
    batch_size: int

    def values(
        self, ids: Sequence[Sequence[int]], condition: Condition, measured: Condition
    ) -> list[Float[np.ndarray, " pos"]]:
        """One number for each token of each text."""
        found: list[np.ndarray] = []
        for first in range(0, len(ids), self.batch_size):
            some = ids[first : first + self.batch_size]
            rows = ConditionRows(self.backend, some, [condition] * len(some), measured, self.position)
            with rows.steered():
                streams = self.backend.residuals(rows.tokens, [self.layer])[self.layer]
            along = centred_rows(self.backend, streams.float()) @ self.direction.to(streams.device)
            found += [along[row, : len(text)].cpu().numpy() for row, text in enumerate(some)]
        return found

    def injected(self, row: Sequence[int], vectors: Sequence[SteeringVector]) -> tuple[int, ...]:
        """Tokens of one text on which a row that is not zero lands."""
        facts = ConditionRows(self.backend, [row], [()], tuple(vectors), self.position).prompts.facts(0, self.backend)
        found = set()
        for vector in vectors:
            lands = (vector.injection != 0).any(dim=-1)
            found |= {token for line, token in touched(vector, self.position, facts) if bool(lands[line])}
        return tuple(sorted(found))
