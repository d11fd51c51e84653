"""Measures the methods beside their nulls: `python docs/methods_pages.py [storybook] [smollm2 --contrast FOLDER]`.

Each task of each model is kept in methods_measured.json as soon as it is done, and is not done again; without a model's
name, the pages' measured parts are written anew from there. Settings were set before anything was measured.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import methods_tasks as tasks
import numpy as np
import torch
from page_parts import DOCS, write

import actadd_lens as al
from actadd_lens import methods
from actadd_lens.measuring.measure import measure_conditions, null_conditions
from actadd_lens.measuring.metrics import as_metric
from actadd_lens.models import backend_of
from actadd_lens.prompts.texts import encode_prompts
from actadd_lens.statistics import paired_effect

KEPT = DOCS / "methods_measured.json"
NULLS = {"storybook": 39, "smollm2": 19}
LAYER = {"storybook": 4, "smollm2": 13}
"""Ours, somewhat before the middle, where the papers steer."""
Row = dict[str, Any]


def main() -> None:
    """Measure what is asked for, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="models to measure")
    parser.add_argument("--contrast", type=Path, help="folder of the A/B questions")
    parser.add_argument("--only", nargs="*", help="tasks")
    options = parser.parse_args()
    for name in options.models:
        model = al.load_model(name)
        for task, measure in TASKS.items():
            if task in (options.only or TASKS) and f"{name}/{task}" not in kept():
                start = time.perf_counter()
                rows = measure(model, name, options.contrast)
                if rows:
                    keep(f"{name}/{task}", rows, time.perf_counter() - start)
    for task in TASKS:
        write(DOCS / "methods" / f"{task}.md", {"results": told(task)})
    write(DOCS / "methods" / "index.md", {"results": told_all()})


def kept() -> dict[str, Any]:
    """What was measured before."""
    return dict(json.loads(KEPT.read_text(encoding="utf-8"))) if KEPT.is_file() else {}


def keep(key: str, rows: list[Row], seconds: float) -> None:
    """Add a task's rows."""
    found = {**kept(), key: {"rows": rows, "seconds": round(seconds)}}
    KEPT.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n", encoding="utf-8")


# -- measuring -------------------------------------------------------------------------------------------------


def rows_of(
    model: Any,
    prompts: Sequence[str],
    metric: Any,
    conditions: dict[str, Any],
    *,
    what: str,
    nulls: dict[str, list[Any]],
    damage: Sequence[str] | None = None,
    on_damage: dict[str, Any] | None = None,
) -> list[Row]:
    """A row for each condition: its effect with interval, its nulls where it has any, and the KL on neutral text.

    On damage, conditions may be others of the same names: gates look at another token where words of an answer follow.
    """
    backend = backend_of(model)
    named = {name: tuple(condition) for name, condition in conditions.items()}
    flat = [((), None), *((condition, name) for name, condition in named.items())]
    flat += [(tuple(null), name) for name, some in nulls.items() for null in some]
    told = measure_conditions(
        backend, encode_prompts(backend, prompts), [condition for condition, _ in flat], as_metric(metric),
        measured=(), position="front", batch_size=32, progress=False,
    )  # fmt: skip
    neutral = list(damage if damage is not None else al.storybook.neutral_prompts()[:12])
    hurting = [tuple((on_damage or named)[name]) for name in named]
    kl = measure_conditions(
        backend, encode_prompts(backend, neutral), [(), *hurting],
        al.metrics.kl_divergence("unsteered || steered"), measured=(), position="front", batch_size=32, progress=False,
    )  # fmt: skip
    rows = []
    for number, name in enumerate(named, start=1):
        effect = paired_effect(told[number][:, None], told[0][:, None])
        row: Row = {
            "condition": name, "metric": what, "unsteered": float(told[0].mean()), "effect": effect.mean,
            "low": effect.low, "high": effect.high, "kl": float(kl[number].mean()), "prompts": len(prompts),
        }  # fmt: skip
        mine = np.array([v.mean() - told[0].mean() for v, (_, of) in zip(told, flat, strict=True) if of == name][1:])
        if len(mine):
            row |= {"nulls": len(mine), "null mean": float(mine.mean()), "null sd": float(mine.std(ddof=1))}
            row["p"] = float((1 + (np.abs(mine) >= abs(effect.mean)).sum()) / (1 + len(mine)))
        rows.append(row)
    return rows


