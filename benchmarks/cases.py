"""What is compared with what, and the bar that each ratio is to keep under."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

import actadd_lens as al
from actadd_lens.models import backend_of
from actadd_lens.prompts.texts import encode_prompts
from actadd_lens.writing.decoding import Cell, DecodeSettings, decode_cells
from actadd_lens.writing.sampling import Sampling
from benchmarks import sweeps
from benchmarks.timing import Condition

PAIR = ("Love", "Hate")
COEFFICIENT = 5.0


@dataclass(frozen=True)
class Sizes:
    """How much text the decoding cases write.

    Attributes:
        rows: Prompts that decode together.
        new_tokens: Tokens that each of them gets.
    """

    rows: int = 8
    new_tokens: int = 8


@dataclass(frozen=True)
class Case:
    """One ratio.

    Attributes:
        name: By which `--only` picks it.
        judged: In words, the call whose time is the numerator.
        reference: In words, the call whose time is the denominator.
        bar: The ratio is to be at most this; infinite where it is only told.
        conditions: Makes both calls for a model.
        most_repeats: Repeats that are enough, where one takes seconds.
    """

    name: str
    judged: str
    reference: str
    bar: float
    conditions: Callable[[Any, Sizes], tuple[Condition, Condition]]
    most_repeats: int = 1000


def _middle(model: Any) -> int:
    return int(model.cfg.n_layers) // 2


def _vector(model: Any) -> al.SteeringVector:
    return COEFFICIENT * al.compute_steering_vector(model, PAIR, layer=_middle(model))


# -- vectors ---------------------------------------------------------------------------------------------------


def _one_vector(model: Any, sizes: Sizes) -> tuple[Condition, Condition]:
    layer = _middle(model)
    pair = al.PromptPair(*PAIR).tokens(model)
    rows = torch.tensor([pair.positive, pair.negative], device=backend_of(model).device)

    @torch.no_grad()
    def truncated() -> Any:
        return model(rows, stop_at_layer=layer)

    return Condition(lambda: al.compute_steering_vector(model, PAIR, layer=layer)), Condition(truncated)


def _all_layers(model: Any, sizes: Sizes) -> tuple[Condition, Condition]:
    layers = range(model.cfg.n_layers)
    return (
        Condition(lambda: al.compute_steering_vectors(model, [PAIR], layers=layers)),
        Condition(lambda: al.compute_steering_vector(model, PAIR, layer=layers[-1])),
    )


def _token_ablation(model: Any, sizes: Sizes) -> tuple[Condition, Condition]:
    """The reference runs as many rows as there are variants, in batches of the same size and with nothing between.

    On the embedded model, whatever the others run on: the rows are many, and a large model would take an hour.
    """
    model = al.load_model(family="bridge" if backend_of(model).family == "bridge" else "hooked", device="cpu")
    backend, layer = backend_of(model), _middle(model)
    pair = ("I am so happy about it today and", "He was sad when the cat left home")
    row = al.PromptPair(*pair).tokens(model).positive
    texts = [f"{word}, {pair[0]} {pair[1]}" for word in ("Now", "Then", "Here", "There")]
    prompts = encode_prompts(backend, texts)
    metric = al.metrics.next_token_logit(row[1])

    def ours() -> Any:
        return al.ablate_tokens(
            model, pair, layer=layer, prompts=texts, metric=metric, replacement=["remove", "pad", row[2]],
            batch_size=64, progress=False,
        )  # fmt: skip

    ablations = ours().ablations
    variants = 1 + sum(item.side is not None for item in ablations)
    longest = max(map(len, prompts))
    read = torch.tensor([row] * (2 * variants), device=backend.device)
    measured = torch.tensor([[*prompt, *prompt[-1:] * (longest - len(prompt))] for prompt in prompts])
    measured = measured.repeat(len(ablations) + 2, 1).to(backend.device)

    @torch.no_grad()
    def plain() -> None:
        for rows in read.split(256):
            backend.residuals(rows, [layer])
        for rows in measured.split(64):
            backend.logits_at(rows, torch.full((len(rows),), longest - 1))

    return Condition(ours), Condition(plain)


# -- steering --------------------------------------------------------------------------------------------------


def _forward(model: Any, sizes: Sizes) -> tuple[Condition, Condition]:
    """`steer` is opened and closed outside the time that is taken, for it is opened once and used often."""
    vector = _vector(model)
    tokens = _same_length_rows(model, 1)

    @torch.no_grad()
    def forward() -> Any:
        return model(tokens)

    return Condition(forward, around=_steering(model, vector)), Condition(forward)


def _decoding(model: Any, sizes: Sizes) -> tuple[Condition, Condition]:
    vectors = (_vector(model),)
    greedy = Sampling(temperature=0)
    return (
        Condition(_decoder(model, _same_length_rows(model, sizes.rows), sizes, greedy, vectors)),
        Condition(_decoder(model, _same_length_rows(model, sizes.rows), sizes, greedy)),
    )


def _generate_inside_steer(model: Any, sizes: Sizes) -> tuple[Condition, Condition]:
    generate = _generator(model, _same_length_rows(model, sizes.rows), sizes, do_sample=False)
    return Condition(generate, around=_steering(model, _vector(model))), Condition(generate)


def _steering(model: Any, vector: al.SteeringVector) -> Callable[[], AbstractContextManager[object]]:
    return lambda: al.steer(model, vector)


# -- the decode loop -------------------------------------------------------------------------------------------


def _greedy(model: Any, sizes: Sizes) -> tuple[Condition, Condition]:
    rows = _same_length_rows(model, sizes.rows)
    return (
        Condition(_decoder(model, rows, sizes, Sampling(temperature=0))),
        Condition(_generator(model, rows, sizes, do_sample=False)),
    )


def _sampled(model: Any, sizes: Sizes) -> tuple[Condition, Condition]:
    rows = _same_length_rows(model, sizes.rows)
    return Condition(_decoder(model, rows, sizes, Sampling())), Condition(
        _generator(model, rows, sizes, do_sample=True)
    )


def _nucleus(model: Any, sizes: Sizes) -> tuple[Condition, Condition]:
    rows = _same_length_rows(model, sizes.rows)
    return (
        Condition(_decoder(model, rows, sizes, Sampling(top_p=0.3))),
        Condition(_generator(model, rows, sizes, do_sample=True, top_p=0.3)),
    )


def _other_lengths(model: Any, sizes: Sizes) -> tuple[Condition, Condition]:
    """`generate` pads on the left only for texts, which it tokenises first; that takes no part in the ratio's size."""
    backend = backend_of(model)
    words = ["I", "hate", "you", "because", "The", "wedding", "was", "a", "long", "day", "and"]
    texts = [" ".join(words[: 2 + row % (len(words) - 2)]) for row in range(sizes.rows)]
    settings = _settings(sizes, Sampling(temperature=0))

    def ours() -> Any:
        cells = [Cell(row, ()) for row in encode_prompts(backend, texts)]
        return decode_cells(backend, cells, settings)

    def theirs() -> Any:
        return model.generate(texts, max_new_tokens=sizes.new_tokens, do_sample=False, verbose=False)

    return Condition(ours), Condition(theirs)


