"""An own byte-level BPE, as GPT-2's, in which the words that people steer with are single tokens."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS = "<|endoftext|>"

# Single tokens whatever their frequency: what steering vectors are made of, and what a one-token metric reads.
MOOD_WORDS = """
love hate happy sad joy anger angry fear calm good bad kind cruel like dislike hope praise blame peace war yes no
""".split()
TOPIC_WORDS = """
wedding weddings bride groom marriage married marry cooking cook kitchen recipe football soccer space planet planets
rocket star stars music song songs guitar sea ocean ships ship sailor garden gardens flowers dog dogs cat cats horse
horses winter summer school teacher rich poor friend enemy friends enemies death life gold money ghost magic dragon dragons
king queen knight church doctor hospital food bread cake coffee tea art painting science computer computers robot robots
travel train game games beautiful ugly wonderful terrible brave afraid scared lonely grateful excited disgusting awful
excellent polite rude honest truth lie win lose laugh cry smile
""".split()


def steering_tokens() -> list[str]:
    """The words in the forms that are to be one token: " love", " Love", "Love" and "love"; of topics " wedding" only."""
    moods = [form for word in MOOD_WORDS for form in (f" {word}", word.title(), f" {word.title()}", word)]
    return moods + [f" {word}" for word in TOPIC_WORDS]


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of `vocab_size` tokens at most, the text-start mark among them.

    Learned merges give way to those that the wanted words need; how many that are depends in turn on the learned ones.
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
    """The tokenizer with the wanted words as single tokens, by merges after all others, as far as `vocab_size` goes.

    Plain merges, not added tokens: an added token would also be cut out of the middle of longer words. Merges added for one
    word can come in the way of another's, so what is still apart is looked at again.
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
    return [
        form for form in steering_tokens() if len(tokenizer.encode(form, add_special_tokens=False).ids) > 1
    ]


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json`. Every text starts with the mark that also ends it: the model has seen no other start."""
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
            ),
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def load_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
