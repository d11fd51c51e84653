"""Whether everything works on a model: loading, steering and reading agree with Hugging Face's own modules."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.analysis.lens import logit_lens, logit_lens_carried
from actadd_lens.analysis.trace import trace_injection
from actadd_lens.errors import ActAddError, ModelError
from actadd_lens.experiments.huggingface import Source
from actadd_lens.measuring.metrics import logit_difference
from actadd_lens.models import Backend, backend_of, load_model
from actadd_lens.models.agreement import LARGEST_GAP, check_agreement, first_line, reference_of
from actadd_lens.models.hooked import hooked_transformer
from actadd_lens.models.loading import Family, source_model
from actadd_lens.steering.steer import steer
from actadd_lens.vectors.vector import SteeringVector

_PROMPT = "The girl looked at the old dog."
_FOLLOWING = " She fel"
_SHORTER = "The dog"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        gap: Largest difference from Hugging Face's own modules: nats of log-probs, units of logits, or, for a trace, a
            share of the largest part; None if nothing could be compared.
        refused: This package's error that says why not; None if there was none.
        broke: Any other error, which is a fault; None if there was none.
        tolerance: The largest difference that counts as none.
    """

    gap: float | None = None
    refused: str | None = None
    broke: str | None = None
    tolerance: float = LARGEST_GAP

    @property
    def holds(self) -> bool:
        """Whether the result is right; a refusal is not wrong."""
        return self.refused is not None or (self.gap is not None and self.gap <= self.tolerance)

    def __str__(self) -> str:
        if self.refused is not None or self.broke is not None:
            return "refused" if self.broke is None else "BROKE"
        return "" if self.gap is None else f"{self.gap:.1g}" if self.holds else f"OFF by {self.gap:.2g}"


