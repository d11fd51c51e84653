"""KL-then-steer (Stickland et al., arXiv 2406.15518): training so that steering leaves benign text alone.

Each step draws a coefficient, steers the model with the adapter on, and reduces its KL divergence from the plain model
on benign texts. The authors' code does not run as published; what it draws, in which order, and its loss are taken from
it.
"""

import hashlib
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.checks import check_flags, check_run, is_count, require
from actadd_lens.methods.adapter import Adapter
from actadd_lens.methods.reading import token_rows
from actadd_lens.methods.training import Course, batches, check_positive, minimise
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.models.adapted import Adaptation, adapted
from actadd_lens.prompts.positions import Position, as_position
from actadd_lens.steering.clean import prompts_of, resolved, unsteered
from actadd_lens.steering.hooks import compiled_code_off, injected
from actadd_lens.steering.landings import assign
from actadd_lens.vectors.interventions import Intervention
from actadd_lens.vectors.provenance import Provenance
from actadd_lens.vectors.vector import check_coefficient, check_interventions

Source = tuple[Intervention, ...] | Callable[[LensModel], Any]
"""Vectors that act together, or a function that reads them again from the model in training."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """Benign texts as token ids, padded on the right."""

    rows: tuple[tuple[int, ...], ...]
    tokens: Int[Tensor, "rows pos"]
    mask: Int[Tensor, "rows pos"]


def kl_then_steer(
    model: LensModel,
    vectors: Any,
    benign: Sequence[Any],
    *,
    coefficient: float = 1.0,
    probability: float = 0.125,
    both_signs: bool = True,
    coefficients: Sequence[float] | None = None,
    position: Any = "all+bos",
    weights: Sequence[str] | str = "all",
    rank: int = 8,
    scale: float = 1.0,
    start: Adapter | None = None,
    steps: int = 200,
    learning_rate: float = 1e-3,
    batch_size: int | None = 8,
    count_padding: bool = False,
    held_out: Sequence[Any] = (),
    check_every: int = 10,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Adapter:
    """Train an adapter so that steering changes benign text less.

    A step draws c = `coefficient` x U(-1, 1), keeps it with `probability`, and otherwise uses 0, which keeps the
    unsteered model in place. The loss is the mean over all positions of KL(p || p0) in nats: p with the adapter on and
    c times the vectors added, p0 with neither. A step takes one steered pass with its gradient and one plain pass.

    With one vector, the adapter mostly learns to cancel it: then the wanted effect is lost too, and a smaller
    coefficient alone would do as well. `adapter_tradeoff` shows that; train on other vectors than the one to be used.

    The paper's layer l is a block's output, l + 1 here: it steers its layers n_layers - 29 to n_layers - 11, all at
    once.

    Args:
        model: The model; its weights are not touched.
        vectors: Vectors or other interventions that act together; or a list of such lists, of which each step draws
            one; or functions of the model, called at each step with the adapter on, as the authors do.
        benign: Texts, or rows of token ids with BOS.
        coefficient: The largest that is drawn (the authors' C, 1.5 for 7B).
        probability: Probability with which a drawn coefficient is kept.
        both_signs: Whether negative ones are drawn too.
        coefficients: Coefficients to cycle through instead of drawing.
        position: Where vectors without a position of their own land.
        weights: What is adapted: names such as `("W_Q", "W_V")`, or `all` linear maps of the blocks.
        rank: Rank of the adapter.
        scale: Factor before B A; LoRA's alpha / rank.
        start: An adapter to go on training, instead of a new one.
        steps: Maximum number of updates.
        learning_rate: Adam's learning rate (the authors' 1e-5 is for rank 128 on 7B).
        batch_size: Texts in a step; None uses all.
        count_padding: Whether padding is steered and its predictions count, as in the authors' code.
        held_out: Other benign texts: the adapter that is best at -`coefficient`, 0 and `coefficient` on them is kept.
        check_every: Steps between checks on `held_out`.
        patience: Number of checks without a lower loss (on `held_out`, if given) after which training ends.
        seed: For the adapter's start, coefficients, texts and vectors.
        checkpoint: A file to resume from, if it exists, and to write every few steps.
        progress: Whether to show a bar.

    Returns:
        The adapter: `with adapter.on(model):`.

    Raises:
        VectorError: A vector does not match the model, or has no coefficient.
        PromptError: A benign text is not a string.
        ModelError: The model keeps a weight in a form that cannot be adapted.
        SettingError: A setting is out of range, or the checkpoint is of another run.
        NonFiniteError: The loss overflowed.
    """
    course = Course(
        steps, learning_rate, patience=patience, check_every=check_every, checkpoint=checkpoint, progress=progress
    )
    check_run(seed=seed)
    check_flags(both_signs=both_signs, count_padding=count_padding)
    check_positive("coefficient", coefficient)
    check_positive("scale", scale)
    require(
        isinstance(probability, int | float) and 0 <= probability <= 1, "probability", probability, "a number in [0, 1]"
    )
    require(batch_size is None or is_count(batch_size), "batch_size", batch_size, "an integer from 1, or None")
    backend = backend_of(model)
    with unsteered(backend):
        training = _Training(
            backend, _sources(backend, vectors), token_rows(backend, benign), as_position(position), count_padding
        )
        begun = start or Adapter.untrained(model, rank=rank, scale=scale, weights=weights, seed=seed)
        if coefficients is not None:
            drawn = [check_coefficient(coefficients[step % len(coefficients)]) for step in range(steps)]
        else:
            drawn = draw_coefficients(
                coefficient, steps=steps, probability=probability, both_signs=both_signs, seed=seed
            )
        settings = {
            "coefficient": coefficient, "probability": probability, "both_signs": both_signs,
            "coefficients": None if coefficients is None else list(map(float, coefficients)), "position": str(position),
            "steps": steps, "learning_rate": learning_rate, "batch_size": batch_size, "count_padding": count_padding,
            "seed": seed, "scale": begun.scale, "vectors": training.labels, "texts": len(training.rows),
        }  # fmt: skip
        plan = _Plan(
            drawn, batches(len(training.rows), batch_size, f"{seed}/texts", steps), len(training.sources), seed
        )
        others = token_rows(backend, held_out) if len(held_out) else []
        return training.fit(begun, plan, others, course, settings)


def draw_coefficients(
    largest: float, *, steps: int, probability: float = 0.125, both_signs: bool = True, seed: int = 0
) -> list[float]:
    """Coefficients as the authors draw them: first a uniform number, then whether it is kept; otherwise 0.

    Args:
        largest: The authors' C.
        steps: How many coefficients.
        probability: Probability with which one is kept.
        both_signs: Whether to draw from -1 to 1 times the largest, instead of from 0.
        seed: Seed of Python's own generator.

    >>> draw_coefficients(1.5, steps=3, probability=1.0, both_signs=False, seed=1)
    [0.20154636616860183, 1.145661928464921, 0.7431526306379115]
    """
    draw = random.Random(seed)
    found = []
    for _ in range(steps):
        value = largest * draw.uniform(-1.0 if both_signs else 0.0, 1.0)
        found.append(value if draw.random() < probability else 0.0)
    return found


@dataclass(frozen=True)
class _Plan:
    """What each step takes; the first steps are the same however many follow."""

    coefficients: Sequence[float]
    members: Sequence[Sequence[int]]
    sources: int
    seed: int

    def source(self, step: int) -> int:
        """Which of several sets of vectors a step takes."""
        return random.Random(f"{self.seed}/vectors/{step}").randrange(self.sources)


@dataclass(frozen=True, eq=False)
class _Training:
    """One adapter's training: the model, what steers it, and the texts that are to stay as they are."""

    backend: Backend
    sources: tuple[Source, ...]
    rows: list[tuple[int, ...]]
    position: Position
    count_padding: bool

    @property
    def labels(self) -> list[str]:
        """What steers, in words."""
        return [
            f"read anew by {getattr(source, '__qualname__', type(source).__name__)}"
            if callable(source)
            else ", ".join(f"{item.told}" for item in source)
            for source in self.sources
        ]

    def fit(
        self, begun: Adapter, plan: _Plan, others: list[tuple[int, ...]], course: Course, settings: dict[str, Any]
    ) -> Adapter:
        """The trained adapter."""
        parameters, weights = begun.learning(self.backend)
        with compiled_code_off(), adapted(weights, label="in training", is_strict=False) as adapter:

            def losses(step: int) -> dict[str, Tensor | float]:
                batch = self.batch([self.rows[member] for member in plan.members[step]])
                number = plan.coefficients[step]
                return {"loss": self.loss(adapter, batch, plan.source(step), number), "coefficient": number}

            def on_others() -> float:
                largest = settings["coefficient"]
                with torch.no_grad():
                    found = [
                        float(self.loss(adapter, self.batch(others), source, number))
                        for source in range(len(self.sources))
                        for number in (-largest, 0.0, largest)
                    ]
                return sum(found) / len(found)

            found = minimise(
                parameters, losses, course=course, identity=self._identity(begun, others, settings),
                what="KL-then-steer", held_out=on_others if others else None,
            )  # fmt: skip
        matrices = {
            name: (found.parameters[f"{name}.A"].cpu(), found.parameters[f"{name}.B"].cpu()) for name in begun.matrices
        }
        provenance = Provenance.of_model(self.backend, source="KL-then-steer")
        told = {**settings, "kept_step": found.kept_step}
        return Adapter(matrices, begun.scale, provenance, begun.folds_norms, told, found.history)

    def batch(self, rows: Sequence[tuple[int, ...]]) -> _Batch:
        """Rows side by side."""
        longest = max(map(len, rows))
        filler = self.backend.pad_token_id or 0
        tokens = torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], device=self.backend.device)
        lengths = torch.tensor(list(map(len, rows)), device=self.backend.device)
        return _Batch(tuple(rows), tokens, (torch.arange(longest, device=lengths.device) < lengths[:, None]).long())

    def loss(self, adapter: Adaptation, batch: _Batch, source: int, coefficient: float) -> Float[Tensor, ""]:
        """Mean KL(steered, adapter on || unsteered, adapter off) over the positions that count, in nats."""
        with torch.no_grad(), adapter.paused():
            before = self._log_probs(batch)
        found = self.sources[source]
        if callable(found):
            with torch.no_grad():
                found = check_interventions(self.backend, found(self.backend.model))
        rows = [tuple(row) for row in batch.tokens.tolist()] if self.count_padding else batch.rows
        prompts = prompts_of(self.backend, rows)
        items = [item.times(coefficient) for item in found]
        with injected(self.backend, resolved(self.backend, assign(items, self.position), prompts), prompts):
            after = self._log_probs(batch)
        kl = (after.exp() * (after - before)).sum(dim=-1)
        return kl.mean() if self.count_padding else kl[batch.mask.bool()].mean()

    def _log_probs(self, batch: _Batch) -> Float[Tensor, "rows pos d_vocab"]:
        if self.count_padding and not bool(batch.mask.all()):
            return self.backend.logits_with_padding(batch.tokens, batch.mask).float().log_softmax(dim=-1)
        return self.backend.logits(batch.tokens).float().log_softmax(dim=-1)

    def _identity(self, begun: Adapter, others: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What decides how training goes, for its checkpoint."""
        told = Provenance.of_model(self.backend, source="")
        start = {name: [_digest_of(matrix) for matrix in pair] for name, pair in begun.matrices.items()}
        given = [
            None if callable(source) else [[item.layer, item.site, _digest(item)] for item in source]
            for source in self.sources
        ]
        return {name: value for name, value in settings.items() if name != "steps"} | {
            "model": told.model, "family": self.backend.family, "dtype": told.dtype,
            "weight_processing": told.weight_processing,
            "fingerprint": None if told.fingerprint is None else list(told.fingerprint.weights),
            "start": start, "given": given, "benign": list(map(list, self.rows)), "held_out": list(map(list, others)),
        }  # fmt: skip


def _digest_of(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}"


def _digest(item: Any) -> str:
    """A hash of what an intervention does: its numbers, and those of what is inside it."""
    found = hashlib.sha256(type(item).__name__.encode())
    for name, value in sorted(vars(item).items()):
        if isinstance(value, Tensor):
            found.update(f"{name} {_digest_of(value)}".encode())
        elif name != "provenance":
            found.update(f"{name} {_digest(value) if isinstance(value, Intervention) else value!r}".encode())
    return found.hexdigest()


def _sources(backend: Backend, vectors: Any) -> tuple[Source, ...]:
    """What a step may draw: one set of vectors, or several."""
    is_list = isinstance(vectors, Sequence) and not isinstance(vectors, str)
    several = is_list and len(vectors) > 0 and not any(isinstance(item, Intervention) for item in vectors)
    found = []
    for item in vectors if several else [vectors]:
        if callable(item) and not isinstance(item, Intervention):
            found.append(item)
            continue
        interventions = check_interventions(backend, item)
        for intervention in interventions:
            intervention.times(2.0)  # what has no coefficient says so before anything runs
        found.append(interventions)
    return tuple(found)
