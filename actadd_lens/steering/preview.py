"""`preview`: which row lands on which token, and how large it is there, before anything is generated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.chat import TEMPLATE, ChatPrompt, token_parts
from actadd_lens.prompts.positions import Position, as_position
from actadd_lens.prompts.spans import as_span
from actadd_lens.prompts.texts import encode_prompts
from actadd_lens.steering.clean import prompts_of, read_clean, resolved
from actadd_lens.steering.interventions import placed
from actadd_lens.steering.landings import Prompts, act, assign, land, touched
from actadd_lens.steering.massive import Massive, massive, massive_tokens, ordinary_of, warn_of_landings
from actadd_lens.vectors.interventions import Intervention
from actadd_lens.vectors.vector import SteeringVector, check_interventions

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


_IN_A_LINE = 10
"""Tokens in one line of the HTML table: a chat prompt has many, and nobody scrolls sideways."""


@dataclass(frozen=True)
class Touch:
    """One row of a vector on one token.

    Attributes:
        token: Index of the prompt token, BOS counted.
        text: The token.
        vector: Which vector, by its index among those given.
        label: A short label of the vector.
        layer: Injection layer.
        row: Row of the vector; None if one row lands on every token.
        norm: Norm of the injection row.
        relative: The same in units of the unsteered stream's norm at that token and layer.
    """

    token: int
    text: str
    vector: int
    label: str
    layer: int
    row: int | None
    norm: float
    relative: float


@dataclass(frozen=True)
class Preview:
    """Where steering vectors land on a prompt.

    Attributes:
        prompt: The prompt.
        tokens: Its tokens as texts, BOS first.
        touches: Every row that lands on a token.
        parts: For a chat prompt, who says each token, or `template`; empty for other prompts.
        massive: Tokens with a massive stream on which something lands; see `actadd_lens.steering.massive`.
    """

    prompt: str
    tokens: tuple[str, ...]
    touches: tuple[Touch, ...]
    parts: tuple[str, ...] = ()
    massive: tuple[Massive, ...] = ()

    def frame(self) -> "pd.DataFrame":
        """One row per token and row that lands on it; tokens that nothing lands on have one empty row."""
        import pandas as pd

        rows = []
        for index, text in enumerate(self.tokens):
            here = [touch for touch in self.touches if touch.token == index]
            rows += [
                {"token": index, "text": text, "vector": t.label, "layer": t.layer, "row": t.row, "norm": t.norm,
                 "relative norm": t.relative}
                for t in here
            ] or [{"token": index, "text": text}]  # fmt: skip
        columns = ["token", "text", "vector", "layer", "row", "norm", "relative norm"]
        frame = pd.DataFrame(rows, columns=columns)
        if self.parts:
            frame.insert(2, "part", [self.parts[token] for token in frame["token"]])
        return frame.astype({"layer": "Int64", "row": "Int64"})

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Bars of the relative norm over the prompt's tokens."""
        from actadd_lens.plots.vectors import plot_preview

        return plot_preview(self, ax=ax)

    def __str__(self) -> str:
        lines = []
        for index, text in enumerate(self.tokens):
            told = ", ".join(
                f"row {'·' if touch.row is None else touch.row} of {touch.label} at layer {touch.layer}: "
                f"{touch.relative:.2f} x the stream"
                for touch in self.touches
                if touch.token == index
            )
            here = [item for item in self.massive if item.index == index]
            told += f" (massive: {here[0].ratio:.3g} times its neighbours)" if here else ""
            part = f"{self.parts[index]:<10} " if self.parts else ""
            lines.append(f"{index:>3} {text!r:<16} {part}{told}".rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The tokens in lines, shaded by relative norm, the rows that land there below."""
        largest = max((touch.relative for touch in self.touches), default=0.0) or 1.0
        cells = []
        for index, text in enumerate(self.tokens):
            here = [touch for touch in self.touches if touch.token == index]
            shade = min(1.0, sum(touch.relative for touch in here) / largest)
            told = "<br>".join(
                f"{'every' if touch.row is None else f'row {touch.row}'}<br>{touch.relative:.2f}×" for touch in here
            )
            ink = " style='color:gray'" if self.parts and self.parts[index] == TEMPLATE else ""
            title = escape("; ".join(f"{touch.label} at layer {touch.layer}" for touch in here), quote=True)
            cells.append(
                f"<td title='{title}' style='text-align:center; vertical-align:top; padding:2px 6px'>"
                f"<div style='background:rgba(230,159,0,{shade:.2f}); border-radius:4px; padding:2px 4px'>"
                f"<code{ink}>{escape(text).replace(' ', '·') or '&nbsp;'}</code></div><small>{told}</small></td>"
            )
        caption = "rows that land on each token, and their norm in units of the stream's"
        caption += "; what the chat template writes is grey" if self.parts else ""
        starts = range(0, len(cells), _IN_A_LINE)
        lines = "".join(f"<tr>{''.join(cells[start : start + _IN_A_LINE])}</tr>" for start in starts)
        return f"<table><caption>{caption}</caption>{lines}</table>"


@torch.no_grad()
def preview(
    model: LensModel,
    prompt: str,
    vectors: Any,
    *,
    position: Any = "front",
    prepend_bos: bool = True,
) -> Preview:
    """Show which row lands on which token of a prompt, and how large it is there.

    Runs the unsteered model up to the highest injection layer and no further.

    Args:
        model: The model.
        prompt: One text.
        vectors: One steering vector or other intervention, or several. For an intervention that does not add, the norm
            is that of the change it makes to the unsteered activations.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        prepend_bos: Whether the prompt starts with BOS.

    Raises:
        PromptError: The prompt is not text, or is longer than the context.
        PositionError: A vector does not fit onto the prompt.
        VectorError: A vector does not match the model.

    Warns:
        MassiveActivationWarning: A row is massive, or lands on a token that is; see `actadd_lens.steering.massive`.
    """
    backend, position = backend_of(model), as_position(position)
    found = check_interventions(backend, vectors)
    (tokens,) = encode_prompts(backend, (prompt,), prepend_bos=prepend_bos)
    prompts = prompts_of(backend, [tokens])
    facts = prompts.facts(0, backend)
    places = [touched(item, position, facts) for item in found]
    clean = read_clean(backend, [tokens], [item.spot for item in found]).values
    texts, touches = tuple(backend.token_strings(tokens)), []
    for number, (item, pairs) in enumerate(zip(found, places, strict=True)):
        stream = clean[item.spot].float()
        changes = _change(backend, item, position, stream, prompts).norm(dim=-1)[0].tolist()
        norms, sizes = _row_norms(item), stream[0].norm(dim=-1).tolist()
        is_span = as_span(placed(item, position)) is not None
        for row, token in pairs:
            norm = changes[token] if norms is None else norms[row]
            shown = None if is_span else row
            relative = norm / sizes[token] if sizes[token] > 0 else float("inf")
            touches.append(Touch(token, texts[token], number, item.label, item.layer, shown, norm, relative))
    parts = token_parts(model, prompt, prepend_bos=prepend_bos) if isinstance(prompt, ChatPrompt) else ()
    streams = {item.layer: clean[item.spot][0] for item in found if item.site == "resid_pre"}
    tokens_hit = notice_landings(streams, texts, found, touches, stacklevel=2)
    return Preview(prompt, texts, tuple(touches), parts, tokens_hit)


def notice_landings(
    streams: Mapping[int, Float[Tensor, "pos d_model"]],
    texts: Sequence[str],
    vectors: Sequence[Intervention],
    landed: Sequence[Any],
    *,
    stacklevel: int,
) -> tuple[Massive, ...]:
    """Warn once of massive rows and of massive tokens that something lands on; returns those tokens.

    Args:
        streams: The unsteered stream of the prompt at each layer.
        texts: Its tokens.
        vectors: What is done.
        landed: What lands where, each with `token`, `layer` and `norm`.
        stacklevel: As in `warnings.warn`.
    """
    hit = {(item.layer, item.token) for item in landed if item.norm > 0}
    tokens = [
        item
        for layer, stream in streams.items()
        for item in massive_tokens(stream, layer=layer, texts=texts)
        if (layer, item.index) in hit
    ]
    rows = [
        (vector.label, item)
        for vector in vectors
        if isinstance(vector, SteeringVector) and vector.layer in streams
        for item in massive(vector.injection, ordinary_of(streams[vector.layer]), layer=vector.layer)
    ]
    warn_of_landings(rows, tokens, stacklevel=stacklevel + 1)
    return tuple(tokens)


def _row_norms(item: Intervention) -> list[float] | None:
    """Norm of each row of what is added; None for interventions that do not add."""
    return item.injection.detach().float().norm(dim=-1).tolist() if isinstance(item, SteeringVector) else None


def _change(
    backend: Backend, item: Intervention, position: Position, stream: Float[Tensor, "1 pos width"], prompts: Prompts
) -> Float[Tensor, "1 pos width"]:
    """What an intervention does to the unsteered activations of one prompt."""
    ready = resolved(backend, assign([item], position), prompts)[item.spot]
    steered = act(stream, land(ready, prompts, reader=backend), past=0)
    return torch.zeros_like(stream) if steered is None else steered - stream
