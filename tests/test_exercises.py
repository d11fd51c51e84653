"""The exercises of the notebooks: folded answers are right, other answers are not, and no answer says nothing."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import actadd_lens as al
from actadd_lens.models.fetching import fetched_folder

FOLDER = Path(__file__).parents[1] / "notebooks"
WRONG = {
    "01_a_first_vector.ipynb": "zero_rows = 3\npair = (' happy', ' sad')",
    "02_layers_coefficients_positions.ipynb": "mid_and_back = (5, 9)\ncoefficient = 16",
    "04_is_the_effect_real.ipynb": "p_of_20, nulls_needed = 0.05, 100\nchosen, held_out = 0.0, 0.0",
    "09_a_chat_model_steered.ipynb": "received = 6\nsize = 0.6",
}
NEEDS = {
    "09_a_chat_model_steered.ipynb": [
        pytest.mark.smollm2,
        pytest.mark.skipif(fetched_folder("smollm2") is None, reason="smollm2 is not here: run `actadd fetch smollm2`"),
    ]
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


@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDS.get(name, [])) for name in WRONG])
def test_answers_are_right_and_others_are_not(name: str, embedded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    load = cache(al.load_model)
    monkeypatch.setattr(al, "load_model", lambda *given: load(*given) if given else embedded)
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


@pytest.mark.slow
def test_a_notebook_whose_model_was_not_fetched_is_left_out_with_the_reason(tmp_path: Path) -> None:
    asked = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "--nbmake"]
    asked.append(str(FOLDER / "09_a_chat_model_steered.ipynb"))
    told = subprocess.run(
        asked, env=os.environ | {"ACTADD_HOME": str(tmp_path)}, cwd=FOLDER.parent, capture_output=True, text=True,
        check=False,
    ).stdout  # fmt: skip
    assert "1 skipped" in told
    assert "actadd fetch smollm2" in told