@dataclass(frozen=True)
class ModelCheck:
    """One row of the table of models.

    Attributes:
        name: The model.
        family: `hooked` or `bridge`.
        model_type: Its type as transformers calls it.
        loads: How far its log-probs are from those of the Hugging Face model; or why it does not load.
        whole: Steering in one pass.
        cached: Steering token by token with a KV cache.
        padded: Steering of prompts of different lengths, padded on the left, cached.
        lens: All readings of `logit_lens`.
        trace: What each layer adds, as `trace_injection` reports it.
    """

    name: str
    family: str
    model_type: str
    loads: Finding
    whole: Finding = Finding()
    cached: Finding = Finding()
    padded: Finding = Finding()
    lens: Finding = Finding()
    trace: Finding = Finding()

    @property
    def findings(self) -> dict[str, Finding]:
        """Every check by its name; only the first where the model does not load."""
        names = ("loads", "whole", "cached", "padded", "lens", "trace")
        return {name: getattr(self, name) for name in (names if self.loads.refused is None else names[:1])}

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong: everything agrees or is refused."""
        return all(finding.holds for finding in self.findings.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "holds": self.holds}


def families_here() -> tuple[Family, ...]:
    """The families of models that the installed TransformerLens has."""
    return ("bridge",) if hooked_transformer() is None else ("hooked", "bridge")


def check_model(
    name: str, *, family: Family | None = None, device: str | None = None, dtype: str | None = None
) -> ModelCheck:
    """Load a model and compare it with the Hugging Face model of the same name or folder, run by itself.

    Steering is compared with a pre-hook on a block, lenses with the Hugging Face model's logits for a stream that
    replaces its last block's, and a trace with what each of its blocks writes.

    Args:
        name: As in `load_model`.
        family: As in `load_model`.
        device: As in `load_model`; also for the Hugging Face model.
        dtype: As in `load_model`; in half precision, differences as large as one more rounding of every stream count as
            none.
    """
    try:
        source, known = source_model(name, device=device, dtype=dtype)
    except ModelError as error:
        return ModelCheck(name, family or "", "", Finding(refused=str(error)))
    model_type = str(source.config.model_type)
    try:
        model = load_model(name, family=family, device=device, dtype=dtype)
        backend = backend_of(model)
        reference = reference_of(source, known)
        loads = Finding(check_agreement(backend, reference, known), tolerance=reference.tolerance)
    except ModelError as error:
        return ModelCheck(known, family or "", model_type, Finding(refused=str(error)))
    checks = _Checks(backend, Source(source, backend.n_layers))
    return ModelCheck(
        known,
        backend.family,
        model_type,
        loads,
        *(
            _found(check, reference.tolerance)
            for check in (checks.whole, checks.cached, checks.padded, checks.lens, checks.trace)
        ),
    )


def _found(check: Callable[[], float], tolerance: float) -> Finding:
    """What a check finds; errors of this package are refusals, any other is a fault of it."""
    try:
        return Finding(check(), tolerance=tolerance)
    except ActAddError as error:
        return Finding(refused=str(error))
    except Exception as error:  # that of somebody else, which ought not to have come through
        return Finding(broke=first_line(error))


# -- the checks ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Checks:
    """Each returns the largest difference that it finds."""

    backend: Backend
    source: Source

    def in_order(self) -> tuple[Callable[[], float], ...]:
        """All but loading, as `ModelCheck` lists them."""
        return self.whole, self.cached, self.padded, self.lens, self.trace

    @property
    def layer(self) -> int:
        return self.backend.n_layers // 2

    def ids(self, text: str) -> list[int]:
        return self.backend.encode(text, prepend_bos=True)

    def tensor(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([list(row) for row in rows], device=self.backend.device)

    @cached_property
    def rows(self) -> Float[Tensor, "two d_model"]:
        """Two rows, each as large as the stream where they land."""
        stream = self.backend.residuals(self.tensor([self.ids(_PROMPT)]), [self.layer])[self.layer][0].float()
        drawn = torch.randn(2, self.backend.d_model, generator=torch.Generator().manual_seed(0)).to(stream)
        rows: Tensor = drawn / drawn.norm(dim=-1, keepdim=True) * stream.norm(dim=-1).median()
        return rows

    def vector(self, rows: Tensor) -> SteeringVector:
        return SteeringVector.from_tensor(rows, layer=self.layer, source="check", model=self.backend.model)

    def cases(self) -> Iterator[tuple[SteeringVector, Any, Callable[[int, int], Tensor]]]:
        """A vector, a position, and what is added at each token, given the prompt's length and that of the whole."""
        rows, vector, zero = self.rows, self.vector(self.rows), torch.zeros_like(self.rows[:1])

        def at(start: Callable[[int], int]) -> Callable[[int, int], Tensor]:
            return lambda prompt, whole: torch.cat([zero.expand(start(prompt), -1), rows])

        has_bos = self.backend.bos_token_id is not None
        yield vector, 1, at(lambda prompt: 1)
        yield vector, "back", at(lambda prompt: prompt - 2)
        yield (
            self.vector(rows[:1]),
            "all",
            lambda prompt, whole: torch.cat([zero * has_bos if has_bos else rows[:1], rows[:1].expand(whole - 1, -1)]),
        )

    def expected(self, tokens: Sequence[int], prompt: int, added: Callable[[int, int], Tensor]) -> Tensor:
        """Log-probs by the Hugging Face model alone, in one pass of one row."""
        with self.source.adding(self.layer, added(prompt, len(tokens))):
            return self.source.logits(self.tensor([tokens]))[0].log_softmax(dim=-1)

    @torch.no_grad()
    def whole(self) -> float:
        tokens, gaps = self.ids(_PROMPT), []
        for vector, position, added in self.cases():
            with steer(self.backend.model, vector, position=position):
                found = self.backend.logits(self.tensor([tokens]))[0].float().log_softmax(dim=-1)
            gaps.append(_gap(found, self.expected(tokens, len(tokens), added)))
        return max(gaps)

    def cached(self) -> float:
        return self._decoded([_PROMPT])

    def padded(self) -> float:
        return self._decoded([_PROMPT, _SHORTER])

    @torch.no_grad()
    def _decoded(self, prompts: Sequence[str]) -> float:
        """Prompts, then tokens that are given, one at a time."""
        following = self.ids(_FOLLOWING)[-5:]
        starts = [self.ids(text) for text in prompts]
        expected = {}
        for case, (_, _, added) in enumerate(self.cases()):
            for row, start in enumerate(starts):
                whole = self.expected([*start, *following], len(start), added)
                expected[case, row] = whole[len(start) - 1 :]
        gaps = []
        for case, (vector, position, _) in enumerate(self.cases()):
            with steer(self.backend.model, vector, position=position):
                found = self._steps(starts, following)
            gaps += [_gap(found[:, row], expected[case, row]) for row in range(len(starts))]
        return max(gaps)

    def _steps(self, starts: Sequence[Sequence[int]], following: Sequence[int]) -> Float[Tensor, "steps rows d_vocab"]:
        backend, longest = self.backend, max(map(len, starts))
        pad = backend.pad_token_id if backend.pad_token_id is not None else 0
        tokens = self.tensor([[pad] * (longest - len(start)) + list(start) for start in starts])
        mask = self.tensor([[0] * (longest - len(start)) + [1] * len(start) for start in starts])
        padded = len(starts) > 1
        logits, cache = backend.last_logits(tokens, mask=mask if padded else None)
        found = [logits]
        for token in following:
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            step = torch.full_like(mask[:, :1], token)
            logits, cache = backend.last_logits(step, mask=mask if padded else None, cache=cache)
            found.append(logits)
        return torch.stack(found).float().log_softmax(dim=-1)

    @torch.no_grad()
    def lens(self) -> float:
        """The direction of a row, the change where it lands, and what has become of it at the end of the model."""
        tokens, source = self.tensor([self.ids(_PROMPT)]), self.source
        row = self.rows[:1] - self.rows[:1].mean()
        row = row / row.square().mean().sqrt()  # of mean 0 and variance 1, which a final norm leaves as it is
        stream = self.backend.residuals(tokens, [self.layer])[self.layer][0, -1:].float()
        zero, alone, before, after = source.tail(tokens, torch.cat([0 * row, row, stream, stream + row]))
        vector, model = self.vector(row), self.backend.model
        found = [
            logit_lens(model, vector, k=1).rows[0].values,
            logit_lens(model, vector, k=1, reading="anchored", prompt=_PROMPT, position="back").rows[0].values,
        ]
        carried = self.vector(self.rows)
        found.append(logit_lens_carried(model, carried, _PROMPT, k=1, position=1).anchored.rows[-1].values)
        plain = source.uncapped(tokens)[0, -1]
        with source.adding(self.layer, torch.cat([0 * self.rows[:1], self.rows])):
            steered = source.uncapped(tokens)[0, -1]
        expected = [alone - zero, after - before, steered - plain]
        return max(
            _gap(values, (change - change.mean())[: len(values)])
            for values, change in zip(found, expected, strict=True)
        )

    def trace(self) -> float:
        """What each layer adds to a difference of two logits, final norm and cap held as they are unsteered."""
        pair = (self.ids(" a")[-1], self.ids(" b")[-1])
        told = trace_injection(
            self.backend.model, _PROMPT, self.vector(self.rows), metric=logit_difference(*pair), position=1
        )
        with torch.no_grad():
            expected, change = self._traced(pair)
        parts = np.append(told.contributions.by_layer, [told.contributions.carried, told.change])
        size = np.abs(told.contributions.by_layer).sum() + np.abs(expected).sum() + 1e-12
        return float(np.abs(parts - np.append(expected, [0.0, change])).max() / size)

    def _traced(self, pair: tuple[int, int]) -> tuple[Float[np.ndarray, " layers"], float]:
        tokens, source = self.tensor([self.ids(_PROMPT)]), self.source
        written, stream = source.written(tokens)
        plain = source.logits(tokens)[0, -1]
        with source.adding(self.layer, torch.cat([0 * self.rows[:1], self.rows])):
            steered_written, _ = source.written(tokens)
            steered = source.logits(tokens)[0, -1]
        slope = 1 - (plain / source.cap) ** 2 if source.cap else torch.ones_like(plain)
        shares = slope * self._frozen(tokens, stream, steered_written - written)
        change = steered - plain
        first, second = pair
        return (shares[:, first] - shares[:, second]).cpu().numpy(), float(change[first] - change[second])

    def _frozen(self, tokens: Tensor, stream: Tensor, changes: Tensor) -> Float[Tensor, "layers d_vocab"]:
        """Logits of changes with the final norm's scale held at a stream's, from the model's end as a function alone.

        The end is linear but for that scale, so along the sphere on which the scale stays as it is, differences of
        logits are linear in the stream; whether the norm takes the mean away shows in whether it notices one.
        """
        end = self.source.tail
        is_centred = _gap(*end(tokens, torch.stack([stream, stream + 3 * stream.std()]))) < 1e-3

        def seen(rows: Tensor) -> Tensor:
            return rows - rows.mean(dim=-1, keepdim=True) if is_centred else rows

        size = seen(stream).norm()
        zero = end(tokens, torch.zeros_like(stream)[None])
        norms = seen(changes).norm(dim=-1, keepdim=True)
        on_sphere = seen(changes) * (size / norms.clamp_min(1e-12))
        logits: Tensor = (end(tokens, on_sphere) - zero) * norms / size
        return logits.float()


def _gap(found: Tensor, expected: Tensor) -> float:
    """Largest difference; infinite where one is not a number."""
    gap = (found.to(expected.device).double() - expected.double()).abs().max()
    return float(gap) if bool(gap.isfinite()) else float("inf")