def vector_nulls(model: Any, name: str, condition: Any) -> list[Any]:
    """The same interventions with vectors of unrelated pairs in them."""
    return null_conditions(model, tuple(condition), NULLS[name], "unrelated_pairs", 0)


def log_odds(model: Any, answers: dict[str, tuple[str, str]]) -> Any:
    """The log-odds of each prompt's right answer against its wrong one, as a metric."""

    def bind(backend: Any) -> Any:
        def token(text: str) -> int:
            own = backend.token_id(text)
            return backend.encode(text, prepend_bos=False)[0] if own is None else own

        known = {tuple(backend.encode(prompt)): tuple(map(token, pair)) for prompt, pair in answers.items()}

        def difference(reading: Any) -> torch.Tensor:
            rows = [tuple(row[:size]) for row, size in zip(reading.tokens.tolist(), reading.lengths, strict=True)]
            picks = torch.tensor([known[row] for row in rows])
            found = reading.logits.gather(1, picks)
            return found[:, 0] - found[:, 1]

        return difference

    return al.Metric("log-odds of the right answer", "nats", "last", bind)


# -- tasks -----------------------------------------------------------------------------------------------------


def caa(model: Any, name: str, contrast: Path | None) -> list[Row]:
    """The paper's A/B questions on the chat model; two moods on the other, which knows no letters."""
    layer = LAYER[name]
    if name == "storybook":
        answers = {text: tasks.MOODS for text, *_ in tasks.moods(training=False)}
        pairs = [(text + tasks.MOODS[0], text + tasks.MOODS[1]) for text, *_ in tasks.moods(training=True)]
        vector = methods.caa(model, pairs, layer=layer, read=-1)
        return _scaled(model, name, answers, vector, (1, -1, 3, -3), "log-odds of “ sad” against “ happy”")
    if contrast is None:
        return []
    rows = []
    for behaviour in ("refusal",):
        questions = json.loads((contrast / f"caa_{behaviour}.json").read_text(encoding="utf-8"))
        questions = [question for question in questions if len(question["question"]) < 180]
        training, test = questions[:24], questions[24:32]

        def answered(question: Row, key: str) -> str:
            return tasks.asked(model, question["question"]) + question[key].strip()

        keys = ("answer_matching_behavior", "answer_not_matching_behavior")
        pairs = [(answered(question, keys[0]), answered(question, keys[1])) for question in training]
        vector = methods.caa(model, pairs, layer=layer, mark="<|im_start|>assistant\n")
        answers = {
            tasks.asked(model, question["question"]) + "(": tuple(question[key].strip()[1] for key in keys)
            for question in test
        }
        neutral = [tasks.asked(model, question) for question in tasks.TEST_QUESTIONS]
        rows += _scaled(model, name, answers, vector, (1, -1), f"{behaviour}: log-odds of the matching letter", neutral)
    return rows


def _scaled(
    model: Any, name: str, answers: Any, vector: Any, coefficients: Any, what: str, neutral: Any = None
) -> list[Row]:
    conditions = {f"{coefficient:+g} × vector": [coefficient * vector] for coefficient in coefficients}
    first = next(iter(conditions))
    nulls = {first: vector_nulls(model, name, conditions[first])}
    return rows_of(model, list(answers), log_odds(model, answers), conditions, what=what, nulls=nulls, damage=neutral)


def mean_centring(model: Any, name: str, contrast: Path | None) -> list[Row]:
    """A topic: sentences about weddings less neutral ones; the log-prob of the topic's words."""
    topic = al.storybook.topics()["weddings"]
    training = [
        text for label, other in al.storybook.topics().items() if label != "weddings" for text in other.sentences
    ]
    conditions: dict[str, Any] = {}
    for told, bos in (("", True), (", BOS left out", False)):
        centred = methods.mean_centring(model, topic.sentences[:40], training[:80], layer=LAYER[name], bos=bos)
        plain = methods.mean_centring(model, topic.sentences[:40], None, layer=LAYER[name], bos=bos)
        conditions[f"2 × centred{told}"] = [2 * centred]
        conditions[f"2 × uncentred{told}"] = [2 * plain]
        conditions[f"uncentred, with the norm of the centred vector{told}"] = [2 * plain.with_norm(centred.norms)]
    first = "2 × centred, BOS left out"
    metric = al.metrics.token_set_logprob([f" {word}" for word in topic.words if _one_token(model, f" {word}")])
    prompts = al.storybook.neutral_prompts()[12:28]
    nulls = {first: vector_nulls(model, name, conditions[first])}
    return rows_of(model, prompts, metric, conditions, what="log-prob of words about weddings", nulls=nulls)


