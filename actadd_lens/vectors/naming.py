"""What rows and vectors are called in tables and pictures."""

from collections.abc import Sequence
from html import escape

from actadd_lens.models import Backend
from actadd_lens.vectors.interventions import Intervention
from actadd_lens.vectors.vector import SteeringVector

_MOVED = ("row(", "mean_rows(", "shuffle_rows(")
"""Steps after which row i no longer belongs to token i of the pair."""


def visible(text: str) -> str:
    r"""A token as tables and pictures show it: spaces as dots, line ends as arrows.

    >>> visible(" wedding\n")
    '·wedding⏎'
    """
    shown = text.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥") or "∅"
    return "".join(letter if letter.isprintable() else "�" for letter in shown)


def row_names(backend: Backend, vector: SteeringVector) -> tuple[str, ...]:
    """Each row by its number and, if known, by the tokens whose difference it is."""
    told = vector.provenance
    plus, minus = told.positive_tokens, told.negative_tokens
    moved = any(step.startswith(_MOVED) for step in told.steps)
    if plus is None or len(plus) != vector.rows or moved:
        return tuple(f"row {row}" for row in range(vector.rows))
    names = [visible(text) for text in backend.token_strings(plus)]
    if minus is not None:
        others = [visible(text) for text in backend.token_strings(minus)]
        names = [name if name == other else f"{name} − {other}" for name, other in zip(names, others, strict=True)]
    return tuple(f"{row}: {name}" for row, name in enumerate(names))


def vector_names(vectors: Sequence[Intervention]) -> tuple[str, ...]:
    """Each vector by coefficient, label and layer; what all share is left out if the rest distinguishes them."""
    labels, layers = {vector.label for vector in vectors}, {vector.layer for vector in vectors}
    if len(labels) == 1 and len(layers) == len(vectors) > 1:
        return tuple(f"layer {vector.layer}" for vector in vectors)
    return tuple(
        _coefficient(vector) + vector.label + (f", layer {vector.layer}" if len(layers) > 1 else "")
        for vector in vectors
    )


def _coefficient(vector: Intervention) -> str:
    return f"{vector.coefficient:g} × " if isinstance(vector, SteeringVector) and vector.coefficient != 1 else ""


def html_token(text: str, *, title: str = "", shade: str = "transparent") -> str:
    """A token in a notebook: spaces visible, shaded, with a note that shows under the mouse."""
    style = f"background:{shade}; color:#111; border-radius:4px; padding:1px 4px; margin:1px; white-space:nowrap"
    shown = escape(visible(text))
    return f"<code title='{escape(title, quote=True)}' style='{style}; display:inline-block'>{shown}</code>"


def signed_shade(value: float, largest: float) -> str:
    """Orange above zero, purple below, as the heat maps have it."""
    share = min(1.0, abs(value) / largest) if largest > 0 else 0.0
    return f"rgba({'230,97,1' if value > 0 else '94,60,153'},{0.6 * share:.2f})"
