"""Writes the first screen of the README and of the site: text that changes with the coefficient, and the badges.

`python docs/first_screen.py` draws images/text.svg. Every text in it is what the embedded model writes at temperature
zero, and every colour is measured. A badge that opens the first notebook in Colab needs an address of the repository,
and is written once pyproject.toml has one, as `Repository` under `[project.urls]`.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from page_parts import DOCS, write

import actadd_lens as al
from actadd_lens.vectors.naming import visible

ROOT = DOCS.parent
OUT = DOCS / "images" / "text.svg"
PAIR, LAYER, PROMPT = ("I love it", "I hate it"), 4, "The girl looked at the dog. She felt"
COEFFICIENTS = (-4, -2, 0, 1, 2, 3, 4)
NEW_TOKENS, FULL_COLOUR = 18, 3.0
"""Tokens written for each coefficient, and the change in nats at which a token has its full colour."""

WIDTH, LEFT, LINE, POINTS, INK = 100.0, 8.0, 3.0, 5.96, "#222222"
"""Sizes in letters, and points of a letter."""


@dataclass(frozen=True)
class Written:
    """What the model writes at one coefficient: tokens, and how much more likely the injection makes each, in nats."""

    coefficient: float
    tokens: tuple[str, ...]
    changes: tuple[float, ...]


def main() -> None:
    """Measure, draw, and write the README's parts."""
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "actadd_lens"
    model = al.load_model()
    vector = al.compute_steering_vector(model, PAIR, layer=LAYER)
    draw(model, vector, [written(model, vector, coefficient) for coefficient in COEFFICIENTS])
    shown = caption(model, vector)
    write(ROOT / "README.md", {"badges": badges(), "text": shown})
    write(DOCS / "index.md", {"text": in_docs(shown)})


def in_docs(shown: str) -> str:
    """The same part, from where the pages are."""
    return shown.replace("](docs/", "](")


def written(model: Any, vector: al.SteeringVector, coefficient: float) -> Written:
    """The likeliest continuation as steered, and each token's log-prob there less that without steering."""
    found = al.complete(model, PROMPT, coefficient * vector, max_new_tokens=NEW_TOKENS, temperature=0)
    ids = list(found.steered_continuations[0][0].tokens)
    tokens = torch.cat([model.to_tokens(PROMPT), torch.tensor([ids])], dim=1)
    with torch.no_grad():
        unsteered = model(tokens).log_softmax(dim=-1)
        with al.steer(model, coefficient * vector):
            steered = model(tokens).log_softmax(dim=-1)
    start = tokens.shape[1] - len(ids) - 1
    changes = (steered - unsteered)[0, start:-1][torch.arange(len(ids)), torch.tensor(ids)]
    end = model.tokenizer.eos_token_id
    shown = ["(end)" if number == end else visible(model.tokenizer.decode([number])) for number in ids]
    return Written(coefficient, tuple(shown), tuple(changes.tolist()))


def landing(model: Any, vector: al.SteeringVector) -> list[int]:
    """Tokens of the prompt on which a row that is not zero lands."""
    return [row for row, norm in enumerate(vector.norms) if norm > 0 and row < model.to_tokens(PROMPT).shape[1]]


def draw(model: Any, vector: al.SteeringVector, rows: Sequence[Written]) -> None:
    """The prompt, and below it one text for each coefficient."""
    import matplotlib.pyplot as plt

    laid = [lines_of(row) for row in rows]
    height = LINE * (sum(map(len, laid)) + 0.45 * len(rows) + 3.4)
    figure = plt.figure(figsize=(WIDTH * POINTS / 72, height * POINTS / 72), facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(height, 0))
    ax.axis("off")
    down = draw_prompt(ax, model, vector)
    for row, lines in zip(rows, laid, strict=True):
        write_text(ax, 1, down, f"{row.coefficient:+g}".replace("+0", " 0").replace("-", "−") + " ×", weight="bold")
        for line in lines:
            for left, text, change in line:
                token(ax, left, down, text, mpl.colormaps["PuOr_r"](0.5 + 0.3 * limited(change)))
            down += LINE
        down += 0.45 * LINE
    draw_legend(ax, down)
    figure.savefig(OUT, metadata={"Date": None})
    plt.close(figure)


