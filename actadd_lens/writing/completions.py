"""`complete`: steered and unsteered text, from shared batches."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from actadd_lens.checks import check_run, many
from actadd_lens.errors import SettingError
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.positions import as_position, plain_position
from actadd_lens.prompts.texts import as_texts, encode_prompts
from actadd_lens.statistics import Effect, merged, paired_effect
from actadd_lens.steering.interventions import by_prompt
from actadd_lens.vectors.interventions import Intervention, distinct
from actadd_lens.writing.decoding import Cell, Continuation, DecodeSettings, continuation_texts, decode_cells
from actadd_lens.writing.sampling import Sampling

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Completions:
    """Steered and unsteered text; sample i of both used the same random numbers.

    Attributes:
        prompts: The prompts.
        steered_continuations: For each prompt, its steered samples.
        unsteered_continuations: For each prompt, its unsteered samples.
        vectors: What was added.
        settings: Position, seed, sampling and lengths, as run.
    """

    prompts: tuple[str, ...]
    steered_continuations: tuple[tuple[Continuation, ...], ...]
    unsteered_continuations: tuple[tuple[Continuation, ...], ...]
    vectors: tuple[Intervention, ...]
    settings: dict[str, Any]

    @property
    def steered(self) -> tuple[tuple[str, ...], ...]:
        """Steered texts, by prompt and sample."""
        return continuation_texts(self.steered_continuations)

    @property
    def unsteered(self) -> tuple[tuple[str, ...], ...]:
        """Unsteered texts, by prompt and sample."""
        return continuation_texts(self.unsteered_continuations)

    def frame(self) -> "pd.DataFrame":
        """One row per prompt and sample."""
        import pandas as pd

        rows = [
            {"prompt": prompt, "sample": sample, "steered": steered, "unsteered": plain}
            for prompt, ours, theirs in zip(self.prompts, self.steered, self.unsteered, strict=True)
            for sample, (steered, plain) in enumerate(zip(ours, theirs, strict=True))
        ]
        return pd.DataFrame(rows)

    def score(self, scorer: Callable[[Sequence[str]], Sequence[float]]) -> Effect:
        """The effect on a score of the texts: steered minus unsteered, with its interval.

        Args:
            scorer: Texts to numbers, one each; such as `scorers.sentiment()`.

        Raises:
            SettingError: The scorer returns another number of scores than it was given texts.
        """
        conditions = (score_texts(scorer, texts) for texts in (self.steered, self.unsteered))
        return paired_effect(*(merged(scores, self.prompts) for scores in conditions))

    def __str__(self) -> str:
        lines = []
        for prompt, ours, theirs in zip(self.prompts, self.steered, self.unsteered, strict=True):
            lines.append(prompt)
            for steered, plain in zip(ours, theirs, strict=True):
                lines += [f"  unsteered | {_one_line(plain)}", f"  steered   | {_one_line(steered)}"]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        told = "; ".join(vector.told for vector in self.vectors)
        style = "style='text-align:left; vertical-align:top; white-space:pre-wrap; max-width:28em'"
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in ("prompt", "unsteered", "steered"))
        body = ""
        for prompt, ours, theirs in zip(self.prompts, self.steered, self.unsteered, strict=True):
            for sample, (steered, plain) in enumerate(zip(ours, theirs, strict=True)):
                shown = escape(prompt) if sample == 0 else ""
                cells = "".join(f"<td {style}>{text}</td>" for text in (shown, escape(plain), escape(steered)))
                body += f"<tr>{cells}</tr>"
        return f"<table><caption>{escape(told)}</caption><tr>{head}</tr>{body}</table>"


def _one_line(text: str) -> str:
    return text.replace("\n", " ⏎ ")


def score_texts(scorer: Callable[[Sequence[str]], Sequence[float]], texts: Sequence[Sequence[str]]) -> np.ndarray:
    """Scores as [prompt, sample], from one call."""
    flat = [text for row in texts for text in row]
    scores = np.asarray(scorer(flat), dtype=float)
    if scores.shape != (len(flat),):
        raise SettingError(
            f"The scorer returned scores of shape {scores.shape} for {len(flat)} texts: expected one each."
        )
    return scores.reshape(len(texts), -1)


def complete(
    model: LensModel,
    prompts: str | Sequence[str],
    vectors: Any,
    *,
    position: Any = "front",
    n: int = 1,
    max_new_tokens: int = 40,
    seed: int = 0,
    stop: str | Sequence[str] = (),
    prepend_bos: bool = True,
    stop_at_eos: bool = True,
    use_past_kv_cache: bool = True,
    keep_streams: Sequence[int] = (),
    batch_size: int = 256,
    progress: bool = True,
    watch: Callable[[Completions], None] | None = None,
    **sampling: Any,
) -> Completions:
    """Complete prompts with and without steering, in shared batches.

    Each prompt and sample has a random stream of its own, made from the seed, the prompt's tokens and the sample's
    number. Steered and unsteered text both draw from it; neither batching nor the caller's random state affects it.

    Args:
        model: The model; steering that is open around the call is ignored.
        prompts: One text or several, of any lengths.
        vectors: One steering vector or other intervention, or several that act together; or `per_prompt([...])`, with
            those of each prompt.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        n: Samples per prompt, steered and unsteered each.
        max_new_tokens: Maximum number of tokens to add.
        seed: Seed of all random streams.
        stop: Texts that end a continuation; they are cut off.
        prepend_bos: Whether prompts start with BOS.
        stop_at_eos: Whether the end-of-text token ends a continuation.
        use_past_kv_cache: Whether to keep keys and values; without it the text is the same, only slower.
        keep_streams: Layers whose streams are kept as each continuation's `streams`, for the prompt's tokens and the
            new ones, steered and unsteered.
        batch_size: Maximum number of rows that decode together.
        progress: Whether to show a progress bar if it takes more than a moment.
        watch: Called after each token with the text so far, to show it as it grows; an exception from it ends the call.
        **sampling: `temperature`, `top_k`, `top_p`, `frequency_penalty`, `repetition_penalty`; see `Sampling`.

    Returns:
        Steered and unsteered continuations, by prompt and sample.

    Raises:
        PromptError: A prompt is not text, is empty without BOS, or is longer than the context.
        PositionError: A vector does not fit onto a prompt.
        VectorError: A vector does not match the model.
        LayerError: A layer to keep does not exist.
        SettingError: A setting is out of range, or not known.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend, position = backend_of(model), as_position(position)
    layers = tuple(dict.fromkeys(backend.check_layer(layer) for layer in many(keep_streams)))
    texts = as_texts(prompts)
    found = by_prompt(backend, vectors, len(texts))
    settings = DecodeSettings(
        n=n,
        max_new_tokens=max_new_tokens,
        seed=seed,
        stop=as_stops(stop),
        stop_at_eos=stop_at_eos,
        use_past_kv_cache=use_past_kv_cache,
        sampling=Sampling.from_options(sampling),
    )
    tokens = encode_prompts(backend, texts, prepend_bos=prepend_bos, room=settings.max_new_tokens)
    cells = [Cell(row, condition, number) for number, row in enumerate(tokens) for condition in (found[number], ())]
    told = {"position": plain_position(position), "prepend_bos": prepend_bos, **dataclasses.asdict(settings)}
    so_far = [(Continuation("", (), ""),) * settings.n] * len(cells)

    def result(written: Sequence[tuple[Continuation, ...]]) -> Completions:
        return Completions(texts, tuple(written[0::2]), tuple(written[1::2]), distinct(found), told)

    def look(members: Sequence[int], written: Sequence[tuple[Continuation, ...]]) -> None:
        for cell, samples in zip(members, written, strict=True):
            so_far[cell] = samples
        if watch is not None:
            watch(result(so_far))

    return result(
        decode_cells(
            backend,
            cells,
            settings,
            position=position,
            batch_size=batch_size,
            progress=progress,
            watch=None if watch is None else look,
            keep_streams=layers,
        )
    )


def as_stops(stop: Any) -> tuple[str, ...]:
    """One stop text or several, as a tuple; `DecodeSettings` looks at each."""
    return tuple(many(stop))
