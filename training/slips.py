"""Slips: tokens of the input replaced by others, while what is to be predicted stays as it was.

Why: a model that has always seen clean text is thrown by one odd position, whatever is odd about it. An injection of
any direction then costs about as much, with a meaning or without. So here and there a token, and in some texts the
first few, are those of another place: akin to word dropout (Bowman et al. 2016, arXiv 1511.06349, section 3.1), which
puts a mark for an unknown word there.
"""

import numpy as np
from numpy.typing import NDArray

SLIP_SHARE = 0.05
"""Of all tokens."""
OPENING_SHARE = 0.3
"""Of the texts, those whose first tokens are replaced: one to `LONGEST_OPENING`, evenly."""
LONGEST_OPENING = 4


def with_slips(rng: np.random.Generator, windows: NDArray[np.uint16], start: int) -> NDArray[np.uint16]:
    """The windows as the model gets to see them.

    Args:
        rng: Decides what is replaced, and by what.
        windows: [rows, context] token ids.
        start: The text-start mark; it is never replaced, and never a replacement.
    """
    slips = rng.random(windows.shape) < SLIP_SHARE
    starts = windows == start
    lengths = rng.integers(1, LONGEST_OPENING, windows.shape, endpoint=True)
    lengths[rng.random(windows.shape) >= OPENING_SHARE] = 0
    for offset in range(1, LONGEST_OPENING + 1):
        slips[:, offset:] |= (starts & (lengths >= offset))[:, :-offset]
    slips &= ~starts
    seen = windows.copy()
    seen[slips] = rng.choice(windows[~starts], size=int(slips.sum()))
    return seen
