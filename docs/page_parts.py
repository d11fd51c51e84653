"""What the scripts that write measured pages share: tables, pictures, and marks in pages written by hand."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

DOCS = Path(__file__).parent


def write(page: Path, parts: Mapping[str, str]) -> None:
    """Put the parts between their marks."""
    text = page.read_text(encoding="utf-8")
    for name, part in parts.items():
        block = f"<!-- measured: {name} -->\n{part.strip()}\n<!-- end -->"
        text = re.sub(rf"<!-- measured: {name} -->.*?<!-- end -->", block.replace("\\", r"\\"), text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


def picture(result: Any, name: str) -> str:
    """Save a result's picture, and the line that shows it."""
    axes = result.plot()
    ax = axes[0] if isinstance(axes, Sequence) else axes
    ax.figure.savefig(DOCS / "images" / f"{name}.png", dpi=100)
    plt.close(ax.figure)
    return f"![{name}](images/{name}.png)"


def table(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table of three digits."""

    def shown(value: Any) -> str:
        return (
            f"{value:.3g}" if isinstance(value, float) and not np.isnan(value) else "" if pd.isna(value) else str(value)
        )

    lines = [list(frame.columns), ["---"] * len(frame.columns)]
    lines += [[shown(value) for value in row] for row in frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
