"""The experiments by name: where each stands, what it takes from files, and how it runs in seconds."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from actadd_lens import storybook
from actadd_lens.errors import SettingError
from actadd_lens.experiments.evidence import Experiment
from actadd_lens.experiments.inputs import Columns, Role, labelled_of, read_table, texts_of, words_of

_BY_LABEL = ("text", "label")


@dataclass(frozen=True, eq=False)
class Entry:
    """An experiment that can be asked for by name.

    Attributes:
        name: Its name.
        claims: The claims that it bears on.
        module: Its module in this folder.
        function: Its function there.
        quick: Settings under which it takes seconds.
        data: What it takes from files, by role.
        pair: The keyword that takes a prompt pair, `pair`, or `pairs` for several to choose from; empty where none is.
    """

    name: str
    claims: tuple[int, ...]
    module: str
    function: str
    quick: Callable[[], Mapping[str, Any]] = dict
    data: Mapping[str, Role] = field(default_factory=dict)
    pair: str = "pair"

    @property
    def runs(self) -> Callable[..., Experiment]:
        """The function that runs it."""
        module = importlib.import_module(f"actadd_lens.experiments.{self.module}")
        return cast("Callable[..., Experiment]", getattr(module, self.function))

    @property
    def kind(self) -> type[Experiment]:
        """The class of its results."""
        return cast("type[Experiment]", inspect.signature(self.runs).return_annotation)

    def told(self) -> str:
        """Name, claims, what it is about, and what it takes from files."""
        bears = f"claim{'s' * (len(self.claims) > 1)} {', '.join(map(str, self.claims))}" if self.claims else ""
        lines = [f"{self.name:<12} {bears:<12} {self.kind.title}"]
        for name, role in self.data.items():
            columns = "" if role.columns == ("text",) else f" (columns: {', '.join(role.columns)})"
            lines.append(f"             --data {name}=FILE: {role.about}{columns}")
        return "\n".join(lines)


def entry(name: str) -> Entry:
    """The experiment of a name.

    Raises:
        SettingError: There is none.
    """
    known = {one.name: one for one in REGISTRY}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SettingError(f"There is no experiment {name!r}.{hint} There are: {', '.join(known)}.")
    return known[name]


# -- data ------------------------------------------------------------------------------------------------------


def _sets_of(path: Path, columns: Columns) -> dict[str, tuple[str, ...]]:
    """A set of sentences, named after its file: running text is cut into them, other files hold one a row."""
    from actadd_lens.experiments.perplexity import sentences_of

    texts = texts_of(path, columns)
    is_running = path.suffix.lower() in (".txt", ".md", "")
    return {path.stem: sentences_of("\n".join(texts)) if is_running else texts}


def _facts_of(path: Path, columns: Columns) -> Any:
    """Facts: prompts and their answers, or sentences with [MASK] as their last word."""
    from actadd_lens.experiments.knowledge import read_lama

    prompt, answer = columns.get("prompt", "prompt"), columns.get("answer", "answer")
    table = read_table(path, columns={"prompt": prompt, "answer": answer}).astype(str)
    if table["prompt"].str.contains("[MASK]", regex=False).any():
        return read_lama(path, sentence=prompt, answer=answer)
    return tuple((text, f" {right.strip()}") for text, right in zip(table["prompt"], table["answer"], strict=True))


_WORDS = {"words": Role("words", "words of the topic, one a line", words_of)}
_PROMPTS = {"prompts": Role("prompts", "prompts, one a line", texts_of)}
_TOPIC = {
    "on_topic": Role("on_topic", "texts on the topic; running text is cut into sentences", _sets_of),
    "off_topic": Role("off_topic", "texts off the topic; several files are several sets", _sets_of),
}
_PLAIN_TOPIC = {
    "on_topic": Role("on_topic", "texts on the topic, one a line", texts_of),
    "off_topic": Role("off_topic", "texts off the topic, one a line", texts_of),
}
_LABELLED = {"prompts": Role("prompts", "prompts, labelled positive, negative or neutral", labelled_of, _BY_LABEL)}
_WORDS_BY_TOPIC = {"topics": Role("topics", "words, labelled with their topics", labelled_of, _BY_LABEL)}
_FACTS = {"facts": Role("facts", "facts; [MASK] may be a prompt's last word", _facts_of, ("prompt", "answer"))}

# -- quick settings --------------------------------------------------------------------------------------------


def _few_neutral() -> dict[str, Any]:
    return {"prompts": storybook.neutral_prompts()[:20], "nulls": 3}


def _few_rivals() -> dict[str, Any]:
    return {**_few_neutral(), "n": 24}


def _few_short() -> dict[str, Any]:
    return {**_few_neutral(), "n": 1, "max_new_tokens": 20, "coefficients": (4.0,)}


def _few_shifts() -> dict[str, Any]:
    return {**_few_neutral(), "texts": storybook.sentiment_sentences()["neutral"][:60]}


def _few_topics() -> dict[str, Any]:
    found = storybook.topics()
    return {**_few_short(), "topics": {name: found[name] for name in list(found)[:3]}, "coefficients": (2.0,)}


def _few_hostile() -> dict[str, Any]:
    return {**_few_short(), "prompts": storybook.hostile_prompts()[:20], "coefficients": (2.0,)}


def _few_moods() -> dict[str, Any]:
    found = storybook.sentiment_sentences()
    prompts = {mood: [" ".join(text.split()[:5]) for text in found[mood][:20]] for mood in ("positive", "negative")}
    few = {name: value for name, value in _few_short().items() if name != "prompts"}
    return {**few, "prompts": prompts, "pairs": (("I love it", "I hate it"),), "coefficients": (2.0,)}


# -- experiments -----------------------------------------------------------------------------------------------

REGISTRY: tuple[Entry, ...] = (
    Entry("perplexity", (1, 2), "perplexity", "perplexity_on_topic", lambda: {"n": 24, "nulls": 3}, _TOPIC | _WORDS),
    Entry("topic-words", (2, 3), "topic_words", "topic_words", _few_short, _PROMPTS | _WORDS),
    Entry("token-shift", (4,), "token_shift", "token_shift", _few_shifts,
          _PROMPTS | _WORDS | {"texts": Role("texts", "texts, one a line", texts_of)}),
    Entry("topics", (3,), "topics", "topics", _few_topics, _PROMPTS | _WORDS_BY_TOPIC, pair=""),
    Entry("sentiment", (5, 7), "sentiment", "sentiment", _few_moods, _LABELLED, pair="pairs"),
    Entry("toxicity", (6, 7), "toxicity", "toxicity", _few_hostile, _PROMPTS, pair="pairs"),
    Entry("knowledge", (8,), "knowledge", "knowledge", lambda: {"nulls": 3}, _FACTS),
    Entry("overhead", (9,), "overhead", "overhead", lambda: {"sizes": ((4, 128),), "repeats": 11, "max_new_tokens": 4}),
    Entry("norms", (), "norms", "norms", _few_neutral, _PROMPTS),
    Entry("nulls", (10,), "direction", "nulls_against", _few_neutral, _PROMPTS),
    Entry("prompting", (11,), "prompting", "prompting", _few_rivals, _PLAIN_TOPIC | _WORDS | _PROMPTS),
    Entry("dimensions", (12,), "parts", "dimensions", _few_short, _PROMPTS | _WORDS),
    Entry("positions", (12,), "parts", "positions", _few_short, _PROMPTS | _WORDS),
    Entry("attention", (), "attention", "attention_frozen", _few_neutral, _PROMPTS),
    Entry("examples", (), "examples", "examples", lambda: {"n": 1, "nulls": 2}, pair=""),
)  # fmt: skip
"""All experiments, in the order of the report."""