def lines_of(row: Written) -> list[list[tuple[float, str, float]]]:
    """Tokens with their places, broken into lines that fit."""
    lines: list[list[tuple[float, str, float]]] = [[]]
    left = LEFT
    for text, change in zip(row.tokens, row.changes, strict=True):
        if left + len(text) > WIDTH - 2:
            lines.append([])
            left = LEFT
        lines[-1].append((left, text, change))
        left += len(text) + 0.35
    return lines


def draw_prompt(ax: Any, model: Any, vector: al.SteeringVector) -> float:
    """The prompt; tokens that receive something are outlined."""
    down, left, injected = 0.9 * LINE, LEFT, landing(model, vector)
    write_text(ax, 1, down, "prompt")
    for place, text in enumerate(model.to_str_tokens(PROMPT)):
        if place:
            shown = visible(text)
            token(ax, left, down, shown, "#FFFFFF", edge="#D55E00" if place in injected else "none")
            left += len(shown) + 0.35
    return down + 1.5 * LINE


def draw_legend(ax: Any, down: float) -> None:
    """What the colours are."""
    left = LEFT
    for text, change in (("more likely with the vector", 1.0), ("no change", 0.0), ("less likely", -1.0)):
        token(ax, left, down, text, mpl.colormaps["PuOr_r"](0.5 + 0.3 * change))
        left += len(text) + 2
    write_text(ax, left, down, f"full colour from {FULL_COLOUR:g} nats on")


def limited(change: float) -> float:
    """A change as a share of the full colour."""
    return max(-1.0, min(1.0, change / FULL_COLOUR))


def token(ax: Any, left: float, down: float, text: str, fill: Any, *, edge: str = "none") -> None:
    """One token in its box."""
    box = mpl.patches.FancyBboxPatch((left - 0.1, down - 0.42 * LINE), len(text) + 0.2, 0.84 * LINE,
                                     boxstyle="round,pad=0,rounding_size=0.5", facecolor=fill, edgecolor=edge,
                                     linewidth=1.4)  # fmt: skip
    ax.add_patch(box)
    write_text(ax, left, down, text)


def write_text(ax: Any, left: float, down: float, text: str, *, weight: str = "normal") -> None:
    """Letters of one width, so that places can be counted."""
    ax.text(left, down, text.replace("$", r"\$"), family="DejaVu Sans Mono", fontsize=9.9, va="center_baseline",
            color=INK, weight=weight)  # fmt: skip


def caption(model: Any, vector: al.SteeringVector) -> str:
    """The picture, and how it was made."""
    tokens = model.to_str_tokens(PROMPT)
    places = " and ".join(f"`{tokens[place]}`" for place in landing(model, vector))
    return (
        "![What the model writes after one prompt, at seven coefficients of one steering vector; tokens are coloured "
        "by how much more likely the vector makes them](docs/images/text.svg)\n\n"
        f"One steering vector, `{PAIR[0]}` minus `{PAIR[1]}` at layer {LAYER}, added at {places} only, with seven "
        "coefficients. The text is what the embedded model writes at temperature 0. A token's colour is its "
        "log-probability with the vector minus that without it, after the same tokens."
    )


def badges() -> str:
    """Marks that need no service: each is a picture in this repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shown = [
        badge("licence", project["license"], "LICENSE"),
        badge("Python", project["requires-python"].removeprefix(">=") + " and newer", "pyproject.toml"),
        badge("runs", "offline, without a GPU", "docs/storybook.md"),
    ]
    repository = project.get("urls", {}).get("Repository", "")
    if repository.startswith("https://github.com/"):
        name = repository.removeprefix("https://github.com/").strip("/")
        link = f"https://colab.research.google.com/github/{name}/blob/main/notebooks/01_a_first_vector.ipynb"
        shown.append(badge("Colab", "open notebook 01", link))
    return "\n".join(shown)


def badge(name: str, value: str, link: str) -> str:
    """Write one badge, and return the line that shows it."""
    left, right = 7 * len(name) + 14, 7 * len(value) + 14
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{name}: {value}"><rect width="{left}" height="20" fill="#444"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="#0072B2"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2}" y="14">{name}</text><text x="{left + right / 2}" y="14">{value}</text></g></svg>\n'
    )
    file = Path("docs", "images", f"badge-{name.lower()}.svg")
    (ROOT / file).write_text(text, encoding="utf-8")
    return f"[![{name}: {value}]({file.as_posix()})]({link})"


if __name__ == "__main__":
    main()
