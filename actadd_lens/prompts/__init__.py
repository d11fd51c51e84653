"""What a model reads: prompt pairs, texts as tokens, and places and spans among the tokens."""

from actadd_lens.prompts.pairs import PairTokens, PromptPair, as_pair
from actadd_lens.prompts.positions import Position, check_position, start_of
from actadd_lens.prompts.spans import after, first, since

__all__ = ["PairTokens", "Position", "PromptPair", "after", "as_pair", "check_position", "first", "since", "start_of"]
