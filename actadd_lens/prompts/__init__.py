"""What a model is given to read: prompt pairs, texts as tokens, and places among them."""

from actadd_lens.prompts.pairs import PairTokens, PromptPair, as_pair
from actadd_lens.prompts.positions import Position, check_position, start_of

__all__ = ["PairTokens", "Position", "PromptPair", "as_pair", "check_position", "start_of"]
