"""Measures what the pages of the two methods that train show: `python docs/trained_methods.py [--work FOLDER]`.

Training goes on from checkpoints in FOLDER; what was measured is kept there as JSON, so that parts can be measured one
by one.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from page_parts import DOCS, picture, table, write

import actadd_lens as al
from actadd_lens import methods

METHODS = DOCS / "methods"
TASK_SITES = ("attn_out", "mlp_out")
MINIMALITIES = (0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Size:
    """How much is measured on a model."""

    steps: int = 60
    nulls: int = 19
    names: int = 5
    things: int = 4
    variants: bool = True


SIZES = {"-smollm2": Size(steps=30, things=2, variants=False)}
"""Smaller where a pass takes seconds; the measured part says so."""

# -- activation scaling: does a context decide the answer? -------------------------------------------------------

LOST = "{name} lost the {thing}. {name} felt"
FOUND = "{name} found the {thing}. {name} felt"
TRAIN = (("Tom", "Lucy", "Sam", "Anna", "Jack"), ("toy", "dog", "ball", "book"))
HELD_OUT = (("Ben", "Mary", "Max", "Peter", "Ella"), ("hat", "car", "cat", "key"))


def tasks(model: Any, parts: tuple[Sequence[str], Sequence[str]], size: Size) -> list[Any]:
    """Two contexts for each name and thing, with the answers the other way round; of one length."""
    found = [
        (text.format(name=name, thing=thing), *answers)
        for name in parts[0][: size.names]
        for thing in parts[1][: size.things]
        for text, answers in ((LOST, (" sad", " happy")), (FOUND, (" happy", " sad")))
    ]
    counts = [model.to_tokens(prompt).shape[1] for prompt, *_ in found]
    usual = model.to_tokens(LOST.format(name="Tom", thing="toy")).shape[1]
    return [task for task, count in zip(found, counts, strict=True) if count == usual]


def scored(model: Any, name: str, scaling: Any, some: list[Any]) -> dict[str, Any]:
    """One line of a table."""
    report = methods.evaluate_scaling(model, scaling, some)
    gains = {sign: report.effect(sign) for sign in (1.0, -1.0)}
    return {
        "learnt": name, "right at +1": report.flips[1.0], "wrong at -1": report.flips[-1.0],
        **{f"gain at {sign:+g}": f"{gain.mean:+.2f} [{gain.low:.2f}, {gain.high:.2f}]" for sign, gain in gains.items()},
        "KL of other tokens": report.faithfulness, "mean size": report.size,
    }  # fmt: skip


def scaling(model: Any, work: Path, suffix: str) -> dict[str, Any]:
    """Three kinds, a path of minimality, parts of the scalars, and nulls of their size, on other names and things."""
    size = SIZES.get(suffix, Size())
    train, test = tasks(model, TRAIN, size), tasks(model, HELD_OUT, size)
    rows, seconds, learnt = [], {}, {}
    for kind in ("scalars", "vectors", "probes") if size.variants else ("scalars",):
        for weight in MINIMALITIES if kind == "scalars" and size.variants else MINIMALITIES[:1]:
            start = time.process_time()
            name = f"{kind}, minimality {weight:g}"
            learnt[name] = methods.activation_scaling(
                model, train, sites=TASK_SITES, learn=kind, minimality=weight, steps=size.steps,
                learning_rate=0.005 if kind == "probes" else 0.02,
                checkpoint=work / f"scaling{suffix}-{kind}-{weight:g}.safetensors", progress=False,
            )  # fmt: skip
            seconds[name] = time.process_time() - start
            rows.append(scored(model, name, learnt[name], test))
    best = learnt[f"scalars, minimality {MINIMALITIES[0]:g}"]
    parts = {1: "only its largest scalar", 10: "only its 10 largest scalars"}
    rows += [scored(model, name, best.largest(count), test) for count, name in parts.items()]
    rows.append(scored(model, "without scalars smaller than 0.05", best.without_small(0.05), test))
    nulls = {
        kind: [scored(model, kind, best.null(seed, kind=kind), test) for seed in range(size.nulls)]
        for kind in ("shuffled", "gaussian")
    }
    before = methods.evaluate_scaling(model, best, test).unsteered
    in_sample = scored(model, "the same, in sample", best, train)
    share = float((best.frame()["value"].abs() > 0.05).mean())
    return {
        "model": model.cfg.model_name, "steps": size.steps, "train": len(train), "test": len(test), "rows": rows,
        "in_sample": in_sample, "nulls": nulls, "share": share, "seconds": seconds,
        "unsteered": float((before > 0).float().mean()), "margin": float(before.mean()),
        "picture": picture_of(best, f"activation-scaling{suffix}") if size.variants else "",
    }  # fmt: skip


def scaling_text(found: dict[str, Any]) -> str:
    """The part of the page."""
    frame = pd.DataFrame(found["rows"])
    best = found["rows"][0]
    lines = [
        f"`{found['model']}`: {found['train']} training tasks, {found['test']} test tasks with other names and things; "
        f"sites {' and '.join(TASK_SITES)} of all layers, {found['steps']} steps of Adam. Unsteered, the "
        f"right answer wins in {found['unsteered']:.2f} of the held-out tasks, with a mean margin of "
        f"{found['margin']:.2f} logits.",
        table(frame),
        f"On the training tasks, the first row reaches {found['in_sample']['right at +1']:.2f} and "
        f"{found['in_sample']['wrong at -1']:.2f}. "
        f"{found['share']:.0%} of its scalars are larger than 0.05 in size.",
        nulls_text(found, best),
        found["picture"],
        "CPU seconds for training: "
        + "; ".join(f"{name}: {value:.0f}" for name, value in found["seconds"].items() if value > 1)
        + ".",
    ]
    return "\n\n".join(lines)


def nulls_text(found: dict[str, Any], best: dict[str, Any]) -> str:
    """How nulls of the same mean size do."""
    lines = []
    for kind, rows in found["nulls"].items():
        frame = pd.DataFrame(rows)
        cells = []
        for column in ("right at +1", "wrong at -1"):
            p = (1 + int((frame[column] >= best[column]).sum())) / (1 + len(frame))
            cells.append(
                f"{column} {frame[column].mean():.2f} (from {frame[column].min():.2f} to {frame[column].max():.2f}, "
                f"p = {p:.2f})"
            )
        cells.append(f"KL of other tokens {frame['KL of other tokens'].mean():.2f}")
        lines.append(f"- {len(frame)} {kind} nulls with the mean size of the first row: " + "; ".join(cells))
    return "\n".join(lines)


# -- KL-then-steer: does it buy more than a smaller coefficient? -------------------------------------------------

RANK = 8
GRID = (-1.5, -1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0, 1.5)
CANDIDATES, WANTED_KL = (1.0, 2.0, 4.0, 8.0, 16.0), 0.3


@dataclass(frozen=True)
class Training:
    """How much is trained and measured on a model."""

    layer: int = 4
    steps: int = 200
    texts: int = 8
    prompts: int = 24
    held_out: int = 50
    grid: tuple[float, ...] = GRID
    plans: tuple[int, ...] = (0, 1, 2)


TRAININGS = {
    "-smollm2": Training(layer=14, steps=40, texts=4, prompts=12, held_out=12, grid=(-1.0, -0.5, 0.5, 1.0), plans=(1,))
}
"""Smaller where a pass takes seconds; the measured part says so."""


def trained(model: Any, work: Path, suffix: str) -> dict[str, Any]:
    """Adapters trained on the vector itself and on others, each beside the model at smaller coefficients."""
    size, sentences = TRAININGS.get(suffix, Training()), al.storybook.sentiment_sentences()
    pairs = list(zip(sentences["positive"][:24], sentences["negative"][:24], strict=True))
    vector = methods.caa(model, pairs, layer=size.layer, read=-1).at(position="all+bos")
    topics = al.storybook.topics()
    others = [
        methods.caa(
            model, list(zip(topic.sentences[:24], sentences["neutral"][:24], strict=True)), layer=size.layer, read=-1
        )
        for topic in topics.values()
        if 2 in size.plans
    ]
    others = [other.with_norm(float(vector.norms[0])).at(position="all+bos") for other in others]
    benign = [*sentences["neutral"], *(text for topic in topics.values() for text in topic.sentences[24:34])]
    held_out, train = benign[1::3][: size.held_out], [text for place, text in enumerate(benign) if place % 3 != 1]
    shared: dict[str, Any] = {
        "prompts": al.storybook.neutral_prompts()[: size.prompts],
        "metric": al.metrics.logit_difference(" happy", " sad"),
        "benign": held_out, "progress": False,
    }  # fmt: skip
    plain = methods.Adapter.untrained(model, rank=1, weights="W_Q")
    first = al.adapter_tradeoff(model, plain, vector, coefficients=CANDIDATES, **shared)
    damage = dict(zip(first.coefficients, first.side_effects[0].mean(axis=1), strict=True))
    largest = next((number for number in CANDIDATES if damage[number] >= WANTED_KL), CANDIDATES[-1])
    plans = {
        "the vector itself, p = 0.125": ([vector], 0.125), "the vector itself, p = 0.5": ([vector], 0.5),
        "ten other vectors, p = 0.5": ([[other] for other in others], 0.5),
    }  # fmt: skip
    found: dict[str, Any] = {
        "model": model.cfg.model_name, "coefficient": largest, "layer": size.layer, "steps": size.steps,
        "texts": size.texts, "prompts": size.prompts, "damage": float(damage[largest]), "train": len(train),
        "held_out": len(held_out), "conditions": {}, "vector": vector.label, "seconds": {},
    }  # fmt: skip
    for number, (name, (vectors, probability)) in enumerate(plans.items()):
        if number not in size.plans:
            continue
        start = time.process_time()
        adapter = methods.kl_then_steer(
            model, vectors, train, coefficient=largest, probability=probability, rank=RANK, steps=size.steps,
            batch_size=size.texts, checkpoint=work / f"kts{suffix}-{number}.safetensors", progress=False,
        )  # fmt: skip
        found["seconds"][name] = time.process_time() - start
        result = al.adapter_tradeoff(
            model, adapter, vector, coefficients=[largest * part for part in size.grid], **shared
        )
        beside = {coefficient: result.beside_smaller(coefficient) for coefficient in (-largest, largest)}
        found["conditions"][name] = {
            "frame": result.frame().to_dict("list"),
            "beside": {
                f"{key:g}": None if item is None else [item.mean, item.low, item.high] for key, item in beside.items()
            },
            "picture": picture_of(result, f"kl-then-steer{suffix}-{number}"),
        }
    return found


def trained_text(found: dict[str, Any]) -> str:
    """The part of the page."""
    largest = found["coefficient"]
    rows = []
    for number, (name, condition) in enumerate(found["conditions"].items()):
        frame = pd.DataFrame(condition["frame"])
        for kind in ("adapter",) if number else ("model", "adapter"):
            for coefficient in (largest, -largest, 0.0):
                row = frame[(frame["condition"] == kind) & (frame["coefficient"] == coefficient)].iloc[0]
                rows.append({"trained on": "(nothing)" if kind == "model" else name, **row.drop("condition")})
    differences = [
        f"- {name}, at {key}: {judged(numbers)}"
        for name, condition in found["conditions"].items()
        for key, numbers in condition["beside"].items()
    ]
    return "\n\n".join([
        f"`{found['model']}`, {found['vector']} at layer {found['layer']}, every token; C = {largest:g}, the smallest "
        f"of {', '.join(f'{number:g}' for number in CANDIDATES)} that costs at least {WANTED_KL:g} nats per token on "
        f"benign text ({found['damage']:.2f}). Rank {RANK} on all linear maps, {found['steps']} steps of "
        f"{found['texts']} of {found['train']} benign sentences; {found['held_out']} others to measure. Effect: "
        f"log-odds of happy over sad after {found['prompts']} neutral prompts.",
        table(pd.DataFrame(rows)),
        "Side effect with the adapter, minus that of the model alone at the coefficient with the same effect (nats per "
        "token, interval over benign texts; above zero the adapter costs more; between coefficients the model's side "
        "effect is interpolated linearly, which favours the adapter):",
        "\n".join(differences),
        *[f"Trained on {name}:\n\n{condition['picture']}" for name, condition in found["conditions"].items()],
        "CPU seconds for training: "
        + "; ".join(f"{name}: {value:.0f}" for name, value in found["seconds"].items()) + ".",
    ])  # fmt: skip


def judged(numbers: Sequence[float] | None) -> str:
    """A difference with its interval, in words that its sign decides."""
    if numbers is None:
        return "the model alone does not reach that effect within these coefficients"
    mean, low, high = numbers
    word = "the adapter costs more" if low > 0 else "the adapter costs less" if high < 0 else "undecided"
    return f"{mean:+.4f} [{low:.4f}, {high:.4f}], {word}"


# -- both --------------------------------------------------------------------------------------------------------


def picture_of(result: Any, name: str) -> str:
    """The picture, from where the pages are."""
    return picture(result, name).replace("](images/", "](../images/")


def main() -> None:
    """Measure what is not there yet, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("build/trained"), help="folder for checkpoints and measurements"
    )
    parser.add_argument("--part", choices=("scaling", "kts"), help="measure one part only")
    parser.add_argument("--smollm2", action="store_true", help="also scale on the model that `actadd fetch` brings")
    options = parser.parse_args()
    mpl.use("Agg")
    options.work.mkdir(parents=True, exist_ok=True)
    models: dict[str, Any] = {"": "storybook"} | ({"-smollm2": "smollm2"} if options.smollm2 else {})
    parts: dict[str, tuple[Callable[..., Any], Callable[..., str], str]] = {
        "scaling": (scaling, scaling_text, "activation-scaling.md"), "kts": (trained, trained_text, "kl-then-steer.md"),
    }  # fmt: skip
    for name, (measure, told, page) in parts.items():
        for suffix, source in models.items():
            kept = options.work / f"{name}{suffix}.json"
            if not kept.exists() and options.part in (None, name):
                kept.write_text(json.dumps(measure(al.load_model(source), options.work, suffix), default=float))
            if kept.exists():
                write(METHODS / page, {f"{name}{suffix}": told(json.loads(kept.read_text()))})


if __name__ == "__main__":
    np.seterr(all="warn")
    main()
