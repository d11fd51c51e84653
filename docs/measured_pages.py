"""Writes the measured parts of pages: `python docs/measured_pages.py [--tinytalk FOLDER] [--smollm2]`.

They stand between marks; everything else on those pages is written by hand.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import second_look
import two_vectors
from page_parts import DOCS, picture, table, write

import actadd_lens as al

PAGES = ("analysis.md", "ablation-and-trace.md", "two-vectors.md", "second-look.md", "elsewhere.md")
COEFFICIENT, LAYER, NULLS = 4.0, 3, 99
PAIR, SENTENCES = (" happy", " sad"), ("I am so happy today", "I am so sad today")
# The examples of analysis.md, word for word, are measured with the settings that stand there.
TOPIC, LOVE, PROMPT = (" weddings", ""), ("Love", "Hate"), "I went up to my friend and said"


def main() -> None:
    """Measure, draw, and write the pages anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tinytalk", type=Path, help="folder of the model tinytalk-3m")
    parser.add_argument(
        "--smollm2", action="store_true", help="measure SmolLM2 as well, where it is fetched; its lens takes minutes"
    )
    parser.add_argument(
        "--lens", type=Path, help="file of the embedded model's J-lens: read, or written where there is none"
    )
    parser.add_argument(
        "--beside", nargs="*", default=(), help="models for the table on frozen attention, beside the embedded one"
    )
    options = parser.parse_args()
    mpl.use("Agg")
    (DOCS / "images").mkdir(exist_ok=True)
    model = al.load_model()
    parts = {
        **vectors(model), "shift": shift(model), "texts": texts(model), "linearity": linearity(model),
        "ablation": ablation(model), "trace": trace(model), "layers": layers(model, "layers"),
        **two_vectors.parts(model, ""), **second_look.parts(model, options.lens), "dictionary": dictionary(model),
    }  # fmt: skip
    if options.tinytalk is not None:
        tinytalk = al.load_model(options.tinytalk)
        parts |= {
            "tinytalk": layers(tinytalk, "layers-tinytalk"),
            **two_vectors.parts(tinytalk, "-tinytalk"),
            **second_look.beside(tinytalk),
        }
    if options.smollm2:
        parts |= second_look.on_smollm2(al.load_model("smollm2"))
    if options.beside:
        rows = [second_look.attention_rows(each) for each in (model, *map(al.load_model, options.beside))]
        parts["attention-models"] = second_look.attention(rows)
    for page in PAGES:
        write(DOCS / page, parts)


def settings() -> dict[str, Any]:
    """What all parts share, set before anything was measured."""
    return {"metric": al.metrics.logit_difference(*PAIR), "nulls": NULLS}


def vectors(model: Any) -> dict[str, str]:
    """What two vectors decode to, how alike they are, and how large one is where it lands."""
    wedding, love = (al.compute_steering_vector(model, pair, layer=4) for pair in (TOPIC, LOVE))
    lens = al.logit_lens(model, [wedding, love], k=5, nulls=NULLS)
    carried = al.logit_lens_carried(model, 4 * wedding, PROMPT, tokens=[" wedding"], nulls=NULLS)
    across = al.compute_steering_vectors(model, [TOPIC], layers=range(model.cfg.n_layers))
    similarity = al.cosine_similarity(model, list(across), by="pooled")
    return {
        "lens": picture(lens, "lens"),
        "carried": picture(carried, "carried"),
        "similarity": picture(similarity, "similarity"),
        "norms": picture(al.norm_profile(model, 4 * wedding, PROMPT), "norms"),
    }


def shift(model: Any) -> str:
    """Largest rises and falls on two prompts."""
    prompts = [PROMPT, "The best thing about the day was the"]
    wedding = 4 * al.compute_steering_vector(model, TOPIC, layer=4)
    return picture(al.next_token_shift(model, prompts, wedding, tokens=[" wedding"], nulls=NULLS), "shift")


def texts(model: Any) -> str:
    """The Q-Q picture over the sentences about weddings."""
    wedding = 4 * al.compute_steering_vector(model, TOPIC, layer=4)
    found = al.text_shift(model, al.storybook.topics()["weddings"].sentences, wedding, least_count=3)
    largest = found.frame().head(5)
    return f"The five largest rises:\n\n{table(largest)}\n\n{picture(found, 'text-shift')}"


def linearity(model: Any) -> str:
    """The effect of c beside its first-order estimate."""
    wedding = al.compute_steering_vector(model, TOPIC, layer=4)
    metric = al.metrics.next_token_logprob(" wedding")
    return picture(al.linearity(model, al.storybook.neutral_prompts()[:12], wedding, metric, nulls=5), "linearity")


