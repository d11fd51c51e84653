"""Texts in pictures are shown as they are written."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

import actadd_lens as al
from actadd_lens import metrics, plots

MONEY = r"$\frac{pay} $5 for_it$"


@pytest.mark.parametrize("name", [name for name in dir(plots) if name.startswith("plot_")])
def test_every_picture_shows_texts_as_they_are_written(name: str) -> None:
    assert hasattr(getattr(plots, name), "__wrapped__")


def test_dollars_in_names_and_prompts_are_no_formulas(quickest: Any, tmp_path: Path) -> None:
    pair = al.PromptPair("$x^{", "cost $")
    metric = metrics.named(MONEY, lambda logits: logits[:, 0])
    found = al.sweep(
        quickest,
        pair,
        layers=[1, 2],
        coefficients=[1, 2],
        prompts=["The $a_{ dog $ and the cat", "She looked at the old dog again"],
        metric=metric,
    )
    vector = al.compute_steering_vector(quickest, pair, layer=1)
    pictures: list[Any] = [
        found.plot(), found.plot_lines(), found.frontier(found).plot(), vector.plot(),
        al.preview(quickest, "$a $_{b and more of it", vector).plot(),
        al.measure(quickest, ["$a $_{b and more", "She felt that it was"], vector, metric).plot(),
    ]  # fmt: skip
    for number, ax in enumerate(pictures):
        ax.figure.savefig(tmp_path / f"{number}.png")
        plt.close(ax.figure)
    assert found.plot().figure.axes[1].get_ylabel().count(r"\$") == 3
