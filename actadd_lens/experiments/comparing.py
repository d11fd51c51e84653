"""The tasks of `actadd compare`: methods that need no training, on the package's own texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from actadd_lens import methods, storybook
from actadd_lens.checks import require
from actadd_lens.errors import SettingError
from actadd_lens.extending import load_extension
from actadd_lens.measuring import scorers
from actadd_lens.measuring.metrics import Metric, Reading
from actadd_lens.models import Backend, LensModel, backend_of

PAIRS = 24
"""Pairs of sentences that methods of many pairs read."""

PROMPTS = 12
"""Prompts that effects are measured on."""

TEXTS = 24
"""Texts that damage is measured on, halved."""


HEADS, FACTOR = 8, 5.0
"""Number of heads that SADI scales, and the smallest factor that its authors try; its delta is then calibrated."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be steered towards, and everything that contenders need for it.

    Attributes:
        name: The task.
        pair: A prompt pair of the paper's kind.
        pairs: Pairs of whole texts: a wanted one and another one.
        metric: What counts as effect.
        words: Words in front of the prompt that ask for the same.
        prompts: Prompts of the task.
        texts: Other texts, for damage.
    """

    name: str
    pair: tuple[str, str]
    pairs: tuple[tuple[str, str], ...]
    metric: Metric
    words: str
    prompts: tuple[str, ...]
    texts: tuple[str, ...]


TASKS = ("sentiment", "weddings")


def task(name: str) -> Task:
    """A task by its name.

    Raises:
        SettingError: There is no such task.
    """
    require(name in TASKS, "task", name, " or ".join(TASKS))
    moods = storybook.sentiment_sentences()
    texts = tuple(_beginning(text) for text in moods["neutral"][:TEXTS])
    prompts = storybook.neutral_prompts()[:PROMPTS]
    if name == "sentiment":
        good = (" happy", " glad", " good", " great", " wonderful", " lovely", " proud", " kind")
        bad = (" sad", " angry", " bad", " terrible", " awful", " ugly", " scared", " cruel")
        pairs = tuple(zip(moods["positive"][:PAIRS], moods["negative"][:PAIRS], strict=True))
        metric = log_odds("log-odds of good words against bad ones", good, bad)
        return Task(name, (" happy", " sad"), pairs, metric, "Everyone was happy and kind. ", prompts, texts)
    topic = storybook.topics()["weddings"]
    pairs = tuple(zip(topic.sentences[:PAIRS], moods["neutral"][TEXTS : TEXTS + PAIRS], strict=False))
    words = tuple(f" {word}" for word in topic.words)
    return Task(name, (" wedding", ""), pairs, log_odds("log-odds of wedding words", words),
                "This is a story about a wedding. ", prompts, texts)  # fmt: skip


def log_odds(name: str, words: Sequence[str], others: Sequence[str] = ()) -> Metric:
    """Log-odds of the first tokens of words, against those of others, or against everything else, in nats.

    Args:
        name: What the metric is called.
        words: Words, with the space that they start with.
        others: The other words; by default everything else.
    """

    def bind(backend: Backend) -> Callable[[Reading], torch.Tensor]:
        chosen, against = (sorted({backend.encode(word, prepend_bos=False)[0] for word in some})
                           for some in (words, others))  # fmt: skip
        if set(chosen) & set(against):
            raise SettingError(f"{name}: some words of the two lists begin with the same token of {backend.name}.")

        def measure(reading: Reading) -> torch.Tensor:
            log_probs = reading.logits.float().log_softmax(dim=-1)
            wanted = log_probs[:, chosen].logsumexp(dim=-1)
            if against:
                return wanted - log_probs[:, against].logsumexp(dim=-1)
            rest = log_probs.clone()
            rest[:, chosen] = -torch.inf
            return wanted - rest.logsumexp(dim=-1)

        return measure

    return Metric(name, "nats", "last", bind)


def contenders(
    model: LensModel, asked: Task, *, layer: int | None = None, others: Sequence[str] = ()
) -> Mapping[str, Callable[[LensModel], Any]]:
    """Methods that need no training, by name, each a function that makes it of a model.

    All read and act at one layer, so that the methods are compared, not the layers; but SADI chooses among the heads of
    all layers. InferAligner needs a second model, and is left out.

    Args:
        model: The model.
        asked: The task.
        layer: The layer; by default three fifths of the model's depth.
        others: Methods of installed extensions, each of which is called with the model, pairs of a wanted text and
            another one, and `layer=`.

    Raises:
        ExtensionError: There is no such extension, or it does not load.
    """
    backend = backend_of(model)
    number = backend.check_layer(round(0.6 * backend.n_layers) if layer is None else layer)

    def everywhere(found: LensModel) -> Any:
        return methods.actadd(found, asked.pair, layer=number).row(-1).at(position="all")

    wanted, other = ([pair[side] for pair in asked.pairs] for side in (0, 1))
    asking = [(asked.words + text, text) for text in storybook.neutral_prompts()[PROMPTS : PROMPTS + PAIRS]]
    added = {name: _of_extension(name, asked, number) for name in others}
    return added | {
        "ActAdd, rows at the front": lambda found: methods.actadd(found, asked.pair, layer=number),
        "ActAdd, last row on all tokens": everywhere,
        "CAA": lambda found: methods.caa(found, asked.pairs, layer=number, read=-1),
        "mean-centring": lambda found: methods.mean_centring(found, wanted, other, layer=number),
        "instruction, added": lambda found: methods.instruction(found, asking, layer=number).add(1.0),
        "instruction, projection set": lambda found: methods.instruction(found, asking, layer=number).set(),
        "probe, behind its gate": lambda found: methods.probe(found, other, wanted, layer=number).times(-1),
        "SADI, heads in one pass": lambda found: methods.sadi(
            found, asked.pairs, site="head", k=HEADS, strength=FACTOR, rule="running"
        ),
    }


def _of_extension(name: str, asked: Task, layer: int) -> Callable[[LensModel], Any]:
    method = load_extension("methods", name)
    return lambda found: method(found, asked.pairs, layer=layer)


def scorer(asked: Task) -> scorers.Scorer:
    """What scores the task in written texts: VADER's compound for a mood, the share of texts with a word of a topic."""
    if asked.name == "sentiment":
        return scorers.sentiment()
    return scorers.contains_word(storybook.topics()[asked.name].words)


def _beginning(text: str) -> str:
    """A sentence up to its middle, so that there is a next word to predict."""
    words = text.split()
    return " ".join(words[: max(4, len(words) // 2)])
