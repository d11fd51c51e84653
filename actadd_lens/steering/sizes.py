"""How large an injection is compared with the stream that it lands on."""

from typing import Any

import torch

from actadd_lens.errors import PositionError
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.positions import as_position
from actadd_lens.prompts.texts import as_texts, encode_prompts
from actadd_lens.steering.clean import prompts_of, read_clean
from actadd_lens.steering.landings import touched
from actadd_lens.vectors.vector import SteeringVector, check_vectors


def relative_sizes(
    model: LensModel, vector: SteeringVector, prompts: Any, position: Any, prepend_bos: bool = True
) -> float:
    """Norm of the injection in units of the stream's: the median over rows that are not zero, tokens and prompts.

    Args:
        model: The model.
        vector: The vector with its coefficient.
        prompts: One text or several.
        position: Where row 0 lands, for a vector without a position of its own.
        prepend_bos: Whether prompts start with BOS.

    Raises:
        PositionError: The vector does not fit onto a prompt, or lands on none of its tokens.
    """
    backend, place = backend_of(model), as_position(position)
    check_vectors(backend, vector)
    tokens = encode_prompts(backend, as_texts(prompts), prepend_bos=prepend_bos)
    known = prompts_of(backend, tokens)
    places = [touched(vector, place, known.facts(row, backend)) for row in range(len(tokens))]
    norms = vector.injection.detach().float().norm(dim=-1).tolist()
    stream = read_clean(backend, tokens, [vector.spot]).values[vector.spot].float().norm(dim=-1)
    found = [
        norms[row] / float(stream[number, token])
        for number, pairs in enumerate(places)
        for row, token in pairs
        if norms[row] > 0 and float(stream[number, token]) > 0
    ]
    if not found:
        raise PositionError(
            f"{vector.label} lands on no token of these prompts, so it has no size there: name a position "
            "inside the prompt, such as 'all'."
        )
    return float(torch.tensor(found).median())
