"""The paper's experiments on SmolLM2, smaller than in full: `python docs/smollm2_report.py FOLDER` (two hours).

`docs/results_page.py` takes the report into the pages. A run that is interrupted goes on where it was.
"""

import argparse
from pathlib import Path
from typing import Any

import actadd_lens as al
from actadd_lens import storybook

TEXTS = {"layers": (4, 10, 18), "n": 1, "max_new_tokens": 30, "nulls": 19}
"""Where texts are written: one sample for each prompt."""

CHOSEN = {**TEXTS, "choose_on": 6}
"""Where a cell is chosen by texts: on few prompts of each kind."""

LAYERS = (4, 10, 14, 18, 22)
MOOD = (("I love it", "I hate it"),)
"""The pair of mood whose rows are not massive on this model, as those of ("Love", "Hate") are."""


def settings() -> dict[str, dict[str, Any]]:
    """What differs from the experiments' own settings, fixed before anything was run."""
    prompts, topics = storybook.neutral_prompts()[:20], storybook.topics()
    moods = storybook.sentiment_sentences()
    begun = {mood: [" ".join(text.split()[:5]) for text in moods[mood][:20]] for mood in ("positive", "negative")}
    few = {name: topics[name] for name in ("weddings", "cooking", "sea")}
    return {
        "perplexity": {"layers": (*LAYERS, 29), "n": 100, "nulls": 19},
        "topic-words": {**TEXTS, "prompts": prompts, "coefficients": (4.0,)},
        "token-shift": {"layer": 10, "texts": moods["neutral"][:40]},
        "topics": {**CHOSEN, "prompts": prompts, "topics": few},
        "sentiment": {**CHOSEN, "prompts": begun, "pairs": MOOD},
        "toxicity": {**CHOSEN, "prompts": storybook.hostile_prompts()[:20], "pairs": MOOD},
        "knowledge": {"layer": 10, "nulls": 39},
        "overhead": {},
        "norms": {"layers": LAYERS},
        "nulls": {"prompts": prompts, "layer": 10, "nulls": 39},
        "prompting": {"prompts": prompts, "layers": (4, 10, 18), "n": 40, "nulls": 20},
        "dimensions": {**CHOSEN, "prompts": prompts},
        "positions": {**CHOSEN, "prompts": prompts},
        "attention": {"prompts": prompts, "layer": 10, "nulls": 39},
        "examples": {"n": 2, "max_new_tokens": 30, "nulls": 9},
    }


def main() -> None:
    """Run what is not finished yet, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of results and report")
    own = settings()
    al.experiments.reproduce(
        al.load_model("smollm2"), list(own), out=parser.parse_args().folder, settings=own,
        note=lambda outcome, kept: print(outcome.name, "kept" if kept else f"{outcome.seconds:.0f} s", flush=True),
    )  # fmt: skip


if __name__ == "__main__":
    main()