def ablation(model: Any) -> str:
    """Tokens and rows of a pair of sentences."""
    result = al.ablate_tokens(
        model, SENTENCES, layer=LAYER, coefficient=COEFFICIENT, prompts=al.storybook.neutral_prompts()[:16],
        replacement=["remove", "pad"], progress=False, **settings(),
    )  # fmt: skip
    frame = result.frame()
    frame = frame[frame["kind"].isin(["token", "row dropped"]) & (frame["drop"].abs() > 0)]
    largest = frame.reindex(frame["drop"].abs().sort_values(ascending=False).index).head(6)
    largest = largest.assign(text=largest["text"].map(lambda text: f"`{text}`"), side=largest["side"].fillna(""))
    columns = ["kind", "side", "text", "replacement", "drop", "null sd", "p", "adjusted p", "cosine"]
    told = f"`{model.cfg.model_name}`, {SENTENCES}, layer {LAYER}, c = {COEFFICIENT:g}: effect of the whole vector "
    return (
        f"{told}{result.effect}. The six largest drops:\n\n{table(largest[columns])}\n\n{picture(result, 'ablation')}"
    )


def trace(model: Any) -> str:
    """The heads and MLPs that contribute most, on the first prompt."""
    prompt = al.storybook.neutral_prompts()[0]
    vector = COEFFICIENT * al.compute_steering_vector(model, PAIR, layer=LAYER)
    found = al.trace_injection(model, prompt, vector, **settings())
    frame = found.frame()
    largest = frame.reindex(frame["contribution"].abs().sort_values(ascending=False).index).head(5)
    columns = [
        "layer",
        "component",
        "contribution",
        "null sd",
        "standardised",
        "adjusted p",
        "attention steered",
        "attention unsteered",
    ]
    told = f"`{model.cfg.model_name}`, {prompt!r}, {vector.coefficient:g} × ({vector.label}) at layer {LAYER}:"
    drawn = picture(found, "trace")
    return f"{told}\n\n```text\n{found!r}\n```\n\nThe five largest parts:\n\n{table(largest[columns])}\n\n{drawn}"


def layers(model: Any, name: str) -> str:
    """Every injection layer side by side, and what the numbers say."""
    prompts = al.storybook.neutral_prompts()[:16]
    found = al.trace_layers(
        model, prompts, PAIR, layers=range(model.cfg.n_layers), coefficient=COEFFICIENT, **settings()
    )
    frame = found.frame()
    columns = ["injection layer", "effect", "low", "high", "null sd", "heads", "MLPs", "attention steered",
               "attention unsteered", "injection norm", "arrived"]  # fmt: skip
    told = f"`{model.cfg.model_name}`, {len(prompts)} prompts, {COEFFICIENT:g} × ({found.pair}), {found.metric.name}:"
    drawn = picture(found, name)
    return f"{told}\n\n{table(frame[columns])}\n\n{drawn}\n\n{finding(found, frame)}"


def finding(found: Any, frame: pd.DataFrame) -> str:
    """The comparison of the best layer with the first and the last, in words."""
    largest: Any = frame["effect"].abs().idxmax()
    best, last = int(largest), len(frame) - 1
    effect, size = frame["effect"], frame["injection norm"] / frame["injection norm"][best]
    by_layer, attention = found.contributions, found.attention()
    readers = sorted(np.argsort(-np.abs(by_layer[best]))[:2])
    both = f"layers {readers[0]} and {readers[1]}"
    return (
        f"The effect is largest at injection layer {best} ({effect[best]:+.2f}). There {both} add "
        f"{by_layer[best][readers].sum():+.2f} directly, all layers together {by_layer[best].sum():+.2f}; over the "
        f"layers that can read the injection, attention to it sums to {frame['attention steered'][best]:.2f}. An "
        f"injection at layer {last} ({effect[last]:+.2f}) is {size[last]:.2g} times as large, but only that layer is "
        f"left to read it, and it pays {attention[last, last]:.2f} of its attention to it. At layer 0 "
        f"({effect[0]:+.2f}) every layer can read it, the injection is {size[0]:.2g} times as large as at layer "
        f"{best}, and {both} add {by_layer[0][readers].sum():+.2f}."
    )


def dictionary(model: Any) -> str:
    """The sentiment's vector in the words of the embedded model's dictionary, as elsewhere.md reads it."""
    words = al.storybook.dictionary()
    happy = al.compute_steering_vector(model, PAIR, layer=LAYER)
    nulls = al.null_vectors(model, happy, n=39)
    return picture(al.dictionary_reading(happy, words.decoder, words.names, nulls=nulls), "dictionary")


if __name__ == "__main__":
    main()
