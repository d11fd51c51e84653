"""The paper's famous examples, and its known failures: unsteered beside steered, the first sample of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from actadd_lens.checks import check_run, is_whole, require
from actadd_lens.errors import PositionError, SettingError
from actadd_lens.experiments.evidence import Estimate, Experiment, Finding
from actadd_lens.measuring.measure import measure_conditions, null_conditions
from actadd_lens.measuring.metrics import kl_divergence
from actadd_lens.methods.actadd import compute_steering_vector
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair
from actadd_lens.prompts.positions import start_of
from actadd_lens.prompts.texts import encode_prompts
from actadd_lens.vectors.vector import SteeringVector
from actadd_lens.writing.decoding import Cell, Continuation, DecodeSettings, decode_cells
from actadd_lens.writing.sampling import Sampling

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

DEPTH = 48
"""Layers of GPT-2-XL, which the examples' layers are of."""


@dataclass(frozen=True)
class Term:
    """A prompt pair of an example with its settings on GPT-2-XL.

    Attributes:
        positive: Positive prompt.
        negative: Negative prompt; None for an unpaired addition.
        layer: Injection layer, of 48.
        coefficient: Injection coefficient.
    """

    positive: str
    negative: str | None
    layer: int
    coefficient: float

    def layer_of(self, n_layers: int) -> int:
        """The layer at the same relative depth in a model with that many.

        >>> Term("Love", "Hate", 6, 5).layer_of(8), Term("Love", "Hate", 47, 5).layer_of(8)
        (1, 7)
        """
        return min(n_layers - 1, round(self.layer / DEPTH * n_layers))


@dataclass(frozen=True)
class Example:
    """A prompt and what is added to it.

    Attributes:
        terms: What is added; several compose.
        prompt: The prompt.
        failed: Whether the authors report it as a failure.
    """

    terms: tuple[Term, ...]
    prompt: str
    failed: bool = False


def _one(positive: str, negative: str | None, layer: int, coefficient: float, prompt: str) -> Example:
    return Example((Term(positive, negative, layer, coefficient),), prompt)


_KILL = "I want to kill you because you're such a"
_FRIEND = "I went up to my friend and said"

EXAMPLES = (
    _one("Love", "Hate", 6, 5, "I hate you because"),
    _one("Intent to praise", "Intent to hurt", 6, 15, _KILL),
    _one("Bush did 9/11 because", "", 23, 1, "Barack Obama was born in"),
    _one("Want to die", "Want to stay alive", 10, 3, "Some people think that death is scary, and they say that"),
    _one("Anger", "Calm", 20, 10, "I think you're"),
    _one("The Eiffel Tower is in Rome", "The Eiffel Tower is in France", 24, 10,
         "To see the eiffel tower, people flock to"),
    _one("Dragons live in Berkeley", "People live in Berkeley", 15, 4,
         "Thanks for asking about that! I moved to Berkeley, CA because"),
    _one("I NEVER talk about people getting hurt", "I talk about people getting hurt", 15, 4,
         "The rock hurtled toward the child. Everybody saw it, and then"),
    _one("I talk about weddings constantly", "I do not talk about weddings constantly", 20, 4, _FRIEND),
    _one("Intent to convert you to Christianity", "Intent to hurt you", 6, 3, _KILL),
    Example((Term("Love", "Hate", 6, 5), Term(" wedding", "", 15, 5)), "I hate you because"),
    Example((Term("Love", None, 6, 10),), "I hate you because", failed=True),
    Example((Term("Je m'appelle", "My name is", 6, 5),), _KILL, failed=True),
)  # fmt: skip
"""Section 3 of the paper's facts."""

_NOTES = (
    "Layers are mapped by depth from GPT-2-XL's 48; coefficients are the paper's. The sample shown is the first; none "
    "was chosen.",
    "Two prompts are known by their beginnings only and continued in our words: those about death and about the rock. "
    "The prompts of the composed vector and of the failures are our choice among the paper's.",
    "Each example is one prompt, so its numbers have no interval; its nulls are vectors of equal row norms.",
)


