"""Off-target knowledge: how often the right answer is among the K likeliest tokens (section 2g of the facts)."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens import storybook
from actadd_lens.checks import check_run, is_count
from actadd_lens.errors import PromptError, SettingError
from actadd_lens.experiments.evidence import Estimate, Experiment, Finding, stays
from actadd_lens.experiments.inputs import read_table
from actadd_lens.identity.digests import digest
from actadd_lens.measuring.metrics import BoundMetric, Metric, Reading
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.methods.actadd import compute_steering_vector
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair, as_pair
from actadd_lens.storybook import ClozeFact
from actadd_lens.sweeps.sweep import sweep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MARGIN = 0.01
"""How far P@K may move and still count as staying: ours, above the paper's own shifts of .002 to .006."""

JUDGED_K = (1, 10, 100)
"""The K that the paper gives."""

PAPER = {1: (0.094, 0.092), 10: (0.260, 0.254), 100: (0.513, 0.507)}
"""P@K unsteered and steered, read off the paper's figure, by K."""

_MASK_LAST = re.compile(r"^(?P<prompt>.*\S)\s+\[MASK\]\s*[.?!]?\s*$", re.DOTALL)


@dataclass(frozen=True)
class LamaFacts:
    """Facts of a LAMA file.

    Attributes:
        facts: Those whose mask is the last word, each prompt once.
        not_last: Number of rows whose mask is not the last word, which a left-to-right model cannot be asked.
        repeated: Number of rows that ask a prompt again, with another answer.
    """

    facts: tuple[ClozeFact, ...]
    not_last: int
    repeated: int


def read_lama(path: str | os.PathLike[str], *, sentence: str = "masked_sentence", answer: str = "object") -> LamaFacts:
    """Facts from a file of masked sentences, such as LAMA's: "Listening requires [MASK]." and its answer.

    Args:
        path: As in `read_table`.
        sentence: Column of the sentences.
        answer: Column of the answers.

    Raises:
        SettingError: The file cannot be read, lacks a column, or no mask in it is the last word.
    """
    table = read_table(path, columns={"sentence": sentence, "answer": answer})
    found: dict[str, ClozeFact] = {}
    not_last = repeated = 0
    for masked, right in zip(table["sentence"].astype(str), table["answer"].astype(str), strict=True):
        match = _MASK_LAST.match(masked)
        if match is None or "[MASK]" in match["prompt"]:
            not_last += 1
        elif match["prompt"] in found:
            repeated += 1
        else:
            found[match["prompt"]] = ClozeFact("LAMA", match["prompt"], f" {right.strip()}")
    if not found:
        raise SettingError(f"No sentence of {path} has [MASK] as its last word: expected such as 'Fire is [MASK].'")
    return LamaFacts(tuple(found.values()), not_last, repeated)


