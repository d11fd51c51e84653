"""Shift: which tokens a steering vector makes likelier, after a prompt and over texts (section 2c)."""

from actadd_lens.analysis.shift.next_token import NextTokenShift, ShiftedToken, next_token_shift
from actadd_lens.analysis.shift.occurrences import Occurrences, read_occurrences
from actadd_lens.analysis.shift.over_texts import TextShift, TextToken, text_shift

__all__ = [
    "NextTokenShift",
    "Occurrences",
    "ShiftedToken",
    "TextShift",
    "TextToken",
    "next_token_shift",
    "read_occurrences",
    "text_shift",
]
