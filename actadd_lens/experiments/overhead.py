"""What steering costs to run, by size of the model (section 2h of the paper's facts)."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from actadd_lens.checks import check_run, is_count, require
from actadd_lens.errors import SettingError
from actadd_lens.experiments.evidence import Estimate, Experiment, Finding, moves, resampled, stays
from actadd_lens.experiments.timing import Condition, Measured, measure
from actadd_lens.methods.actadd import compute_steering_vector
from actadd_lens.models import LensModel, backend_of, load_model
from actadd_lens.progress import tracked
from actadd_lens.prompts.pairs import PromptPair, as_pair
from actadd_lens.steering.clean import unsteered
from actadd_lens.steering.steer import steer
from actadd_lens.vectors.vector import SteeringVector
from actadd_lens.writing.decoding import Cell, DecodeSettings, decode_cells
from actadd_lens.writing.sampling import Sampling

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

What = Literal["forward", "generation"]
WHATS: tuple[What, ...] = ("forward", "generation")

MARGIN = 0.004
"""The largest premium that the paper gives."""

_HEAD = 64
"""Width of an attention head of a random model, as in GPT-2."""


@dataclass(frozen=True, eq=False)
class Timing:
    """Running times on one model.

    Attributes:
        model: Its name.
        parameters: Number of its parameters, embeddings counted.
        what: A forward pass, or generation.
        steered: Steered times compared with unsteered ones.
        unsteered: Unsteered times compared with unsteered ones: the noise of the clock.
    """

    model: str
    parameters: int
    what: What
    steered: Measured
    unsteered: Measured

    @property
    def premium(self) -> Estimate:
        """t(steered) / t(unsteered) - 1, median over repeats; the null is the same of two unsteered runs."""
        low, high = self.steered.interval()
        repeats = len(self.steered.seconds)
        return Estimate(self.steered.ratio - 1, low - 1, high - 1, repeats, "repeats", (self.unsteered.ratio - 1,))


@dataclass(frozen=True, eq=False, kw_only=True)
class Overhead(Experiment):
    """Time premium of steering, by model.

    Attributes:
        timings: Two of each model, the smallest model first.
    """

    name: ClassVar[str] = "overhead"
    title: ClassVar[str] = "What steering costs to run"

    timings: tuple[Timing, ...]

    def of(self, what: What) -> tuple[Timing, ...]:
        """Timings of forward passes or of generation, the smallest model first.

        Args:
            what: `forward` or `generation`.
        """
        return tuple(timing for timing in self.timings if timing.what == what)

    def growth(self, what: What) -> Estimate:
        """Premium of the largest model minus that of the smallest; below 0 if it falls with size."""
        first, last = self.of(what)[0], self.of(what)[-1]
        ratios = np.stack([timing.steered.ratios for timing in (first, last)], axis=1)
        controls = np.stack([timing.unsteered.ratios for timing in (first, last)], axis=1)
        return resampled(_fall, ratios, of="repeats", nulls=[_fall(controls)], smooth=False)

    def frame(self) -> "pd.DataFrame":
        """One line per model and what was timed."""
        import pandas as pd

        lines = []
        for timing in self.timings:
            premium = timing.premium
            lines.append({
                "model": timing.model, "parameters": timing.parameters, "timed": timing.what,
                "unsteered ms": timing.steered.reference_milliseconds, "steered ms": timing.steered.milliseconds,
                "premium": premium.value, "low": premium.low, "high": premium.high, "n": premium.n,
                "unsteered against itself": premium.nulls[0],
            })  # fmt: skip
        return pd.DataFrame(lines)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Premium over the number of parameters, with intervals and the paper's range."""
        from actadd_lens.plots.experiments_reading import plot_overhead

        return plot_overhead(self, ax=ax)

    def findings(self) -> tuple[Finding, ...]:
        """Claim 9."""
        return tuple(finding for what in WHATS for finding in self._findings(what))

    def _findings(self, what: What) -> tuple[Finding, Finding]:
        largest = self.of(what)[-1]
        about = (
            f"time premium of a steered {what} on the largest model, {largest.model}; next to nothing means at most "
        )
        paper = "0 to 0.4 %"
        reason = f"two unsteered runs differ by {largest.premium.nulls[0]:+.2%} in the same way"
        cost = Finding(
            9, f"{about}{MARGIN:.1%}", stays(largest.premium, MARGIN, against="greater"), largest.premium, paper, reason
        )
        about, paper = (
            f"premium of a {what} on the largest model minus that on the smallest",
            "flat or falling with size",
        )
        if len(self.of(what)) < 2:
            return cost, Finding(9, about, "not testable here", None, paper, "only one model was timed")
        fall = self.growth(what)
        # One run of the clock against itself has no spread that a fall could be judged by.
        return cost, Finding(9, about, moves(replace(fall, nulls=()), "less"), fall, paper)

    def summary(self) -> str:
        """What was done and what was found."""
        told = [
            f"{timing.what} on {timing.model} ({timing.parameters / 1e6:.3g} M parameters) {timing.premium.value:+.2%} "
            f"[{timing.premium.low:+.2%}, {timing.premium.high:+.2%}]"
            for timing in self.timings
        ]
        return (
            f"Steered against unsteered, medians of {self.settings['repeats']} repeats in turns: "
            + "; ".join(told)
            + "."
        )


