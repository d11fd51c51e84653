"""Learning a few tensors by gradient while the model stays unchanged, with checkpoints that resume bit for bit."""

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actadd_lens.checks import check_flags, is_count, require
from actadd_lens.errors import ModelError, NonFiniteError, SettingError
from actadd_lens.progress import progress_bar
from actadd_lens.vectors.tensor_files import read_tensors, write_tensors

_KIND = "checkpoint of training"
HELD_OUT = "held out"
"""Name of the loss on other data in a history."""

_SAVED_EVERY = 10
"""Steps between two checkpoints."""


@dataclass(frozen=True, eq=False)
class Course:
    """How learning proceeds; checked before anything runs.

    Attributes:
        steps: Maximum number of updates.
        learning_rate: Adam's learning rate.
        weight_decay: AdamW's weight decay; 0 means Adam.
        patience: Number of checks without a lower held-out loss (or else training loss) after which training ends.
        check_every: Steps between checks of the held-out loss.
        checkpoint: File to resume from, and to write to.
        progress: Whether to show a bar.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.0
    patience: int | None = None
    check_every: int = 1
    checkpoint: str | os.PathLike[str] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_flags(progress=self.progress)
        for name in ("steps", "check_every"):
            require(is_count(getattr(self, name)), name, getattr(self, name), "an integer from 1")
        require(
            self.patience is None or is_count(self.patience), "patience", self.patience, "an integer from 1, or None"
        )
        check_positive("learning_rate", self.learning_rate)
        check_positive("weight_decay", self.weight_decay, or_zero=True)
        if self.checkpoint is not None and not Path(self.checkpoint).parent.is_dir():
            raise SettingError(f"There is no folder {Path(self.checkpoint).parent} for checkpoint: make it first.")


def check_positive(name: str, value: Any, *, or_zero: bool = False) -> None:
    """Refuse what is not a finite number above zero.

    Raises:
        SettingError: It is not.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    expected = "a finite number from 0" if or_zero else "a finite number above 0"
    require(is_number and (0 < value < float("inf") or (or_zero and value == 0)), name, value, expected)


def batches(count: int, size: int | None, seed: str, steps: int) -> list[list[int]]:
    """Which examples each step takes; the first steps are the same however many follow.

    Args:
        count: Number of examples.
        size: Of a batch; None takes all, in order.
        seed: For the order of each round through the examples.
        steps: Number of batches.

    >>> batches(3, 2, "0", 3) == batches(3, 2, "0", 4)[:3]
    True
    """
    if size is None or size >= count:
        return [list(range(count))] * steps
    order = _rounds(count, random.Random(seed))
    return [[next(order) for _ in range(size)] for _ in range(steps)]


def _rounds(count: int, draw: random.Random) -> Iterator[int]:
    while True:
        members = list(range(count))
        draw.shuffle(members)
        yield from members


@dataclass(eq=False)
class _Run:
    """The state of learning after a number of whole steps."""

    parameters: Mapping[str, Tensor]
    optimiser: torch.optim.Optimizer
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_step: int | None = None

    def note(self, row: dict[str, float], *, watched: str) -> None:
        """A step is done; the parameters are kept if none before had less of what is watched."""
        self.history.append(row)
        if watched in row and (self.best_step is None or row[watched] < self.history[self.best_step - 1][watched]):
            self.best_step = len(self.history)
            if watched == HELD_OUT:
                self.best = {name: tensor.detach().clone() for name, tensor in self.parameters.items()}

    def is_over(self, course: Course, *, watched: str) -> bool:
        """Whether all steps are done, or patience is."""
        if len(self.history) >= course.steps:
            return True
        if course.patience is None or self.best_step is None:
            return False
        return sum(watched in row for row in self.history[self.best_step :]) >= course.patience


@dataclass(frozen=True, eq=False)
class Learnt:
    """What was learnt.

    Attributes:
        parameters: The tensors: of the step whose held-out loss was least, or of the last.
        history: For each step the loss before its update and the terms it is made of; `held out` is after it.
        kept_step: After how many steps the parameters are those that are kept.
    """

    parameters: dict[str, Tensor]
    history: tuple[dict[str, float], ...]
    kept_step: int


