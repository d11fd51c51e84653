"""Activation scaling (Stoehr et al., Findings of EMNLP 2024, arXiv 2410.04962): scale what is there.

One number for each site, layer and token of a template strengthens, weakens or reverses the activation there. It is
learnt by gradient so that the answer flips in both directions (effectiveness) and all other tokens keep their
probabilities (faithfulness), with as small a change as possible (minimality). The paper's code is not public: losses,
margin, weights and optimiser are our reading.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.checks import check_run, is_count, require
from actadd_lens.errors import PromptError
from actadd_lens.methods.reading import token_rows
from actadd_lens.methods.scaling import ActivationScaling, Kind, check_length, spots_of
from actadd_lens.methods.training import Course, batches, check_positive, minimise
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.models.protocol import Spot
from actadd_lens.prompts.texts import token_id
from actadd_lens.statistics import Effect, paired_effect
from actadd_lens.steering.clean import prompts_of, resolved, unsteered
from actadd_lens.steering.hooks import injected
from actadd_lens.steering.landings import Assignment, assign
from actadd_lens.vectors.provenance import Provenance

if TYPE_CHECKING:
    import pandas as pd

_SIGNS = (1.0, -1.0)


@dataclass(frozen=True)
class Task:
    """A prompt, and the two answers between which it should move.

    Attributes:
        prompt: A text, or token ids with BOS.
        right: The answer at coefficient 1: a text that is one token (with its leading space), or an id.
        wrong: The answer at coefficient -1.
    """

    prompt: str | tuple[int, ...]
    right: str | int
    wrong: str | int


@dataclass(frozen=True)
class _Tokens:
    """Tasks as token ids."""

    prompts: tuple[tuple[int, ...], ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]

    def listed(self) -> list[list[Any]]:
        """One list per task, for a file."""
        return [
            [list(row), right, wrong] for row, right, wrong in zip(self.prompts, self.right, self.wrong, strict=True)
        ]

    def some(self, members: Sequence[int]) -> "_Tokens":
        """Some of them."""
        return _Tokens(
            tuple(self.prompts[member] for member in members),
            tuple(self.right[member] for member in members),
            tuple(self.wrong[member] for member in members),
        )


@dataclass(frozen=True, eq=False)
class ScalingReport:
    """How well learnt scaling flips answers, and what it does to everything else; see `evaluate_scaling`.

    Attributes:
        coefficients: Those that were tried.
        unsteered: Logit of the right answer minus that of the wrong one, for each task.
        margins: The same at each coefficient.
        kl_others: KL(unsteered || steered) in nats over the vocabulary without both answers, renormalised.
        kl_all: The same over the whole vocabulary.
        size: Mean absolute value of what was learnt.
        margin: The required margin.
    """

    coefficients: tuple[float, ...]
    unsteered: Float[Tensor, " tasks"]
    margins: Float[Tensor, "coefficients tasks"]
    kl_others: Float[Tensor, "coefficients tasks"]
    kl_all: Float[Tensor, "coefficients tasks"]
    size: float
    margin: float

    @property
    def _towards(self) -> Float[Tensor, "coefficients tasks"]:
        return torch.tensor(self.coefficients).sign()[:, None] * self.margins

    @property
    def effectiveness(self) -> float:
        """Mean shortfall from the margin, in the direction of the coefficient; 0 is best."""
        return float((self.margin - self._towards).relu().mean())

    @property
    def faithfulness(self) -> float:
        """Mean KL over all other tokens; 0 is best."""
        return float(self.kl_others.mean())

    @property
    def flips(self) -> dict[float, float]:
        """At each coefficient, the share of tasks with the desired answer."""
        shares = (self._towards > 0).float().mean(dim=1).tolist()
        return dict(zip(self.coefficients, shares, strict=True))

    def effect(self, coefficient: float) -> Effect:
        """How many more tasks have the desired answer than without steering, with its interval over tasks.

        Args:
            coefficient: One of those that were tried.
        """
        require(coefficient in self.coefficients, "coefficient", coefficient, f"one of {list(self.coefficients)}")
        asked = self._towards[self.coefficients.index(coefficient)] > 0
        before = self.unsteered * (1 if coefficient > 0 else -1) > 0
        return paired_effect(asked.double().numpy()[:, None], before.double().numpy()[:, None], zeros="numbers")

    def frame(self) -> "pd.DataFrame":
        """One row for each coefficient and task."""
        import pandas as pd

        rows = [
            {
                "coefficient": coefficient,
                "task": task,
                "unsteered margin": float(self.unsteered[task]),
                "margin": float(self.margins[row, task]),
                "KL without answers": float(self.kl_others[row, task]),
                "KL": float(self.kl_all[row, task]),
            }
            for row, coefficient in enumerate(self.coefficients)
            for task in range(len(self.unsteered))
        ]
        return pd.DataFrame(rows)


def activation_scaling(
    model: LensModel,
    tasks: Sequence[Any],
    *,
    sites: Sequence[Any] | str = ("attn_out", "mlp_out"),
    layers: Sequence[int] | None = None,
    paper_layers: Sequence[int] | None = None,
    learn: Kind = "scalars",
    margin: float = 1.0,
    effectiveness: float = 1.0,
    faithfulness: float = 1.0,
    minimality: float = 0.1,
    steps: int = 100,
    learning_rate: float = 0.02,
    batch_size: int | None = None,
    held_out: Sequence[Any] = (),
    patience: int | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> ActivationScaling:
    """Learn to scale activations so that the answer flips in both directions and nothing else changes.

    The loss is `effectiveness` times the mean over tasks and both signs s of relu(margin - s (right - wrong logit)),
    plus `faithfulness` times the mean KL(unsteered || steered) over the vocabulary without both answers, plus
    `minimality` times the mean absolute value of what is learnt. Everything starts at zero and is trained by Adam. A
    step takes one pass with two rows per task, and its gradient; the model is not changed.

    The paper's layer l of the stream is a block's output, l + 1 here; outputs of attention and MLP have the same number
    in both.

    Args:
        model: The model; also one with an adapter on.
        tasks: `Task`s, or (prompt, right, wrong). Prompts have one length, except for probes.
        sites: `attn_out`, `mlp_out`, `resid_pre`, `head`, `neuron`, or (layer, site) for single places.
        layers: In this package's count; by default all blocks, and for `resid_pre` the output of each block.
        paper_layers: The paper's numbers instead.
        learn: `scalars`: one for each site, layer and token (ActivScalar); `vectors` to add there (SteerVec); `probes`:
            x (1 + c p·x), one p for all tokens, so that prompts may differ in length (DynScalar).
        margin: Logits by which the answer should win.
        effectiveness: Weight of the flip.
        faithfulness: Weight of all other tokens.
        minimality: Weight of the mean absolute value.
        steps: Maximum number of updates.
        learning_rate: Adam's learning rate.
        batch_size: Tasks in a step; all by default.
        held_out: Other tasks; the result that does best on them is kept.
        patience: Number of steps without a lower loss (on `held_out`, if given) after which training ends.
        seed: Seed of the batches.
        checkpoint: A file to resume from, if it exists, and to write every few steps.
        progress: Whether to show a bar.

    Returns:
        What was learnt: `.interventions(1)` moves to the right answers, `.interventions(-1)` to the wrong ones.

    Raises:
        PromptError: Prompts have different lengths, or an answer is not one token.
        LayerError: The model has no such layer.
        SettingError: A setting is out of range, or the checkpoint is of another run.
        NonFiniteError: The loss overflowed.
    """
    course = Course(steps, learning_rate, patience=patience, checkpoint=checkpoint, progress=progress)
    check_run(seed=seed)
    require(batch_size is None or is_count(batch_size), "batch_size", batch_size, "an integer from 1, or None")
    require(learn in get_args(Kind), "learn", learn, f"one of {', '.join(get_args(Kind))}")
    weights = {"effectiveness": effectiveness, "faithfulness": faithfulness, "minimality": minimality}
    for name, value in {**weights, "margin": margin}.items():
        check_positive(name, value, or_zero=True)
    backend = backend_of(model)
    spots = spots_of(backend, sites, layers, paper_layers)
    tokens, others = _encoded(backend, tasks), _encoded(backend, held_out) if len(held_out) else None
    empty = _untrained(backend, spots, learn, tokens)
    if learn != "probes":
        check_length(
            len(tokens.prompts[0]), [len(row) for row in (*tokens.prompts, *(others.prompts if others else ()))]
        )
    settings = {
        "learn": learn, "places": [[spot.layer, spot.site] for spot in spots], "margin": margin, **weights,
        "steps": steps, "learning_rate": learning_rate, "batch_size": batch_size, "patience": patience, "seed": seed,
        "tasks": tokens.listed(), "held_out": [] if others is None else others.listed(),
    }  # fmt: skip
    return _fit(backend, empty, tokens, others, course, settings)


def evaluate_scaling(
    model: LensModel,
    scaling: ActivationScaling,
    tasks: Sequence[Any],
    *,
    coefficients: Sequence[float] = _SIGNS,
    margin: float = 1.0,
    batch_size: int = 64,
) -> ScalingReport:
    """What learnt scaling does on tasks, those that it was learnt on or others.

    Args:
        model: The model.
        scaling: What was learnt.
        tasks: `Task`s, or (prompt, right, wrong).
        coefficients: Those to try.
        margin: Logits by which the answer should win.
        batch_size: Maximum number of rows per pass.

    Raises:
        PromptError: A prompt has another length than what was learnt, or an answer is not one token.
        FingerprintError: It was learnt on another model.
    """
    check_run(batch_size=batch_size)
    backend = backend_of(model)
    tokens = _encoded(backend, tasks)
    if scaling.prompt_length is not None:
        check_length(scaling.prompt_length, list(map(len, tokens.prompts)))
    for item in scaling.interventions():
        item.check(backend)
    found = []
    with unsteered(backend), torch.no_grad():
        for start in range(0, len(tokens.prompts), batch_size):
            part = tokens.some(range(start, min(start + batch_size, len(tokens.prompts))))
            clean = _logits(backend, part, [])
            rows = [_compared(_logits(backend, part, [(scaling, number)]), clean, part) for number in coefficients]
            found.append((_margin(clean, part), *(torch.stack(values) for values in zip(*rows, strict=True))))
    before, margins, others, whole = (torch.cat(values, dim=-1).cpu() for values in zip(*found, strict=True))
    size = torch.cat([values.detach().abs().flatten() for values in scaling.values.values()]).mean()
    return ScalingReport(tuple(map(float, coefficients)), before, margins, others, whole, float(size), margin)


def _encoded(backend: Backend, tasks: Sequence[Any]) -> _Tokens:
    """Tasks as token ids, checked."""
    found = [task if isinstance(task, Task) else _as_task(task) for task in tasks]
    if not found:
        raise PromptError("No task was given: pass at least one (prompt, right, wrong).")
    rows = token_rows(backend, [task.prompt for task in found])
    right, wrong = ([token_id(backend, getattr(task, name)) for task in found] for name in ("right", "wrong"))
    for number, (one, other) in enumerate(zip(right, wrong, strict=True)):
        if one == other:
            raise PromptError(f"Task {number} ({found[number]}) has the same answer twice.")
    return _Tokens(tuple(rows), tuple(right), tuple(wrong))


def _as_task(task: Any) -> Task:
    if isinstance(task, str) or not isinstance(task, Sequence) or len(task) != 3:
        raise PromptError(f"{task!r} is not a task: expected (prompt, right, wrong).")
    prompt = task[0] if isinstance(task[0], str) else tuple(task[0])
    return Task(prompt, task[1], task[2])


def _untrained(backend: Backend, spots: Sequence[Spot], kind: Kind, tokens: _Tokens) -> ActivationScaling:
    rows = 1 if kind == "probes" else len(tokens.prompts[0])
    values = {spot: torch.zeros(rows, 1 if kind == "scalars" else backend.width(spot.site)) for spot in spots}
    return ActivationScaling(kind, values, Provenance.of_model(backend, source="activation scaling"))


def _fit(
    backend: Backend,
    empty: ActivationScaling,
    tokens: _Tokens,
    others: _Tokens | None,
    course: Course,
    settings: dict[str, Any],
) -> ActivationScaling:
    parameters = {
        f"{spot.layer}.{spot.site}": values.to(backend.device).requires_grad_() for spot, values in empty.values.items()
    }
    learning = ActivationScaling(
        empty.kind, dict(zip(empty.values, parameters.values(), strict=True)), empty.provenance
    )
    members = batches(len(tokens.prompts), settings["batch_size"], f"{settings['seed']}/tasks", course.steps)
    with unsteered(backend):
        with torch.no_grad():
            clean = _logits(backend, tokens, [])
            clean_others = None if others is None else _logits(backend, others, [])

        def losses(step: int) -> dict[str, Tensor]:
            return loss_of(backend, learning, tokens.some(members[step]), clean[members[step]], settings)

        def on_others() -> float:
            assert others is not None
            assert clean_others is not None
            with torch.no_grad():
                return float(loss_of(backend, learning, others, clean_others, settings)["loss"])

        fingerprint = empty.provenance.fingerprint
        identity = {name: value for name, value in settings.items() if name not in ("steps", "patience")} | {
            "model": empty.provenance.model, "dtype": empty.provenance.dtype, "family": backend.family,
            "weight_processing": empty.provenance.weight_processing,
            "fingerprint": None if fingerprint is None else list(fingerprint.weights),
        }  # fmt: skip
        found = minimise(
            parameters, losses, course=course, identity=identity, what="activation scaling",
            held_out=None if others is None else on_others,
        )  # fmt: skip
    values = dict(zip(empty.values, (tensor.cpu() for tensor in found.parameters.values()), strict=True))
    told = {**settings, "kept_step": found.kept_step}
    return ActivationScaling(empty.kind, values, empty.provenance, told, found.history)


def loss_of(
    backend: Backend,
    scaling: ActivationScaling,
    tokens: _Tokens,
    clean: Float[Tensor, "tasks d_vocab"],
    settings: Mapping[str, Any],
) -> dict[str, Tensor]:
    """The loss and the terms that it is made of, both signs in one pass.

    Args:
        backend: The model.
        scaling: What is being learnt.
        tokens: The tasks.
        clean: Their unsteered logits.
        settings: Margin and weights of the terms.
    """
    logits = _logits(backend, tokens, [(scaling, sign) for sign in _SIGNS]).split(len(tokens.prompts))
    rows = [_compared(steered, clean, tokens) for steered in logits]
    missing = [(settings["margin"] - sign * row[0]).relu() for sign, row in zip(_SIGNS, rows, strict=True)]
    terms = {
        "effectiveness": torch.stack(missing).mean(),
        "faithfulness": torch.stack([row[1] for row in rows]).mean(),
        "minimality": torch.cat([values.abs().flatten() for values in scaling.values.values()]).mean(),
    }
    return {"loss": sum((settings[name] * term for name, term in terms.items()), torch.zeros(())), **terms}


def _logits(
    backend: Backend, tokens: _Tokens, changes: Sequence[tuple[ActivationScaling, float]]
) -> Float[Tensor, "rows d_vocab"]:
    """Logits after each prompt, the prompts once for each change; once, unsteered, where there is none."""
    times, count = max(1, len(changes)), len(tokens.prompts)
    prompts = prompts_of(backend, tokens.prompts * times)
    longest = max(prompts.lengths)
    filler = backend.pad_token_id or 0
    rows = [[*row, *[filler] * (longest - len(row))] for row in tokens.prompts] * times
    assignments: dict[Spot, list[Assignment]] = {}
    for number, (scaling, coefficient) in enumerate(changes):
        members = tuple(range(number * count, (number + 1) * count))
        for spot, items in assign(scaling.interventions(coefficient), 0, members).items():
            assignments.setdefault(spot, []).extend(items)
    with injected(backend, resolved(backend, assignments, prompts), prompts):
        batch: Int[Tensor, "rows pos"] = torch.tensor(rows, device=backend.device)
        return backend.logits_at(batch, torch.tensor(prompts.lengths) - 1).float()


def _margin(logits: Float[Tensor, "tasks d_vocab"], tokens: _Tokens) -> Float[Tensor, " tasks"]:
    rows = torch.arange(len(tokens.right))
    return logits[rows, list(tokens.right)] - logits[rows, list(tokens.wrong)]


def _compared(
    steered: Float[Tensor, "tasks d_vocab"], clean: Float[Tensor, "tasks d_vocab"], tokens: _Tokens
) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
    """The margin, KL(clean || steered) without both answers, and over the whole vocabulary."""
    rows = torch.arange(len(tokens.right))
    answers = torch.zeros_like(clean, dtype=torch.bool)
    answers[rows, list(tokens.right)] = answers[rows, list(tokens.wrong)] = True
    before, after = (logits.masked_fill(answers, float("-inf")).log_softmax(dim=-1) for logits in (clean, steered))
    others = (before.exp() * (before - after).masked_fill(answers, 0.0)).sum(dim=-1)
    before, after = clean.log_softmax(dim=-1), steered.log_softmax(dim=-1)
    return _margin(steered, tokens), others, (before.exp() * (before - after)).sum(dim=-1)
