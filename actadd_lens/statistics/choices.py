"""Choices: one half of the prompts to choose on, the other to report on."""

import numpy as np

from actadd_lens.errors import SettingError

FEWEST_TO_SPLIT = 8
"""Below this, halves are too small for a choice on one and a report on the other."""


def split_prompts(count: int, *, seed: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two random halves: one to choose on, one to report on.

    Raises:
        SettingError: There are fewer than 8 prompts.

    >>> choose, report = split_prompts(9)
    >>> len(choose), len(report), sorted(choose + report) == list(range(9))
    (4, 5, True)
    """
    if count < FEWEST_TO_SPLIT:
        raise SettingError(f"{count} prompts are too few to choose on one half and report on the other: use 8 or more.")
    order = np.random.default_rng(seed).permutation(count).tolist()
    half = count // 2
    return tuple(sorted(order[:half])), tuple(sorted(order[half:]))