def _one_token(model: Any, text: str) -> bool:
    return len(backend_of(model).encode(text, prepend_bos=False)) == 1


def instruction(model: Any, name: str, contrast: Path | None) -> list[Row]:
    """A word to include, added; small letters, set. Both at the first token of the answer."""
    prompts = [tasks.asked(model, question) for question in tasks.TEST_QUESTIONS]
    rows = []
    word = _instruction_of(model, name, tasks.ASKED_WORD)
    conditions = {
        f"add {times:+g} × the mean difference": [word.add(times * float(word.difference.norms))]
        for times in (1, 2, -2)
    }
    first = "add +2 × the mean difference"
    rows += rows_of(
        model, prompts, al.metrics.next_token_logprob(tasks.WORD), conditions, what="log-prob of “ cat”",
        nulls={first: vector_nulls(model, name, conditions[first])}, damage=prompts,
    )  # fmt: skip
    rows.append(_by_text(model, al.metrics.next_token_logprob(tasks.WORD), "log-prob of “ cat”", tasks.ASKED_WORD))
    small = _instruction_of(model, name, tasks.LOWERCASE)
    conditions = {
        "set to the mean projection": [small.set()],
        "set to the mean projection without the instruction": [small.set(small.mean_projection_without)],
    }
    first = "set to the mean projection"
    metric, told = _begins_small(model), "log-odds of beginning with a small letter"
    rows += rows_of(
        model,
        prompts,
        metric,
        conditions,
        what=told,
        nulls={first: vector_nulls(model, name, conditions[first])},
        damage=prompts,
    )
    rows.append(_by_text(model, metric, told, tasks.LOWERCASE))
    return rows


def _instruction_of(model: Any, name: str, text: str) -> Any:
    pairs = [(tasks.asked(model, f"{question} {text}"), tasks.asked(model, question)) for question in tasks.QUESTIONS]
    return methods.instruction(model, pairs, layer=LAYER[name])


def _by_text(model: Any, metric: Any, what: str, text: str) -> Row:
    """What the instruction itself does, written into the prompt."""
    backend = backend_of(model)
    values = [
        measure_conditions(
            backend,
            encode_prompts(backend, [tasks.asked(model, question + more) for question in tasks.TEST_QUESTIONS]),
            [()], as_metric(metric), measured=(), position="front", progress=False,
        )[0]
        for more in ("", f" {text}")
    ]  # fmt: skip
    effect = paired_effect(values[1][:, None], values[0][:, None])
    return {
        "condition": "the instruction’s text in the prompt", "metric": what, "unsteered": float(values[0].mean()),
        "effect": effect.mean, "low": effect.low, "high": effect.high, "prompts": len(values[0]),
    }  # fmt: skip


def _begins_small(model: Any) -> Any:
    def bind(backend: Any) -> Any:
        texts = [backend.decode([token]).strip() for token in range(int(backend.model.cfg.d_vocab))]
        small, large = (
            torch.tensor([bool(text) and text[0].isalpha() and text[0] == change(text[0]) for text in texts])
            for change in (str.lower, str.upper)
        )

        def odds(reading: Any) -> torch.Tensor:
            logits = reading.logits
            return logits[:, small[: logits.shape[1]]].logsumexp(dim=1) - logits[:, large[: logits.shape[1]]].logsumexp(
                dim=1
            )

        return odds

    return al.Metric("log-odds of a small letter", "nats", "last", bind)


def sadi(model: Any, name: str, contrast: Path | None) -> list[Row]:
    """Two moods: which of two words is right hangs on the prompt, so no fixed direction can raise both."""
    triples = tasks.moods(training=True)
    pairs = [(text + right, text + wrong) for text, right, wrong in triples]
    answers = {text: (right, wrong) for text, right, wrong in tasks.moods(training=False)}
    found = methods.sadi(model, pairs, site="head", k=4, strength=5.0)
    running = methods.sadi(model, pairs, site="head", k=4, strength=5.0, rule="running")
    neurons = methods.sadi(model, pairs, site="neuron", k=10, strength=10.0, rule="running")
    conditions: dict[str, Any] = {
        "4 heads × 5, frozen": found,
        "4 heads × 5, running": running,
        "10 neurons × 10, running": neurons,
    }
    fixed = methods.caa(model, pairs, layer=LAYER[name], read=-1)
    nulls = {told: list(condition.nulls(NULLS[name])) for told, condition in list(conditions.items())[:2]}
    conditions["a fixed vector (CAA of the same pairs)"] = [fixed]
    return rows_of(
        model, list(answers), log_odds(model, answers), conditions, what="log-odds of the right word", nulls=nulls
    )


