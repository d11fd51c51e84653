"""Runs notebooks and writes their outputs into them: `python docs/refresh_notebooks.py [NOTEBOOK ...]`.

Anything on stderr stops it: a notebook that warns is mended, not cleaned. The one exception is tqdm's word that
ipywidgets is missing, which says nothing of the notebook (the extra `notebook` installs it).
"""

import argparse
import os
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"


def main() -> None:
    """Refresh the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path)
    named = parser.parse_args().notebooks
    os.environ.update(TQDM_DISABLE="1", HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore:IProgress not found")
    for path in named or sorted(FOLDER.glob("*.ipynb")):
        started = time.perf_counter()
        refresh(path)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s")


def refresh(path: Path) -> None:
    """Run one notebook in its folder, and write it back with its outputs and nothing of this machine."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        warned = [output.text for output in cell.get("outputs", []) if output.get("name") == "stderr"]
        if warned:
            raise SystemExit(f"{path.name}, cell {number} writes to stderr:\n{''.join(warned)}")
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
