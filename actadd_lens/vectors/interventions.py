"""What every intervention defines: where it acts, on which tokens, and what it does there.

A steering vector is one; others are in `steering.interventions`. Whatever takes vectors takes interventions.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from actadd_lens.errors import CoefficientError, VectorError
from actadd_lens.models import Backend
from actadd_lens.models.protocol import Site, Spot, hook_name
from actadd_lens.prompts.positions import Position, own_position
from actadd_lens.vectors.operations import Operation
from actadd_lens.vectors.provenance import Provenance


@dataclass(frozen=True, eq=False)
class CleanReads:
    """Activations of the unsteered model on the prompts of a batch, for interventions that depend on them.

    Attributes:
        values: At each requested spot, one row per prompt, padded on the right.
        lengths: Tokens of each prompt.
    """

    values: Mapping[Spot, Float[Tensor, "batch pos width"]]
    lengths: tuple[int, ...]


class Intervention(ABC):
    """Something done to a running model at one hook point, and on which tokens.

    Attributes:
        layer: The block, 0-based; for `resid_pre`, `n_layers` is the stream after the last block.
        site: Where in the block.
        position: Where its row 0 lands, or a span of tokens; None leaves it to `steer` and the other tools.
        provenance: What it was made of.
    """

    if TYPE_CHECKING:  # fields of some kinds, and properties of others

        @property
        def layer(self) -> int:
            """The block."""

        @property
        def position(self) -> Position | None:
            """A place or a span."""

        @property
        def provenance(self) -> Provenance:
            """What it was made of."""

        @property
        def site(self) -> Site:
            """Where in the block."""

        @property
        def follows_prompt(self) -> bool:
            """Whether its rows belong to the prompt's own tokens, row 0 to token 0, wherever it acts."""

    else:
        site = "resid_pre"
        follows_prompt = False

    @property
    def spot(self) -> Spot:
        """Layer and site."""
        return Spot(self.layer, self.site)

    @property
    def hook_name(self) -> str:
        """Hook point at which it acts."""
        told = self.provenance.fingerprint
        return hook_name(self.layer, self.site, n_layers=None if told is None else told.n_layers)

    @property
    @abstractmethod
    def label(self) -> str:
        """The intervention as a short label, for axes and tables."""

    @property
    def told(self) -> str:
        """The intervention and its layer, for captions."""
        return f"{self.label} at layer {self.layer}"

    @property
    def rows(self) -> int:
        """Number of rows; 1 if the same is done at every token."""
        return 1

    @property
    def reads(self) -> tuple[Spot, ...]:
        """What has to be read in an unsteered pass over the prompt before it can act."""
        return ()

    @abstractmethod
    def operation(self, backend: Backend, clean: CleanReads | None) -> Operation:
        """What it does, once what it reads is known."""

    @abstractmethod
    def check(self, backend: Backend) -> None:
        """Check that it matches a model.

        Raises:
            ActAddError: It does not; nothing was run.
        """

    @property
    def vector(self) -> "Any":
        """The steering vector that it is made from, which a null vector can replace; None if there is none."""
        return None

    def with_vector(self, vector: Any) -> "Intervention":
        """The same, made from another steering vector."""
        raise VectorError(f"{self.label} is made from no steering vector.")

    def times(self, coefficient: float) -> "Intervention":
        """The intervention multiplied by a coefficient, if it has one.

        Raises:
            CoefficientError: It has none, and the coefficient is not 1.
        """
        if coefficient != 1:
            raise CoefficientError(
                f"{self.label} has no coefficient, so it cannot be made {coefficient:g} times as large: use 1."
            )
        return self

    def at(self, *, position: Any, bos: bool | None = None) -> "Intervention":
        """The same with a position of its own, which takes precedence over the one passed to a tool; None for none."""
        return replace(self, position=own_position(position, rows=self.rows, bos=bos))  # type: ignore[type-var]

    def at_layer(self, layer: int) -> "Intervention":
        """The same at another layer."""
        told = self.provenance.after(f"at_layer({layer})")
        return replace(self, layer=layer, provenance=told)  # type: ignore[type-var]

    def export(self, *args: Any, **options: Any) -> None:
        """Only steering vectors can be written for other libraries, whose formats hold rows that are added.

        Raises:
            VectorError: Always, as this is no steering vector.
        """
        raise VectorError(
            f"{self.label} is not a steering vector, and formats of other libraries hold rows that are added: .save "
            "writes a file of this package, and .vector.export the vector that it is made from, if there is one."
        )

    def save(self, path: Any) -> None:
        """Write it to a safetensors file, with its position and provenance; `al.load_interventions` gives it back.

        Args:
            path: The file.

        Raises:
            VectorError: It is of a kind that no file can hold, such as a gate that is a function.
            VectorFileError: The file cannot be written.
        """
        from actadd_lens.steering.files import save_interventions

        save_interventions(self, path)


def distinct(found: Sequence[Sequence[Intervention]]) -> tuple[Intervention, ...]:
    """Each intervention once, in the order of first occurrence."""
    return tuple({id(item): item for row in found for item in row}.values())
