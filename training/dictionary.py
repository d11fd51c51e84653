"""Learn a dictionary of directions of the embedded model: `python -m training.dictionary --corpora FOLDER --out FILE`.

A sparse autoencoder on the streams that enter one block: of each stream the k largest features are kept (Gao et al.
2024, arXiv 2406.04093), decoder rows have length one, and features that fall silent begin again where the
reconstruction is worst. Only the decoder is kept, with a name for each row: the tokens at which its feature is largest.
"""

import argparse
import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

import actadd_lens as al
from actadd_lens.models import Backend, backend_of
from training.filtering import is_abusive
from training.prepare import kept_documents
from training.readers import read_corpora

logger = logging.getLogger("training.dictionary")
_LONGEST = 64
_NAMED_BY = 40
_SILENT = 500
"""Steps without a token after which a feature begins again."""


@dataclass(frozen=True)
class Streams:
    """Streams that enter a block, and the tokens that they stand at; BOS is left out.

    Attributes:
        rows: The streams.
        tokens: Token id of each.
    """

    rows: Float[Tensor, "streams d_model"]
    tokens: Int[Tensor, " streams"]

    def __len__(self) -> int:
        return len(self.tokens)


class TopK(nn.Module):
    """k features of a stream, and the stream that they make.

    Attributes:
        k: Features that are kept of each stream.
        encoder: Reads features off a stream.
        decoder: One row a feature, of length one.
        centre: What every stream has in common.
    """

    def __init__(self, d_model: int, features: int, k: int, centre: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.k = k
        rows = torch.randn(features, d_model, generator=generator)
        self.decoder = nn.Parameter(rows / rows.norm(dim=1, keepdim=True))
        self.encoder = nn.Parameter(self.decoder.detach().T.clone())
        self.bias = nn.Parameter(torch.zeros(features))
        self.centre = nn.Parameter(centre.clone())

    def features(self, streams: Float[Tensor, "streams d_model"]) -> Float[Tensor, "streams features"]:
        """The k largest features of each stream, the others zero."""
        found = torch.relu((streams - self.centre) @ self.encoder + self.bias)
        values, places = found.topk(self.k, dim=-1)
        return torch.zeros_like(found).scatter(-1, places, values)

    def forward(
        self, streams: Float[Tensor, "streams d_model"]
    ) -> tuple[Float[Tensor, "streams d_model"], Float[Tensor, "streams features"]]:
        """The reconstruction, and the features that it is made of."""
        found = self.features(streams)
        return found @ self.decoder + self.centre, found

    @torch.no_grad()
    def shorten(self) -> None:
        """Decoder rows of length one."""
        self.decoder.div_(self.decoder.norm(dim=1, keepdim=True))

    @torch.no_grad()
    def begin_again(self, silent: Int[Tensor, " some"], missed: Float[Tensor, "streams d_model"]) -> None:
        """Give silent features the directions that are reconstructed worst."""
        worst = missed.norm(dim=1).topk(min(len(silent), len(missed))).indices
        silent = silent[: len(worst)]
        self.decoder[silent] = missed[worst] / missed[worst].norm(dim=1, keepdim=True)
        self.encoder[:, silent] = 0.2 * self.decoder[silent].T
        self.bias[silent] = 0.0


def texts_of(folders: list[Path], leave_out: list[str], share: float) -> Iterator[str]:
    """Clean texts; of the documents a share, chosen by the text itself."""
    documents = (
        document
        for document in read_corpora(folders, leave_out)
        if zlib.crc32(document.text.encode()) % 10_000 < 10_000 * share
    )
    for document in kept_documents(documents):
        yield document.text


@torch.no_grad()
def streams_of(backend: Backend, texts: list[str], layer: int, most: int) -> Streams:
    """Streams at every token of the texts but BOS, up to so many."""
    texts = sorted(texts, key=lambda text: zlib.crc32(text.encode()))
    rows: list[Tensor] = []
    tokens: list[Tensor] = []
    count = 0
    with tqdm(total=most, desc="streams", unit=" tokens") as bar:
        for first in range(0, len(texts), 64):
            batch = backend.tokenizer(texts[first : first + 64], add_special_tokens=False)["input_ids"]
            ids = [[backend.bos_token_id, *row[: _LONGEST - 1]] for row in batch]
            padded = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
            kept = torch.arange(padded.shape[1])[None] < torch.tensor([len(row) for row in ids])[:, None]
            kept[:, 0] = False
            rows.append(backend.residuals(padded, [layer])[layer][kept].half())
            tokens.append(padded[kept])
            count += len(tokens[-1])
            bar.update(len(tokens[-1]))
            if count >= most:
                break
    return Streams(torch.cat(rows)[:most].float(), torch.cat(tokens)[:most])


def learn(streams: Streams, features: int, k: int, steps: int, batch: int, seed: int) -> tuple[TopK, float]:
    """A dictionary of the streams, and the length that they were divided by."""
    generator = torch.Generator().manual_seed(seed)
    centre = streams.rows.mean(dim=0)
    scale = float((streams.rows - centre).norm(dim=1).mean())
    model = TopK(streams.rows.shape[1], features, k, centre / scale, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 5 * (1 - step / steps)))
    silent_for = torch.zeros(features)
    for step in tqdm(range(steps), desc="dictionary"):
        rows = streams.rows[torch.randint(len(streams), (batch,), generator=generator)] / scale
        made, found = model(rows)
        loss = (made - rows).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        model.shorten()
        silent_for = torch.where((found > 0).any(dim=0), 0, silent_for + 1)
        silent = (silent_for > _SILENT).nonzero().flatten()
        if len(silent) and step < 0.8 * steps:
            model.begin_again(silent, (rows - made).detach())
            silent_for[silent] = 0
        if step % 500 == 0:
            logger.info("step %d: %.3f of the streams' length is missed", step, float(loss.detach()))
    return model, scale


