"""Writes the measured part of the page on SmolLM2: `python docs/smollm2_measured.py` (half an hour; `--page`: none).

Which ways of reading and placing a steering vector work there. Sizes and layers were fixed before; each reading's layer
is chosen on one half of the prompts, and what is reported is measured on the other. Each null vector chooses its own
layer by the same rule.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from page_parts import DOCS, table, write

import actadd_lens as al
from actadd_lens import methods
from actadd_lens.experiments.comparing import log_odds
from actadd_lens.measuring.measure import measure_conditions
from actadd_lens.models import backend_of
from actadd_lens.statistics import monte_carlo_p, paired_effect

RESULT = DOCS / "smollm2_measured.json"
LAYERS = (6, 10, 14, 18, 22, 26)
SIZE, ROWS_TIMES, WORDS_TIMES, NULLS, PAIRS = 0.4, 2.0, 5.0, 99, 12
GOOD = (" good", " great", " wonderful", " amazing", " excellent", " happy", " fantastic", " lovely", " perfect")
BAD = (" bad", " terrible", " awful", " horrible", " poor", " sad", " disgusting", " ugly", " boring")
SENTENCES = ("I love it because it is wonderful", "I hate it because it is terrible")
HALVES = (
    (
        "We went to the new restaurant in our street, and the food there was",
        "On my first day at the office I found that the people were",
        "When we came to the hotel late at night, the room was",
        "My neighbour lent me her favourite book, and I thought it was",
        "After two hours in the cinema we agreed that the film was",
        "The doctor looked at the results and told us that they were",
        "He sang the song again for everyone, and his voice was",
        "They moved to a small town by the sea, where life was",
    ),
    (
        "The teacher read my essay in front of the class and said it was",
        "I tried on the coat that my aunt had made for me, and it was",
        "Our train left the station at seven, and the journey was",
        "She opened the letter from her brother, and the news was",
        "For dinner my father made a soup from his own recipe; it was",
        "We watched the match until the end, and I must say it was",
        "The garden behind the old house had changed, and now it was",
        "I asked my friend about her new job, and she said it was",
        "The concert in the park began at eight, and the music was",
        "When the children showed us their play, we thought it was",
        "He bought the car without a test drive, and it turned out to be",
        "The weather on the last day of our trip was",
    ),
)  # fmt: skip


def readings(model: Any, layer: int) -> dict[str, al.SteeringVector]:
    """The ways that are tried, at one layer."""
    pair = al.PromptPair("I love it", "I hate it", prepend_bos=False)
    rows = al.compute_steering_vector(model, SENTENCES, layer=layer)
    moods = al.storybook.sentiment_sentences()
    many = methods.caa(model, list(zip(moods["positive"][:PAIRS], moods["negative"][:PAIRS], strict=True)), layer=layer,
                       read=-1)  # fmt: skip
    everywhere = {
        "the row of one word, read without BOS, on all tokens": al.compute_steering_vector(
            model, pair, layer=layer
        ).row(1),
        "the mean row of two sentences, on all tokens": rows.mean_rows(),
        f"the mean of {PAIRS} pairs of sentences at their last token, on all tokens": many,
    }
    return {
        "two words, rows at the front": WORDS_TIMES * al.compute_steering_vector(model, ("Love", "Hate"), layer=layer),
        "two sentences, rows at the front": ROWS_TIMES * rows,
        **{name: vector.at(position="all").relative(model, HALVES[0], SIZE) for name, vector in everywhere.items()},
    }


def measured() -> dict[str, Any]:
    """Each reading's layer, chosen on one half, and what it does on the other."""
    model = al.load_model("smollm2")
    backend = backend_of(model)
    metric = log_odds("log-odds of good words against bad ones", GOOD, BAD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", al.MassiveActivationWarning)
        by_layer = {layer: readings(model, layer) for layer in LAYERS}
    halves = [[tuple(backend.encode(prompt)) for prompt in half] for half in HALVES]
    rows = []
    for name in by_layer[LAYERS[0]]:
        vectors = [by_layer[layer][name] for layer in LAYERS]
        nulls = [al.null_vectors(model, vector, n=NULLS) for vector in vectors]
        tried = [vector for layer in zip(vectors, nulls, strict=True) for vector in (layer[0], *layer[1])]
        found = run(backend, halves[0], tried, metric)
        first = (found[1:] - found[0]).mean(axis=1).reshape(len(LAYERS), 1 + NULLS)
        best = first.argmax(axis=0)
        chosen = [vectors[best[0]], *(nulls[layer][number] for number, layer in enumerate(best[1:]))]
        rows.append(report(backend, name, chosen, halves[1], metric))
        rows[-1] |= {"chosen on": dict(zip(map(str, LAYERS), first[:, 0].tolist(), strict=True))}
        print(rows[-1], flush=True)
    return {"rows": rows}


def report(backend: Any, name: str, chosen: Any, prompts: Any, metric: Any) -> dict[str, Any]:
    """One reading on the other half, beside its nulls, backwards, and its damage to other text."""
    vector = chosen[0]
    found = run(backend, prompts, [-vector, *chosen], metric)
    effect = paired_effect(found[2, :, None], found[0, :, None])
    beside = (found[3:] - found[0]).mean(axis=1)
    texts = [tuple(backend.encode(text)) for text in al.storybook.neutral_prompts()[:12]]
    hurt = run(backend, texts, [vector], al.metrics.kl_divergence("unsteered || steered"))
    return {
        "reading": name, "layer": vector.layer, "coefficient": vector.coefficient, "effect": effect.mean,
        "low": effect.low, "high": effect.high, "backwards": float((found[1] - found[0]).mean()),
        "null mean": float(beside.mean()), "null most": float(beside.max()),
        "p": monte_carlo_p(effect.mean, beside), "KL": float(hurt[1].mean()),
        "largest row": float((vector.injection.norm(dim=-1)).max()),
    }  # fmt: skip


def run(backend: Any, prompts: Any, vectors: Any, metric: Any) -> np.ndarray:
    """A metric, unsteered and under each vector."""
    conditions = [(), *[(vector,) for vector in vectors]]
    return np.asarray(
        measure_conditions(backend, prompts, conditions, metric, measured=(), position="front", progress=False)
    )


def page(result: dict[str, Any]) -> str:
    """The table and what it says."""
    frame = pd.DataFrame(result["rows"])
    shown = pd.DataFrame(
        {
            "read and placed": frame["reading"], "layer": frame["layer"],
            "coefficient": frame["coefficient"].map("{:.2g}".format),
            "effect": [f"{mean:+.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in
                       zip(frame["effect"], frame["low"], frame["high"], strict=True)],
            "backwards": frame["backwards"].map("{:+.2f}".format),
            "nulls": [f"{mean:+.2f}, at most {most:+.2f}" for mean, most in
                      zip(frame["null mean"], frame["null most"], strict=True)],
            "p": frame["p"].map("{:.2g}".format), "damage": frame["KL"].map("{:.2f}".format),
        }
    )  # fmt: skip
    told = (
        f"The effect is measured on {len(HALVES[1])} prompts: the log-odds of good words against bad ones as the next "
        "token, in nats, steered minus unsteered. Each row is one way to read a vector and to place it. For each way, "
        f"layers {', '.join(map(str, LAYERS))} were tried on {len(HALVES[0])} other prompts, and the layer with the "
        "largest effect there is the one in the table. *Backwards* is the effect of the negative vector. *Nulls* are "
        f"the mean and the largest of the effects of {NULLS} null vectors, each at the layer that it chose itself by "
        f"the same rule. p is one-sided: the share of these {NULLS + 1} effects that are at least as large as the "
        "vector's, its own included. It is not corrected for the number of rows in the table. Sizes were fixed in "
        f"advance: coefficients {WORDS_TIMES:g} and {ROWS_TIMES:g} at the front, and {SIZE:g} of the stream's norm on "
        "all tokens. *Damage* is KL(unsteered || steered) of the next token on 12 neutral beginnings, in nats."
    )
    return f"{told}\n\n{table(shown)}"


def main() -> None:
    """Measure, and write the page anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="write the page from the numbers that are there")
    options = parser.parse_args()
    if not options.page:
        RESULT.write_text(json.dumps(measured(), indent=1) + "\n", encoding="utf-8")
    write(Path(DOCS / "smollm2.md"), {"readings": page(json.loads(RESULT.read_text(encoding="utf-8")))})


if __name__ == "__main__":
    main()
