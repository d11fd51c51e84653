"""The experiments by name: where each stands, what it takes from files, and how it runs in seconds."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from actadd_lens import storybook
from actadd_lens.errors import SettingError
from actadd_lens.experiments.evidence import Estimate, Experiment, Finding, Side
from actadd_lens.experiments.inputs import Columns, Role, labelled_of, read_table, texts_of, words_of

_BY_LABEL = ("text", "label")


@dataclass(frozen=True)
class Primary:
    """The one finding that decides a claim, named before anything is run; the others stand beside it.

    Attributes:
        claim: The claim.
        begins: How the finding begins; the first that does is the one.
        side: Where its number is claimed to move; None where it is claimed to stay.
        within: Where it is claimed to stay, the module and name of the margin.
        against: The side that speaks against staying; None for both.
    """

    claim: int
    begins: str
    side: Side | None = None
    within: tuple[str, str] | None = None
    against: Side | None = None

    @property
    def margin(self) -> float:
        """Largest distance from the neutral value that counts as staying."""
        module, name = self.within or ("", "")
        return float(getattr(importlib.import_module(f"actadd_lens.experiments.{module}"), name))

    def p_value(self, estimate: Estimate) -> float:
        """One-sided p of the claim, from the number's interval and nulls; NaN where there is no interval."""
        if self.side is not None:
            return estimate.p_moves(self.side)
        return estimate.p_stays(self.margin, against=self.against)


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
        primary: The findings that decide a claim, one for each claim over all experiments.
    """

    name: str
    claims: tuple[int, ...]
    module: str
    function: str
    quick: Callable[[], Mapping[str, Any]] = dict
    data: Mapping[str, Role] = field(default_factory=dict)
    pair: str = "pair"
    primary: tuple["Primary", ...] = ()

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

_CONTRAST = Primary(1, "log ratio on the topic minus log ratio off it", "less")
_BY_LAYER = Primary(2, "log ratio of on-topic text", "less")
_TAKES_UP = Primary(3, "share of completions with a topic word", "greater")
_LEADS = Primary(4, "log-probability of the topic's tokens after prompts", "greater")
_CHEERS = Primary(5, "share of positive continuations", "greater")
_CALMS = Primary(6, "negativity of continuations", "less")
_RELEVANT = Primary(7, "relevance of continuations", None, ("continuations", "RELEVANCE_MARGIN"), "less")
_KNOWS = Primary(8, "P@10 steered minus unsteered", None, ("knowledge", "MARGIN"))
_COSTS = Primary(9, "time premium of a steered forward", None, ("overhead", "MARGIN"), "greater")
_DIRECTED = Primary(10, "change of ", "greater")
_RIVALS = Primary(11, "perplexity of off-topic text", "less")
_GROWS = Primary(12, "growth of topic words from no dimension to all", "greater")

REGISTRY: tuple[Entry, ...] = (
    Entry("perplexity", (1, 2), "perplexity", "perplexity_on_topic", lambda: {"n": 24, "nulls": 3}, _TOPIC | _WORDS,
          primary=(_CONTRAST, _BY_LAYER)),
    Entry("topic-words", (2, 3), "topic_words", "topic_words", _few_short, _PROMPTS | _WORDS, primary=(_TAKES_UP,)),
    Entry("token-shift", (4,), "token_shift", "token_shift", _few_shifts,
          _PROMPTS | _WORDS | {"texts": Role("texts", "texts, one a line", texts_of)}, primary=(_LEADS,)),
    Entry("topics", (3,), "topics", "topics", _few_topics, _PROMPTS | _WORDS_BY_TOPIC, pair=""),
    Entry("sentiment", (5, 7), "sentiment", "sentiment", _few_moods, _LABELLED, pair="pairs",
          primary=(_CHEERS, _RELEVANT)),
    Entry("toxicity", (6, 7), "toxicity", "toxicity", _few_hostile, _PROMPTS, pair="pairs", primary=(_CALMS,)),
    Entry("knowledge", (8,), "knowledge", "knowledge", lambda: {"nulls": 3}, _FACTS, primary=(_KNOWS,)),
    Entry("overhead", (9,), "overhead", "overhead", lambda: {"sizes": ((4, 128),), "repeats": 11, "max_new_tokens": 4},
          primary=(_COSTS,)),
    Entry("norms", (), "norms", "norms", _few_neutral, _PROMPTS),
    Entry("nulls", (10,), "direction", "nulls_against", _few_neutral, _PROMPTS, primary=(_DIRECTED,)),
    Entry("prompting", (11,), "prompting", "prompting", _few_rivals, _PLAIN_TOPIC | _WORDS | _PROMPTS,
          primary=(_RIVALS,)),
    Entry("dimensions", (12,), "parts", "dimensions", _few_short, _PROMPTS | _WORDS, primary=(_GROWS,)),
    Entry("positions", (12,), "parts", "positions", _few_short, _PROMPTS | _WORDS),
    Entry("examples", (), "examples", "examples", lambda: {"n": 1, "nulls": 2}, pair=""),
)  # fmt: skip
"""All experiments, in the order of the report."""


def primary_of(name: str, findings: Sequence[Finding]) -> dict[int, tuple[Primary, Finding]]:
    """The findings of an experiment that decide claims, by claim.

    Args:
        name: The experiment.
        findings: What it found.
    """
    found = {}
    for one in entry(name).primary:
        for finding in findings:
            if finding.claim == one.claim and finding.about.startswith(one.begins):
                found[one.claim] = (one, finding)
                break
    return found
