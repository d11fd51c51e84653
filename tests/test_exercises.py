"""The exercises of the notebooks: folded answers are right, other answers are not, and no answer says nothing."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

import actadd_lens as al

FOLDER = Path(__file__).parents[1] / "notebooks"
WRONG = {
    "01_a_first_vector.ipynb": "zero_rows = 3\npair = (' happy', ' sad')",
    "02_layers_coefficients_positions.ipynb": "mid_and_back = (5, 9)\ncoefficient = 16",
    "04_is_the_effect_real.ipynb": "p_of_20, nulls_needed = 0.05, 100\nchosen, held_out = 0.0, 0.0",
}


def parts(name: str) -> tuple[str, list[str], str, str]:
    """The first code cell, the lines to fill in, the check, and the folded answer of a notebook."""
    cells = json.loads((FOLDER / name).read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    first = next(source for cell, source in zip(cells, sources, strict=True) if cell["cell_type"] == "code")
    place = next(number for number, source in enumerate(sources) if source.startswith("## Exercises"))
    empty, check = sources[place + 1].split("\n\n", 1)
    answer = re.search(r"<details>.*```python\n(.*?)```\n\n</details>$", sources[place + 2], re.DOTALL)
    assert answer is not None
    return first, empty.splitlines(), check, answer[1]


@pytest.mark.parametrize("name", WRONG)
def test_answers_are_right_and_others_are_not(name: str, embedded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(al, "load_model", lambda: embedded)
    first, empty, check, answer = parts(name)
    assert len(empty) == 2
    said = []
    for filled in ("\n".join(empty), WRONG[name], answer):
        names: dict[str, Any] = {}
        exec(first, names)
        exec(filled, names)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(check, names)
        said.append(out.getvalue())
    assert said[0] == ""
    for text, verdict in zip(said[1:], ("not yet", "right"), strict=True):
        assert [line.split(" ", 1)[1].startswith(verdict) for line in text.splitlines()] == [True, True], text
