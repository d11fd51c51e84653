"""Norm profile: how large the rows of a vector are, and how large the stream that they land on is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from actadd_lens.measuring.measure import ConditionRows
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import encode_prompts
from actadd_lens.steering.landings import touched
from actadd_lens.steering.massive import Massive
from actadd_lens.steering.preview import notice_landings
from actadd_lens.vectors.naming import row_names, vector_names, visible
from actadd_lens.vectors.vector import SteeringVector, check_vectors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class LandedRow:
    """One row of a vector on one token of the prompt.

    Attributes:
        vector: Which vector, by its index among those given.
        name: A short label of the vector.
        layer: Its injection layer.
        row: Row of the vector.
        row_name: The row, named by its tokens.
        token: The prompt token that it lands on, BOS counted.
        text: That token.
        norm: Norm of the injection row.
        relative: The same in units of the unsteered stream's norm at that token, for every layer.
    """

    vector: int
    name: str
    layer: int
    row: int
    row_name: str
    token: int
    text: str
    norm: float
    relative: Float[np.ndarray, " layers"]

    @property
    def relative_norm(self) -> float:
        """In units of the stream's norm at its own layer."""
        return float(self.relative[self.layer])


@dataclass(frozen=True, eq=False)
class NormProfile:
    """Norms of injections and of the stream that they land on, by position and layer.

    Attributes:
        prompt: The prompt.
        tokens: Its tokens as texts.
        stream_norms: Norm of the unsteered `resid_pre` at every layer and token.
        rows: Every row on the token that it lands on.
        names: A short label of each vector.
        layers: Their injection layers.
        massive: Tokens with a massive stream on which something lands; see `actadd_lens.steering.massive`.
    """

    prompt: str
    tokens: tuple[str, ...]
    stream_norms: Float[np.ndarray, "layers tokens"]
    rows: tuple[LandedRow, ...]
    names: tuple[str, ...]
    layers: tuple[int, ...]
    massive: tuple[Massive, ...] = ()

    def frame(self) -> "pd.DataFrame":
        """One line per landed row and layer; `injected` marks the vector's own layer."""
        import pandas as pd

        lines = [
            (row.name, row.row, row.row_name, row.token, row.text, layer, layer == row.layer, row.norm,
             self.stream_norms[layer, row.token], row.relative[layer])
            for row in self.rows
            for layer in range(len(self.stream_norms))
        ]  # fmt: skip
        columns = ["vector", "row", "tokens of the row", "token", "text", "layer", "injected", "norm", "stream norm",
                   "relative norm"]  # fmt: skip
        return pd.DataFrame(lines, columns=columns)

    @property
    def table(self) -> Float[np.ndarray, "rows tokens"]:
        """Relative norms by token: of one vector as if added at each layer, of several at their own layers."""
        if len(self.names) == 1:
            table = np.full(self.stream_norms.shape, np.nan)
            for row in self.rows:
                table[:, row.token] = row.relative
            return table
        table = np.full((len(self.names), len(self.tokens)), np.nan)
        for row in self.rows:
            table[row.vector, row.token] = row.relative_norm
        return table

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Heat map of the relative norms over the prompt's tokens.

        One vector is shown as if it were added at each layer, with its own layer marked; several are each shown at
        their own.
        """
        from actadd_lens.plots.analysis import plot_norm_profile

        return plot_norm_profile(self, ax=ax)

    def __repr__(self) -> str:
        told = ", ".join(f"{row.text!r} {row.relative_norm:.2f}" for row in self.rows if row.norm > 0)
        far = "".join(f"; token {item}" for item in self.massive)
        return f"NormProfile(in units of the stream: {told}{far})"

    def _repr_html_(self) -> str:
        from html import escape

        head = "".join(
            f"<th>{name}</th>" for name in ("vector", "row", "lands on", "norm", "stream norm", "relative norm")
        )
        body = ""
        for row in self.rows:
            cells = [escape(row.name), escape(row.row_name), f"{row.token}: {escape(visible(row.text))}"]
            cells += [f"{row.norm:.3g}", f"{self.stream_norms[row.layer, row.token]:.3g}", f"{row.relative_norm:.2f}"]
            body += "<tr>" + "".join(f"<td style='text-align:left'>{cell}</td>" for cell in cells) + "</tr>"
        return f"<table><caption>norms on {escape(repr(self.prompt))}</caption><tr>{head}</tr>{body}</table>"


@torch.no_grad()
def norm_profile(
    model: LensModel,
    vectors: SteeringVector | Sequence[SteeringVector],
    prompt: str,
    *,
    position: Position = "front",
    prepend_bos: bool = True,
) -> NormProfile:
    """Compare the norms of injections with those of the stream that they land on, at every layer.

    Args:
        model: The model; its stream is read unsteered.
        vectors: One steering vector or several.
        prompt: One text.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        prepend_bos: Whether the prompt starts with BOS.

    Raises:
        PromptError: The prompt is not text, or is longer than the context.
        PositionError: A vector does not fit onto the prompt.
        VectorError: A vector does not match the model.

    Warns:
        MassiveActivationWarning: A row is massive, or lands on a token that is; see `actadd_lens.steering.massive`.
    """
    backend = backend_of(model)
    found = check_vectors(backend, vectors, what="the norm profile")
    (ids,) = encode_prompts(backend, (prompt,), prepend_bos=prepend_bos)
    pass_rows = ConditionRows(backend, [ids], [()], found, position)
    streams = pass_rows.streams(torch.arange(len(ids), device=backend.device)[None])[:, 0]
    sizes = streams[:-1].norm(dim=-1).cpu().numpy()
    texts, names = tuple(backend.token_strings(ids)), vector_names(found)
    rows = []
    for number, vector in enumerate(found):
        norms = vector.injection.float().norm(dim=-1).tolist()
        named = row_names(backend, vector)
        places = touched(vector, position, pass_rows.prompts.facts(0, backend))
        rows += [
            LandedRow(number, names[number], vector.layer, row, named[row], token, texts[token], norms[row],
                      norms[row] / sizes[:, token])
            for row, token in places
        ]  # fmt: skip
    layers = tuple(vector.layer for vector in found)
    hit = notice_landings({layer: streams[layer] for layer in layers}, texts, found, rows, stacklevel=2)
    return NormProfile(prompt, texts, sizes, tuple(rows), names, layers, hit)
