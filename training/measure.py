"""Does the embedded model speak, and is it steered? `python -m training.measure --out FILE`.

Fluency, sentiment, topics, and what stays as it was, each with an interval and null vectors. Layers, pairs and
coefficients are chosen on one half of the prompts and texts and reported on the other. Every part is written as soon
as it is done; a second run does only what is missing.
"""

import argparse
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

import actadd_lens as al
from actadd_lens import storybook
from actadd_lens.measuring import metrics, scorers
from actadd_lens.models import Backend, backend_of
from actadd_lens.prompts.texts import encode_prompts
from actadd_lens.statistics import split_prompts
from actadd_lens.writing.completions import score_texts
from actadd_lens.writing.decoding import Cell, DecodeSettings, continuation_texts, decode_cells
from actadd_lens.writing.sampling import Sampling

logger = logging.getLogger("training.measure")

TOP_P, NEW_TOKENS, NULLS = 0.9, 30, 20
SENTIMENT_PAIRS = ((" happy", " sad"), (" love", " hate"), ("I love it", "I hate it"))
SENTIMENT_COEFFICIENTS = (1.5, 2.0, 2.5, 3.0, 4.0)
TOPIC_COEFFICIENTS = (1.0, 1.5, 2.0, 2.5, 3.0)
SENTIMENT_ASKED, TOPIC_ASKED = 0.25, 0.4
"""What was set before measuring: a shift of mean VADER compound, a share of completions with a topic's word."""
FLATTERY = 1.25
"""So many times as much must be reached on the choosing half: what is chosen among many does less on the other."""
LARGEST_PERPLEXITY_RATIO = 1.5
"""The bound in the choice, on text that the vector is not about. The other half shows what remains of it."""
CHOICE_SAMPLES, REPORT_SAMPLES = 2, 10
OFF_TARGET_NULLS = 10
PARAGRAPH = 5
"""Sentences of a longer text."""