@torch.no_grad()
def described(model: TopK, scale: float, held_out: Streams, backend: Backend) -> tuple[list[str], list[float], float]:
    """A name and the share of tokens of each feature, and the share of variance that the features explain."""
    values, missed, total = [], 0.0, 0.0
    for first in range(0, len(held_out), 4096):
        rows = held_out.rows[first : first + 4096] / scale
        made, found = model(rows)
        values.append(found.half())
        missed += float((made - rows).square().sum())
        total += float((rows - model.centre).square().sum())
    features = torch.cat(values)
    shares = [float(share) for share in (features > 0).float().mean(dim=0)]
    names = [name_of(features[:, index].float(), held_out.tokens, backend) for index in range(features.shape[1])]
    return names, shares, 1 - missed / total


def name_of(values: Float[Tensor, " streams"], tokens: Int[Tensor, " streams"], backend: Backend) -> str:
    """The three tokens at which a feature is largest, weighed by how large; nothing for a rude or silent one."""
    largest, places = values.topk(_NAMED_BY)
    weights: Counter[str] = Counter()
    ids = [int(token) for token in tokens[places]]
    for value, text in zip(largest, backend.token_strings(ids), strict=True):
        if value > 0:
            weights[text.strip() or repr(text)] += float(value)  # type: ignore[assignment]
    name = ", ".join(text for text, _ in weights.most_common(3))
    return "" if is_abusive(name) else name


def main() -> None:
    """Read the command line, learn and write."""
    parser = argparse.ArgumentParser(description="Learn a dictionary of the embedded model's directions.")
    parser.add_argument("--corpora", type=Path, nargs="+", required=True, help="folders of .txt, .csv and .tsv files")
    parser.add_argument("--leave-out", nargs="*", default=[])
    parser.add_argument("--share", type=float, default=0.12, help="share of the documents that are read")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--tokens", type=float, default=2.5e5)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    write(parser.parse_args())


def write(arguments: argparse.Namespace) -> None:
    """Streams, dictionary, names, file."""
    backend = backend_of(al.load_model())
    texts = list(texts_of(arguments.corpora, arguments.leave_out, arguments.share))
    streams = streams_of(backend, texts, arguments.layer, int(arguments.tokens))
    cut = int(0.9 * len(streams))
    trained, held_out = (
        Streams(streams.rows[part], streams.tokens[part]) for part in (slice(None, cut), slice(cut, None))
    )
    model, scale = learn(trained, arguments.features, arguments.k, arguments.steps, arguments.batch, arguments.seed)
    names, shares, explained = described(model, scale, held_out, backend)
    kept = [index for index, name in enumerate(names) if name and shares[index] > 0]
    facts: dict[str, Any] = {
        "layer": arguments.layer,
        "k": arguments.k,
        "features learnt": arguments.features,
        "tokens": len(trained),
        "steps": arguments.steps,
        "explained variance, held out": round(explained, 4),
        "names": [names[index] for index in kept],
        "shares of tokens": [float(f"{shares[index]:.3g}") for index in kept],
        "weights": backend.fingerprint_sample(),
    }
    logger.info("%d features kept, %.3f of the variance explained", len(kept), explained)
    decoder = model.decoder.detach()[kept].half().contiguous()
    save_file({"decoder": decoder}, arguments.out, metadata={"actadd_lens_dictionary": json.dumps(facts)})
    arguments.out.chmod(0o644)  # safetensors writes for its user alone


if __name__ == "__main__":
    main()
