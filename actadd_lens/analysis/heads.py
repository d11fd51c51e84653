"""How heads read a vector: how much each would attend to it (QK), and what it would then write (OV)."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.analysis.lens.reading import read_rows
from actadd_lens.checks import check_run, is_count, require
from actadd_lens.errors import ModelError, PositionError
from actadd_lens.measuring.measure import ConditionRows, null_conditions
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.models.components import Components, components_kept, head_changes
from actadd_lens.models.readout import Readout, readout_of
from actadd_lens.models.swaps import by_heads, is_mix
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import as_texts, encode_prompts
from actadd_lens.statistics import adjusted_over_lists, max_t_p, on_one_scale
from actadd_lens.steering.landings import touched
from actadd_lens.vectors.vector import SteeringVector, as_vectors, check_vectors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class WrittenToken(NamedTuple):
    """A token that a head promotes by what it writes when it reads the vector.

    Attributes:
        token: Token id.
        text: The token.
        z: Its value in standard deviations of random directions of the same size.
        adjusted_p: P-value, adjusted for the selection over all heads (min-P); NaN without nulls.
    """

    token: int
    text: str
    z: float
    adjusted_p: float


@dataclass(frozen=True, eq=False)
class HeadReading:
    """How each head reads a vector, as if the vector reached its layer unchanged; means over prompts.

    Attributes:
        vector: The vector.
        prompts: The prompts whose tokens attend to it.
        layers: The layers, from the vector's own on.
        attention: Attention of later tokens to the injected ones, by condition (unsteered, steered).
        looks: Change of its log-odds against all other tokens, in nats, by family (the vector, then each null).
        written: Norm of the change in what each head would write if it attended to the injected tokens alone.
        promoted: For each layer and head, the tokens that this promotes most, by z-score.
        nulls: Number of null vectors.
    """

    vector: SteeringVector
    prompts: tuple[str, ...]
    layers: tuple[int, ...]
    attention: Float[np.ndarray, "2 layers heads"]
    looks: Float[np.ndarray, "families layers heads"]
    written: Float[np.ndarray, "layers heads"]
    promoted: tuple[tuple[tuple[WrittenToken, ...], ...], ...]
    nulls: int

    def frame(self) -> "pd.DataFrame":
        """One row per head.

        `adjusted p, look` is two-sided and adjusted over all heads (max-T); `adjusted p, token` belongs to each list's
        first token.
        """
        import pandas as pd

        layers, heads = self.looks.shape[1:]
        tokens = [row for layer in self.promoted for row in layer]
        frame = pd.DataFrame(
            {
                "layer": np.repeat(self.layers, heads),
                "head": np.tile(np.arange(heads), layers),
                "attention unsteered": self.attention[0].flatten(),
                "attention steered": self.attention[1].flatten(),
                "look": self.looks[0].flatten(),
                "written norm": self.written.flatten(),
                "promoted": [" ".join(repr(token.text) for token in row) for row in tokens],
                "z of the first": [row[0].z for row in tokens],
            }
        )
        if self.nulls:
            scaled = on_one_scale(self.looks.reshape(len(self.looks), -1))
            frame.insert(5, "adjusted p, look", max_t_p(scaled[0], scaled[1:], "two-sided"))
            frame["adjusted p, token"] = [row[0].adjusted_p for row in tokens]
        return frame

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Heat map of how much more each head would attend to the vector, with the first token that it would write."""
        from actadd_lens.plots.second_look import plot_head_reading

        return plot_head_reading(self, ax=ax)

    def __repr__(self) -> str:
        return f"HeadReading({self.vector.label}: layers {self.layers[0]} to {self.layers[-1]}, {self.nulls} nulls)"

    def _repr_html_(self) -> str:
        frame = self.frame()
        largest = frame.reindex(frame["look"].abs().sort_values(ascending=False).index).head(10)
        return f"<p>{escape(repr(self))}</p>" + largest.to_html(index=False, float_format="{:.3g}".format)