@dataclass(frozen=True)
class Bench:
    """The model and the halves of what it is measured on."""

    model: al.LensModel
    backend: Backend
    prompts: tuple[tuple[str, ...], tuple[str, ...]]

    @classmethod
    def of(cls, model: al.LensModel) -> "Bench":
        """Halves are drawn once, by seed 0."""
        return cls(model, backend_of(model), halves(storybook.neutral_prompts()))

    @property
    def middle(self) -> range:
        """Layers of the middle half of the depth."""
        return range(self.backend.n_layers // 4, self.backend.n_layers - self.backend.n_layers // 4)

    @property
    def later_layers(self) -> range:
        """Layers past the first quarter of the depth, without the last, from which no other block reads."""
        return range(self.backend.n_layers // 4 + 1, self.backend.n_layers - 1)


def halves(items: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """One half to choose on, one to report on."""
    choose, report = split_prompts(len(items))
    return tuple(items[index] for index in choose), tuple(items[index] for index in report)


def mean_scores(
    bench: Bench, vectors: Sequence[al.SteeringVector], scorer: scorers.Scorer, prompts: Sequence[str], n: int
) -> tuple[float, list[float]]:
    """Mean score of the unsteered texts, and of those of each vector, from shared batches."""
    rows = encode_prompts(bench.backend, prompts, room=NEW_TOKENS)
    conditions: list[tuple[al.SteeringVector, ...]] = [(), *((vector,) for vector in vectors)]
    cells = [Cell(row, condition) for condition in conditions for row in rows]
    settings = DecodeSettings(n=n, max_new_tokens=NEW_TOKENS, seed=1, sampling=Sampling(top_p=TOP_P))
    written = decode_cells(bench.backend, cells, settings)
    texts = continuation_texts(tuple(written))
    scores = score_texts(scorer, texts).reshape(len(conditions), -1).mean(axis=1)
    return float(scores[0]), [float(score) for score in scores[1:]]


def paragraphs(texts: Sequence[str]) -> list[str]:
    """Sentences joined by so many, in their order; what is left over is dropped."""
    whole = len(texts) - len(texts) % PARAGRAPH
    return [" ".join(texts[first : first + PARAGRAPH]) for first in range(0, whole, PARAGRAPH)]


@dataclass(frozen=True)
class Tried:
    """A vector on the choosing half: its mean score, how far that is from the unsteered one, what it costs."""

    vector: al.SteeringVector
    score: float
    effect: float
    perplexity_ratio: float

    def told(self) -> dict[str, Any]:
        """The same as plain values."""
        where = {"pair": self.vector.label, "layer": self.vector.layer, "coefficient": self.vector.coefficient}
        return {**where, "score": self.score, "effect": self.effect, "perplexity_ratio": self.perplexity_ratio}


def try_all(
    bench: Bench,
    pairs: Sequence[tuple[str, str]],
    layers: Sequence[int],
    coefficients: Sequence[float],
    scorer: scorers.Scorer,
    texts: Sequence[str],
) -> list[Tried]:
    """Every pair, layer and coefficient on the choosing half: the score of completions, the perplexity of other text.

    The perplexity ratio is the exponential of the mean rise in cross-entropy, predictions from injected positions
    left out.
    """
    found = al.compute_steering_vectors(bench.model, pairs, layers=layers)
    candidates = [coefficient * vector for vector, coefficient in itertools.product(found, coefficients)]
    plain, scores = mean_scores(bench, candidates, scorer, bench.prompts[0], CHOICE_SAMPLES)
    damage = al.sweep(
        bench.model, pairs, layers=layers, coefficients=coefficients, prompts=texts, metric=metrics.cross_entropy()
    )
    return [
        Tried(vector, score, score - plain, float(ratio))
        for vector, score, ratio in zip(candidates, scores, np.exp(damage.effects).ravel(), strict=True)
    ]


def choose(tried: Sequence[Tried], enough: Callable[[Tried], bool]) -> al.SteeringVector | None:
    """The gentlest on other text of those that do enough, else the one that does most, within the bound."""
    within = [one for one in tried if one.perplexity_ratio <= LARGEST_PERPLEXITY_RATIO]
    if able := [one for one in within if enough(one)]:
        return min(able, key=lambda one: one.perplexity_ratio).vector
    return max(within, key=lambda one: one.effect).vector if within else None


# -- the parts -------------------------------------------------------------------------------------------------


def fluency(bench: Bench) -> dict[str, Any]:
    """Fifty samples from the bare start of a text; how many repeat a run of six words three times."""
    start = (int(bench.backend.tokenizer.bos_token_id),)
    settings = DecodeSettings(n=50, max_new_tokens=80, seed=0, sampling=Sampling(top_p=TOP_P))
    texts = [item.text for item in decode_cells(bench.backend, [Cell(start, ())], settings)[0]]
    repeating = [text for text in texts if most_repeated(text, words=6) >= 3]
    return {"samples": texts, "repeating": len(repeating), "share_repeating": len(repeating) / len(texts)}


def most_repeated(text: str, *, words: int) -> int:
    """How often the most frequent run of so many words occurs."""
    split = text.split()
    runs = Counter(tuple(split[first : first + words]) for first in range(len(split) - words + 1))
    return max(runs.values(), default=0)


def sentiment(bench: Bench) -> dict[str, Any]:
    """Mean VADER compound by layer of the middle half, the vector and its negative, and what it does elsewhere."""
    texts = halves([text for topic in storybook.topics().values() for text in topic.sentences])
    tried = try_all(bench, SENTIMENT_PAIRS, bench.middle, SENTIMENT_COEFFICIENTS, scorers.sentiment(), texts[0])
    layers = {}
    for layer in bench.middle:
        here = [one for one in tried if one.vector.layer == layer]
        vector = choose(here, lambda one: one.effect >= FLATTERY * SENTIMENT_ASKED)
        if vector is not None:
            measured = completions(bench, vector, scorers.sentiment(), REPORT_SAMPLES, NULLS)
            reverse = completions(bench, -vector, scorers.sentiment(), REPORT_SAMPLES, 0)
            layers[str(layer)] = {**measured, "negative": reverse, **off_target(bench, vector, texts[1])}
    return {"layers": layers, "tried": [one.told() for one in tried]}


def topic(name: str) -> Callable[[Bench], dict[str, Any]]:
    """A part that measures one topic: the share of completions with any of its words."""

    def part(bench: Bench) -> dict[str, Any]:
        words = storybook.topics()[name].words
        others = [text for other in storybook.topics().values() if other.name != name for text in other.sentences]
        texts = halves(others)
        pairs = [(f" {word}", "") for word in likeliest_words(bench, (name, *words))]
        scorer = scorers.contains_word(words)
        tried = try_all(bench, pairs, bench.later_layers, TOPIC_COEFFICIENTS, scorer, texts[0])
        told = {"tried": [one.told() for one in tried]}
        vector = choose(tried, lambda one: one.score >= FLATTERY * TOPIC_ASKED)
        if vector is None:
            return {"chosen": None, **told}
        return {**completions(bench, vector, scorer, 5, NULLS), **off_target(bench, vector, texts[1]), **told}

    return part


def likeliest_words(bench: Bench, words: Sequence[str], count: int = 2) -> list[str]:
    """The first different words that are one token; the lists begin with the words that name the topic."""
    single = [word for word in dict.fromkeys(words) if len(bench.backend.encode(f" {word}", prepend_bos=False)) == 1]
    return single[:count]


def completions(bench: Bench, vector: al.SteeringVector, scorer: scorers.Scorer, n: int, nulls: int) -> dict[str, Any]:
    """The effect on the report half."""
    (measured,) = al.measure_completions(
        bench.model, bench.prompts[1], vector, scorer, n=n, nulls=nulls, max_new_tokens=NEW_TOKENS, top_p=TOP_P
    )
    effect = measured.effect
    told = {
        "pair": vector.label,
        "layer": vector.layer,
        "coefficient": vector.coefficient,
        "unsteered": effect.unsteered,
        "steered": effect.steered,
        "effect": effect.mean,
        "interval": [effect.low, effect.high],
        "prompts": effect.n_prompts,
        "samples": effect.n_samples,
    }
    if nulls:
        beyond = int((effect.nulls < effect.mean).sum())
        told |= {"nulls": effect.nulls.tolist(), "null_mean": float(effect.nulls.mean()), "nulls_beaten": beyond}
    logger.info("%s", {key: value for key, value in told.items() if key != "nulls"})
    return told


def off_target(bench: Bench, vector: al.SteeringVector, texts: Sequence[str]) -> dict[str, Any]:
    """Perplexity of other text, and the share of facts with the answer among the ten likeliest tokens.

    An injection at the front lies on the first tokens, so a text of one sentence is the hardest: longer ones are
    measured beside it.
    """
    answers = {fact.prompt: fact.answer for fact in storybook.cloze_facts()}

    def effect(chosen: Sequence[str], metric: metrics.Metric) -> al.Effect:
        return al.measure(bench.model, chosen, vector, metric, nulls=OFF_TARGET_NULLS).effect

    loss, longer = (effect(chosen, metrics.cross_entropy()) for chosen in (texts, paragraphs(texts)))
    hits = effect(list(answers), metrics.precision_at(10, answers))
    return {
        "perplexity_ratio": float(np.exp(loss.mean)),
        "perplexity_ratio_interval": [float(np.exp(loss.low)), float(np.exp(loss.high))],
        "perplexity_ratio_nulls": np.exp(loss.nulls).tolist(),
        "paragraph_ratio": float(np.exp(longer.mean)),
        "paragraph_ratio_interval": [float(np.exp(longer.low)), float(np.exp(longer.high))],
        "paragraph_ratio_nulls": np.exp(longer.nulls).tolist(),
        "cloze_p10": {
            "unsteered": hits.unsteered,
            "steered": hits.steered,
            "interval": [hits.low, hits.high],
            "nulls": hits.nulls.tolist(),
        },
    }


def parts() -> dict[str, Callable[[Bench], dict[str, Any]]]:
    """Everything that is measured, by name."""
    return {"fluency": fluency, "sentiment": sentiment, **{f"topic {name}": topic(name) for name in storybook.topics()}}


def main() -> None:
    """Read the command line, measure what is missing, write."""
    parser = argparse.ArgumentParser(description="Measure how a model speaks and how it is steered.")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, continued where it stands")
    parser.add_argument("--model", default="storybook", help="name or folder (default: the embedded model)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    bench = Bench.of(al.load_model(arguments.model))
    weights = bench.backend.fingerprint_sample()
    done: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if done.get("weights") != weights:
        done = {"model": bench.backend.name, "weights": weights}
    for name, part in tqdm(parts().items(), desc="parts"):
        if name not in done:
            logger.info("-- %s", name)
            done[name] = part(bench)
            temporary = arguments.out.with_suffix(".part")
            temporary.write_text(json.dumps(done, indent=1))
            temporary.replace(arguments.out)


if __name__ == "__main__":
    main()
