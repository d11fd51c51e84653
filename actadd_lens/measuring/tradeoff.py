"""What an adapter buys: effect against side effect, with and without it, at many coefficients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from actadd_lens.checks import check_run, require
from actadd_lens.errors import PromptError
from actadd_lens.measuring.measure import Condition, ConditionRows, check_finite, measure_conditions
from actadd_lens.measuring.metrics import Metric, as_metric
from actadd_lens.methods.adapter import Adapter
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.progress import progress_bar
from actadd_lens.prompts.positions import Position, as_position
from actadd_lens.prompts.texts import as_texts, encode_prompts
from actadd_lens.statistics import Effect, paired_effect
from actadd_lens.vectors.vector import check_coefficient, check_interventions

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ARMS = ("model", "adapter")
"""The model as it is, and with the adapter on; both steered."""


@dataclass(frozen=True, eq=False)
class AdapterTradeoff:
    """Effect against side effect, with and without an adapter; see `adapter_tradeoff`.

    Attributes:
        metric: What was measured.
        coefficients: The coefficients, with and without the adapter; 0 is among them.
        effects: The metric minus that of the plain model, by condition (`model`, `adapter`), coefficient and prompt.
        side_effects: KL(steered || plain model) in nats per token, by condition, coefficient and benign text.
    """

    metric: Metric
    coefficients: tuple[float, ...]
    effects: Float[np.ndarray, "conditions coefficients prompts"]
    side_effects: Float[np.ndarray, "conditions coefficients texts"]

    def frame(self) -> "pd.DataFrame":
        """One row for each condition and coefficient, with what the model alone pays for the same effect."""
        import pandas as pd

        effects, sides = self.effects.mean(axis=2), self.side_effects.mean(axis=2)
        rows = []
        for condition, name in enumerate(ARMS):
            for place, coefficient in enumerate(self.coefficients):
                row: dict[str, Any] = {
                    "condition": name, "coefficient": coefficient, "effect": effects[condition, place],
                    "side effect": sides[condition, place],
                }  # fmt: skip
                if name == "adapter":
                    smaller = self._smaller(float(effects[condition, place]))
                    row["model's coefficient for it"] = np.nan if smaller is None else smaller[0]
                    row["model's side effect for it"] = np.nan if smaller is None else smaller[1].mean()
                rows.append(row)
        return pd.DataFrame(rows)

    def beside_smaller(self, coefficient: float) -> Effect | None:
        """The adapter's side effect minus that of the model alone at the coefficient with the same mean effect.

        Between two coefficients that were run, effect and side effect are interpolated linearly. The side effect grows
        like a square, so this overstates the model's, in favour of the adapter.

        Args:
            coefficient: One of those that were run, with the adapter on.

        Returns:
            The difference in nats per token with its interval over benign texts; None if the model alone does not reach
            that effect at the coefficients that were run.
        """
        require(coefficient in self.coefficients, "coefficient", coefficient, f"one of {list(self.coefficients)}")
        place = self.coefficients.index(coefficient)
        smaller = self._smaller(float(self.effects[1, place].mean()))
        if smaller is None:
            return None
        return paired_effect(self.side_effects[1, place][:, None], smaller[1][:, None], zeros="numbers")

    def _smaller(self, effect: float) -> "tuple[float, Float[np.ndarray, ' texts']] | None":
        """The model's coefficient with an effect, and its side effects there; the least, where there are several."""
        order = np.argsort(self.coefficients)
        numbers, effects = np.array(self.coefficients)[order], self.effects[0].mean(axis=1)[order]
        sides = self.side_effects[0][order]
        found: tuple[float, Float[np.ndarray, " texts"]] | None = None
        for low in range(len(numbers) - 1):
            start, stop = effects[low], effects[low + 1]
            if start == stop or not min(start, stop) <= effect <= max(start, stop):
                continue
            share = (effect - start) / (stop - start)
            here = (1 - share) * sides[low] + share * sides[low + 1]
            if found is None or here.mean() < found[1].mean():
                found = float((1 - share) * numbers[low] + share * numbers[low + 1]), here
        return found

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Side effect over effect, a line for each condition."""
        from actadd_lens.plots.training import plot_tradeoff

        return plot_tradeoff(self, ax=ax)


def adapter_tradeoff(
    model: LensModel,
    adapter: Adapter,
    vectors: Any,
    *,
    prompts: str | Sequence[str],
    metric: Any,
    benign: Sequence[str],
    coefficients: Sequence[float],
    position: Any = "all+bos",
    batch_size: int = 32,
    progress: bool = True,
) -> AdapterTradeoff:
    """Steer a model with and without an adapter, at many coefficients: what does the adapter buy?

    The alternative to beat is the model alone at a smaller coefficient.

    Args:
        model: The model; steering that is open around the call is ignored.
        adapter: The adapter, such as `methods.kl_then_steer` trains.
        vectors: One steering vector or other intervention, or several that act together.
        prompts: Texts on which the wanted effect is measured.
        metric: A metric, or a function of the last token's logits; one that compares with the unsteered model does so
            with and without the adapter separately.
        benign: Texts that steering should leave alone, and that the adapter was not trained on.
        coefficients: Those to try, as factors of the vectors; 0 is added.
        position: Where vectors without a position of their own land.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        FingerprintError: The adapter was trained for another model.
        VectorError: A vector does not match the model, or has no coefficient.
        PromptError: A text is not a string, or is too long.
    """
    check_run(batch_size=batch_size)
    backend, place, chosen = backend_of(model), as_position(position), as_metric(metric)
    adapter.check(backend)
    items = check_interventions(backend, vectors)
    if isinstance(benign, str) or not benign:
        raise PromptError(f"benign is {str(benign)[:60]!r}: pass a list of texts.")
    numbers = tuple(dict.fromkeys([0.0, *map(check_coefficient, coefficients)]))
    conditions: list[Condition] = [tuple(item.times(number) for item in items) if number else () for number in numbers]
    wanted, texts = encode_prompts(backend, as_texts(prompts)), encode_prompts(backend, list(benign))
    effects, sides = [], []
    with progress_bar(total=2 * len(numbers), what="tradeoff", unit="condition", shown=progress) as bar:
        plain = None
        for is_on in (False, True):
            with adapter.on(model) if is_on else adapter.off(model):
                found = measure_conditions(
                    backend, wanted, [(), *conditions], chosen, measured=(), position=place, batch_size=batch_size,
                    progress=False,
                )[1:]  # fmt: skip
            plain = found[0] if plain is None else plain
            effects.append(found - plain)
            rows = []
            for condition in conditions:
                rows.append(
                    _side_effects(model, backend, adapter, texts, condition, place, is_on=is_on, batch_size=batch_size)
                )
                bar.update(1)
            sides.append(np.stack(rows))
    return AdapterTradeoff(chosen, numbers, np.stack(effects), np.stack(sides))


@torch.no_grad()
def _side_effects(
    model: LensModel,
    backend: Backend,
    adapter: Adapter,
    texts: Sequence[Sequence[int]],
    condition: Condition,
    position: Position,
    *,
    is_on: bool,
    batch_size: int,
) -> Float[np.ndarray, " texts"]:
    """Mean KL(steered || model as it is) over the tokens of each text."""
    found = []
    for start in range(0, len(texts), batch_size):
        some = texts[start : start + batch_size]
        with adapter.off(model):
            before = ConditionRows(backend, some, [()] * len(some), (), position).logits()
        rows = ConditionRows(backend, some, [condition] * len(some), (), position)
        with adapter.on(model) if is_on else adapter.off(model):
            after = rows.logits()
        check_finite(backend, after)
        clean, steered = (logits.float().log_softmax(dim=-1) for logits in (before, after))
        kl = (steered.exp() * (steered - clean)).sum(dim=-1)
        real = torch.arange(kl.shape[1], device=kl.device) < rows.lengths[:, None]
        found.append(((kl * real).sum(dim=1) / rows.lengths).cpu().numpy())
    return np.concatenate(found)
