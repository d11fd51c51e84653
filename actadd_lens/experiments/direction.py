"""A steering vector against null vectors of equal row norms: does the direction matter? (section 2i of the facts)."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
from jaxtyping import Float

from actadd_lens import storybook
from actadd_lens.checks import check_run, is_count, require
from actadd_lens.errors import PromptError, SettingError
from actadd_lens.experiments.evidence import TENTH, Estimate, Experiment, Finding, resampled
from actadd_lens.measuring.metrics import Metric, as_metric, entropy, kl_divergence, next_token_logprob
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair, as_pair
from actadd_lens.prompts.texts import as_texts, each_once
from actadd_lens.sweeps.results import Sweep
from actadd_lens.sweeps.sweep import sweep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

KINDS: tuple[NullKind, ...] = get_args(NullKind)


@dataclass(frozen=True, eq=False, kw_only=True)
class NullComparison(Experiment):
    """What a steering vector does after prompts, compared with null vectors of both kinds.

    Attributes:
        target: What the vector is meant to change.
        coefficients: Injection coefficients.
        kinds: Kinds of null vectors.
        effect: Change of the target, steered minus unsteered; the steering vector first, then the nulls of each kind.
        kl: KL(steered || unsteered) of the next token, likewise.
        entropy: Entropy of the next token, steered, likewise.
        unsteered_entropy: The same, unsteered.
    """

    name: ClassVar[str] = "nulls"
    title: ClassVar[str] = "Against random vectors of equal norms"

    target: str
    coefficients: tuple[float, ...]
    kinds: tuple[NullKind, ...]
    effect: dict[str, Float[np.ndarray, "conditions coefficients prompts"]]
    kl: dict[str, Float[np.ndarray, "conditions coefficients prompts"]]
    entropy: dict[str, Float[np.ndarray, "conditions coefficients prompts"]]
    unsteered_entropy: Float[np.ndarray, " prompts"]

    def on_target(self, kind: NullKind, *, coefficient: float) -> Estimate:
        """Change of the target, with the nulls of a kind.

        Args:
            kind: One of `kinds`.
            coefficient: One of `coefficients`.
        """
        return _over_prompts(self._conditions(self.effect, kind, coefficient))

    def disturbance(self, kind: NullKind, *, coefficient: float) -> Estimate:
        """KL(steered || unsteered) in units of the unsteered entropy, with the nulls of a kind."""
        return _over_prompts(self._conditions(self.kl, kind, coefficient) / self.unsteered_entropy)

    def entropy_change(self, kind: NullKind, *, coefficient: float) -> Estimate:
        """Entropy of the next token, steered minus unsteered, with the nulls of a kind."""
        return _over_prompts(self._conditions(self.entropy, kind, coefficient) - self.unsteered_entropy)

    def gentler(self, kind: NullKind, *, coefficient: float) -> Estimate:
        """Share of prompts on which the vector disturbs less than the nulls of a kind do on average; .5 for neither.

        Each null counts as the vector in turn, against the others.
        """
        kl = self._conditions(self.kl, kind, coefficient)
        wins = kl[0] < kl[1:].mean(axis=0)
        among = [
            float((kl[condition] < np.delete(kl[1:], condition - 1, axis=0).mean(axis=0)).mean())
            for condition in range(1, len(kl))
        ]
        return Estimate.share(wins.astype(float)[:, None], of="prompts", nulls=among, neutral=0.5)

    def _conditions(
        self, table: dict[str, Float[np.ndarray, "conditions coefficients prompts"]], kind: str, coefficient: float
    ) -> Float[np.ndarray, "conditions prompts"]:
        """The conditions of one kind of nulls at one coefficient."""
        require(kind in self.kinds, "kind", kind, "one of " + ", ".join(self.kinds))
        known = ", ".join(f"{c:g}" for c in self.coefficients)
        require(coefficient in self.coefficients, "coefficient", coefficient, f"one of {known}")
        return table[kind][:, self.coefficients.index(coefficient)]

    def frame(self) -> "pd.DataFrame":
        """One line per number, kind of null and coefficient."""
        import pandas as pd

        numbers = {
            f"change of {self.target}": self.on_target,
            "KL / entropy": self.disturbance,
            "change of entropy": self.entropy_change,
            "share of prompts moved less than by nulls": self.gentler,
        }
        lines = []
        for name, number in numbers.items():
            for kind in self.kinds:
                for coefficient in self.coefficients:
                    found = number(kind, coefficient=coefficient)
                    line: dict[str, Any] = {"number": name, "nulls": kind, "coefficient": coefficient}
                    line |= {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
                    line |= {"null mean": float(np.mean(found.nulls)), "null low": min(found.nulls)}
                    lines.append(line | {"null high": max(found.nulls), "p": found.p_value("greater")})
        return pd.DataFrame(lines)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Change of the target over coefficients, above the nulls of both kinds."""
        from actadd_lens.plots.experiments_reading import plot_nulls

        return plot_nulls(self, ax=ax)

    def findings(self) -> tuple[Finding, ...]:
        """Claim 10."""
        return tuple(finding for kind in self.kinds for c in self.coefficients for finding in self._findings(kind, c))

    def _findings(self, kind: NullKind, coefficient: float) -> tuple[Finding, ...]:
        settings = self.settings
        at = f"layer {settings['layer']} of {settings['n_layers']}, coefficient {coefficient:g}, {kind} nulls"
        effect, gentler = (number(kind, coefficient=coefficient) for number in (self.on_target, self.gentler))
        vector = self.disturbance(kind, coefficient=coefficient)
        told = f"KL / entropy is {vector.value:.3g}, of the nulls {np.mean(vector.nulls):.3g}"
        on_target = Finding.of_move(
            10,
            f"change of {self.target}, {at}",
            effect,
            "greater",
            "a random vector of equal norms at coefficient 1 changes nothing that can be seen",
        )
        if kind != "gaussian":  # the paper's random vectors are
            return (on_target,)
        return (
            on_target,
            Finding.of_move(
                10, f"share of prompts that are disturbed less than by nulls, {at}", gentler, "greater",
                "55 of 58 prompts, with 'Anger' - 'Calm' at layer 20 of 48, coefficient 10: .077 against .135",
                told + "; the paper's pair is another, of emotions", margin=TENTH * (55 / 58 - 0.5)),
        )  # fmt: skip

    def summary(self) -> str:
        """What was done and what was found."""
        told = [
            f"at coefficient {c:g} the change of {self.target} is {self.on_target(kind, coefficient=c)} ({kind}), and "
            f"nulls disturb more on {self.gentler(kind, coefficient=c).value:.0%} of prompts"
            for c in self.coefficients
            for kind in self.kinds
        ]
        return f"With {self.settings['pair']} at layer {self.settings['layer']}: " + "; ".join(told) + "."


