"""The model card and the page about the embedded model, from what was measured: `python -m training.report`.

No measured figure is typed by hand: `training.measure` and `training.card` write them.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from string import Template
from typing import Any

_HERE = Path(__file__).parent
OFF_TARGET = ("perplexity ratio, sentences", "perplexity ratio, paragraphs", "cloze P@10")
OTHER_TEXT_KEPT = 0.05
"""By how much the perplexity of other text may rise."""
NOT_YET = (
    "Not measured on these weights yet; `make demo` shows one sentiment and one topic vector, with intervals and nulls."
)


def main() -> None:
    """Read the measurements, write the page and the card."""
    parser = argparse.ArgumentParser(description="Write the embedded model's page and card from its measurements.")
    parser.add_argument("--measured", type=Path, required=True, help="JSON file of training.measure")
    parser.add_argument("--card", type=Path, required=True, help="JSON file of training.card")
    parser.add_argument("--page", type=Path, default=Path("docs/storybook.md"))
    parser.add_argument("--model", type=Path, default=Path("actadd_lens/storybook/model"))
    arguments = parser.parse_args()
    measured, card = json.loads(arguments.measured.read_text()), json.loads(arguments.card.read_text())
    config = json.loads((arguments.model / "config.json").read_text())
    topics = {key: value for key, value in measured.items() if key.startswith("topic ")}
    values = {
        "shape": shape(config),
        "tokens": f"{config['trained_tokens'] / 1e6:.0f} M",
        "bits_per_byte": bits_table(card["bits_per_byte"]),
        "samples": "\n".join(f"{number}. {one_line(text)}" for number, text in enumerate(card["samples"], start=1)),
        "fluency": fluency(measured["fluency"]),
        "sentiment": sentiment_table(measured["sentiment"]["layers"]) if "sentiment" in measured else NOT_YET,
        "topics": topics_table(topics) if topics else NOT_YET,
        "off_target": off_target_table(measured) if "sentiment" in measured else NOT_YET,
        "gentle": gentle_table(measured) if "sentiment" in measured else NOT_YET,
        "verdicts": verdicts(measured) if "sentiment" in measured else NOT_YET,
    }
    page = Template((_HERE / "page.md.template").read_text()).substitute(values)
    arguments.page.write_text(page)
    (arguments.model / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n\n" + page)


def shape(config: dict[str, Any]) -> str:
    """The model's shape in a line."""
    kinds = "".join("l" if kind == "local" else "g" for kind in config["attention_layers"])
    return (
        f"GPT-Neo, {config['num_layers']} layers ({kinds.count('l')} with local attention of {config['window_size']} "
        f"tokens, then {kinds.count('g')} global), d_model {config['hidden_size']}, {config['num_heads']} heads, "
        f"vocabulary {config['vocab_size']:,}, context {config['max_position_embeddings']}"
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bits_table(columns: dict[str, dict[str, float]]) -> str:
    """Bits per byte by source, one column a model."""
    names = list(columns)
    rows = [[source, *(f"{columns[name][source]:.2f}" for name in names)] for source in columns[names[0]]]
    return table(["held-out text", *("this model" if name == "model" else name for name in names)], rows)


def one_line(text: str) -> str:
    """A sample on one line."""
    return text.strip().replace("\n", " ⏎ ")


def fluency(measured: dict[str, Any]) -> str:
    """Repetition in words."""
    count = f"{measured['repeating']} of {len(measured['samples'])}"
    return f"{count} free samples repeat a run of six words three times or more."


def interval(pair: list[float], digits: int = 2) -> str:
    """An interval."""
    return f"[{pair[0]:.{digits}f}, {pair[1]:.{digits}f}]"


def off_target_table(measured: dict[str, Any]) -> str:
    """What each of the vectors does to other text and to facts, one row a vector."""
    parts = {f"mood, layer {layer}": part for layer, part in measured["sentiment"]["layers"].items()}
    parts |= {name.removeprefix("topic "): part for name, part in measured.items() if name.startswith("topic ")}
    rows = [[name, *off_target_cells(part)] for name, part in parts.items() if "cloze_p10" in part]
    return table(["vector", *OFF_TARGET], rows)


def off_target_cells(part: dict[str, Any]) -> list[str]:
    """Perplexity of other text, and P@10 of the facts, the mean of the nulls after each."""
    cloze = part["cloze_p10"]
    return [
        *(
            f"{part[ratio]:.3f} {interval(part[f'{ratio}_interval'], 3)}, nulls {mean(part[f'{ratio}_nulls']):.3f}"
            for ratio in ("perplexity_ratio", "paragraph_ratio")
        ),
        f"{100 * cloze['unsteered']:.1f} → {100 * cloze['steered']:.1f} % "
        f"{interval([100 * end for end in cloze['interval']], 1)}, nulls {100 * mean(cloze['nulls']):+.1f}",
    ]


def sentiment_table(layers: dict[str, Any]) -> str:
    """One row a layer."""
    head = ["layer", "vector", "effect", "its negative", "null mean", "nulls beaten"]
    rows = [
        [
            layer,
            f"{part['coefficient']:g} × ({part['pair']})",
            f"{part['effect']:+.2f} {interval(part['interval'])}",
            f"{part['negative']['effect']:+.2f} {interval(part['negative']['interval'])}",
            f"{part['null_mean']:+.2f}",
            f"{part['nulls_beaten']} of {len(part['nulls'])}",
        ]
        for layer, part in layers.items()
    ]
    return table(head, rows)


def topics_table(topics: dict[str, Any]) -> str:
    """One row a topic."""
    head = ["topic", "vector", "layer", "unsteered", "steered", "null mean", "nulls beaten"]
    rows = []
    for name, part in topics.items():
        if part.get("chosen", part) is None:
            rows.append([name.removeprefix("topic "), "none kept other text within bounds", *[""] * 5])
            continue
        rows.append(
            [
                name.removeprefix("topic "),
                f"{part['coefficient']:g} × ({part['pair']})",
                str(part["layer"]),
                f"{100 * part['unsteered']:.0f} %",
                f"{100 * part['steered']:.0f} %",
                f"{100 * part['null_mean']:+.0f} points",
                f"{part['nulls_beaten']} of {len(part['nulls'])}",
            ]
        )
    return table(head, rows)


def gentle_table(measured: dict[str, Any]) -> str:
    """For each thing steered, the vector that did most on the choosing half and kept other text within the bar."""
    rows = []
    for name, part in measured.items():
        if not isinstance(part, dict) or "tried" not in part:
            continue
        gentle = [one for one in part["tried"] if one["perplexity_ratio"] <= 1 + OTHER_TEXT_KEPT]
        most = max(gentle, key=lambda one: one["effect"], default=None)
        if most is None:
            rows.append([name.removeprefix("topic "), "none", "", "", ""])
            continue
        effect = f"{most['effect']:+.2f}" if name == "sentiment" else f"{100 * most['effect']:+.0f} points"
        vector = f"{most['coefficient']:g} × ({most['pair']})"
        ratio = f"{most['perplexity_ratio']:.3f}"
        rows.append([name.removeprefix("topic "), vector, str(most["layer"]), effect, ratio])
    return table(["what", "vector", "layer", "effect", "perplexity ratio, sentences"], rows)


def verdicts(measured: dict[str, Any]) -> str:
    """The bars that were set before, and whether they are reached."""
    layers = measured["sentiment"]["layers"].values()
    topics = [part for name, part in measured.items() if name.startswith("topic ") and "effect" in part]
    moved = [
        part for part in layers if part["effect"] >= 0.25 and part["nulls_beaten"] == len(part["nulls"])
        and abs(part["null_mean"]) <= 0.08 and part["negative"]["effect"] < 0
    ]  # fmt: skip
    taken = [part for part in topics if part["steered"] >= 0.4 and part["unsteered"] <= 0.05]
    used = [*moved, *taken]
    kept_text = [part for part in used if part["perplexity_ratio"] - 1 <= OTHER_TEXT_KEPT]
    drops = [part["cloze_p10"]["unsteered"] - part["cloze_p10"]["steered"] for part in used]
    kept_facts = [drop for drop in drops if drop <= 0.02]
    repeating = f"{100 * measured['fluency']['share_repeating']:.0f} %"
    rows = [
        ["samples that repeat a run of six words three times: under 5 %", repeating],
        ["layers of the middle half with a sentiment effect of +0.25 or more, its negative below 0, beyond all nulls, "
         "null mean within 0.08: three", str(len(moved))],
        ["topics in 40 % of completions or more, in 5 % or fewer unsteered: three", str(len(taken))],
        ["of those vectors, perplexity of other text within 5 %: all", f"{len(kept_text)} of {len(used)}"],
        ["of those vectors, cloze P@10 down by 2 points at most: all", f"{len(kept_facts)} of {len(used)}"],
    ]  # fmt: skip
    return table(["goal, set before measuring", "measured"], rows)


if __name__ == "__main__":
    main()
