"""Is it just adding tokens? Injection against prepending the words, and vectors read at one layer, added at another."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens import storybook
from actadd_lens.checks import check_run, is_count, is_whole, require
from actadd_lens.errors import PromptError, SettingError
from actadd_lens.experiments.evidence import Estimate, Experiment, Finding, moves, resampled, stays
from actadd_lens.experiments.inputs import evenly, topic_of
from actadd_lens.identity.digests import digest
from actadd_lens.measuring.measure import Condition, ConditionRows, measure_conditions
from actadd_lens.measuring.metrics import Metric, Reading, token_nll, token_set_logprob
from actadd_lens.measuring.nulls import null_table
from actadd_lens.measuring.scorers import word_share
from actadd_lens.methods.actadd import compute_steering_vector, compute_steering_vectors
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair, as_pair
from actadd_lens.prompts.texts import as_texts, each_once, encode_prompts
from actadd_lens.statistics import FEWEST_PROMPTS, split_prompts
from actadd_lens.sweeps.results import Sweep
from actadd_lens.sweeps.sweep import plan_sweep
from actadd_lens.vectors.vector import SteeringVector, check_coefficient

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SAME = 1e-3
"""Nats within which two log-probs count as the same: float32 rounding through a deep model, and no more."""

HARMLESS = 0.01
"""Share by which unrelated text may get more perplexing: the paper's percent."""


