"""A session of the playground: one model, and what the page asks of it, in plain values; it knows no browser."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from actadd_lens import storybook
from actadd_lens.analysis.lens import JacobianLens
from actadd_lens.checks import is_count, require
from actadd_lens.errors import SettingError
from actadd_lens.measuring import metrics, scorers
from actadd_lens.measuring.measure import measure, measure_completions
from actadd_lens.models import LensModel, backend_of
from actadd_lens.play.methods import METHODS, method_of
from actadd_lens.play.python_code import python_code
from actadd_lens.play.readings import READINGS, Lenses, reading_of
from actadd_lens.play.settings import MOST_TOKENS, Settings
from actadd_lens.prompts.chat import chat
from actadd_lens.prompts.texts import encode_prompts
from actadd_lens.statistics import Effect
from actadd_lens.steering.preview import preview
from actadd_lens.steering.steer import steer
from actadd_lens.vectors.naming import row_names
from actadd_lens.vectors.vector import SteeringVector, check_interventions
from actadd_lens.writing.completions import Completions, complete
from actadd_lens.writing.decoding import Continuation

PROMPTS = 16
"""Neutral prompts that an effect is measured on."""

MOST_NULLS = 99

MEASURES = {
    "difference": "the next token: A rather than B (logit difference)",
    "sentiment": "the sentiment of what it writes (VADER, two samples a prompt)",
    "damage": "how far the next token is from the unsteered model's (KL)",
}
"""What an effect can be measured by, and what the page calls it."""

_STARTS: dict[str, dict[str, Any]] = {
    "storybook": {
        "prompt": "The girl looked at the dog. She felt",
        "positive": "I love it",
        "negative": "I hate it",
        "layer": 4,
        "coefficient": 3.0,
    },
    "smollm2": {
        "prompt": "How was your day?",
        "chat": True,
        "positive": "I love it",
        "negative": "I hate it",
        "bos": False,
        "rows": "last",
        "norm": 56.0,
        "layer": 18,
        "position": "all",
        "temperature": 0.0,
    },
}
"""What the page shows at first: on these two models the examples of the pages."""


class Session:
    """A model with what the page can ask of it. All of it runs in the thread that calls.

    Args:
        model: The model.
        name: What it was loaded by, for the page's title and for the settings that it begins with.
        lens: A J-lens of the model; layers that it lacks are fitted when they are asked for.

    Raises:
        FingerprintError: The lens was fitted on another model.
    """

    def __init__(self, model: LensModel, name: str = "", lens: JacobianLens | None = None) -> None:
        self.model = model
        self._backend = backend_of(model)
        self._name = name or self._backend.name
        self._lenses = Lenses(model, lens)
        self._uploads: dict[str, SteeringVector] = {}

    @property
    def start(self) -> Settings:
        """The settings that the page begins with."""
        plain = {**_STARTS["storybook"], "layer": self._backend.n_layers // 3}
        return Settings(**_STARTS.get(self._name, plain))

    def facts(self) -> dict[str, Any]:
        """What the page needs to know before anything is run."""
        return {
            "model": self._name,
            "layers": self._backend.n_layers,
            "d_model": self._backend.d_model,
            "chat": bool(getattr(self._backend.tokenizer, "chat_template", None)),
            "methods": {
                name: {"label": one.label, "hint": one.hint, "position": one.position} for name, one in METHODS.items()
            },
            "readings": {
                name: {"label": one.label, "hint": one.hint, "at_once": one.at_once} for name, one in READINGS.items()
            },
            "measures": MEASURES,
            "prompts": PROMPTS,
            "most_tokens": MOST_TOKENS,
            "most_nulls": MOST_NULLS,
            "start": vars(self.start),
        }

    # -- the vector --------------------------------------------------------------------------------------------

    def upload(self, content: bytes) -> dict[str, Any]:
        """Take a steering vector from the bytes of its file; it is used by its key.

        Raises:
            VectorFileError: It is not a sound steering vector.
            FingerprintError: It was read from another model.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "uploaded.safetensors"
            path.write_bytes(content)
            vector = SteeringVector.load(path)
        check_interventions(self._backend, vector)
        key = hashlib.sha256(content).hexdigest()[:16]
        self._uploads[key] = vector
        return {"key": key, "label": vector.label, "layer": vector.layer, "rows": vector.rows}

    def vector(self, settings: Settings) -> SteeringVector:
        """The vector that the settings ask for, with its coefficient.

        Raises:
            ActAddError: Whatever is wrong with the pair, the layer, the coefficient or the file.
        """
        if settings.vector is not None:
            if settings.vector not in self._uploads:
                raise SettingError("That vector file is no longer here: choose it again.")
            vector = self._uploads[settings.vector]
        else:
            vector = method_of(settings.method).compute(self.model, settings)
        vector = vector.row(-1) if settings.rows == "last" and vector.rows > 1 else vector
        vector = vector if settings.norm is None else vector.with_norm(settings.norm)
        return settings.coefficient * vector

    def save(self, settings: Settings) -> bytes:
        """The file of the vector."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vector.safetensors"
            self.vector(settings).save(path)
            return path.read_bytes()

    # -- looking -----------------------------------------------------------------------------------------------

    def look(self, settings: Settings) -> dict[str, Any]:
        """Which row lands on which token of the prompt, and how large it is there."""
        vector = self.vector(settings)
        found = preview(self.model, self._prompt(settings), vector, position=settings.position)
        by_token: dict[int, list[dict[str, Any]]] = {}
        for touch in found.touches:
            by_token.setdefault(touch.token, []).append({"row": touch.row, "relative": touch.relative})
        return {
            "label": vector.label,
            "layer": vector.layer,
            "coefficient": vector.coefficient,
            "rows": [
                {"name": name, "norm": norm}
                for name, norm in zip(row_names(self._backend, vector), vector.norms.tolist(), strict=True)
            ],
            "tokens": [
                {"text": text, "part": found.parts[index] if found.parts else "", "rows": by_token.get(index, [])}
                for index, text in enumerate(found.tokens)
            ],
            "code": python_code(settings, self._name),
        }

    def read(self, settings: Settings, reading: str) -> dict[str, Any]:
        """Tokens that the vector's rows promote and demote."""
        chosen = reading_of(reading)
        rows = chosen.read(self.model, self.vector(settings), self._lenses)
        return {"reading": reading, "size": chosen.size, "rows": rows}

    # -- writing -----------------------------------------------------------------------------------------------

    def write(self, settings: Settings, show: Callable[[dict[str, Any]], None] = lambda told: None) -> dict[str, Any]:
        """Write steered and unsteered text; `show` gets both as they grow, and what it raises ends the writing.

        Returns:
            Both texts, token by token, each with what steering did to it: the log-probability of the token in the
            steered model minus that in the unsteered one, after the same text, in nats.
        """
        vector, prompt = self.vector(settings), self._prompt(settings)

        def watch(so_far: Completions) -> None:
            show({"steered": so_far.steered[0][0], "unsteered": so_far.unsteered[0][0]})

        found = complete(
            self.model,
            prompt,
            vector,
            position=settings.position,
            max_new_tokens=settings.max_new_tokens,
            seed=settings.seed,
            temperature=settings.temperature,
            top_p=settings.top_p if settings.temperature else None,
            progress=False,
            watch=watch,
        )
        conditions = {"steered": found.steered_continuations, "unsteered": found.unsteered_continuations}
        return {name: self._told(rows[0][0], prompt, vector, settings) for name, rows in conditions.items()}

    def _told(self, written: Continuation, prompt: str, vector: SteeringVector, settings: Settings) -> dict[str, Any]:
        """A text with its tokens; the one that says that the text is at its end is not among them."""
        tokens = written.tokens[:-1] if written.finish == "end of text" else written.tokens
        changes = self._changes(prompt, list(tokens), vector, settings) if tokens else []
        return {"text": written.text, "finish": written.finish, "tokens": changes}

    @torch.no_grad()
    def _changes(
        self, prompt: str, written: list[int], vector: SteeringVector, settings: Settings
    ) -> list[dict[str, Any]]:
        """Each written token with its log-probability in both models, after the same text."""
        (before,) = encode_prompts(self._backend, (prompt,))
        tokens = torch.tensor([[*before, *written]], device=self._backend.device)

        def logprobs() -> list[float]:
            logits = self._backend.logits(tokens)[0, len(before) - 1 : -1].float()
            chosen = tokens[0, len(before) :, None].to(logits.device)
            found: list[float] = logits.log_softmax(dim=-1).gather(1, chosen)[:, 0].tolist()
            return found

        plain = logprobs()
        with steer(self.model, vector, position=settings.position, prompt_lengths=len(before)):
            steered = logprobs()
        texts = self._backend.token_strings(written)
        return [
            {"text": text, "steered": ours, "unsteered": theirs}
            for text, ours, theirs in zip(texts, steered, plain, strict=True)
        ]

    # -- measuring ---------------------------------------------------------------------------------------------

    def measure(
        self, settings: Settings, measured_by: str, nulls: int, tokens: tuple[str, str] = ("", "")
    ) -> dict[str, Any]:
        """The effect over neutral prompts, compared with null vectors.

        Args:
            settings: The page's settings; the prompt is not used, but a chat model is still measured on chats.
            measured_by: A name of `MEASURES`.
            nulls: Number of null vectors.
            tokens: A and B, for the difference of two next tokens.

        Raises:
            SettingError: There is no such measure, or the number of nulls is out of range.
        """
        require(measured_by in MEASURES, "what is measured", measured_by, f"one of {', '.join(MEASURES)}")
        require(is_count(nulls) and nulls <= MOST_NULLS, "nulls", nulls, f"1 to {MOST_NULLS}")
        vector = self.vector(settings)
        prompts = [self._as_prompt(text, settings) for text in storybook.neutral_prompts()[:PROMPTS]]
        run: dict[str, Any] = {"position": settings.position, "nulls": nulls, "seed": settings.seed, "progress": False}
        if measured_by == "sentiment":
            (found,) = measure_completions(
                self.model, prompts, vector, scorers.sentiment(), n=2, max_new_tokens=30, top_p=0.9, **run
            )
            return _effect(found.effect, "sentiment (VADER compound, −1 to 1)")
        metric = metrics.kl_divergence() if measured_by == "damage" else metrics.logit_difference(*tokens)
        unit = f" ({metric.unit})" if metric.unit else ""
        return _effect(measure(self.model, prompts, vector, metric, **run).effect, metric.name + unit)

    def _prompt(self, settings: Settings) -> str:
        return self._as_prompt(settings.prompt, settings)

    def _as_prompt(self, text: str, settings: Settings) -> str:
        return chat(self.model, text, system=settings.system or None) if settings.chat else text


def _effect(effect: Effect, label: str) -> dict[str, Any]:
    """An effect as plain values."""
    return {
        "label": label,
        "steered": float(effect.steered),
        "unsteered": float(effect.unsteered),
        "mean": float(effect.mean),
        "low": float(effect.low),
        "high": float(effect.high),
        "nulls": effect.nulls.tolist(),
        "p": float(effect.p_value("two-sided")),
        "prompts": effect.n_prompts,
        "told": str(effect),
    }