@dataclass(frozen=True, eq=False, kw_only=True)
class Knowledge(Experiment):
    """P@K over facts: the share whose right answer's first token is among the K likeliest.

    Attributes:
        facts: The facts.
        ks: The K.
        ranks: Rank of each right answer's first token, 1 for the likeliest: steered first, then the nulls.
        unsteered_ranks: The same, unsteered.
    """

    name: ClassVar[str] = "knowledge"
    title: ClassVar[str] = "Off-target knowledge"

    facts: tuple[ClozeFact, ...]
    ks: tuple[int, ...]
    ranks: Float[np.ndarray, "conditions facts"]
    unsteered_ranks: Float[np.ndarray, " facts"]

    def unsteered(self, k: int) -> Estimate:
        """P@K of the unsteered model."""
        hits = (self.unsteered_ranks <= k).astype(float)[:, None]
        return Estimate.share(hits, of="facts")

    def steered(self, k: int) -> Estimate:
        """P@K of the steered model, with that under each null."""
        hits = (self.ranks <= k).astype(float)
        return Estimate.share(hits[0, :, None], of="facts", nulls=hits[1:].mean(axis=1).tolist())

    def change(self, k: int) -> Estimate:
        """P@K steered minus unsteered, paired by fact."""
        hits, plain = (self.ranks <= k).astype(float), (self.unsteered_ranks <= k).astype(float)
        nulls = (hits[1:] - plain).mean(axis=1).tolist()
        return Estimate.paired(hits[0, :, None], plain[:, None], of="facts", nulls=nulls)

    def frame(self) -> "pd.DataFrame":
        """One line per K."""
        import pandas as pd

        lines = []
        for k in self.ks:
            change = self.change(k)
            line = {"K": k, "unsteered": self.unsteered(k).value, "steered": self.steered(k).value}
            line |= {"change": change.value, "low": change.low, "high": change.high, "n": change.n}
            if change.nulls:
                line |= {"null mean": float(np.mean(change.nulls)), "null low": min(change.nulls)}
                line |= {"null high": max(change.nulls)}
            lines.append(line)
        return pd.DataFrame(lines)

    def fact_frame(self) -> "pd.DataFrame":
        """One line per fact, with the rank of its answer, steered and unsteered."""
        import pandas as pd

        columns: dict[str, Any] = {
            name: [getattr(fact, name) for fact in self.facts] for name in ("kind", "prompt", "answer")
        }
        return pd.DataFrame({**columns, "unsteered rank": self.unsteered_ranks, "steered rank": self.ranks[0]})

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """P@K over K, steered and unsteered, with intervals, nulls and the paper's values."""
        from actadd_lens.plots.experiments_reading import plot_knowledge

        return plot_knowledge(self, ax=ax)

    def findings(self) -> tuple[Finding, ...]:
        """Claim 8."""
        return tuple(self._finding(k) for k in JUDGED_K if k in self.ks) or (
            Finding(
                8, "P@K", "not testable here", reason=f"none of the K that the paper gives was measured: {JUDGED_K}"
            ),
        )

    def _finding(self, k: int) -> Finding:
        change, base = self.change(k), self.unsteered(k)
        at = f"layer {self.settings['layer']} of {self.settings['n_layers']}"
        about = f"P@{k} steered minus unsteered, {at}, coefficient {self.settings['coefficient']:g}; staying means "
        about += f"within {MARGIN:g}"
        paper = "{:.3f} unsteered, {:.3f} steered".format(*PAPER[k])
        reason = f"unsteered P@{k} is {base.value:.3g} [{base.low:.3g}, {base.high:.3g}]"
        if base.value <= MARGIN:
            reason += ", so that it could not fall by more than the margin"
            return Finding(8, about, "not testable here", change, paper, reason)
        verdict = stays(change, MARGIN)
        if verdict == "undecided":
            reason += f"; {len(self.facts)} facts do not decide whether a change is below {MARGIN:g}"
        return Finding(8, about, verdict, change, paper, reason)

    def summary(self) -> str:
        """What was done and what was found."""
        told = [
            f"P@{k} is {self.unsteered(k).value:.3g} unsteered and {self.steered(k).value:.3g} steered, a change of "
            f"{self.change(k)}"
            for k in (JUDGED_K if set(JUDGED_K) <= set(self.ks) else (self.ks[0], self.ks[-1]))
        ]
        return (
            f"With {self.settings['pair']} at layer {self.settings['layer']}, coefficient "
            f"{self.settings['coefficient']:g}, on {len(self.facts)} facts: " + "; ".join(told) + "."
        )


def knowledge(
    model: LensModel,
    pair: PromptPair | tuple[str, str | None] = (" wedding", ""),
    *,
    facts: Sequence[ClozeFact | tuple[str, str]] | LamaFacts | None = None,
    ks: Iterable[int] = (1, 2, 5, 10, 20, 50, 100),
    layer: int | None = None,
    coefficient: float = 1.0,
    nulls: int = 99,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    batch_size: int | None = None,
    path: str | os.PathLike[str] | None = None,
    executor: Any = None,
    progress: bool = True,
) -> Knowledge:
    """Measure whether a topic vector harms what a model knows about other things.

    Args:
        model: The model.
        pair: Prompt pair of the topic.
        facts: Facts, or (prompt, answer) with the answer's leading space, or what `read_lama` found; the package's own
            by default.
        ks: The K of P@K.
        layer: Injection layer; a third of the way up by default, as in the paper.
        coefficient: Injection coefficient.
        nulls: Null vectors.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        batch_size: As in `sweep`.
        path: As in `sweep`.
        executor: As in `sweep`.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A fact cannot be used, or is asked twice.
        SettingError: A K is not an integer from 1, or another setting is out of range.
        LayerError: There is no such layer.
    """
    check_run(seed=seed, batch_size=1 if batch_size is None else batch_size)
    backend, checked = backend_of(model), as_pair(pair)
    wanted = tuple(sorted(set(ks)))
    if not wanted or not all(is_count(k) for k in wanted):
        raise SettingError(f"ks is {wanted!r}: expected integers from 1.")
    place = round(backend.n_layers / 3) if layer is None else layer
    vector = coefficient * compute_steering_vector(model, checked, layer=place)
    chosen, notes = _facts(backend, facts, vector.rows)
    found = sweep(
        model, vector, layers=vector.layer, coefficients=1.0, prompts=[fact.prompt for fact in chosen],
        metric=answer_rank({fact.prompt: fact.answer for fact in chosen}), nulls=nulls, null_kind=null_kind, seed=seed,
        batch_size=batch_size, path=path, executor=executor, progress=progress,
    )  # fmt: skip
    return Knowledge(
        model=backend.name, facts=chosen, ks=wanted, unsteered_ranks=found.unsteered[0, 0, 0, :, 0],
        ranks=np.concatenate([found.steered[0, 0, :, 0, 0, :, 0], found.nulls[0, :, 0, 0, 0, 0, :]]),
        settings={
            "pair": checked.label, "layer": vector.layer, "n_layers": backend.n_layers, "coefficient": coefficient,
            "facts": len(chosen), "facts hash": digest([(fact.prompt, fact.answer) for fact in chosen]).hex(),
            "ks": list(wanted), "nulls": nulls, "null_kind": null_kind, "seed": seed,
        },
        notes=notes,
    )  # fmt: skip


