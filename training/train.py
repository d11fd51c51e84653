"""Train: `python -m training.train --data PREPARED --run FOLDER --tokens 60e6`.

The learning rate warms up, stays constant, and falls to zero over the last part of the run (warm-up,
stable, decay). While it is constant a run can go on for as long as one likes. The decay starts by itself in
time to end at `--tokens`, or at once when a file `decay` with a number of tokens in it appears in the run's
folder. Killed at any moment, the same command goes on from the last checkpoint, and ends with the weights
that an uninterrupted run ends with.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from training.compose import Composer
from training.export import load_exported, read_config
from training.model import ModelShape, StoryModel
from training.optimizer import make_optimizers
from training.slips import with_slips
from training.tokenizer import start_id

logger = logging.getLogger("training.train")
AVERAGE_EVERY = 8  # steps
AVERAGE_RATE = 0.02  # of the running average of the weights: a horizon of some 400 steps


@dataclasses.dataclass
class Progress:
    """Where a run stands: enough, with weights and optimiser state, to go on as if nothing had happened."""

    step: int = 0
    tokens: int = 0
    epoch: int = 0
    window: int = 0
    decay_from: int | None = None
    decay_tokens: int = 0

    def lr_factor(self, warm_up: int) -> float:
        """What the peak learning rates are multiplied by at this step."""
        factor = min(1.0, (self.step + 1) / warm_up)
        if self.decay_from is not None:
            factor *= max(0.0, 1 - (self.tokens - self.decay_from) / self.decay_tokens)
        return factor

    @property
    def finished(self) -> bool:
        """Whether the decay has ended."""
        return self.decay_from is not None and self.tokens >= self.decay_from + self.decay_tokens


class Run:
    """A model in training and everything that a checkpoint holds."""

    def __init__(self, shape: ModelShape, arguments: argparse.Namespace) -> None:
        torch.manual_seed(arguments.seed)
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        self.model = StoryModel(shape).to(self.device)
        self.optimizers = make_optimizers(self.model, matrix_lr=arguments.matrix_lr, other_lr=arguments.other_lr)
        self.average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.progress = Progress()
        self.losses = torch.compile(self._losses) if arguments.compile else self._losses

    def _losses(self, ids: Tensor, seen: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.model.losses(ids, seen)

    def step(self, windows: NDArray[np.uint16], seen: NDArray[np.uint16]) -> float:
        """One step of all optimisers, of windows that the model sees with slips; returns the mean loss in nats."""
        factor = self.progress.lr_factor(self.arguments.warm_up)
        loss = self.losses(self.to_ids(windows), self.to_ids(seen)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad()
        self.progress.step += 1
        self.progress.tokens += windows.size
        if self.progress.step % AVERAGE_EVERY == 0:
            self.update_average()
        return loss.item()

    def to_ids(self, windows: NDArray[np.uint16]) -> Tensor:
        """Windows as the embedding wants them, on the device."""
        return torch.from_numpy(windows.astype(np.int64)).to(self.device)

    @torch.no_grad()
    def update_average(self) -> None:
        """Before the decay the average of late weights is exported: it is nearly as good as decayed ones."""
        rate = max(AVERAGE_RATE, AVERAGE_EVERY / (self.progress.step + AVERAGE_EVERY))
        for name, tensor in self.model.state_dict().items():
            self.average[name].lerp_(tensor, rate)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with averaged weights; with its own again afterwards."""
        own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    @torch.no_grad()
    def evaluate(self, held_out: Mapping[str, NDArray[np.uint16]]) -> dict[str, float]:
        """Mean loss by source, and over sources as `mean`; of the averaged weights until the decay begins."""
        result = {}
        with contextlib.nullcontext() if self.progress.decay_from is not None else self.averaged():
            for source, windows in held_out.items():
                batches = np.array_split(windows, -(-len(windows) // self.arguments.batch))
                losses = [self._losses(ids, ids).flatten() for ids in map(self.to_ids, batches)]
                result[source] = torch.cat(losses).mean().item()
        return {"mean": sum(result.values()) / len(result), **result}

    def start_from(self, folder: Path) -> None:
        """Go on from exported weights: what they have seen counts, the optimisers and their warm-up begin anew."""
        self.model.load_state_dict(load_exported(folder).state_dict())
        self.average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.progress.tokens = read_config(folder)["trained_tokens"]

    def save(self, path: Path) -> None:
        """Write a checkpoint so that there is a whole one at any moment."""
        state = {
            "shape": dataclasses.asdict(self.model.shape),
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": dataclasses.asdict(self.progress),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])


def start_decay_when_due(progress: Progress, arguments: argparse.Namespace) -> None:
    """Begin the decay in time for `--tokens`, or when the run's folder holds a file `decay`."""
    if progress.decay_from is not None:
        return
    asked = arguments.run / "decay"
    if asked.exists():
        progress.decay_tokens = int(float(asked.read_text()))
    elif progress.tokens >= arguments.tokens * (1 - arguments.decay_share):
        progress.decay_tokens = int(arguments.tokens * arguments.decay_share)
    else:
        return
    progress.decay_from = progress.tokens
    logger.info("decay over %.1f M tokens from %.1f M on", progress.decay_tokens / 1e6, progress.tokens / 1e6)


def report(run: Run, held_out: Mapping[str, NDArray[np.uint16]], train_loss: float, speed: float) -> None:
    """One line for people in the log, one for programs in `history.jsonl`."""
    losses = {name: round(loss, 4) for name, loss in run.evaluate(held_out).items()}
    progress = run.progress
    logger.info(
        "%.2f M tokens, epoch %d, train %.3f, held out %s, %.0f tokens/s",
        progress.tokens / 1e6, progress.epoch, train_loss, losses, speed,
    )  # fmt: skip
    line = {
        "step": progress.step,
        "tokens": progress.tokens,
        "train": round(train_loss, 4),
        "held_out": losses,
    }
    with (run.arguments.run / "history.jsonl").open("a") as out:
        out.write(json.dumps(line) + "\n")


def train(run: Run, composer: Composer) -> None:
    """Train until the decay has ended, saving by the clock and reporting by the step."""
    arguments, progress = run.arguments, run.progress
    held_out = composer.held_out_windows()
    saved = reported = time.monotonic()
    tokens_reported, recent = progress.tokens, 0.0
    bar = tqdm(initial=progress.tokens, total=int(arguments.tokens), unit=" tokens", unit_scale=True, mininterval=10)
    windows = composer.epoch(progress.epoch)
    while not progress.finished:
        start_decay_when_due(progress, arguments)
        if progress.window + arguments.batch > len(windows):
            progress.epoch, progress.window = progress.epoch + 1, 0
            windows = composer.epoch(progress.epoch)
        batch = windows[progress.window : progress.window + arguments.batch]
        progress.window += arguments.batch
        slips = np.random.default_rng([arguments.seed, progress.tokens])
        loss = run.step(batch, with_slips(slips, batch, start_id(composer.tokenizer)))
        recent = loss if not recent else 0.98 * recent + 0.02 * loss
        bar.update(batch.size)
        if progress.step % arguments.report_every == 0:
            speed = (progress.tokens - tokens_reported) / (time.monotonic() - reported)
            report(run, held_out, recent, speed)
            reported, tokens_reported = time.monotonic(), progress.tokens
        if time.monotonic() - saved > 60 * arguments.save_minutes:
            run.save(arguments.run / "checkpoint.pt")
            saved = time.monotonic()
    bar.close()
    run.save(arguments.run / "checkpoint.pt")
    report(run, held_out, recent, 0.0)


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The settings of a run; without words, those of the command line."""
    parser = argparse.ArgumentParser(description="Train the model.")
    parser.add_argument("--data", type=Path, required=True, help="folder written by training.prepare")
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoint; a run in it goes on")
    parser.add_argument("--start", type=Path, help="exported folder of the same shape to go on from, in a new run")
    parser.add_argument("--tokens", type=float, default=60e6, help="in all, with those of --start")
    parser.add_argument("--decay-share", type=float, default=0.2)
    parser.add_argument("--share", nargs="*", default=[], help="SOURCE=TIMES: how often an epoch holds a document")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--d-model", type=int, default=192)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batch", type=int, default=24, help="windows")
    parser.add_argument("--matrix-lr", type=float, default=0.02)
    parser.add_argument("--other-lr", type=float, default=0.003)
    parser.add_argument("--warm-up", type=int, default=200, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--report-every", type=int, default=200, help="steps")
    parser.add_argument("--save-minutes", type=float, default=3)
    return parser.parse_args(words)


def run_from(arguments: argparse.Namespace) -> None:
    """Start the run of the arguments, or go on with it."""
    arguments.run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    shares = {name: float(times) for name, _, times in (text.partition("=") for text in arguments.share)}
    composer = Composer(arguments.data, context=arguments.context, seed=arguments.seed, shares=shares)
    shape = ModelShape(
        vocab_size=composer.tokenizer.get_vocab_size(),
        n_layers=arguments.layers,
        d_model=arguments.d_model,
        n_heads=arguments.heads,
        context=arguments.context,
    )
    run = Run(shape, arguments)
    checkpoint = arguments.run / "checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    elif arguments.start is not None:
        run.start_from(arguments.start)
    facts: dict[str, Any] = {"shape": dataclasses.asdict(shape), "shares": shares, "seed": arguments.seed}
    (arguments.run / "run.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    n_parameters = sum(parameter.numel() for parameter in run.model.parameters())
    logger.info("%s, %.2f M parameters, from %d tokens", shape, n_parameters / 1e6, run.progress.tokens)
    train(run, composer)


def main() -> None:
    """Train, with the log beside the progress bar."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with logging_redirect_tqdm():
        run_from(parse_arguments())


if __name__ == "__main__":
    main()
