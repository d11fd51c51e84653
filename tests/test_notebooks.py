"""What the committed notebooks look like; `make notebooks` runs them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))

pytestmark = pytest.mark.parametrize("name", NOTEBOOKS)


def cells(name: str, kind: str) -> list[dict[str, Any]]:
    notebook = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_a_notebook_was_run_from_top_to_bottom(name: str) -> None:
    counts = [cell["execution_count"] for cell in cells(name, "code")]
    assert counts == list(range(1, len(counts) + 1))
    assert any(cell["outputs"] for cell in cells(name, "code"))


def test_outputs_hold_no_warning_no_error_and_no_path_of_a_machine(name: str) -> None:
    for cell in cells(name, "code"):
        for output in cell["outputs"]:
            assert output["output_type"] != "error", source(cell)
            assert output.get("name") != "stderr", source(cell)
            shown = "".join("".join(text) for kind, text in output.get("data", {}).items() if kind.startswith("text/"))
            assert not re.search(r"(?<![\w<])/(?:home|root|tmp|work|usr|Users)/|[A-Z]:\\", shown), source(cell)


def test_a_notebook_says_what_is_seen_and_what_to_try(name: str) -> None:
    told = [source(cell) for cell in cells(name, "markdown")]
    assert re.match(r"# \d\d · .+\n\nYou will see ", told[0])
    assert told[-1].startswith("## What to try\n\n- ")


def test_cells_are_short(name: str) -> None:
    assert max(len(source(cell).splitlines()) for cell in cells(name, "code")) <= 15


def test_text_beside_outputs_quotes_no_measured_number(name: str) -> None:
    for cell in cells(name, "markdown"):
        found = re.findall(
            r"(?<![\w.`])[-+−]?\d+\.\d+", re.sub(r"`[^`]*`|```.*?```", "", source(cell), flags=re.DOTALL)
        )
        assert not [number for number in found if number != "0.05"], source(cell)


def test_metadata_tells_nothing_of_the_machine(name: str) -> None:
    notebook = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert all(not set(cell["metadata"]) - {"tags"} for cell in notebook["cells"])
