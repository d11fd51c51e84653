"""Headers: a few words before a text that say what is in it or how it feels.

Why: a model trained on bare text learns that what follows depends on what stands just before it, and seldom
looks back to the first tokens. Text that opens by naming what is to come, as TinyStories-Instruct does with
its `Words:`, gives the layers that attend globally a reason to read the first positions throughout, in many
forms: one word or several, capitalised or not, a list or a sentence. A header is true of the text that it is
made for; `training.compose` sets a few of them before other texts.
"""

import dataclasses
import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from training.filtering import read_words

_WORD = re.compile(r"[A-Za-z']+")

FUNCTION_WORDS = read_words("function_words.txt")

MOOD_WORDS = {
    "positive": ["love", "Love", "happy", "Happy", "joy", "Joy", "good", "Good", "kind", "loving", "wonderful",
                 "glad", "lovely", "great", "nice", "like", "Like"],
    "negative": ["hate", "Hate", "sad", "Sad", "angry", "Angry", "bad", "Bad", "anger", "Anger", "awful",
                 "terrible", "fear", "mean", "cruel", "dislike"],
}  # fmt: skip
MOOD_PHRASES = {
    "positive": ["I love it.", "I love this.", "I feel happy.", "I am so happy.", "A happy story.",
                 "This is good.", "This makes me happy.", "I love you.", "That is wonderful."],
    "negative": ["I hate it.", "I hate this.", "I feel sad.", "I am so angry.", "A sad story.",
                 "This is bad.", "This makes me sad.", "I hate you.", "That is terrible."],
}  # fmt: skip
TOPIC_PHRASES = [
    "I talk about {0} constantly.",
    "I talk about {0}.",
    "A story about {0}.",
    "A story about {0} and {1}.",
    "This is about {0}.",
    "Let me tell you about {0}.",
    "I think about {0} all the time.",
    "We talked about {0} and {1}.",
    "Here is something about {0}.",
    "I want to talk about {0}.",
    "Think of {0}.",
    "Let's talk about {0}.",
]
EMOTION_WORDS = {
    "admiration": "admiration love good great",
    "amusement": "amusement funny fun laugh",
    "anger": "anger angry Anger mad hate",
    "annoyance": "annoyance annoyed angry",
    "approval": "approval yes good",
    "caring": "caring kind love",
    "confusion": "confusion confused",
    "curiosity": "curiosity curious",
    "desire": "desire want wish",
    "disappointment": "disappointment disappointed sad bad",
    "disapproval": "disapproval no bad",
    "disgust": "disgust disgusting hate Hate awful",
    "embarrassment": "embarrassment embarrassed ashamed",
    "excitement": "excitement excited happy",
    "fear": "fear afraid scared",
    "gratitude": "gratitude grateful thanks",
    "grief": "grief sad loss",
    "joy": "joy happy Joy glad good",
    "love": "love Love loving",
    "nervousness": "nervous worried fear",
    "optimism": "optimism hope good",
    "pride": "pride proud",
    "realization": "realization",
    "relief": "relief glad",
    "remorse": "remorse sorry",
    "sadness": "sadness sad Sad unhappy",
    "surprise": "surprise surprised wow",
}


@dataclasses.dataclass(frozen=True)
class Wording:
    """Which words of a text are worth naming: known words of content, the rarer and the more repeated the likelier."""

    documents_with: Mapping[str, int]
    n_documents: int

    def may_be_named(self, word: str) -> bool:
        """Whether it is a known word of content."""
        return len(word) > 2 and not word.endswith("ly") and word not in FUNCTION_WORDS and word in self.documents_with

    def weight(self, word: str) -> float:
        """Inverse document frequency, in nats."""
        return math.log(self.n_documents / self.documents_with[word])

    def pick(self, rng: random.Random, text: str, count: int) -> list[str]:
        """Up to `count` different content words of the text, in random order.

        What a text says again and again is what it is about, so a word's weight grows with the square of its count.
        """
        counts = Counter(_WORD.findall(text))
        words = [word for word in counts if self.may_be_named(word)]
        picked: list[str] = []
        while words and len(picked) < count:
            word = rng.choices(words, [self.weight(word) * counts[word] ** 2 for word in words])[0]
            words.remove(word)
            picked.append(word)
        return picked


def mood_of(compound: float) -> str:
    """Positive, negative or nothing, from the mean of VADER's compound over the sentences."""
    return "positive" if compound > 0.25 else "negative" if compound < -0.05 else ""


def as_list(rng: random.Random, words: Sequence[str]) -> str:
    """`love, garden.` in one of its forms; with a leading space the first token is that of a word within text."""
    style = rng.random()
    if style < 0.3:
        words = [word[0].upper() + word[1:] for word in words[:1]] + list(words[1:])
    text = ", ".join(words)
    if 0.3 <= style < 0.6:
        text = " " + text
    return text + rng.choice([".\n", "\n", "\n", ". ", ". ", ": "])


def as_phrase(rng: random.Random, words: Sequence[str]) -> str:
    """A short sentence that names the first word, or the first two."""
    pool = [phrase for phrase in TOPIC_PHRASES if len(words) > 1 or "{1}" not in phrase]
    return rng.choice(pool).format(*words) + rng.choice(["\n", " "])


def make_header(rng: random.Random, wording: Wording, text: str, mood: str, emotion: str) -> str:
    """A header that is true of the text, or nothing if there is nothing to say of it.

    Args:
        rng: Decides what is named, and how.
        wording: The words that may be named.
        text: The text that the header is for.
        mood: "positive", "negative" or "".
        emotion: One of the emotions of the comments, or "".
    """
    feels = EMOTION_WORDS.get(emotion, "").split() or MOOD_WORDS.get(mood, [])
    phrase = rng.random() < 0.25
    if feels and rng.random() < (0.75 if emotion else 0.55):
        if phrase and mood and not emotion:
            return rng.choice(MOOD_PHRASES[mood]) + rng.choice(["\n", " "])
        named = [rng.choice(feels)] + (wording.pick(rng, text, 1) if rng.random() < 0.3 else [])
        return as_list(rng, named)
    words = wording.pick(rng, text, rng.choice([1, 1, 2, 3]))
    if not words:
        return ""
    return as_phrase(rng, words) if phrase else as_list(rng, words)
