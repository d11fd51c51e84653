"""Write the table of docs/models.md: tiny random models of many shapes, each checked by `actadd check`.

Run it once for each TransformerLens that the table is to show; what each finds is kept in models_measured.json:

    python -m docs.models_table
"""

import json
import logging
import os
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.architectures import SHAPES, build
from docs.page_parts import write

DOCS = Path(__file__).parent
MEASURED = DOCS / "models_measured.json"
PAGE = DOCS / "models.md"


def cell(row: dict[str, Any]) -> str:
    """What a family does with a shape, in a few words."""
    refused = row["loads"]["refused"]
    if refused is not None:
        for sign, words in _REFUSALS.items():
            if sign in refused:
                return words
        return "refused: its conversion fails"
    names = ("loads", "whole", "cached", "padded", "lens", "trace")
    wrong = [name for name in names if row[name]["refused"] is None and not row["right"][name]]
    if wrong:
        return f"**wrong: {', '.join(wrong)}**"
    missing = [name for name in names if row[name]["refused"] is not None]
    return f"all but {', '.join(missing)}" if missing else "all"


_REFUSALS = {
    "log-probs differ": "refused: log-probs differ",
    "no conversion to HookedTransformer": "none",
    "Could not determine supported architecture": "none",
    "looks at tokens that follow": "refused: looks ahead",
    "does not predict next tokens": "refused: no decoder",
}


def measured(names: list[str]) -> dict[str, dict[str, Any]]:
    """Every family that is here on each shape: `name` to `family` to row."""
    from actadd_lens.experiments.checking import check_model, families_here

    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as parent:
        for name in names:
            folder = build(name, Path(parent) / name.replace(", ", "-").replace(" ", "_"))
            found[name] = {}
            for family in families_here():
                row = check_model(str(folder), family=family)
                right = {check: finding.holds for check, finding in row.findings.items()}
                found[name][family] = {**row.to_json(), "right": right}
    return found


def table(kept: dict[str, dict[str, dict[str, Any]]]) -> str:
    """One line a shape, one column a family of a version."""
    columns = [
        (line, family)
        for line in sorted(kept)
        for family in ("hooked", "bridge")
        if any(family in rows for rows in kept[line].values())
    ]
    titles = [f"{'HookedTransformer' if family == 'hooked' else 'bridge'} {line}" for line, family in columns]
    lines = ["| shape | " + " | ".join(titles) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in SHAPES:
        cells = [kept[line].get(name, {}).get(family, "") for line, family in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure with the installed TransformerLens, keep what was found, and write the page."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    start = time.perf_counter()
    kept = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    rows = measured(list(SHAPES))
    kept[version("transformer-lens")] = {
        name: {family: cell(row) for family, row in families.items()} for name, families in rows.items()
    }
    MEASURED.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    write(PAGE, {"shapes": table(kept)})
    print(f"{len(rows)} shapes in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