def overhead(
    model: LensModel,
    *,
    pair: PromptPair | tuple[str, str | None] = ("Love", "Hate"),
    layer: int | None = None,
    coefficient: float = 1.0,
    sizes: Sequence[tuple[int, int]] = ((4, 128), (8, 256), (12, 512)),
    rows: int = 4,
    length: int = 32,
    max_new_tokens: int = 12,
    repeats: int = 21,
    seed: int = 0,
    progress: bool = True,
) -> Overhead:
    """Time steered and unsteered runs in turns, on a model and on random ones of growing size.

    Times are those of this machine now: other work on it widens the intervals. Opening `steer` is not timed, because it
    is opened once and used often; nor is computing the vector.

    Args:
        model: The model; random ones of GPT-2's shape share its tokenizer, family and device.
        pair: Prompt pair.
        layer: Injection layer; the middle one by default, of each model.
        coefficient: Injection coefficient.
        sizes: Layers and width of each random model; widths are multiples of 64.
        rows: Prompts in a pass.
        length: Tokens of each prompt.
        max_new_tokens: Tokens that each prompt gets when generating.
        repeats: Timed repeats of each comparison.
        seed: Seed of the random models and prompts.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: The pair cannot be used.
        SettingError: A setting is out of range.
        LayerError: There is no such layer in one of the models.
    """
    check_run(seed=seed)
    backend, checked = backend_of(model), as_pair(pair)
    for name, value in (("rows", rows), ("length", length), ("max_new_tokens", max_new_tokens)):
        require(is_count(value), name, value, "an integer from 1")
    require(is_count(repeats) and repeats > 1, "repeats", repeats, "an integer from 2")
    depths = [_check_size(size) for size in sizes] + [backend.n_layers]
    for depth in depths:
        require(layer is None or 0 <= layer < depth, "layer", layer, f"one of the {depth} layers of the smallest model")
    longest = len(checked.tokens(model).positive)
    require(longest <= length <= backend.n_ctx - max_new_tokens, "length", length,
            f"{longest} to {backend.n_ctx - max_new_tokens} tokens")  # fmt: skip
    shape = _Prompts(rows, length, max_new_tokens, seed)
    with unsteered(backend):
        found = _time(model, checked, layer, coefficient, shape, repeats)
    for size in tracked(sizes, what="timing", unit="model", shown=progress):
        with _random_model(model, size, seed=seed) as other:
            found += _time(other, checked, layer, coefficient, shape, repeats)
    return Overhead(
        model=backend.name, timings=tuple(sorted(found, key=lambda timing: timing.parameters)),
        settings={
            "pair": checked.label, "layer": "middle" if layer is None else layer, "coefficient": coefficient,
            "sizes": [list(size) for size in sizes], "rows": rows, "length": length, "max_new_tokens": max_new_tokens,
            "repeats": repeats, "seed": seed, "threads": torch.get_num_threads(), "device": str(backend.device),
        },
        notes=("The null of a premium is that of two unsteered runs, timed in the same way.",),
    )  # fmt: skip