def nulls_against(
    model: LensModel,
    pair: PromptPair | tuple[str, str | None] = (" wedding", ""),
    *,
    metric: Any = None,
    prompts: str | Sequence[str] | None = None,
    layer: int | None = None,
    coefficients: Iterable[float] = (1.0, 3.0, 10.0),
    nulls: int = 99,
    kinds: Sequence[NullKind] = KINDS,
    seed: int = 0,
    batch_size: int | None = None,
    path: str | os.PathLike[str] | None = None,
    executor: Any = None,
    progress: bool = True,
) -> NullComparison:
    """Compare a steering vector with null vectors of equal row norms: on its target, and on how much it disturbs.

    Args:
        model: The model.
        pair: Prompt pair.
        metric: What the vector is meant to raise after a prompt; by default the log-probability of the first token in
            which the pair differs, positive prompt first.
        prompts: Prompts; the package's neutral ones by default.
        layer: Injection layer; a third of the way up by default.
        coefficients: Injection coefficients.
        nulls: Null vectors of each kind, 2 or more.
        kinds: Kinds of null vectors.
        seed: Seed of the nulls.
        batch_size: As in `sweep`.
        path: As in `sweep`.
        executor: As in `sweep`.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A prompt or the pair cannot be used.
        SettingError: There are too few nulls, the metric reads more than the last token, or a setting is out of range.
        LayerError: There is no such layer.
    """
    check_run(seed=seed, batch_size=1 if batch_size is None else batch_size)
    backend, checked = backend_of(model), as_pair(pair)
    require(is_count(nulls) and nulls > 1, "nulls", nulls, "an integer from 2")
    if isinstance(kinds, str) or not kinds or not set(kinds) <= set(KINDS):
        raise SettingError(f"kinds is {kinds!r}: expected one or more of {', '.join(KINDS)}.")
    target = first_difference(model, checked) if metric is None else as_metric(metric)
    require(target.reads == "last", "metric", target.name, "one that reads the logits after the last token")
    texts = each_once(as_texts(storybook.neutral_prompts() if prompts is None else prompts))
    place, scales = round(backend.n_layers / 3) if layer is None else layer, tuple(coefficients)
    asked = tuple(dict.fromkeys(kinds))
    found: dict[str, Sweep] = {
        kind: sweep(
            model, checked, layers=place, coefficients=scales, prompts=texts, nulls=nulls, null_kind=kind, seed=seed,
            metric=[target, kl_divergence(), entropy()], batch_size=batch_size, path=path,
            executor=executor, progress=progress,
        )
        for kind in asked
    }  # fmt: skip
    any_sweep = next(iter(found.values()))
    plain = any_sweep.unsteered[:, 0, 0, :, 0]
    conditions = {kind: np.concatenate([one.steered[:, None, 0, 0, :, 0, :, 0], one.nulls[:, :, 0, 0, :, 0, :]], axis=1)
            for kind, one in found.items()}  # fmt: skip
    return NullComparison(
        model=backend.name, target=target.name, coefficients=any_sweep.grid.coefficients, kinds=asked,
        effect={kind: values[0] - plain[0] for kind, values in conditions.items()},
        kl={kind: values[1] for kind, values in conditions.items()},
        entropy={kind: condition[2] for kind, condition in conditions.items()}, unsteered_entropy=plain[2],
        settings={
            "pair": checked.label, "metric": target.name, "layer": any_sweep.grid.layers[0], "seed": seed,
            "n_layers": backend.n_layers, "coefficients": list(any_sweep.grid.coefficients), "nulls": nulls,
            "kinds": list(asked), "prompts": list(texts),
        },
        notes=("KL / entropy is KL(steered || unsteered) over the unsteered entropy, of the next token, in nats.",),
    )  # fmt: skip


def first_difference(model: LensModel, pair: PromptPair) -> Metric:
    """Log-probability of the first token that tells the positive prompt from the negative one."""
    backend: Backend = backend_of(model)
    tokens = pair.tokens(model)
    place = tokens.shared_prefix
    if tokens.negative is None or place >= len(tokens.positive):
        raise PromptError(f"{pair.label} has no token by which its prompts differ: pass metric=.")
    token = tokens.positive[place]
    return replace(next_token_logprob(token), name=f"log-prob of {backend.token_strings([token])[0]!r}")


def _over_prompts(conditions: Float[np.ndarray, "conditions prompts"]) -> Estimate:
    """Mean over prompts of the first condition, beside the others'."""
    return resampled(_mean, conditions[0][:, None], of="prompts", nulls=conditions[1:].mean(axis=1).tolist())


def _mean(table: Float[np.ndarray, "units columns"]) -> float:
    return float(table.mean())