def _same_length_rows(model: Any, count: int) -> torch.Tensor:
    """Random prompts of eight tokens that start with BOS."""
    backend = backend_of(model)
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(10, int(model.cfg.d_vocab) - 10, (count, 8), generator=random)
    if backend.bos_token_id is not None:
        tokens[:, 0] = backend.bos_token_id
    return tokens.to(backend.device)


def _settings(sizes: Sizes, sampling: Sampling) -> DecodeSettings:
    return DecodeSettings(max_new_tokens=sizes.new_tokens, sampling=sampling)


def _decoder(
    model: Any,
    tokens: torch.Tensor,
    sizes: Sizes,
    sampling: Sampling,
    vectors: tuple[al.SteeringVector, ...] = (),
) -> Callable[[], object]:
    backend, settings = backend_of(model), _settings(sizes, sampling)
    prompts = [tuple(row) for row in tokens.tolist()]
    return lambda: decode_cells(backend, [Cell(prompt, vectors) for prompt in prompts], settings)


def _generator(model: Any, tokens: torch.Tensor, sizes: Sizes, **sampling: Any) -> Callable[[], object]:
    return lambda: model.generate(tokens, max_new_tokens=sizes.new_tokens, verbose=False, **sampling)


_DECODE = "our decode loop"
_GENERATE = "model.generate on the same rows"

CASES = (
    Case(
        "vector",
        "compute_steering_vector of a pair, middle layer",
        "one batched forward of the pair, stop_at_layer",
        1.15,
        _one_vector,
    ),
    Case(
        "layers",
        "compute_steering_vectors of a pair, every layer",
        "compute_steering_vector, last layer",
        1.25,
        _all_layers,
    ),
    Case("ablation", "ablate_tokens on the embedded model", "plain forwards of as many rows", 1.3, _token_ablation),
    Case("forward", "forward inside steer", "the same forward, unsteered", 1.02, _forward),
    Case("decoding", "our decode loop, steered", "our decode loop, unsteered", 1.02, _decoding),
    Case("steered-generate", "model.generate inside steer", "model.generate, unsteered", 1.02, _generate_inside_steer),
    Case("greedy", f"{_DECODE}, greedy", _GENERATE, 1.0, _greedy),
    Case("sampled", f"{_DECODE}, sampled", _GENERATE, 1.0, _sampled),
    Case("top-p", f"{_DECODE}, sampled with top_p 0.3", _GENERATE, 1.0, _nucleus),
    Case("padded", f"{_DECODE}, greedy, prompts of several lengths", _GENERATE, 1.0, _other_lengths),
    Case(
        "sweep",
        "sweep, 6 layers x 4 coefficients x 4 prompts",
        "one plain forward from each layer of as many rows",
        1.2,
        sweeps.metrics_against_bound,
        15,
    ),
    Case(
        "sweep-naive",
        "the same cell by cell, the vector again for each",
        "sweep",
        float("inf"),
        sweeps.metrics_against_naive,
        3,
    ),
    Case(
        "texts",
        "sweep_completions, 24 cells x 4 texts",
        "one plain decoding of as many rows",
        1.2,
        sweeps.texts_against_bound,
        7,
    ),
    Case("texts-naive", "the same cell by cell", "sweep_completions", float("inf"), sweeps.texts_against_naive, 3),
)