def answer_rank(answers: dict[str, str]) -> Metric:
    """Rank of the first token of each prompt's right answer, 1 for the likeliest; equals count before it.

    If a logit is NaN, the rank is infinite: a broken model knows nothing.

    Args:
        answers: The right answer of each prompt, with the space that it starts with.
    """

    def bind(backend: Backend) -> BoundMetric:
        right = {
            tuple(backend.encode(prompt)): _first_token(backend, prompt, answer) for prompt, answer in answers.items()
        }

        def rank(reading: Reading) -> Float[Tensor, " rows"]:
            rows = zip(reading.tokens.tolist(), reading.lengths.tolist(), strict=True)
            wanted = torch.tensor([right[tuple(row[:length])] for row, length in rows], device=reading.logits.device)
            mine = reading.logits.gather(1, wanted[:, None])
            rank = (reading.logits >= mine).sum(dim=1).float()
            return torch.where(reading.logits.isnan().any(dim=1), torch.inf, rank)

        return rank

    return Metric("rank of the right answer", "", "last", bind)


def _first_token(backend: Backend, prompt: str, answer: str) -> int:
    """What the model has to say next: the first token of the answer as it is read behind its prompt."""
    asked, whole = backend.encode(prompt), backend.encode(prompt + answer)
    return whole[len(asked)] if whole[: len(asked)] == asked else backend.encode(answer, prepend_bos=False)[0]


def _is_asked(backend: Backend, fact: ClozeFact) -> bool:
    """Whether the answer's first token says anything: a small SentencePiece vocabulary may begin with a bare space."""
    return bool(backend.decode([_first_token(backend, fact.prompt, fact.answer)]).strip())


def _facts(backend: Backend, facts: Any, rows: int) -> tuple[tuple[ClozeFact, ...], tuple[str, ...]]:
    """Facts with prompts that differ as tokens, and what was left out."""
    notes: tuple[str, ...] = ()
    if facts is None:
        facts = storybook.cloze_facts()
    if isinstance(facts, LamaFacts):
        notes = (
            f"{facts.not_last} facts were left out because their mask is not the last word, {facts.repeated} because "
            "their prompt was asked before.",
        )
        facts = facts.facts
    if isinstance(facts, str) or not isinstance(facts, Sequence) or not len(facts):
        raise PromptError(f"{facts!r} holds no facts: pass (prompt, answer) pairs, or what `read_lama` finds.")
    chosen = tuple(_fact(fact) for fact in facts)
    seen: dict[tuple[int, ...], str] = {}
    for fact in chosen:
        tokens = tuple(backend.encode(fact.prompt))
        if tokens in seen:
            raise PromptError(f"The prompt {fact.prompt!r} is asked twice: keep one of its answers.")
        seen[tokens] = fact.answer
    long_enough = tuple(fact for fact, tokens in zip(chosen, seen, strict=True) if len(tokens) > rows)
    kept = tuple(fact for fact in long_enough if _is_asked(backend, fact))
    if not kept:
        raise PromptError(
            f"No fact can be asked of {backend.name}: prompts take more tokens than the {rows} rows of the vector, and "
            "answers a first token that is not a bare space."
        )
    for count, reason in (
        (len(chosen) - len(long_enough), f"their prompt has no token after the {rows} rows of the vector"),
        (len(long_enough) - len(kept), "their answer begins with a bare space"),
    ):
        notes += (f"{count} facts were left out because {reason}.",) if count else ()
    return kept, notes


def _fact(fact: Any) -> ClozeFact:
    if isinstance(fact, ClozeFact):
        return fact
    if (
        isinstance(fact, tuple | list)
        and len(fact) == 2
        and all(isinstance(part, str) and part.strip() for part in fact)
    ):
        return ClozeFact("given", *fact)
    raise PromptError(
        f"{fact!r} is not a fact: pass a prompt and its answer, such as ('The opposite of hot is', ' cold')."
    )


def _mean(table: Float[np.ndarray, "facts columns"]) -> float:
    return float(table.mean())