@dataclass(frozen=True, eq=False)
class Prompting(Experiment):
    """Injection against prompting.

    Attributes:
        pair: The prompt pair.
        layer: Injection layer, chosen on one half of the texts.
        coefficient: Injection coefficient, chosen there as well.
        identity: Largest difference of log-probs at layer 0 between adding and prompting, text by text.
        injection: Perplexity steered / unsteered by kind of text, `on-topic` and `off-topic`.
        prompt: Perplexity with the positive prompt put before the text / without it, over the same predictions.
        against: Perplexity steered / with the prompt put before the text, over the same predictions.
        transplants: Next-token log-prob of the topic's words under vectors read at each layer, added at each.
    """

    name: ClassVar[str] = "prompting"
    title: ClassVar[str] = "Is it just adding tokens?"

    pair: PromptPair
    layer: int
    coefficient: float
    identity: Estimate
    injection: dict[str, Estimate]
    prompt: dict[str, Estimate]
    against: dict[str, Estimate]
    transplants: Sweep

    @property
    def transplanted(self) -> dict[int, Estimate]:
        """Effect of a vector read at layer 0 minus that of one read where it is added, by the layer where it is added.

        Vectors are read at the layers at which they are added, so each layer has one to compare with.
        """
        found, reads = self.transplants, self.transplants.grid.layers
        own, null = found.by_prompt[0, :, :, 0, 0], found.null_by_prompt[0, :, :, :, 0, 0]
        return {
            layer: resampled(
                lambda table: float(table.mean()),
                (own[reads.index(0), place] - own[place, place])[:, None],
                of="prompts",
                nulls=(null[:, reads.index(0), place] - null[:, place, place]).mean(axis=-1).tolist(),
            )
            for place, layer in enumerate(reads)
            if layer
        }

    def at_home(self, layer: int) -> Estimate:
        """Effect of a vector read and added at one layer."""
        place = self.transplants.grid.layers.index(layer)
        return Estimate.from_effect(self.transplants.effect(pair=place, layer=layer))

    def frame(self) -> "pd.DataFrame":
        """A row for each perplexity ratio, and for each pair of layers of the transplant."""
        import pandas as pd

        named = {"injection": self.injection, "prompt": self.prompt, "injection / prompt": self.against}
        rows = [
            {"measure": "perplexity ratio", "of": texts, "how": how, **_cells(found)}
            for how, by_texts in named.items()
            for texts, found in by_texts.items()
        ]
        grid = self.transplants.grid
        rows += [
            {"measure": self.transplants.metrics[0], "of": "prompts", "how": f"read at {read}, added at {added}",
             **_cells(Estimate.from_effect(self.transplants.effect(pair=index, layer=added)))}
            for index, read in enumerate(grid.layers)
            for added in grid.layers
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Perplexity ratios of injection and prompt, with intervals, nulls, and the paper's values."""
        from actadd_lens.plots.experiments_prompting import plot_prompting

        return plot_prompting(self, ax=ax)

    def plot_transplants(self, ax: "Axes | None" = None) -> "Axes":
        """Effect by the layer where a vector is read and the layer where it is added."""
        from actadd_lens.plots.experiments_prompting import plot_transplants

        return plot_transplants(self, ax=ax)

    def pictures(self) -> "dict[str, Callable[[], Axes]]":
        """The ratios, and the transplants."""
        return {"": self.plot, "transplants": self.plot_transplants}

    def findings(self) -> tuple[Finding, ...]:
        """Claim 11, part by part."""
        identity = Finding(
            11,
            f"largest difference of log-probs at layer 0 between adding to padded input and prompting, in nats (the "
            f"same within {SAME:g})",
            stays(self.identity, SAME),
            self.identity,
            "an exact identity",
        )
        return (identity, self._rivalry("off-topic"), self._rivalry("on-topic"), *map(self._moved, self.transplanted))

    def _rivalry(self, texts: str) -> Finding:
        """Whether injection leaves a text less perplexing than the words do; the interval alone decides."""
        found = self.against[texts]
        paper = {
            "on-topic": ".8749 against .8904, a ratio of .983",
            "off-topic": ".9942 against 1.1322, a ratio of .878",
        }
        verdict = moves(replace(found, nulls=()), "less", margin=HARMLESS)
        reason = "judged by the interval alone; the nulls are null vectors against unrelated words"
        if texts == "on-topic":
            reason += "; the claim itself speaks of unrelated text"
        if moves(own := self.injection["on-topic"], "less") != "same direction":
            verdict = "not testable here"
            reason = f"the injection has no significant effect on the topic: {own}"
        elif verdict == "undecided":
            reason = ""
        return Finding(
            11,
            f"perplexity of {texts} text under {self.coefficient:g} × ({self.pair.label}) at layer {self.layer}, "
            "divided by that with the words put before it",
            verdict, found, paper[texts], reason, HARMLESS,
        )  # fmt: skip

    def _moved(self, layer: int) -> Finding:
        """Whether a vector read at layer 0 does less than one read where both are added."""
        found, home = self.transplanted[layer], self.at_home(layer)
        about = (
            f"log-prob of topic words: read at layer 0 and added at {layer}, minus read and added at {layer}, in nats"
        )
        paper = "20 → 20 strong, 0 → 20 almost nothing"
        verdict = moves(home, "greater")
        if verdict == "same direction":
            return Finding(11, about, moves(found, "less"), found, paper, f"read where it is added: {home}")
        reason = f"read where it is added, it does not raise them significantly: {home}"
        if home.n < FEWEST_PROMPTS:
            reason = f"{home.n} prompts are too few to judge it read where it is added: {home.value:.3g}"
        return Finding(11, about, "not testable here", found, paper, reason)

    def summary(self) -> str:
        """What was done and what was found."""
        on, off = (f"{self.injection[texts].value:.3f}" for texts in ("on-topic", "off-topic"))
        on_prompt, off_prompt = (f"{self.prompt[texts].value:.3f}" for texts in ("on-topic", "off-topic"))
        moved = "; ".join(
            f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}] at layer {layer}"
            for layer, found in self.transplanted.items()
        )
        return (
            f"At layer 0, adding {self.pair.label} to input padded with its negative equals prompting to within "
            f"{self.identity.value:.2g} nats on {self.identity.n} texts. At layer {self.layer}, "
            f"coefficient {self.coefficient:g}, chosen on one half of the texts, perplexity on the other half is {on} "
            f"of the unsteered on-topic and {off} off-topic; with the words put before the text instead, {on_prompt} "
            f"and {off_prompt}. A vector read at layer 0 moves the log-prob of topic words less than one read where "
            f"both are added, by nats: {moved}."
        )


