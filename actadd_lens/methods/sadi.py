"""SADI: a few elements of a prompt's own activation, made larger (arXiv 2410.12299)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from actadd_lens.checks import check_run, is_count, require
from actadd_lens.methods.reading import BATCH_SIZE, Prompt, provenance_of, read_pairs, told_read
from actadd_lens.methods.together import Together
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.models.protocol import Site, Spot
from actadd_lens.prompts.positions import Position, check_position
from actadd_lens.steering.interventions import Replaced, Scaled
from actadd_lens.vectors.interventions import Intervention
from actadd_lens.vectors.provenance import Provenance
from actadd_lens.vectors.vector import check_coefficient

SadiSite = Literal["head", "neuron", "mlp_out", "resid_pre"]
Rule = Literal["frozen", "running"]


@dataclass(frozen=True, eq=False)
class Sadi(Together):
    """Elements that are scaled, and how.

    Attributes:
        site: Where they are; the elements of `head` are whole heads.
        layers: The layer of each row of the table.
        mean_difference: For each layer and element, the mean of right minus wrong answers.
        elements: Those that are scaled, as (layer, element), the largest difference first.
        strength: The factor that they are scaled by, the paper's 1 + delta.
        rule: `frozen`: scale their value in an unsteered pass, and overwrite the whole site with its unsteered values
            in every layer, as in the authors' code; `running`: scale the value that they have during the steered pass.
        position: The prompt's last token, unless `at` changes it.
        is_gated: Whether the MLP's neurons are products, of which the gate is scaled.
        provenance: What the table was read from.
    """

    site: SadiSite
    layers: tuple[int, ...]
    mean_difference: Float[Tensor, "layers elements"]
    elements: tuple[tuple[int, int], ...]
    strength: float
    rule: Rule
    provenance: Provenance
    position: Position = "back"
    is_gated: bool = False

    @property
    def k(self) -> int:
        """How many elements are scaled."""
        return len(self.elements)

    @property
    def mask(self) -> Bool[Tensor, "layers elements"]:
        """Which elements are scaled."""
        mask = torch.zeros(self.mean_difference.shape, dtype=torch.bool)
        for layer, element in self.elements:
            mask[self.layers.index(layer), element] = True
        return mask

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """What is done, layer by layer."""
        found: list[Intervention] = []
        for layer, row in zip(self.layers, self.mask, strict=True):
            if self.rule == "frozen":
                site: Site = "neuron_pre" if self.is_gated else self.site
                found.append(Replaced(None, layer, site, self.position, self.provenance))
            if bool(row.any()):
                factor = torch.where(row, self.strength, 1.0)[None]
                found.append(Scaled(factor, layer, self.site, self.position, self.provenance))
        return tuple(found)

    def at(self, *, position: Any, bos: bool | None = None) -> "Sadi":
        """The same on other tokens: `last` continues on generated ones."""
        return replace(self, position=check_position(position, rows=1, bos=bos))

    def times(self, coefficient: float) -> "Sadi":
        """The same with a multiple of delta: x + c delta (x * M)."""
        return replace(self, strength=1 + check_coefficient(coefficient) * (self.strength - 1))

    def nulls(self, n: int = 20, *, seed: int = 0) -> tuple["Sadi", ...]:
        """The same with as many elements drawn at random from all layers together.

        Args:
            n: Number of draws.
            seed: Their seed.

        Raises:
            SettingError: One is out of range.
        """
        require(is_count(n), "n", n, "an integer from 1")
        check_run(seed=seed)
        random, (_, width) = np.random.default_rng(seed), self.mean_difference.shape
        drawn = [random.choice(self.mean_difference.numel(), size=self.k, replace=False).tolist() for _ in range(n)]
        told = replace(self.provenance, source="null: random elements")
        return tuple(replace(self, elements=_placed(self.layers, picks, width), provenance=told) for picks in drawn)


def sadi(
    model: LensModel,
    pairs: Sequence[tuple[Prompt, Prompt]],
    *,
    site: SadiSite,
    k: int,
    strength: float,
    rule: Rule = "frozen",
    prepend_bos: bool = True,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> Sadi:
    """The k elements over all layers that are highest for right compared with wrong answers, scaled for each prompt.

    Read: question and answer, at the last token, in every layer; the largest signed mean differences are kept, for a
    head the mean over its coordinates. Lands: on the prompt's last token only. Does: x * s on these elements, which is
    the paper's x + delta (x * M) with delta = s - 1.

    Sites inside blocks have the paper's layer numbers. The stream of its layer l is `resid_pre` of l + 1 here.

    Args:
        model: The model to read; if it is being steered, the unsteered model is read.
        pairs: (question with the right answer, with a wrong one): texts, chat prompts, or token ids.
        site: `head`; `neuron`, in gated MLPs the gate after its activation function; `mlp_out`, the paper's "hidden";
            or `resid_pre`, which is not in the paper.
        k: How many elements.
        strength: The factor. The authors try 5 to 80 for heads and outputs, 10 to 90 for neurons.
        rule: `frozen`, as in the authors' code, which discards what earlier layers changed at that token and site; or
            `running`, the paper's formula in one pass.
        prepend_bos: Whether texts start with BOS; token ids are read as they are.
        batch_size: Maximum number of prompts per pass.
        progress: Whether to show a bar.

    Raises:
        PromptError: There is no pair, or one cannot be read.
        SettingError: The site or the rule is not known, or there are fewer than k elements.
        CoefficientError: The factor is not finite.
    """
    backend = backend_of(model)
    require(site in ("head", "neuron", "mlp_out", "resid_pre"), "site", site, "head, neuron, mlp_out or resid_pre")
    require(rule in ("frozen", "running"), "rule", rule, "frozen or running")
    layers = tuple(range(1, backend.n_layers + 1) if site == "resid_pre" else range(backend.n_layers))
    size = len(layers) * (int(backend.model.cfg.n_heads) if site == "head" else backend.width(site))
    require(is_count(k) and k <= size, "k", k, f"an integer from 1 to {size}, the elements of all layers")
    factor = check_coefficient(strength)
    is_gated = site == "neuron" and backend.has_gated_neurons
    spots = [Spot(layer, "neuron_pre" if is_gated else site) for layer in layers]
    right, wrong = read_pairs(backend, pairs, spots, prepend_bos=prepend_bos, batch_size=batch_size, progress=progress)
    sides = [[_elements(backend, side.of_prompts(spot), site, is_gated) for spot in spots] for side in (right, wrong)]
    table = torch.stack([(plus - minus).mean(dim=0) for plus, minus in zip(*sides, strict=True)]).float()
    picks = table.flatten().topk(int(k)).indices.tolist()
    steps = (told_read("mean difference of pairs", -1, right, wrong), f"the largest {int(k)} of all layers together")
    told = provenance_of(backend, f"SADI from {len(right.rows)} pairs", layer=None, steps=steps)
    elements = _placed(layers, picks, table.shape[1])
    return Sadi(site, layers, table, elements, factor, rule, told, is_gated=is_gated)


def _elements(
    backend: Backend, rows: Float[Tensor, "prompts width"], site: SadiSite, is_gated: bool
) -> Float[Tensor, "prompts elements"]:
    if site == "head":
        heads: Tensor = rows.unflatten(1, (int(backend.model.cfg.n_heads), -1))
        return heads.mean(dim=-1)
    return backend.activated(rows) if is_gated else rows


def _placed(layers: Sequence[int], picks: Sequence[int], width: int) -> tuple[tuple[int, int], ...]:
    """Places in the table as (layer, element)."""
    return tuple((layers[pick // width], pick % width) for pick in picks)
