"""What activation scaling learns: a number for each token of a prompt, a vector for each, or a probe for all tokens."""

import dataclasses
import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import is_whole, require
from actadd_lens.errors import CoefficientError, PromptError, VectorError
from actadd_lens.methods.learnt import load_learnt, save_learnt
from actadd_lens.models import Backend
from actadd_lens.models.protocol import Site, Spot, check_site
from actadd_lens.prompts.positions import Position, check_position
from actadd_lens.steering.interventions import check_coordinates
from actadd_lens.vectors.interventions import CleanReads, Intervention
from actadd_lens.vectors.operations import Add, Multiply, Operation, Parameter
from actadd_lens.vectors.provenance import Provenance
from actadd_lens.vectors.vector import check_coefficient

if TYPE_CHECKING:
    import pandas as pd

_KIND = "activation scaling"

Kind = Literal["scalars", "vectors", "probes"]
"""What is learnt at each place: a factor for each token, a vector for each token, or one probe for all tokens."""

Values = Mapping[Spot, Float[Tensor, "rows width"]]


@dataclass(frozen=True, eq=False)
class ScaleByProbe(Operation):
    """x (1 + p·x): each token is scaled by what a probe reads of it.

    >>> ScaleByProbe(torch.tensor([[1.0, 0.0]]))(torch.tensor([[[2.0, 3.0]]])).tolist()
    [[[6.0, 9.0]]]
    """

    probe: Parameter

    def __call__(self, stream: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos width"]:
        """The stream, scaled."""
        return stream * (1 + (stream * self.probe).sum(dim=-1, keepdim=True))

    @property
    def changes_nothing(self) -> bool:
        """Whether the probe is zero."""
        return not bool((self.probe != 0).any())


@dataclass(frozen=True, eq=False)
class LearntChange(Intervention):
    """What activation scaling does at one site of one layer; see `ActivationScaling.interventions`.

    Attributes:
        values: One row for each token of the prompt, or one probe.
        kind: What the rows are.
        layer: The block; for `resid_pre`, `n_layers` is the stream after the last block.
        coefficient: 1 towards the right answer, -1 towards the wrong one.
        position: Where row 0 lands; rows are bound to the prompt's tokens, so this is token 0.
        provenance: What it was learnt from.
        site: Where in the block.
    """

    values: Float[Tensor, "rows width"]
    kind: Kind
    layer: int
    coefficient: float
    position: Position | None
    provenance: Provenance
    site: Site = "resid_pre"

    @property
    def rows(self) -> int:
        """One for each token; 1 for a probe."""
        return int(self.values.shape[0])

    @property
    def label(self) -> str:
        """Coefficient, kind and site."""
        return f"{self.coefficient:g} x learnt {self.kind} at {self.site}"

    def operation(self, backend: Backend, clean: CleanReads | None) -> Operation:
        """The operation x (1 + c a), x + c v, or x (1 + c p·x)."""
        change = self.coefficient * self.values
        if self.kind == "scalars":
            return Multiply(1 + change)
        return Add(change) if self.kind == "vectors" else ScaleByProbe(change)

    def check(self, backend: Backend) -> None:
        """Check that the model has the layer, and is the one that it was learnt on."""
        backend.check_layer(self.layer, site=self.site)
        width = 1 if self.kind == "scalars" else backend.width(self.site)
        if self.values.shape[1] != width:
            raise VectorError(
                f"{self.label} has {self.values.shape[1]} numbers per token, {backend.name} needs {width}."
            )
        self.provenance.check_model(backend)
        if self.kind == "probes":  # scaling whole vectors survives centring, a product with them does not
            check_coordinates(backend, self)

    def times(self, coefficient: float) -> "LearntChange":
        """The same, scaled by a factor."""
        product = self.coefficient * check_coefficient(coefficient)
        if not math.isfinite(product):
            raise CoefficientError(f"{coefficient:g} times {self.label} is not a finite number.")
        return dataclasses.replace(self, coefficient=product)


@dataclass(frozen=True, eq=False)
class ActivationScaling:
    """What `activation_scaling` learnt.

    Attributes:
        kind: `scalars` (one factor a token), `vectors` (one vector a token) or `probes` (one for all tokens).
        values: By layer and site; rows are the prompt's tokens, BOS counted.
        provenance: The model that it was learnt on.
        settings: What it was learnt with.
        history: For each step, the loss before it and what it is made of.
    """

    kind: Kind
    values: Values
    provenance: Provenance
    settings: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = ()

    @property
    def prompt_length(self) -> int | None:
        """Tokens of the prompts that it is bound to; None for probes, which fit any."""
        return None if self.kind == "probes" else next(iter(self.values.values())).shape[0]

    @property
    def label(self) -> str:
        """Kind, number and origin as a short label."""
        count = sum(tensor.numel() if self.kind == "scalars" else tensor.shape[0] for tensor in self.values.values())
        return f"{count} {self.kind} ({self.provenance.source})"

    def interventions(self, coefficient: float = 1.0) -> tuple[LearntChange, ...]:
        """What `steer`, `complete` and every other tool take.

        Scalars and vectors are bound to the prompt's tokens, counted from the first: a shorter prompt is an error; of a
        longer one only the first tokens are changed, and generated ones never. Probes act at every token.

        Args:
            coefficient: 1 moves towards the right answer, -1 towards the wrong one; more goes further.
        """
        number = check_coefficient(coefficient)
        place = check_position("all+bos", rows=1) if self.kind == "probes" else 0
        return tuple(
            LearntChange(values, self.kind, spot.layer, number, place, self.provenance, spot.site)
            for spot, values in self.values.items()
        )

    def frame(self) -> "pd.DataFrame":
        """One row for each layer, site and token: the scalar, or the norm of the vector or probe."""
        import pandas as pd

        rows = [
            {
                "site": spot.site,
                "layer": spot.layer,
                "token": token,
                "value": float(row[0] if self.kind == "scalars" else row.norm()),
            }
            for spot, values in self.values.items()
            for token, row in enumerate(values)
        ]
        return pd.DataFrame(rows)

    def plot(self, ax: Any = None) -> Any:
        """Draw the values by layer and token, one picture per site; several Axes if there are several sites."""
        from actadd_lens.plots.training import plot_scaling

        return plot_scaling(self, ax=ax)

    # -- parts and nulls -----------------------------------------------------------------------------------------

    def without_small(self, least: float) -> "ActivationScaling":
        """The same with every number below a size set to zero: how sparse is it?

        Args:
            least: Numbers with a smaller absolute value are set to zero.
        """
        require(isinstance(least, int | float) and least >= 0, "least", least, "a number from 0")
        return self._with(
            {spot: torch.where(v.abs() < least, 0.0, v) for spot, v in self.values.items()}, f"without {least:g}"
        )

    def largest(self, count: int) -> "ActivationScaling":
        """The same with only the largest numbers left.

        Args:
            count: How many.
        """
        require(is_whole(count), "count", count, "an integer from 0")
        sizes = torch.cat([values.abs().flatten() for values in self.values.values()])
        kept = torch.zeros_like(sizes, dtype=torch.bool)
        kept[sizes.topk(min(count, len(sizes))).indices] = True
        masks = kept.split([values.numel() for values in self.values.values()])
        found = {
            spot: values * mask.reshape(values.shape)
            for (spot, values), mask in zip(self.values.items(), masks, strict=True)
        }
        return self._with(found, f"largest {count}")

    def null(self, seed: int, *, kind: Literal["shuffled", "gaussian"] = "shuffled") -> "ActivationScaling":
        """Numbers that should do nothing in particular, with the same sum of absolute values.

        Args:
            seed: Which one.
            kind: `shuffled` moves the same numbers to other places; `gaussian` draws new ones.
        """
        require(is_whole(seed), "seed", seed, "an integer from 0")
        require(kind in ("shuffled", "gaussian"), "kind", kind, "shuffled or gaussian")
        flat = torch.cat([values.detach().flatten().cpu() for values in self.values.values()])
        draw = torch.Generator().manual_seed(random.Random(f"{kind}/{seed}").getrandbits(60))
        if kind == "shuffled":
            made = flat[torch.randperm(len(flat), generator=draw)]
        else:
            made = torch.randn(len(flat), generator=draw)
            made = made * (flat.abs().sum() / made.abs().sum())
        parts = made.split([values.numel() for values in self.values.values()])
        found = {
            spot: part.reshape(values.shape).to(values)
            for (spot, values), part in zip(self.values.items(), parts, strict=True)
        }
        return self._with(found, f"{kind} null {seed}")

    def _with(self, values: Values, step: str) -> "ActivationScaling":
        return dataclasses.replace(self, values=values, provenance=self.provenance.after(step))

    # -- files ---------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a safetensors file, completely or not at all.

        Args:
            path: The file.

        Raises:
            VectorFileError: It cannot be written.
        """
        tensors = {f"{spot.layer}.{spot.site}": values for spot, values in self.values.items()}
        save_learnt(self, path, _KIND, {"kind": self.kind, "places": list(tensors)}, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ActivationScaling":
        """Read one from a file; the model is checked when it is used.

        Args:
            path: The file.

        Raises:
            VectorFileError: The file is missing, damaged, or holds something else.
        """

        def made(body: Mapping[str, Any], tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> ActivationScaling:
            require(body["kind"] in get_args(Kind), "kind", body["kind"], "a kind that this version knows")
            places = [(place, *place.split(".")) for place in body["places"]]
            values = {Spot(int(layer), check_site(site)): tensors[place] for place, layer, site in places}
            return cls(body["kind"], values, **told)

        return load_learnt(path, _KIND, made)


def spots_of(
    backend: Backend, sites: Sequence[Any] | str, layers: Sequence[int] | None, paper_layers: Sequence[int] | None
) -> list[Spot]:
    """The places that sites and layers refer to, site by site.

    Args:
        backend: The model.
        sites: Names of sites, or (layer, site) for single places.
        layers: In this package's count; by default all blocks, and for `resid_pre` the output of each (1 to n_layers).
        paper_layers: Numbers of blocks; for `resid_pre` they refer to the blocks' outputs.

    Raises:
        LayerError: The model has no such layer.
        SettingError: There is no such site, or both kinds of numbers were given.
    """
    require(layers is None or paper_layers is None, "paper_layers", paper_layers, "layers or paper_layers, not both")
    found: list[Spot] = []
    for item in (sites,) if isinstance(sites, str) else tuple(sites):
        if not isinstance(item, str):
            layer, site = item
            found.append(Spot(backend.check_layer(layer, site=check_site(site)), check_site(site)))
            continue
        site = check_site(item)
        later = site == "resid_pre" and layers is None
        numbers = (
            layers if layers is not None else paper_layers if paper_layers is not None else range(backend.n_layers)
        )
        found += [Spot(backend.check_layer(number + later, site=site), site) for number in numbers]
    require(len(found) > 0 and len(set(found)) == len(found), "sites", sites, "at least one place, each once")
    return found


def check_length(length: int, lengths: Sequence[int]) -> None:
    """Check that prompts have the length that rows bound to tokens need.

    Raises:
        PromptError: A prompt has another length.
    """
    for number, found in enumerate(lengths):
        if found != length:
            raise PromptError(
                f"Prompt {number} has {found} tokens, but the others or what was learnt have {length}: what is bound "
                "to the tokens of a prompt needs prompts of one template and length, BOS counted. Probes "
                '(learn="probes") go with any.'
            )
