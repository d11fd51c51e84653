"""Norms of a steering vector's rows, compared with the stream that they land on (section 2i of the paper's facts)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float

from actadd_lens import storybook
from actadd_lens.analysis.norms import NormProfile, norm_profile
from actadd_lens.checks import check_run, is_whole, require
from actadd_lens.errors import SettingError
from actadd_lens.experiments.evidence import Estimate, Experiment, Finding, resampled
from actadd_lens.measuring.nulls import unrelated_rows
from actadd_lens.methods.actadd import compute_steering_vectors
from actadd_lens.models import LensModel, backend_of
from actadd_lens.progress import tracked
from actadd_lens.prompts.pairs import PromptPair, as_pair
from actadd_lens.prompts.texts import as_texts, each_once, encode_prompts
from actadd_lens.vectors.naming import row_names, visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, kw_only=True)
class Norms(Experiment):
    """Sizes of a pair's rows and of the stream, at every layer.

    Attributes:
        rows: The rows of the vector by their tokens.
        layers: Layers at which the pair is read, and added.
        relative: Norm of each row in units of the stream's on the token that it lands on, prompt by prompt.
        null_relative: The same for vectors of unrelated pairs, not rescaled.
        bos: Norm of the unsteered stream at BOS by layer, mean over prompts; NaN for a model without BOS.
        stream: Norm of the unsteered stream at all other tokens, mean over the tokens of each prompt.
    """

    name: ClassVar[str] = "norms"
    title: ClassVar[str] = "Norms of the vector and of the stream"

    rows: tuple[str, ...]
    layers: tuple[int, ...]
    relative: Float[np.ndarray, "layers rows prompts"]
    null_relative: Float[np.ndarray, "nulls layers rows prompts"]
    bos: Float[np.ndarray, " all_layers"]
    stream: Float[np.ndarray, "all_layers prompts"]

    def relative_norm(self, row: int, *, layer: int) -> Estimate:
        """Norm of a row at coefficient 1 over that of the stream where it lands, mean over prompts.

        Args:
            row: Row of the vector.
            layer: One of `layers`.

        Raises:
            SettingError: There is no such row or layer.
        """
        require(0 <= row < len(self.rows), "row", row, f"0 to {len(self.rows) - 1}")
        require(layer in self.layers, "layer", layer, "one of " + ", ".join(map(str, self.layers)))
        place = self.layers.index(layer)
        nulls = self.null_relative[:, place, row].mean(axis=-1)
        return resampled(_mean, self.relative[place, row][:, None], of="prompts", nulls=nulls.tolist())

    @property
    def growth(self) -> Estimate:
        """Growth of the stream's norm per layer, BOS left out, over the middle layers: 1.045 is 4.5 %.

        The middle corresponds to the paper's layers 5 to 41 of 48: from a tenth to six sevenths of the way up.
        """
        first, last = self.middle
        if last <= first:
            raise SettingError(f"A model of {len(self.stream)} layers has no middle to grow over: it takes 3 or more.")
        per_layer = np.log(self.stream[last] / self.stream[first]) / (last - first)
        return resampled(_exp_mean, per_layer[:, None], of="prompts", neutral=1)

    @property
    def middle(self) -> tuple[int, int]:
        """First and last of the middle layers."""
        depth = len(self.stream)
        return round(5 / 48 * depth), round(41 / 48 * depth)

    @property
    def bos_ratio(self) -> Float[np.ndarray, " all_layers"]:
        """Norm of the stream at BOS over that at other tokens, by layer."""
        return np.asarray(self.bos / self.stream.mean(axis=1))

    def frame(self) -> "pd.DataFrame":
        """One line per layer and row."""
        import pandas as pd

        lines = []
        for layer in self.layers:
            for row, tokens in enumerate(self.rows):
                found = self.relative_norm(row, layer=layer)
                line = {"layer": layer, "row": row, "tokens of the row": tokens, "relative norm": found.value}
                line |= {"low": found.low, "high": found.high, "n": found.n}
                if found.nulls:
                    line |= {"null mean": float(np.mean(found.nulls)), "null low": min(found.nulls)}
                    line |= {"null high": max(found.nulls)}
                line |= {"stream norm": float(self.stream[layer].mean()), "stream norm at BOS": float(self.bos[layer])}
                lines.append(line)
        return pd.DataFrame(lines)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Relative norm over layers, a line for each row that is not zero, above those of unrelated pairs."""
        from actadd_lens.plots.experiments_reading import plot_norms_by_layer

        return plot_norms_by_layer(self, ax=ax)

    def findings(self) -> tuple[Finding, ...]:
        """None: norms bear on no claim; they say how large an addition is."""
        return ()

    def summary(self) -> str:
        """What was done and what was found."""
        shown = [self.layers[0], self.layers[len(self.layers) // 2], self.layers[-1]]
        last = len(self.rows) - 1
        rows = "; ".join(f"{self.relative_norm(last, layer=layer)} at layer {layer}" for layer in dict.fromkeys(shown))
        told = (
            f"At coefficient 1 the row {visible(self.rows[last])} of {self.settings['pair']} measures, in units of the "
            f"stream where it lands, {rows}."
        )
        first, end = self.middle
        if end > first:
            told += f" The stream grows by a factor of {self.growth} per layer from layer {first} to {end}."
        if np.isfinite(self.bos).all():
            told += f" At layer {end} the BOS row is {self.bos_ratio[end]:.3g} times as large as the others."
        return told


def norms(
    model: LensModel,
    pair: PromptPair | tuple[str, str | None] = ("Anger", "Calm"),
    *,
    prompts: str | Sequence[str] | None = None,
    layers: Iterable[int] | None = None,
    nulls: int = 99,
    seed: int = 0,
    progress: bool = True,
) -> Norms:
    """Compare the rows of a pair with the stream that they would land on at the front, at every layer.

    The nulls are vectors of unrelated pairs that are not rescaled: rescaled, they would be as large as the vector by
    definition.

    Args:
        model: The model.
        pair: Prompt pair; the paper's own by default.
        prompts: Prompts, the package's neutral ones by default.
        layers: Layers; all by default.
        nulls: Unrelated pairs.
        seed: Seed of the nulls.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A prompt or the pair cannot be used.
        PositionError: The vector does not fit onto a prompt.
        LayerError: A layer does not exist.
        SettingError: Another setting is out of range.
    """
    check_run(seed=seed)
    backend, checked = backend_of(model), as_pair(pair)
    require(is_whole(nulls), "nulls", nulls, "an integer from 0")
    texts = each_once(as_texts(storybook.neutral_prompts() if prompts is None else prompts))
    vectors = compute_steering_vectors(model, [checked], layers=range(backend.n_layers) if layers is None else layers)
    found, wanted = vectors.table[0], vectors.layers
    has_bos = encode_prompts(backend, texts)[0][0] == backend.bos_token_id
    profiles = [
        norm_profile(model, found, text) for text in tracked(texts, what="norms", unit="prompt", shown=progress)
    ]
    drawn = [unrelated_rows(model, vector, n=nulls, seed=seed) if nulls else [] for vector in found]
    sizes = np.array([[rows.norm(dim=-1).tolist() for rows in some] for some in drawn])
    landed = np.stack([profile.stream_norms[list(wanted), : found[0].rows] for profile in profiles], axis=-1)
    nulls_relative = np.moveaxis(sizes, 1, 0)[..., None] / landed if nulls else np.zeros((0, *landed.shape))
    return Norms(
        model=backend.name, rows=tuple(row_names(backend, found[0])), layers=wanted, null_relative=nulls_relative,
        relative=np.stack([_relative(profile, len(wanted), found[0].rows) for profile in profiles], axis=-1),
        bos=np.mean([profile.stream_norms[:, 0] if has_bos else _nowhere(profile) for profile in profiles], axis=0),
        stream=np.stack([profile.stream_norms[:, int(has_bos) :].mean(axis=1) for profile in profiles], axis=-1),
        settings={
            "pair": checked.label, "layers": list(wanted), "n_layers": backend.n_layers, "prompts": list(texts),
            "coefficient": 1.0, "nulls": nulls, "null_kind": "unrelated_pairs, not rescaled", "seed": seed,
        },
    )  # fmt: skip


def _relative(profile: NormProfile, layers: int, rows: int) -> Float[np.ndarray, "layers rows"]:
    """Each row at its own layer."""
    return np.array([row.relative_norm for row in profile.rows], dtype=float).reshape(layers, rows)


def _nowhere(profile: NormProfile) -> Float[np.ndarray, " all_layers"]:
    return np.full(len(profile.stream_norms), np.nan)


def _mean(table: Float[np.ndarray, "units columns"]) -> float:
    return float(table.mean())


def _exp_mean(table: Float[np.ndarray, "units columns"]) -> float:
    return float(np.exp(table.mean()))