def prompting(
    model: LensModel,
    pair: PromptPair | tuple[str, str] = (" wedding", ""),
    *,
    words: Sequence[str] | None = None,
    on_topic: Sequence[str] | None = None,
    off_topic: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    coefficients: Sequence[float] = (1.0,),
    transplant_layers: Sequence[int] | None = None,
    transplant_coefficient: float = 4.0,
    n: int = 100,
    nulls: int = 20,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    executor: Any = None,
    progress: bool = True,
) -> Prompting:
    """Compare injection with prompting (the paper's question whether it is just adding tokens).

    Layer and coefficient are those with the largest fall of on-topic perplexity on one half of the texts among those
    that raise off-topic perplexity there by at most a percent, or else with the smallest rise; results are from the
    other half. Every null chooses by the same rule on the same half. Unsteered, steered and prompted texts are compared
    over the same predictions: those made after the rows of the vector.

    Args:
        model: The model.
        pair: The prompt pair; its negative may be empty, not missing. Its positive is what the prompt says.
        words: The topic's words, for the transplant; those that are one token count. By default those of
            the package's topic that the pair names.
        on_topic: Texts on the topic, by default the package's on the topic that the pair names.
        off_topic: Texts off the topic, by default the package's on its other topics without any of the words.
        prompts: Prompts of the transplant, by default the package's neutral ones.
        layers: Injection layers to choose from; by default all but layer 0, where injection is prompting.
        coefficients: Coefficients to choose from.
        transplant_layers: Layers to read at and to add at; by default 0, and the quarters of the model's depth.
        transplant_coefficient: Coefficient of the transplants.
        n: Maximum number of texts of each kind, taken evenly.
        nulls: Null vectors; the prompt's nulls are as many unrelated pieces of text.
        seed: Seed of the halves and the nulls.
        path: An sqlite file that stores the transplants as they are computed.
        executor: As in `sweep`.
        progress: Whether to show bars.

    Raises:
        PromptError: The pair is unpaired, a text is not a string, or no word is one token.
        SettingError: There are too few texts to choose on one half and report on the other, the pair is about no topic
            of the package and words or texts are not given, or a setting is out of range.
        LayerError: A layer does not exist.
    """
    check_run(seed=seed)
    backend, chosen_pair = backend_of(model), _two_sided(pair)
    topic = topic_of(pair, words)
    require(is_count(n), "n", n, "an integer from 1")
    on = each_once(as_texts(topic_of(pair, None).sentences if on_topic is None else on_topic))
    off = _others(topic.words, on) if off_topic is None else each_once(as_texts(off_topic))
    texts = {"on-topic": evenly(on, n), "off-topic": evenly(off, n)}
    single = _single_tokens(backend, topic.words)
    metric = replace(token_set_logprob(single), name="log-prob of topic words")
    choices, depths = _choices(backend, layers, coefficients), _depths(backend, transplant_layers)
    rivals = _Rivals(model, backend, chosen_pair, texts, seed, executor, progress)
    asked = each_once(as_texts(storybook.neutral_prompts() if prompts is None else prompts))
    vectors = [compute_steering_vector(model, chosen_pair, layer=read) for read in depths]
    plan = plan_sweep(
        model, vectors, layers=depths, coefficients=transplant_coefficient, prompts=asked, metric=metric, nulls=nulls,
        seed=seed, path=path,
    )  # fmt: skip
    chosen = rivals.choose(choices, nulls)
    layer, coefficient = choices[chosen[0]]
    injection, prompt, against = rivals.report([choices[cell] for cell in chosen])
    settings = {
        "pair": [chosen_pair.positive, chosen_pair.negative], "layers": sorted({layer for layer, _ in choices}),
        "coefficients": list(coefficients), "layer": layer, "coefficient": coefficient,
        "chosen": "on one half of the texts: largest fall on-topic with at most 1 % rise off-topic; so is each null's",
        "n": n, "texts": {name: len(found) for name, found in texts.items()},
        "texts hash": {name: digest(found).hex() for name, found in texts.items()}, "prompts": list(asked),
        "transplant layers": list(depths), "transplant coefficient": transplant_coefficient,
        "words": list(topic.words), "tokens": backend.token_strings(single), "nulls": nulls,
        "null_kind": "unrelated_pairs", "seed": seed,
    }  # fmt: skip
    return Prompting(
        model=backend.name, settings=settings, notes=rivals.notes, pair=chosen_pair, layer=layer,
        coefficient=coefficient, identity=rivals.identity(), injection=injection, prompt=prompt, against=against,
        transplants=plan.run(executor=executor, progress=progress),
    )  # fmt: skip