def _check_size(size: Any) -> int:
    """The number of layers of a random model, once its size is sound."""
    is_sound = isinstance(size, tuple | list) and len(size) == 2 and all(is_count(value) for value in size)
    if not is_sound or size[1] % _HEAD:
        raise SettingError(f"The size {size!r} is none: expected layers and a width that is a multiple of {_HEAD}.")
    return int(size[0])


# -- models ----------------------------------------------------------------------------------------------------


@contextmanager
def _random_model(model: LensModel, size: tuple[int, int], *, seed: int) -> Iterator[LensModel]:
    """A model of GPT-2's shape with random weights, and the tokenizer, family and device of another."""
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    backend, (n_layers, width) = backend_of(model), size
    config = GPT2Config(
        n_layer=n_layers, n_embd=width, n_head=width // _HEAD, n_positions=backend.n_ctx,
        vocab_size=int(model.cfg.d_vocab), bos_token_id=backend.bos_token_id, eos_token_id=backend.eos_token_id,
    )  # fmt: skip
    had_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with tempfile.TemporaryDirectory() as folder:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                GPT2LMHeadModel(config).save_pretrained(folder)
            backend.tokenizer.save_pretrained(folder)
            random_model = load_model(
                folder, family="bridge" if backend.family == "bridge" else "hooked", device=backend.device
            )
    finally:
        if had_bar:
            logging.enable_progress_bar()
    random_model.cfg.model_name = f"random, {n_layers} x {width}"
    yield random_model


# -- timing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prompts:
    """Random prompts, all of one length."""

    rows: int
    length: int
    max_new_tokens: int
    seed: int

    def tokens(self, model: LensModel) -> torch.Tensor:
        """Token ids, BOS first where there is one."""
        backend, random = backend_of(model), torch.Generator().manual_seed(self.seed)
        tokens = torch.randint(len(backend.tokenizer), (self.rows, self.length), generator=random)
        if backend.bos_token_id is not None:
            tokens[:, 0] = backend.bos_token_id
        return tokens.to(backend.device)


def _time(
    model: LensModel, pair: PromptPair, layer: int | None, coefficient: float, prompts: _Prompts, repeats: int
) -> list[Timing]:
    """Both timings of one model."""
    backend = backend_of(model)
    place = backend.n_layers // 2 if layer is None else layer
    vector = coefficient * compute_steering_vector(model, pair, layer=place)
    parameters = sum(parameter.numel() for parameter in backend.model.parameters())
    conditions: dict[What, tuple[Condition, Condition]] = {
        "forward": _forward(model, vector, prompts),
        "generation": _generation(model, vector, prompts),
    }
    return [
        Timing(
            backend.name,
            parameters,
            what,
            steered=measure(steered, plain, repeats=repeats),
            unsteered=measure(plain, plain, repeats=repeats),
        )
        for what, (steered, plain) in conditions.items()
    ]


def _forward(model: LensModel, vector: SteeringVector, prompts: _Prompts) -> tuple[Condition, Condition]:
    """One pass over all prompts."""
    tokens, wait = prompts.tokens(model), _waiter(model)

    @torch.no_grad()
    def forward() -> None:
        model(tokens)
        wait()

    return Condition(forward, around=lambda: steer(model, vector)), Condition(forward)


def _generation(model: LensModel, vector: SteeringVector, prompts: _Prompts) -> tuple[Condition, Condition]:
    """Greedy continuations of all prompts."""
    backend, wait = backend_of(model), _waiter(model)
    rows = [tuple(row) for row in prompts.tokens(model).tolist()]
    settings = DecodeSettings(
        max_new_tokens=prompts.max_new_tokens, sampling=Sampling(temperature=0), stop_at_eos=False
    )

    def decoder(*vectors: SteeringVector) -> Callable[[], None]:
        def decode() -> None:
            decode_cells(backend, [Cell(row, vectors) for row in rows], settings)
            wait()

        return decode

    return Condition(decoder(vector)), Condition(decoder())


def _waiter(model: LensModel) -> Callable[[], None]:
    """Waits for the device, which works on after a call has returned."""
    device = backend_of(model).device
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def _fall(ratios: "np.ndarray") -> float:
    """Median premium of the last column minus that of the first."""
    return float(np.median(ratios[:, -1]) - np.median(ratios[:, 0]))
