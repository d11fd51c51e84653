"""Identical prompts count as one prompt: giving one twice adds no information."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float


def first_places(prompts: Sequence[Hashable]) -> list[int]:
    """Index of each prompt's first occurrence, in order.

    >>> first_places(["a", "b", "a"])
    [0, 1]
    """
    found: dict[Hashable, int] = {}
    for place, prompt in enumerate(prompts):
        found.setdefault(prompt, place)
    return list(found.values())


def merged(
    values: Float[np.ndarray, "prompts *any"], prompts: Sequence[Hashable]
) -> Float[np.ndarray, "distinct *any"]:
    """One number for each distinct prompt: the mean over its repeats.

    Args:
        values: Numbers of each prompt, the first axis being that of prompts.
        prompts: The prompts.

    >>> merged(np.array([1.0, 5.0, 3.0]), ["a", "b", "a"])
    array([2., 5.])
    """
    found = np.asarray(values)
    firsts = first_places(prompts)
    if len(firsts) == len(prompts):
        return found
    places = {prompts[first]: number for number, first in enumerate(firsts)}
    total, count = np.zeros((len(firsts), *found.shape[1:])), np.zeros(len(firsts))
    for prompt, value in zip(prompts, found, strict=True):
        total[places[prompt]] += value
        count[places[prompt]] += 1
    return np.asarray(total / count.reshape(-1, *[1] * (found.ndim - 1)))
