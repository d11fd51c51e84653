"""The demonstration on a chat model: one question, three answers, and which of their tokens are due to steering."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from actadd_lens.checks import check_run
from actadd_lens.measuring.measure import ConditionRows, Measurement, measure
from actadd_lens.measuring.metrics import Metric, logit_difference
from actadd_lens.methods.actadd import compute_steering_vector
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.chat import ChatPrompt, chat
from actadd_lens.statistics import Alternative
from actadd_lens.steering.preview import Preview, preview
from actadd_lens.vectors.vector import SteeringVector
from actadd_lens.writing.completions import Completions, complete
from actadd_lens.writing.decoding import Continuation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUESTIONS = (
    "How was your day?",
    "Tell me about the last film you saw.",
    "What do you think of Monday mornings?",
)
BEGINNINGS = (
    "We went to the new restaurant in our street, and the food there was",
    "When we came to the hotel late at night, the room was",
    "My neighbour lent me her favourite book, and I thought it was",
    "After two hours in the cinema we agreed that the film was",
    "He sang the song again for everyone, and his voice was",
    "They moved to a small town by the sea, where life was",
    "Our train left the station at seven, and the journey was",
    "For dinner my father made a soup from his own recipe; it was",
)
"""What the effect is measured on: beginnings that call for a judgement."""


@dataclass(frozen=True, eq=False)
class Answer:
    """One answer, token by token.

    Attributes:
        texts: Its tokens.
        shifts: How much likelier steering made each of them, in nats; zero in an unsteered answer.
    """

    texts: tuple[str, ...]
    shifts: Float[np.ndarray, " tokens"]


@dataclass(frozen=True, eq=False)
class ChatDemonstration:
    """What a chat model answers with a vector, without it, and with its negative.

    Attributes:
        vector: The vector.
        landing: Where it lands on the first question.
        questions: The questions.
        answers: For each question, its answers by what was added: `+`, nothing, `-`.
        measurements: The effect on the next token with its nulls, of the vector `added` and `subtracted`.
        expected: The side on which each effect was expected before it was measured; its p-value is of this side.
    """

    vector: SteeringVector
    landing: Preview
    questions: tuple[str, ...]
    answers: tuple[dict[str, Answer], ...]
    measurements: dict[str, Measurement]
    expected: dict[str, Alternative]

    def plot(self, axes: "Sequence[Axes] | None" = None) -> "Sequence[Axes]":
        """The effects with their intervals, above those of null vectors."""
        from actadd_lens.plots.measuring import plot_effects

        effects = {name: found.effect for name, found in self.measurements.items()}
        unit = next(iter(self.measurements.values())).metric.name
        return [plot_effects(effects, unit=unit, ax=None if axes is None else axes[0])]


def demonstrate_chat(
    model: LensModel,
    *,
    pair: tuple[str, str] = ("I love it because it is wonderful", "I hate it because it is terrible"),
    layer: int = 18,
    amount: float = 0.3,
    nulls: int = 19,
    max_new_tokens: int = 40,
    seed: int = 0,
    note: Callable[[str], None] = lambda text: None,
) -> ChatDemonstration:
    """Show what one pair of sentences does to a chat model's answers, and measure it on the next token.

    The pair's mean row is added at every token. The layer is one of those that the page on SmolLM2 tries; the size, a
    little below the page's, was chosen by reading answers, and is not a measurement.

    Args:
        model: A chat model.
        pair: The sentences.
        layer: Injection layer.
        amount: Norm of the injection in units of the stream.
        nulls: Null vectors.
        max_new_tokens: Most tokens of an answer.
        seed: Seed of the nulls.
        note: Called with what is about to be done.

    Raises:
        PromptError: The model has no chat template.
    """
    check_run(seed=seed)
    prompts = [chat(model, question) for question in QUESTIONS]
    rows = compute_steering_vector(model, pair, layer=layer).mean_rows().at(position="all")
    vector = rows.relative(model, prompts, amount)
    note("writing answers")
    written = {
        sign: complete(model, prompts, factor * vector, temperature=0, max_new_tokens=max_new_tokens)
        for sign, factor in (("+", 1.0), ("-", -1.0))
    }
    answers = tuple(_answers(model, prompt, number, written, vector) for number, prompt in enumerate(prompts))
    note(f"measuring beside {nulls} null vectors")
    metric = logit_difference(" good", " bad")
    measurements = {
        name: _measured(model, factor * vector, metric, nulls, seed)
        for name, factor in (("added", 1.0), ("subtracted", -1.0))
    }
    expected: dict[str, Alternative] = {"added": "greater", "subtracted": "less"}
    return ChatDemonstration(vector, preview(model, prompts[0], vector), QUESTIONS, answers, measurements, expected)


def _measured(model: LensModel, vector: SteeringVector, metric: Metric, nulls: int, seed: int) -> Measurement:
    return measure(model, BEGINNINGS, vector, metric, nulls=nulls, seed=seed, progress=False)


def _answers(
    model: LensModel, prompt: ChatPrompt, number: int, written: dict[str, Completions], vector: SteeringVector
) -> dict[str, Answer]:
    """The three answers to one question."""
    plain = written["+"].unsteered_continuations[number][0]
    steered = {sign: found.steered_continuations[number][0] for sign, found in written.items()}
    backend = backend_of(model)
    unsteered = Answer(tuple(backend.token_strings(plain.tokens)), np.zeros(len(plain.tokens)))
    return {
        "+": token_shifts(model, prompt, steered["+"], vector),
        "": unsteered,
        "-": token_shifts(model, prompt, steered["-"], -vector),
    }


@torch.no_grad()
def token_shifts(model: LensModel, prompt: str, written: Continuation, vector: SteeringVector) -> Answer:
    """How much likelier steering made each token of an answer: its log-prob steered less unsteered, in nats.

    Args:
        model: The model.
        prompt: The prompt.
        written: The answer.
        vector: What was added.
    """
    backend = backend_of(model)
    start = backend.encode(prompt)
    tokens, texts = [*start, *written.tokens], tuple(backend.token_strings(written.tokens))
    logits = ConditionRows(backend, [tokens, tokens], [(vector,), ()], (), "front").logits().float().log_softmax(dim=-1)
    targets = torch.tensor(written.tokens, device=logits.device)
    found = logits[:, len(start) - 1 : -1].gather(-1, targets[None, :, None].expand(2, -1, 1))[..., 0]
    return Answer(texts, (found[0] - found[1]).cpu().numpy())