def infer_aligner(model: Any, name: str, contrast: Path | None) -> list[Row]:
    """The gate's receiver operating characteristic on held-out prompts, and how a refusal's opening rises behind it."""
    middle = LAYER[name]
    texts = {
        label: [tasks.asked(model, text) for text in some]
        for label, some in (("harmful", tasks.HARMFUL), ("harmless", tasks.HARMLESS), ("borderline", tasks.BORDERLINE))
    }
    fit = {label: texts[label][::2] for label in ("harmful", "harmless")}
    test = {"harmful": texts["harmful"][1::2], "harmless": texts["harmless"][1::2], "borderline": texts["borderline"]}
    found = methods.infer_aligner(
        model, model, fit["harmful"], fit["harmless"], layers=[middle, middle + 1, middle + 2],
        held_out=(fit["harmful"], fit["harmless"]),
    )  # fmt: skip
    scores = {label: found.gate.scores(model, some).numpy() for label, some in test.items()}
    rows: list[Row] = [
        {
            "condition": f"the gate, at layer {found.best_layer}",
            "metric": "area under the curve, harmful against harmless",
            "effect": float((scores["harmful"][:, None] > scores["harmless"][None]).mean()),
            "opens": {label: float((some > found.gate.threshold).mean()) for label, some in scores.items()},
            "prompts": len(scores["harmful"]) + len(scores["harmless"]), "fitted on": len(fit["harmful"]) * 2,
        }
    ]  # fmt: skip
    rows.append(_running_gates(model, found, [text for some in test.values() for text in some]))
    metric, later = al.metrics.next_token_logprob(tasks.OPENING[1]), _gates_before(model, found)
    conditions = {
        "behind the gate": list(later), "each layer behind its own gate": list(replace(later, rule="each")),
        "gate always open": list(found.ungated),
    }  # fmt: skip
    nulls = {"behind the gate": vector_nulls(model, name, conditions["behind the gate"])}
    for label in ("harmful", "harmless"):
        prompts = [text + tasks.OPENING[0] for text in test[label]]
        what = f"log-prob of “ sorry” after “{tasks.OPENING[0].strip()}”, {label} prompts"
        beside = {
            name: list(condition)
            for name, condition in zip(conditions, (found, replace(found, rule="each"), found.ungated), strict=True)
        }
        found_rows = rows_of(
            model, prompts, metric, conditions, what=what,
            nulls=nulls if label == "harmful" else {}, damage=test["harmless"], on_damage=beside,
        )  # fmt: skip
        rows += [
            *found_rows[:2],
            _by_running(model, found, test[label], metric, what, test["harmless"]),
            *found_rows[2:],
        ]
    return rows


def _gates_before(model: Any, found: Any) -> Any:
    """The same gates, read where the question ends, though words of the answer follow."""
    words = len(backend_of(model).encode(tasks.OPENING[0], prepend_bos=False))
    return replace(found, gates={layer: replace(gate, token=-1 - words) for layer, gate in found.gates.items()})


def _running_gates(model: Any, found: Any, texts: list[str]) -> Row:
    """How often a layer's gate says something else in the stream that lower layers' vectors have changed."""
    running = [{vector.layer for vector in row} for row in found.running(model, texts).items]
    differ = 0
    for vector in found.vectors:
        gate = found.gates[vector.layer]
        clean = (gate.scores(model, texts) > gate.threshold).tolist()
        differ += sum(is_open != (vector.layer in row) for is_open, row in zip(clean, running, strict=True))
    return {
        "condition": f"gates of {len(found.vectors)} layers, {len(texts)} prompts", "prompts": len(texts),
        "metric": "share of gates that differ when they are read in the steered stream",
        "effect": differ / len(found.vectors) / len(texts),
    }  # fmt: skip


def _by_running(model: Any, found: Any, texts: list[str], metric: Any, what: str, harmless: list[str]) -> Row:
    """The effect behind gates that are read layer by layer in the steered stream."""
    longer = [text + tasks.OPENING[0] for text in texts]
    effect = al.measure(model, longer, found.running(model, texts), metric, progress=False)
    damage = al.metrics.kl_divergence("unsteered || steered")
    kl = al.measure(model, harmless, found.running(model, harmless), damage, progress=False)
    return {
        "condition": "gates read in the steered stream", "metric": what, "unsteered": float(effect.unsteered.mean()),
        "effect": effect.effect.mean, "low": effect.effect.low, "high": effect.effect.high,
        "kl": float(kl.steered.mean()), "prompts": len(texts),
    }  # fmt: skip