class _Rivals:
    """Texts that a vector and a prompt are tried on, over the same predictions: those behind the vector's rows."""

    def __init__(
        self,
        model: LensModel,
        backend: Backend,
        pair: PromptPair,
        texts: dict[str, tuple[str, ...]],
        seed: int,
        executor: Any,
        progress: bool,
    ) -> None:
        self._model, self._backend, self._pair, self._seed = model, backend, pair, seed
        self._run = {"executor": executor, "progress": progress}
        self._padded = pair.tokens(model)
        self._said = backend.encode(pair.positive, prepend_bos=False)
        self._rows = len(self._padded.positive)
        self._conditions: dict[int, tuple[SteeringVector, ...]] = {}
        encoded = {name: encode_prompts(backend, found, room=self._rows) for name, found in texts.items()}
        self._bos = int(encoded["on-topic"][0][0] == backend.bos_token_id)
        self._texts = {name: [row for row in rows if len(row) > self._rows + 1] for name, rows in encoded.items()}
        self._halves = {name: split_prompts(len(rows), seed=seed) for name, rows in self._texts.items()}
        left_out = {name: len(texts[name]) - len(rows) for name, rows in self._texts.items()}
        self.notes = (
            "The words stand directly before the text's own tokens, so that all conditions predict the same tokens.",
            *(f"{count} {name} texts were too short and left out." for name, count in left_out.items() if count),
        )

    def choose(self, choices: Sequence[tuple[int, float]], nulls: int) -> list[int]:
        """The choice of the steering vector, and of each null, on one half of the texts."""
        layers = sorted({layer for layer, _ in choices})
        found = compute_steering_vectors(self._model, [self._pair], layers=layers)
        vectors = [found[0, layer] for layer in layers]
        require(is_whole(nulls), "nulls", nulls, "an integer from 0")
        drawn = null_table(self._model, vectors, n=nulls, seed=self._seed) if nulls else [()] * len(layers)
        self._conditions = {layer: (own, *none) for layer, own, none in zip(layers, vectors, drawn, strict=True)}
        cells: list[Condition] = [
            (coefficient * self._conditions[layer][condition],)
            for condition in range(1 + nulls)
            for layer, coefficient in choices
        ]
        on, off = (
            self._log_ratios(self._half(name, 0), [(), *cells]).reshape(1 + nulls, len(choices))
            for name in ("on-topic", "off-topic")
        )
        return [harmless_choice(*ratios) for ratios in zip(on, off, strict=True)]

    def report(self, chosen: Sequence[tuple[int, float]]) -> tuple[dict[str, Estimate], ...]:
        """Ratios of injection to unsteered, of prompt to unsteered, and of injection to prompt, on the other half.

        Args:
            chosen: Layer and coefficient of the steering vector, and of each null.
        """
        conditions: list[Condition] = [
            (),
            *((c * self._conditions[layer][condition],) for condition, (layer, c) in enumerate(chosen)),
        ]
        found: tuple[dict[str, Estimate], ...] = ({}, {}, {})
        for name in self._texts:
            rows = self._half(name, 1)
            plain, *steered = self._summed(rows, conditions)
            prompted = self._prompted(rows, len(chosen) - 1)
            count = np.array([self._predictions(row) for row in rows], dtype=float)
            unsteered = [plain] * len(steered)
            found[0][name] = _ratio(steered, unsteered, count)
            found[1][name] = _ratio(list(prompted), unsteered, count)
            found[2][name] = _ratio(steered, list(prompted), count)
        return found

    @torch.no_grad()
    def identity(self, most: int = 16) -> Estimate:
        """Largest difference of log-probs between adding at layer 0 and prompting, over a few texts."""
        vector = compute_steering_vector(self._model, self._pair, layer=0)
        rows = [row for found in self._texts.values() for row in found[: most // 2]]
        gaps = []
        for row in rows:
            added, said = ([*side, *row[self._bos :]] for side in (self._padded.negative or (), self._padded.positive))
            steered = ConditionRows(self._backend, [added], [(vector,)], (vector,), "front").logits()
            prompted = ConditionRows(self._backend, [said], [()], (), "front").logits()
            # A column that differs in its own token may well predict the same: all columns are compared.
            gaps.append(float((_log_probs(steered) - _log_probs(prompted)).abs().max()))
        # A maximum has no interval: the smallest and the largest gap stand beside it.
        return Estimate(max(gaps), min(gaps), max(gaps), len(gaps), "texts")

    def _half(self, name: str, half: int) -> list[tuple[int, ...]]:
        return [self._texts[name][index] for index in self._halves[name][half]]

    def _predictions(self, row: Sequence[int]) -> int:
        return len(row) - 1 - self._rows

    def _log_ratios(
        self, rows: Sequence[tuple[int, ...]], conditions: Sequence[Condition]
    ) -> Float[np.ndarray, " conditions"]:
        """Log of the perplexity ratio of every condition but the first, to the first."""
        summed = self._summed(rows, conditions).sum(axis=1)
        return np.asarray((summed[1:] - summed[0]) / sum(map(self._predictions, rows)))

    def _summed(
        self, rows: Sequence[tuple[int, ...]], conditions: Sequence[Condition]
    ) -> Float[np.ndarray, "conditions texts"]:
        return measure_conditions(
            self._backend, rows, conditions, summed_nll(self._rows), measured=(), position="front", **self._run
        )

    def _prompted(self, rows: Sequence[tuple[int, ...]], nulls: int) -> Float[np.ndarray, "prefixes texts"]:
        """Summed NLL behind the pair's words, and behind each of as many unrelated pieces of text."""
        texts = [self._behind(words, row) for words in (self._said, *self._pieces(nulls)) for row in rows]
        metric = summed_nll(self._rows + len(self._said))
        (values,) = measure_conditions(self._backend, texts, [()], metric, measured=(), position="front", **self._run)
        return np.asarray(values.reshape(1 + nulls, len(rows)))

    def _behind(self, words: Sequence[int], row: Sequence[int]) -> tuple[int, ...]:
        """A text with words before its own tokens, behind BOS where the model has one."""
        return (*row[: self._bos], *words, *row[self._bos :])

    def _pieces(self, count: int) -> list[list[int]]:
        """As many tokens as the words have, from random places of neutral texts."""
        random, wanted = np.random.default_rng(self._seed), len(self._said)
        texts = [self._backend.encode(text, prepend_bos=False) for text in storybook.sentiment_sentences()["neutral"]]
        texts = [tokens for tokens in texts if len(tokens) > wanted]
        pieces = []
        for _ in range(count):
            tokens = texts[random.integers(len(texts))]
            start = int(random.integers(len(tokens) - wanted + 1))
            pieces.append(tokens[start : start + wanted])
        return pieces


def harmless_choice(on: Float[np.ndarray, " cells"], off: Float[np.ndarray, " cells"]) -> int:
    """The cell with the lowest ratio on the topic among those that leave other text alone, or else the least harmful.

    A cell without a number is not chosen.

    Args:
        on: Log of the perplexity ratio on the topic, by cell.
        off: The same off the topic.

    >>> harmless_choice(np.array([-0.3, -0.1, np.nan]), np.array([0.2, 0.0, 0.0]))
    1
    """
    off = np.where(np.isfinite(on) & np.isfinite(off), off, np.inf)
    harmless = off <= np.log(1 + HARMLESS)
    return int(np.where(harmless, on, np.inf).argmin() if harmless.any() else off.argmin())


def summed_nll(skipped: int) -> Metric:
    """Summed negative log-likelihood of a text's tokens, without the predictions made from its first columns.

    Args:
        skipped: How many columns, BOS counted, make no prediction that counts.
    """

    def summed(reading: Reading) -> Float[Tensor, " rows"]:
        nll, counted = token_nll(reading)
        late = torch.arange(nll.shape[1], device=nll.device) >= skipped
        return (nll * (counted & late)).sum(dim=1)

    return Metric("summed NLL", "nats", "all", lambda backend: summed)


def _ratio(above: Sequence[np.ndarray], below: Sequence[np.ndarray], count: Float[np.ndarray, " texts"]) -> Estimate:
    """Ratio of perplexities of a set of texts, one for the condition and one for each null."""

    def ratio(table: Float[np.ndarray, "texts columns"]) -> float:
        return float(np.exp((table[:, 0] - table[:, 1]).sum() / table[:, 2].sum()))

    own, *nulls = (np.stack([one, other, count], axis=1) for one, other in zip(above, below, strict=True))
    return resampled(ratio, own, of="texts", nulls=[ratio(table) for table in nulls], neutral=1.0)


def _log_probs(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(dim=-1)


def _cells(found: Estimate) -> dict[str, Any]:
    """An estimate as cells of a table."""
    ends = (min(found.nulls), max(found.nulls)) if found.nulls else (np.nan, np.nan)
    cells = {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
    return {**cells, "lowest null": ends[0], "highest null": ends[1]}


def _two_sided(pair: Any) -> PromptPair:
    """A pair whose positive a prompt can say, and whose negative is there to compare with."""
    found = as_pair(pair)
    if found.negative is None or not found.positive:
        raise PromptError(
            f"The pair {found.label} has no {'negative' if found.negative is None else 'positive'}: prompting puts "
            'the positive before a text, and layer 0 is compared over the negative; "" means spaces.'
        )
    return found


def _others(words: Sequence[str], on_topic: Sequence[str]) -> tuple[str, ...]:
    """The package's sentences that have none of the words and are not among the texts on the topic."""
    found = [text for topic in storybook.topics().values() for text in topic.sentences if text not in set(on_topic)]
    return tuple(text for text, share in zip(found, word_share(words)(found), strict=True) if not share)


def _single_tokens(backend: Backend, words: Sequence[str]) -> list[int]:
    """Ids of the words that are one token, with a space before them or without."""
    spellings = [backend.encode(spelling, prepend_bos=False) for word in words for spelling in (f" {word}", word)]
    found = sorted({tokens[0] for tokens in spellings if len(tokens) == 1})
    if not found:
        raise PromptError(f"None of the words {', '.join(words)} is one token for {backend.name}: give one that is.")
    return found


def _choices(backend: Backend, layers: Sequence[int] | None, coefficients: Sequence[float]) -> list[tuple[int, float]]:
    """All injection layers with all coefficients."""
    found = [backend.check_layer(layer) for layer in (range(1, backend.n_layers) if layers is None else layers)]
    if not found or not coefficients:
        raise SettingError("There is nothing to choose from: give one or more layers, and coefficients.")
    return [(layer, check_coefficient(coefficient)) for layer in found for coefficient in coefficients]


def _depths(backend: Backend, layers: Sequence[int] | None) -> list[int]:
    """Layers of the transplant: those given, or layer 0 and the quarters of the model's depth."""
    quarters = [round(backend.n_layers * part / 4) for part in range(4)]
    found = sorted({backend.check_layer(layer) for layer in (quarters if layers is None else layers)})
    if found[:1] != [0] or len(found) < 2:
        raise SettingError(f"transplant_layers is {layers}: expected layer 0 and at least one more.")
    return found
