"""An own byte-level BPE, as GPT-2's, in which the words that people steer with are single tokens."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS = "<|endoftext|>"

_LISTS = Path(__file__).parent / "steering_words.txt"


def read_steering_words() -> tuple[list[str], list[str]]:
    """The words that steering vectors are made of and that one-token metrics read: moods, topics."""
    lines = _LISTS.read_text(encoding="utf-8").splitlines()
    words = " ".join(line for line in lines if not line.startswith("#")).split()
    middle = words.index("topics")
    return words[1:middle], words[middle + 1 :]


def steering_tokens() -> list[str]:
    """The forms that are to be one token: " love", " Love", "Love" and "love"; of topics " wedding" only."""
    mood_words, topic_words = read_steering_words()
    moods = [form for word in mood_words for form in (f" {word}", word.title(), f" {word.title()}", word)]
    return moods + [f" {word}" for word in topic_words]


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of `vocab_size` tokens at most, the text-start mark among them.

    Learned merges give way to those that the wanted words need; how many that are depends in turn on the
    learned ones.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    lines = list(texts)
    reserve = needed = 0
    while True:
        tokenizer.train_from_iterator(lines, _trainer(vocab_size - reserve))
        complete = add_merges(tokenizer, steering_tokens(), 2 * vocab_size)
        needed = complete.get_vocab_size() - tokenizer.get_vocab_size()
        if needed <= reserve:
            return complete
        reserve = needed


def _trainer(vocab_size: int) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


def add_merges(tokenizer: Tokenizer, wanted: Iterable[str], vocab_size: int) -> Tokenizer:
    """The tokenizer with the wanted words as single tokens, as far as `vocab_size` goes.

    Plain merges after all others, not added tokens: an added token would also be cut out of the middle of
    longer words. Merges added for one word can come in the way of another's, so what is still apart is
    looked at again.
    """
    apart = list(wanted)
    while apart:
        state = json.loads(tokenizer.to_str())
        vocab, merges = state["model"]["vocab"], state["model"]["merges"]
        known = len(merges)
        for word in apart:
            pieces = tokenizer.encode(word, add_special_tokens=False).tokens
            while len(pieces) > 1 and len(vocab) < vocab_size:
                left, right = pieces[0], pieces[1]
                if left + right not in vocab or [left, right] not in merges:
                    vocab.setdefault(left + right, len(vocab))
                    merges.append([left, right])
                pieces = [left + right, *pieces[2:]]
        if len(merges) == known:
            break
        tokenizer = Tokenizer.from_str(json.dumps(state))
        apart = missing_words(tokenizer)
    return tokenizer


def missing_words(tokenizer: Tokenizer) -> list[str]:
    """Wanted forms that are more than one token all the same."""
    return [form for form in steering_tokens() if len(tokenizer.encode(form, add_special_tokens=False).ids) > 1]


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json`. As with GPT-2 the start mark is put first by who calls, or by TransformerLens."""
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def start_id(tokenizer: Tokenizer) -> int:
    """Id of the mark that starts and ends every text."""
    found = tokenizer.token_to_id(BOS)
    if found is None:
        raise ValueError(f"The tokenizer has no token {BOS}: it was not written by training.prepare.")
    return found


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a prepared or exported folder."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