def minimise(
    parameters: Mapping[str, Tensor],
    losses: Callable[[int], Mapping[str, Tensor | float]],
    *,
    course: Course,
    identity: Mapping[str, Any],
    what: str,
    held_out: Callable[[], float] | None = None,
) -> Learnt:
    """Minimise a loss by Adam; only the parameters get gradients, whatever else would take one.

    Anything random must depend on the number of the step alone: then a run that resumes from a checkpoint is the same
    as one that was not interrupted, bit for bit.

    Args:
        parameters: Tensors to learn, in place; float32 leaves that ask for a gradient.
        losses: From the number of the step to the `loss` and the terms to record with it.
        course: Steps, learning rate, patience, checkpoint.
        identity: All that decides how it goes, for the checkpoint to be known by: texts, numbers and lists.
        what: What is being learnt, for the bar.
        held_out: A loss on other data; the parameters with the least are kept.

    Raises:
        NonFiniteError: The loss overflowed.
        ModelError: The loss does not depend on a parameter.
        SettingError: The checkpoint is of another run.
        VectorFileError: The checkpoint is damaged.
    """
    watched = "loss" if held_out is None else HELD_OUT
    settings = {name: getattr(course, name) for name in ("learning_rate", "weight_decay", "check_every")}
    told = {**json.loads(json.dumps(identity)), **settings}
    with _gradients():
        optimiser = torch.optim.AdamW(
            list(parameters.values()), lr=course.learning_rate, weight_decay=course.weight_decay, eps=1e-8
        )
        run = _Run(parameters, optimiser)
        if course.checkpoint is not None and Path(course.checkpoint).exists():
            _go_on(run, course, told)
        done = len(run.history)
        with progress_bar(total=course.steps, what=what, unit="step", shown=course.progress, done=done) as bar:
            while not run.is_over(course, watched=watched):
                row = _step(run, losses)
                if held_out is not None and (len(run.history) + 1) % course.check_every == 0:
                    row[HELD_OUT] = held_out()
                run.note(row, watched=watched)
                bar.update(1)
                is_over = run.is_over(course, watched=watched)
                if course.checkpoint is not None and (is_over or len(run.history) % _SAVED_EVERY == 0):
                    _save(run, course.checkpoint, told)
    return _learnt(run)


def _learnt(run: _Run) -> Learnt:
    kept = run.best or run.parameters
    step = run.best_step if run.best and run.best_step is not None else len(run.history)
    return Learnt({name: tensor.detach().clone() for name, tensor in kept.items()}, tuple(run.history), step)


@contextmanager
def _gradients() -> Iterator[None]:
    """Gradients, also where the caller has switched them off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _step(run: _Run, losses: Callable[[int], Mapping[str, Tensor | float]]) -> dict[str, float]:
    """One update; the gradients go to the parameters alone, and none is left on the model's weights."""
    terms = losses(len(run.history))
    row = {name: value.item() if isinstance(value, Tensor) else float(value) for name, value in terms.items()}
    if not torch.isfinite(torch.tensor(list(row.values()))).all():
        raise NonFiniteError(
            f"At step {len(run.history)} the loss overflowed: {row}. Use a smaller learning_rate or coefficient."
        )
    loss = terms["loss"]
    assert isinstance(loss, Tensor)
    found = torch.autograd.grad(loss, list(run.parameters.values()), allow_unused=True)
    for (name, parameter), gradient in zip(run.parameters.items(), found, strict=True):
        if gradient is None:
            raise ModelError(f"The loss does not depend on {name}: the model does not use it in its passes.")
        parameter.grad = gradient
    run.optimiser.step()
    run.optimiser.zero_grad(set_to_none=True)
    return row


# -- checkpoints -----------------------------------------------------------------------------------------------


def _save(run: _Run, path: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
    tensors = {f"parameters/{name}": tensor for name, tensor in run.parameters.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in run.best.items()}
    for name, parameter in run.parameters.items():
        tensors |= {f"{key}/{name}": run.optimiser.state[parameter][key] for key in ("step", "exp_avg", "exp_avg_sq")}
    body = {"identity": dict(identity), "history": run.history, "best_step": run.best_step}
    write_tensors(path, _KIND, body, tensors)


def _go_on(run: _Run, course: Course, identity: Mapping[str, Any]) -> None:
    path = course.checkpoint
    assert path is not None
    body, tensors = read_tensors(path, _KIND)
    theirs = body["identity"]
    for name in sorted({*theirs, *identity}):
        if theirs.get(name) != identity.get(name):
            raise SettingError(
                f"{path} is the checkpoint of another run: its {name} is {_short(theirs.get(name))}, here it is "
                f"{_short(identity.get(name))}. Give another file, or what that run was given."
            )
    if len(body["history"]) > course.steps:
        raise SettingError(
            f"{path} has gone {len(body['history'])} steps, more than the {course.steps} asked for: ask for as many, "
            "or give another file."
        )
    for name, parameter in run.parameters.items():
        with torch.no_grad():
            parameter.copy_(tensors[f"parameters/{name}"])
        run.optimiser.state[parameter] = {
            "step": tensors[f"step/{name}"].clone(),
            **{key: tensors[f"{key}/{name}"].to(parameter) for key in ("exp_avg", "exp_avg_sq")},
        }
        if f"best/{name}" in tensors:
            run.best[name] = tensors[f"best/{name}"].to(parameter.device)
    run.history.extend(body["history"])
    run.best_step = body["best_step"]


def _short(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= 60 else f"{told[:57]}..."
