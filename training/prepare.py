"""Prepare a training run: `python -m training.prepare --corpora FOLDER --out FOLDER`.

Reads every text file of the folders, leaves out abuse and duplicates, learns the tokenizer, judges the mood
of each sentence (VADER), and writes `train.jsonl`, `heldout.jsonl`, `words.json` and `tokenizer.json`.
"""

import argparse
import json
import logging
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tqdm.auto import tqdm

from training.filtering import clean
from training.readers import Document, read_corpora
from training.tokenizer import load_tokenizer, missing_words, save_tokenizer, train_tokenizer

logger = logging.getLogger("training.prepare")
_WORD = re.compile(r"[A-Za-z']+")


def kept_documents(documents: Iterable[Document]) -> list[Document]:
    """Clean documents, each text once."""
    seen: set[str] = set()
    kept = []
    for document in tqdm(documents, desc="read", unit=" documents"):
        cleaned = clean(document)
        if cleaned is not None and cleaned.text.lower() not in seen:
            seen.add(cleaned.text.lower())
            kept.append(cleaned)
    return kept


def is_held_out(document: Document, share: float) -> bool:
    """Decided by the text itself: a later preparation with more corpora holds out the same documents."""
    return zlib.crc32(document.text.encode()) % 1000 < 1000 * share


def judge_moods(sentences: list[str]) -> list[float]:
    """VADER's compound of each sentence, -1 to 1."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return [analyzer.polarity_scores(sentence)["compound"] for sentence in sentences]


def moods_of(documents: list[Document]) -> list[list[float]]:
    """Moods by document and sentence, on all cores: the slowest step by far."""
    sentences = [sentence for document in documents for sentence in document.sentences]
    batches = [sentences[first : first + 5000] for first in range(0, len(sentences), 5000)]
    with ProcessPoolExecutor() as pool:
        judged = list(tqdm(pool.map(judge_moods, batches), total=len(batches), desc="moods"))
    flat = iter([mood for batch in judged for mood in batch])
    return [[next(flat) for _ in document.sentences] for document in documents]


def count_words(documents: list[Document]) -> dict[str, int]:
    """In how many documents each word stands, of those mostly written small: names are left out."""
    documents_with: Counter[str] = Counter()
    capitalised: Counter[str] = Counter()
    for document in documents:
        words = set(_WORD.findall(document.text))
        documents_with.update({word.lower() for word in words})
        capitalised.update({word.lower() for word in words if not word.islower()} - words)
    return {word: n for word, n in documents_with.items() if n >= 8 and capitalised[word] < 0.5 * n}


def record(document: Document, moods: list[float], tokenizer: Tokenizer) -> dict[str, Any]:
    """What is kept of a document: its sentences with their moods and lengths in tokens."""
    lengths = [
        len(encoding.ids) for encoding in tokenizer.encode_batch(list(document.sentences), add_special_tokens=False)
    ]
    return {
        "source": document.source,
        "kind": document.kind,
        "label": document.label,
        "sentences": document.sentences,
        "moods": [round(mood, 3) for mood in moods],
        "lengths": lengths,
    }


def write_documents(path: Path, documents: list[Document], tokenizer: Tokenizer) -> dict[str, dict[str, int]]:
    """One document a line; returns documents, bytes and tokens by source."""
    totals: dict[str, Counter[str]] = {}
    with path.open("w", encoding="utf-8") as out:
        for document, moods in zip(documents, moods_of(documents), strict=True):
            line = record(document, moods, tokenizer)
            out.write(json.dumps(line) + "\n")
            total = totals.setdefault(document.source, Counter())
            total.update(documents=1, bytes=len(document.text.encode()), tokens=sum(line["lengths"]))
    return {source: dict(total) for source, total in totals.items()}


def prepare(arguments: argparse.Namespace) -> None:
    """Read, split, learn the tokenizer, write."""
    documents = kept_documents(read_corpora(arguments.corpora, arguments.leave_out))
    train = [document for document in documents if not is_held_out(document, arguments.held_out)]
    held_out = [document for document in documents if is_held_out(document, arguments.held_out)]
    if arguments.tokenizer:
        tokenizer = load_tokenizer(arguments.tokenizer)
    else:
        tokenizer = train_tokenizer((document.text for document in train), arguments.vocab_size)
    save_tokenizer(tokenizer, arguments.out)
    logger.info("more than one token: %s", missing_words(tokenizer))
    (arguments.out / "words.json").write_text(json.dumps(count_words(train)), encoding="utf-8")
    facts = {
        "train": write_documents(arguments.out / "train.jsonl", train, tokenizer),
        "heldout": write_documents(arguments.out / "heldout.jsonl", held_out, tokenizer),
    }
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    logger.info("%s", json.dumps(facts, indent=1))


def main() -> None:
    """Read the command line and prepare."""
    parser = argparse.ArgumentParser(description="Prepare text for training.")
    parser.add_argument("--corpora", type=Path, nargs="+", required=True, help="folders of .txt, .csv and .tsv files")
    parser.add_argument("--leave-out", nargs="*", default=[], help="globs of file names that are not trained on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--tokenizer", type=Path, help="folder of a tokenizer to keep, so that a run can go on")
    parser.add_argument("--held-out", type=float, default=0.015, help="share of the documents held out")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    prepare(parser.parse_args())


if __name__ == "__main__":
    main()
