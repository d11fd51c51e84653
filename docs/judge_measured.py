"""Measures the judge of how-to/judge.md, as its code stands there, against labelled reviews.

`python docs/judge_measured.py sentence_polarity.zip` (Pang and Lee's sentence polarity dataset, v1.0).
"""

import argparse
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from page_parts import DOCS, table, write

import actadd_lens as al

PAGE = DOCS / "how-to" / "judge.md"
EACH = 100
"""Reviews of each label, taken evenly from the files; set before anything was measured."""


def main() -> None:
    """Score the reviews by the judge and by VADER, and write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reviews", type=Path, help="the zip file")
    texts, labels = reviews(parser.parse_args().reviews)
    code = code_of(PAGE.read_text(encoding="utf-8"))
    scorers = {"SmolLM2-135M-Instruct, as above": code["positive"], "VADER": al.scorers.sentiment()}
    write(PAGE, {"judge": part({name: scorer(texts) for name, scorer in scorers.items()}, labels, code["agreement"])})


def reviews(path: Path) -> tuple[list[str], list[bool]]:
    """As many reviews of each label, evenly from the file."""
    texts, labels = [], []
    with zipfile.ZipFile(path) as archive:
        for ending, label in (("pos", True), ("neg", False)):
            lines = archive.read(f"sentence_polarity/rt-polarity.{ending}").decode("utf-8").splitlines()
            chosen = np.linspace(0, len(lines) - 1, EACH).round().astype(int)
            texts += [lines[index].strip() for index in chosen]
            labels += [label] * EACH
    return texts, labels


def code_of(page: str) -> dict[str, Any]:
    """What the page's blocks define."""
    names: dict[str, Any] = {"al": al}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    return names


def part(scores: dict[str, list[float]], labels: list[bool], agreement: Any) -> str:
    """The table. Labels are balanced, so chance agrees in half of the texts and kappa is 2 x share - 1."""
    lines = []
    for name, found in scores.items():
        share, (low, high), ordered = agreement(found, labels)
        lines.append({
            "scorer": name, "agrees": f"{share:.2f} [{low:.2f}, {high:.2f}]",
            "kappa": f"{2 * share - 1:.2f} [{2 * low - 1:.2f}, {2 * high - 1:.2f}]", "AUC": f"{ordered:.2f}",
            "says positive": f"{np.mean([score > 0 for score in found]):.2f}",
        })  # fmt: skip
    told = (
        f"{len(labels)} sentences of film reviews, half of them positive (Pang and Lee's sentence polarity dataset), "
        "with 95 % intervals:"
    )
    return f"{told}\n\n{table(pd.DataFrame(lines))}"


if __name__ == "__main__":
    main()
