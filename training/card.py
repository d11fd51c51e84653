"""Numbers for the model card: `python -m training.card --data PREPARED --model FOLDER [FOLDER ...]`.

Bits per byte on held-out text by source, which compares models with different tokenizers, and the first ten
samples of the first model, not chosen.
"""

import argparse
import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.compose import read_records
from training.readers import read_corpora

logger = logging.getLogger("training.card")


def held_out_texts(data: Path, other_corpora: Path | None, most_bytes: int) -> dict[str, list[str]]:
    """Texts by source: those held out in preparation, and a part of sources that were never trained on."""
    texts: dict[str, list[str]] = defaultdict(list)
    for record in read_records(data / "heldout.jsonl"):
        texts[record["source"]].append("".join(record["sentences"]).strip())
    if other_corpora is not None:
        trained_on = list(texts)
        for document in read_corpora([other_corpora], [f"{source}.*" for source in trained_on]):
            texts[document.source + " (not trained on)"].append(document.text)
    return {source: list(up_to(some, most_bytes)) for source, some in texts.items()}


def up_to(texts: list[str], most_bytes: int) -> Iterator[str]:
    """The first texts of together no more than about the given bytes, the last of them cut."""
    left = most_bytes
    for text in texts:
        if left <= 0:
            return
        yield text[:left]
        left -= len(text.encode())


@torch.no_grad()
def nats(model: Any, rows: list[list[int]]) -> float:
    """Summed loss of rows of token ids, the first of each not predicted."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    targets = torch.tensor([row[1:] + [-100] * (longest - len(row)) for row in rows])
    logits = model(ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()


def bits_per_byte(model: Any, tokenizer: Any, texts: list[str]) -> float:
    """Loss of the texts in bits by their bytes, the end mark not counted.

    Long texts are cut into pieces that fill the context, each with the text-start mark first: all models of a
    comparison pay for that, though not quite alike.
    """
    context, bos = model.config.max_position_embeddings, tokenizer.bos_token_id
    rows: list[list[int]] = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        rows.extend([bos, *ids[first : first + context - 1]] for first in range(0, len(ids), context - 1))
    rows.sort(key=len)
    batches = [rows[first : first + 32] for first in range(0, len(rows), 32)]
    total = sum(nats(model, batch) for batch in tqdm(batches, leave=False))
    return total / math.log(2) / sum(len(text.encode()) for text in texts)


def samples(model: Any, tokenizer: Any, count: int = 10) -> list[str]:
    """The first samples of seed 0 from the bare text start, top_p 0.9."""
    torch.manual_seed(0)
    start = torch.full((count, 1), tokenizer.bos_token_id)
    ids = model.generate(
        start, attention_mask=torch.ones_like(start), do_sample=True, top_p=0.9, top_k=0, max_new_tokens=80
    )
    return list(tokenizer.batch_decode(ids, skip_special_tokens=True))


def main() -> None:
    """Read the command line, measure, log."""
    parser = argparse.ArgumentParser(description="Bits per byte by source, and samples.")
    parser.add_argument("--data", type=Path, required=True, help="folder written by training.prepare")
    parser.add_argument("--other-corpora", type=Path, help="folder whose other files are scored as well")
    parser.add_argument("--model", type=Path, nargs="+", required=True)
    parser.add_argument("--most-bytes", type=int, default=100_000, help="by source")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers and samples")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    texts = held_out_texts(arguments.data, arguments.other_corpora, arguments.most_bytes)
    columns: dict[str, dict[str, float]] = {}
    first_samples: list[str] = []
    for folder in arguments.model:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        columns[folder.name] = {source: bits_per_byte(model, tokenizer, some) for source, some in texts.items()}
        first_samples = first_samples or samples(model, tokenizer)
    logger.info("bits per byte\n%s", pd.DataFrame(columns).round(3).to_string())
    if arguments.out is not None:
        found = {"bits_per_byte": columns, "samples": first_samples}
        arguments.out.write_text(json.dumps(found, indent=1, ensure_ascii=False))
    for number, text in enumerate(first_samples, start=1):
        logger.info("\n[%d] %s", number, text)


if __name__ == "__main__":
    main()