def probe(model: Any, name: str, contrast: Path | None) -> list[Row]:
    """Sad texts told from glad ones, and taken to where glad ones lie: where the gate should open, and where not."""
    sentences = al.storybook.sentiment_sentences()
    some = len(sentences["negative"]) * 5 // 8
    kinds = {
        "openings": ((tasks.SAD_TRAINING, tasks.GLAD_TRAINING), (tasks.SAD_TEST, tasks.GLAD_TEST)),
        "sentences": tuple((sentences["negative"][part], sentences["positive"][part])
                           for part in (slice(some), slice(some, None))),
    }  # fmt: skip
    return [row for kind, (fitted, test) in kinds.items() for row in _probed(model, name, kind, fitted, test)]


def _probed(model: Any, name: str, kind: str, fitted: Any, test: Any) -> list[Row]:
    found = methods.probe(model, *fitted, layer=LAYER[name]).times(-2)
    sides = dict(zip(("sad", "glad"), map(list, test), strict=True))
    rows: list[Row] = [
        {
            "condition": f"the gate, fitted on {sum(map(len, fitted))}",
            "metric": f"share of {kind} classified correctly",
            "effect": found.accuracy(model, *sides.values()), "prompts": sum(map(len, test)),
            "opens": {label: float(found.opens(model, texts).double().mean()) for label, texts in sides.items()},
        }
    ]  # fmt: skip
    conditions = {"−2, behind the gate": list(found), "−2, gate always open": [found.vector]}
    nulls = {"−2, behind the gate": vector_nulls(model, name, conditions["−2, behind the gate"])}
    for label, prompts in sides.items():
        answers = dict.fromkeys(prompts, tasks.MOODS[::-1])
        rows += rows_of(
            model, prompts, log_odds(model, answers), conditions,
            what=f"log-odds of “ happy” against “ sad”, {label} {kind}",
            nulls=nulls if label == "sad" else {}, damage=sides["glad"],
        )  # fmt: skip
    return rows


TASKS: dict[str, Callable[[Any, str, Path | None], list[Row]]] = {
    "sadi": sadi,
    "instruction": instruction,
    "infer_aligner": infer_aligner,
    "mean_centring": mean_centring,
    "caa": caa,
    "probe": probe,
}


# -- telling ---------------------------------------------------------------------------------------------------


def told(task: str) -> str:
    """A method's results on each model."""
    parts = []
    for key, result in kept().items():
        name, _, own = key.partition("/")
        if own == task:
            parts.append(f"**`{name}`**, layer {LAYER[name]}.\n\n{_table(result['rows'])}")
    return "\n\n".join(parts)


def _table(rows: Sequence[Row]) -> str:
    lines = [
        "| measured | what is done | unsteered | effect [95 %] | nulls: mean ± sd | p | KL on other prompts |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        interval = f" [{row['low']:+.2f}, {row['high']:+.2f}]" if "low" in row else ""
        beside = f"{row['null mean']:+.2f} ± {row['null sd']:.2f} ({row['nulls']})" if "nulls" in row else ""
        effect = f"{row['effect']:+.2f}{interval}" if "unsteered" in row else f"{row['effect']:.2f}"
        opens = (
            "; opens on " + ", ".join(f"{share:.0%} of {label}" for label, share in row["opens"].items())
            if "opens" in row
            else ""
        )
        cells = (
            row["metric"], row["condition"] + opens, f"{row['unsteered']:.2f}" if "unsteered" in row else "",
            effect, beside, f"{row['p']:.2f}" if "p" in row else "", f"{row['kl']:.3f}" if "kl" in row else "",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def told_all() -> str:
    """One line for each method and model: its first row that has nulls."""
    lines = [
        "| method | model | what is done | measured | effect [95 %] | nulls: mean ± sd | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, result in kept().items():
        name, _, task = key.partition("/")
        for row in result["rows"]:
            if "nulls" not in row:
                continue
            lines.append(
                f"| [{task}]({task}.md) | `{name}` | {row['condition']} | {row['metric']} | "
                f"{row['effect']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] | "
                f"{row['null mean']:+.2f} ± {row['null sd']:.2f} ({row['nulls']}) | {row['p']:.2f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
