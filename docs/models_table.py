"""Write the table of docs/models.md: tiny random models of many shapes, each checked by `actadd check`.

Run it once for each TransformerLens that the table is to show; what each finds is kept in models_measured.json:

    python -m docs.models_table
    python -m docs.models_table --loading      # what the comparison on loading costs, too
"""

import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.architectures import SHAPES, build, byte_tokenizer
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
    kept = {line: rows for line, rows in kept.items() if line != "loading"}
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


LOADED = {
    "GPT-2 small's shape, 124 M": ("GPT2", {}),
    "Llama of 30 layers, 135 M": (
        "Llama",
        {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
         "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    ),
}  # fmt: skip
"""Shapes of real models, with random weights."""


def loading() -> list[dict[str, Any]]:
    """Processor seconds of loading, and of the comparison in it."""
    import transformers

    from actadd_lens.experiments.checking import families_here

    rows = []
    with tempfile.TemporaryDirectory() as parent:
        folders = {"storybook, 5 M": "storybook"}
        for number, (name, (kind, settings)) in enumerate(LOADED.items()):
            config = getattr(transformers, f"{kind}Config")(**settings, bos_token_id=0, eos_token_id=0)
            folders[name] = str(Path(parent, str(number)))
            transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folders[name])
            byte_tokenizer().save_pretrained(folders[name])
        for name, folder in folders.items():
            for family in families_here():
                totals, shares = zip(*(_one_load(folder, family) for _ in range(3)), strict=True)
                rows.append({"model": name, "family": family, "seconds": statistics.median(totals),
                             "of it comparing": statistics.median(shares)})  # fmt: skip
    return rows


def _one_load(folder: str, family: Any) -> tuple[float, float]:
    from actadd_lens.models import load_model, loading

    module: Any = loading
    spent = 0.0
    kept = module.reference_of, module.check_agreement

    def timed(function: Any) -> Any:
        def run(*told: Any) -> Any:
            nonlocal spent
            start = time.process_time()
            found = function(*told)
            spent += time.process_time() - start
            return found

        return run

    module.reference_of, module.check_agreement = map(timed, kept)
    try:
        start = time.process_time()
        load_model(folder, family=family)
        return time.process_time() - start, spent
    finally:
        module.reference_of, module.check_agreement = kept


def loading_table(rows: list[dict[str, Any]]) -> str:
    """One line a model and family."""
    lines = ["| model | family | seconds | of it comparing |", "|---" * 4 + "|"]
    lines += [
        f"| {row['model']} | {row['family']} | {row['seconds']:.2f} | {row['of it comparing']:.2f} |" for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure with the installed TransformerLens, keep what was found, and write the page."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    start = time.perf_counter()
    kept = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    if "--loading" in sys.argv:
        kept["loading"] = loading()
    rows = measured(list(SHAPES))
    kept[version("transformer-lens")] = {
        name: {family: cell(row) for family, row in families.items()} for name, families in rows.items()
    }
    MEASURED.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    write(PAGE, {"shapes": table(kept), "loading": loading_table(kept.get("loading", []))})
    print(f"{len(rows)} shapes in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