@dataclass(frozen=True, eq=False)
class Shown:
    """An example on a model.

    Attributes:
        example: The example.
        label: What was added, in words.
        unsteered: Unsteered samples.
        steered: Steered samples; none if the vector does not fit onto the prompt.
        divergence: KL(steered || unsteered) of the next token, in nats; None if it does not fit.
        problem: Why it does not fit; empty if it does.
    """

    example: Example
    label: str
    unsteered: tuple[str, ...] = ()
    steered: tuple[str, ...] = ()
    divergence: Estimate | None = None
    problem: str = ""

    @property
    def changed(self) -> float:
        """Share of samples in which the texts differ."""
        pairs = list(zip(self.unsteered, self.steered, strict=True))
        return sum(plain != steered for plain, steered in pairs) / len(pairs) if pairs else float("nan")


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Examples(Experiment):
    """The examples on a model.

    Attributes:
        shown: Each example.
    """

    name: ClassVar[str] = "examples"
    title: ClassVar[str] = "The paper's examples"

    shown: tuple[Shown, ...]

    def frame(self) -> "pd.DataFrame":
        """One row per example, with the first steered and unsteered sample."""
        import pandas as pd

        return pd.DataFrame(map(self._row, self.shown))

    def _row(self, shown: Shown) -> dict[str, Any]:
        found = shown.divergence
        nulls = (found.nulls if found else ()) or (np.nan,)
        return {
            "added": shown.label, "prompt": shown.example.prompt,
            "unsteered": shown.unsteered[0] if shown.unsteered else "",
            "steered": shown.steered[0] if shown.steered else shown.problem, "changed": shown.changed,
            "KL(steered || unsteered)": found.value if found else np.nan, "null mean": float(np.mean(nulls)),
            "null least": min(nulls), "null most": max(nulls), "failed in the paper": shown.example.failed,
        }  # fmt: skip

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Next-token divergence of each example, with its nulls."""
        from actadd_lens.plots.experiments_writing import plot_examples

        return plot_examples(self, ax=ax)

    def findings(self) -> tuple[Finding, ...]:
        """None: examples show what a vector does; they prove nothing."""
        return ()

    def summary(self) -> str:
        """What was done and what was found."""
        found = [shown.divergence for shown in self.shown if shown.divergence is not None]
        above = sum(bool(one.nulls) and one.value > max(one.nulls) for one in found)
        below = sum(bool(one.nulls) and one.value < min(one.nulls) for one in found)
        changed = [shown.changed for shown in self.shown if shown.divergence is not None] or [np.nan]
        return (
            f"{len(found)} of {len(self.shown)} examples fit onto their prompts on {self.model}. The next-token "
            f"divergence lies above all {self.settings['nulls']} nulls in {above} of them and below all in {below}; "
            f"{np.mean(changed):.0%} of the samples change."
        )


def examples(
    model: LensModel,
    examples: Sequence[Example] = EXAMPLES,
    *,
    n: int = 4,
    max_new_tokens: int = 40,
    nulls: int = 19,
    temperature: float = 1.0,
    top_p: float | None = 0.3,
    frequency_penalty: float = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> Examples:
    """The paper's examples, sampled as its authors did.

    Args:
        model: The model.
        examples: Examples; by default the paper's.
        n: Samples per example and condition; the first is shown.
        max_new_tokens: Maximum number of tokens to add.
        nulls: Null vectors of each example, for the next token.
        temperature: As in `complete`.
        top_p: As in `complete`.
        frequency_penalty: As in `complete`.
        seed: Seed of samples and nulls.
        progress: Whether to show a bar.

    Raises:
        SettingError: There is no example, or a setting is out of range; otherwise the errors of `complete`.
    """
    check_run(seed=seed)
    if not examples:
        raise SettingError("There is no example: pass one or more.")
    require(is_whole(nulls), "nulls", nulls, "an integer from 0")
    sampling = {"temperature": temperature, "top_p": top_p, "frequency_penalty": frequency_penalty}
    settings = DecodeSettings(n, max_new_tokens, seed, sampling=Sampling.from_options(sampling))
    backend = backend_of(model)
    rows = encode_prompts(backend, [example.prompt for example in examples], room=max_new_tokens)
    conditions = [_vectors(model, example) for example in examples]
    problems = [_problem(condition, len(row)) for condition, row in zip(conditions, rows, strict=True)]
    fitting = [index for index, problem in enumerate(problems) if not problem]
    cells = [Cell(rows[index], condition) for index in fitting for condition in ((), conditions[index])]
    written = decode_cells(backend, cells, settings, batch_size=max(1, n * len(cells)), progress=progress)
    shown = []
    for index, (example, condition, problem) in enumerate(zip(examples, conditions, problems, strict=True)):
        if problem:
            shown.append(Shown(example, _label(condition), problem=problem))
            continue
        place = 2 * fitting.index(index)
        plain, steered = (_texts(written[place + side]) for side in (0, 1))
        shown.append(
            Shown(example, _label(condition), plain, steered, _divergence(model, example, condition, nulls, seed))
        )
    told = {"n": n, "max_new_tokens": max_new_tokens, "seed": seed, **sampling, "nulls": nulls, "examples": len(shown)}
    return Examples(model=backend.name, settings=told, notes=_NOTES, shown=tuple(shown))


def _vectors(model: LensModel, example: Example) -> tuple[SteeringVector, ...]:
    n_layers = backend_of(model).n_layers
    return tuple(
        term.coefficient
        * compute_steering_vector(model, PromptPair(term.positive, term.negative), layer=term.layer_of(n_layers))
        for term in example.terms
    )


def _problem(vectors: Sequence[SteeringVector], length: int) -> str:
    """Why vectors do not fit onto a prompt; empty where they do."""
    try:
        for vector in vectors:
            start_of("front", length=length, rows=vector.rows)
    except PositionError:
        return f"does not fit: {vector.rows} rows, {length} tokens"
    return ""


def _label(vectors: Sequence[SteeringVector]) -> str:
    return " + ".join(f"{vector.coefficient:g} × ({vector.label}) at layer {vector.layer}" for vector in vectors)


def _texts(continuations: Sequence[Continuation]) -> tuple[str, ...]:
    return tuple(continuation.text for continuation in continuations)


def _divergence(
    model: LensModel, example: Example, vectors: tuple[SteeringVector, ...], nulls: int, seed: int
) -> Estimate:
    """KL divergence of the next token; of one prompt, so without an interval."""
    backend = backend_of(model)
    conditions = [(), vectors, *null_conditions(model, vectors, nulls, "unrelated_pairs", seed)]
    values = measure_conditions(
        backend, encode_prompts(backend, [example.prompt]), conditions, kl_divergence(), measured=vectors,
        position="front",
        progress=False,
    )[:, 0]  # fmt: skip
    return Estimate(float(values[1]), float("nan"), float("nan"), 1, "prompts", tuple(map(float, values[2:])))
