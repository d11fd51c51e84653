"""Logit lens of a steering vector: which tokens its rows promote and demote."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.analysis.lens.jacobian import JacobianLens
from actadd_lens.analysis.lens.reading import Lens
from actadd_lens.analysis.lens.results import LensOrder, LensReading, LensRow, LogitLens, adjusted
from actadd_lens.checks import check_choice, check_flags, check_run, require
from actadd_lens.errors import SettingError
from actadd_lens.measuring.measure import Condition, ConditionRows, null_conditions
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.spans import as_span
from actadd_lens.prompts.texts import encode_prompts
from actadd_lens.steering.interventions import placed
from actadd_lens.steering.landings import touched
from actadd_lens.vectors.naming import row_names, vector_names
from actadd_lens.vectors.vector import SteeringVector, as_vectors, check_vectors


@torch.no_grad()
def logit_lens(
    model: LensModel,
    vectors: SteeringVector | Sequence[SteeringVector],
    *,
    k: int = 10,
    through: JacobianLens | None = None,
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
    `anchored` reads what the injection changes where it lands in a prompt: lens(stream + row) - lens(stream), for each
    vector alone. Every value has a z-score against random directions of the same size. Logits are taken before any soft
    cap (Gemma 2), and include any scale that the model puts on them (Granite, Cohere).

    Args:
        model: The model.
        vectors: One steering vector or several, of any layers.
        k: Tokens in each list.
        through: A J-lens (`fit_jacobian`) that carries rows to the end of the model first, each by the Jacobian of its
            layer; z-scores are against random directions at the layer, carried in the same way.
        reading: `direction` or `anchored`.
        prompt: The prompt that the rows land on; needed for `anchored`.
        order: Rank tokens by their `value`, or by their `z` score, which discounts what any vector of that size does.
        tokens: Tokens to follow, as texts of one token or ids, wherever they rank.
        position: Where row 0 lands, for vectors without a position of their own; `all` is read at the last token.
        nulls: Number of null vectors, each rescaled to the norm that the readout sees of the row.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether the prompt starts with BOS.

    Raises:
        SettingError: A setting is out of range, the anchored reading has no prompt or a J-lens, or the J-lens lacks a
            vector's layer.
        FingerprintError: The J-lens was fitted on another model.
        PromptError: The prompt is not text, or is longer than the context, or a followed text is not one token.
        PositionError: A vector does not fit onto the prompt.
        VectorError: A vector does not match the model.
        ModelError: It is not known how the model computes its logits.
    """
    check_run(seed=seed)
    backend = backend_of(model)
    found = check_vectors(backend, vectors, what="the logit lens")
    lens = Lens.of(backend, k, tokens, order)
    check_choice(reading, "reading", "direction", "anchored")
    check_flags(prepend_bos=prepend_bos)
    require(prompt is None or isinstance(prompt, str), "prompt", prompt, "a text, or None")
    if reading == "anchored" and prompt is None:
        raise SettingError("The anchored reading is taken where the rows land in a prompt: pass prompt=.")
    lenses = _lenses(backend, lens, found, through, reading)
    anchors = None
    if reading == "anchored":
        anchors = _anchors(backend, found, prompt, position=position, prepend_bos=prepend_bos)
    drawn = null_conditions(model, found, nulls, null_kind, seed)
    rows: list[LensRow] = []
    for number, (vector, name) in enumerate(zip(found, vector_names(found), strict=True)):
        told = [
            {"vector": number, "name": name, "layer": vector.layer, "row": row, "row_name": row_name}
            for row, row_name in enumerate(row_names(backend, vector))
        ]
        null_rows = torch.stack([as_vectors(condition)[number].injection for condition in drawn]) if drawn else None
        rows += lenses[number].read(vector.injection, None if anchors is None else anchors[number], null_rows, told)
    title = (
        ("logit lens" if through is None else "J-lens")
        + f", {reading} reading"
        + (f", on {prompt!r}" if anchors is not None else "")
    )
    if len({vector.label for vector in found}) == 1:
        title += f": {found[0].label}" + (f", layer {found[0].layer}" if len(found) == 1 else "")
    return LogitLens(reading, adjusted(rows), k, prompt if anchors is not None else None, nulls, title)


def _lenses(
    backend: Backend, lens: Lens, vectors: Sequence[SteeringVector], through: JacobianLens | None, reading: LensReading
) -> list[Lens]:
    """The lens of each vector's layer, read through its Jacobian where there is one."""
    if through is None:
        return [lens] * len(vectors)
    if not isinstance(through, JacobianLens):
        raise SettingError(f"through is {through!r}: expected a J-lens, as fit_jacobian makes it.")
    if reading == "anchored":
        raise SettingError("A J-lens reads directions: leave reading='anchored' out, or through=.")
    through.check_model(backend)
    by_layer = {layer: lens.through(through.at(layer)) for layer in {vector.layer for vector in vectors}}
    return [by_layer[vector.layer] for vector in vectors]


def _anchors(
    backend: Backend, vectors: Condition, prompt: Any, *, position: Position, prepend_bos: bool
) -> list[Float[Tensor, "rows d_model"]]:
    """The unsteered stream where each vector's rows land."""
    (ids,) = encode_prompts(backend, (prompt,), prepend_bos=prepend_bos)
    pass_rows = ConditionRows(backend, [ids], [()], vectors, position)
    streams = pass_rows.streams(torch.arange(len(ids), device=backend.device)[None])[:, 0]
    anchors = []
    for vector in vectors:
        places = touched(vector, position, pass_rows.prompts.facts(0, backend))
        is_span = as_span(placed(vector, position)) is not None
        tokens = [token for _, token in (places[-1:] if is_span else places)]
        anchors.append(streams[vector.layer, tokens])
    return anchors