@torch.no_grad()
def head_reading(
    model: LensModel,
    vector: SteeringVector,
    prompts: str | Sequence[str],
    *,
    k: int = 5,
    position: Position = "front",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 64,
) -> HeadReading:
    """Find out which heads would attend to a vector, and what each would then write.

    The vector is added to prompts at each layer in turn, so that the heads of that layer read it unchanged. Queries of
    later tokens are still the unsteered ones, so any change in where they attend comes from the vector as a key, norms
    and positions included (QK). What a head would write is the mean change of the values that it reads at the injected
    tokens, through its output weights (OV) and then the unembedding.

    Args:
        model: The model.
        vector: A steering vector; it is added from its own layer on.
        prompts: One text or several, with tokens after the injected ones.
        k: Tokens in each head's list.
        position: Prompt token that receives row 0, for a vector without a position of its own.
        nulls: Number of null vectors that are measured in the same way.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether prompts start with BOS.
        batch_size: Maximum number of rows per pass.

    Raises:
        PromptError: A prompt is not text, or is longer than the context.
        PositionError: The vector does not fit onto a prompt, or no token comes after it.
        VectorError: The vector does not match the model.
        SettingError: A setting is out of range.
        ModelError: The model does not expose its attention, or its heads' outputs are not patterns times values.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend = backend_of(model)
    (found,) = check_vectors(backend, [vector], what="heads")
    readout = readout_of(backend)
    size = min(len(backend.tokenizer), readout.bias.shape[0])
    require(is_count(k) and k <= size, "k", k, f"an integer from 1 to {size}")
    texts = as_texts(prompts)
    ids = encode_prompts(backend, texts, prepend_bos=prepend_bos)
    meeting = _Meeting(backend, found, position, tuple(range(found.layer, backend.n_layers)))
    for row in ids:
        meeting.check(row)
    families = [
        found,
        *(as_vectors(condition)[0] for condition in null_conditions(model, (found,), nulls, null_kind, seed)),
    ]
    seen = [[meeting.seen(row, family) for family in families] for row in ids]
    attention = np.mean([by_prompt[0].attention for by_prompt in seen], axis=0)
    looks = np.mean([[one.looks for one in by_prompt] for by_prompt in seen], axis=0)
    written = torch.stack([torch.stack([one.written for one in by_prompt]) for by_prompt in seen]).mean(dim=0)
    promoted = _promoted(backend, readout, written, k, size)
    norms = readout.centre(written[0]).norm(dim=-1).cpu().numpy()
    return HeadReading(found, texts, meeting.layers, attention, looks, norms, promoted, nulls)


class _Seen(NamedTuple):
    """What the heads of each layer made of one vector on one prompt."""

    attention: Float[np.ndarray, "2 layers heads"]
    looks: Float[np.ndarray, "layers heads"]
    written: Float[Tensor, "layers heads d_model"]


@dataclass(frozen=True, eq=False)
class _Meeting:
    """A vector met at each of its layers, on one prompt at a time."""

    backend: Backend
    vector: SteeringVector
    position: Position
    layers: tuple[int, ...]

    def check(self, tokens: Sequence[int]) -> None:
        """Check that the vector fits onto a prompt, and that tokens come after it.

        Raises:
            PositionError: It does not, or none does.
        """
        if not self._later(self._rows(tokens, [self.vector]).injected[0]).any():
            raise PositionError(
                "No token of the prompt comes after the injected ones, so none can attend to them: use a longer prompt."
            )

    def seen(self, tokens: Sequence[int], vector: SteeringVector) -> _Seen:
        """One pass: the unsteered row, then one row for each layer at which the vector is added."""
        conditions = [vector.at_layer(layer) for layer in self.layers]
        rows = self._rows(tokens, conditions)
        with components_kept(self.backend) as kept:
            rows.last_logits()
        on = rows.injected[0] & self._nonzero(rows)
        later = self._later(rows.injected[0])
        parts = [self._at(kept, layer, 1 + place, on, later) for place, layer in enumerate(self.layers)]
        return _Seen(
            np.stack([part.attention for part in parts], axis=1),
            np.stack([part.looks for part in parts]),
            torch.stack([part.written for part in parts]),
        )

    def _rows(self, tokens: Sequence[int], conditions: Sequence[SteeringVector]) -> ConditionRows:
        steered = [(), *((condition,) for condition in conditions)]
        return ConditionRows(self.backend, [tokens] * len(steered), steered, (self.vector,), self.position)

    def _nonzero(self, rows: ConditionRows) -> Tensor:
        """Tokens on which a row that is not zero lands."""
        lands = (self.vector.injection != 0).any(dim=-1)
        found = torch.zeros_like(rows.injected[0])
        for row, token in touched(self.vector, self.position, rows.prompts.facts(0, self.backend)):
            found[token] |= bool(lands[row])
        return found

    @staticmethod
    def _later(injected: Tensor) -> Tensor:
        """Tokens after the first injected one on which nothing lands."""
        behind = injected.long().cumsum(dim=0) > 0
        return behind & ~injected

    def _at(self, kept: Components, layer: int, row: int, on: Tensor, later: Tensor) -> _Seen:
        pattern, mixed = kept.patterns[layer][[0, row]].float(), kept.mixed[layer][[0, row]].float()
        mixed = by_heads(mixed, mixed[0, 0].numel() // pattern.shape[1])
        values = kept.values.get(layer)
        values = None if values is None else values[[0, row]]
        if values is None or not is_mix(pattern, values, mixed):
            raise ModelError(
                f"The patterns and values that {self.backend.name} shows at layer {layer} do not give its heads' "
                "outputs, so its heads cannot be read: load it with attention that exposes its pattern."
            )
        on, later = on.to(pattern.device), later.to(pattern.device)
        paid = pattern[:, :, later][..., on].sum(dim=-1).clamp(1e-12, 1 - 1e-12)
        odds = (paid / (1 - paid)).log()
        split = by_heads(values.float(), mixed.shape[-1])
        split = split.repeat_interleave(pattern.shape[1] // split.shape[2], dim=2)
        read = split[:, on].mean(dim=1, keepdim=True)
        written = head_changes(self.backend, layer, read.to(mixed))[0, 0]
        return _Seen(
            paid.mean(dim=-1).cpu().numpy(), (odds[1] - odds[0]).mean(dim=-1).cpu().numpy(), written.float().cpu()
        )


def _promoted(
    backend: Backend, readout: Readout, written: Float[Tensor, "families layers heads d_model"], k: int, size: int
) -> tuple[tuple[tuple[WrittenToken, ...], ...], ...]:
    """Each head's tokens, with p-values over all heads: each null picks its own for each head."""
    layers, heads = written.shape[1:3]
    best = []
    for family in written:
        z = read_rows(readout, family.flatten(0, 1).to(readout.gain), None)[1][:, :size]
        best.append(z.topk(k, dim=-1))
    first, nulls = best[0], best[1:]
    p_values = [np.full(k, np.nan)] * (layers * heads)
    if nulls:
        largest = torch.stack([found.values[:, 0] for found in nulls], dim=1).cpu().numpy()
        p_values = adjusted_over_lists(list(first.values.cpu().numpy()), largest)
    found: list[tuple[WrittenToken, ...]] = []
    for row, (ids, scores) in enumerate(zip(first.indices.tolist(), first.values.tolist(), strict=True)):
        told: Any = zip(ids, backend.token_strings(ids), scores, p_values[row].tolist(), strict=True)
        found.append(tuple(WrittenToken(*one) for one in told))
    return tuple(tuple(found[layer * heads : (layer + 1) * heads]) for layer in range(layers))
