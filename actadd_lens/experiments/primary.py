"""What decides each claim, fixed before anything is run: the findings that all have to hold, and one p for all of them.

The paper's claims say "and": that on-topic text gets likelier *and* other text stays, that sentiment shifts in *both*
directions. So a claim is decided by all of its parts (an intersection-union test, Berger 1982): it holds if every part
does, its p is the largest of theirs, and no adjustment for their number is needed. One part that goes the other way is
enough against it, unadjusted. The parts follow the paper's own wording; where a claim says more than a run can show,
`without` says what is left out and why.
"""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from actadd_lens.experiments.evidence import Estimate, Finding, Side, Verdict


@dataclass(frozen=True)
class Part:
    """Findings that have to hold for a claim to hold.

    Attributes:
        experiment: The experiment that they are from.
        begins: How they begin.
        side: Where the number is claimed to move; None where it is claimed to stay.
        within: Where it is claimed to stay, the module and name of the margin.
        against: The side that speaks against staying; None for both.
        every: Whether all findings that begin so count, as for both directions; else the first does.
        alone: Whether it is judged by its interval alone, regardless of nulls.
    """

    experiment: str
    begins: str
    side: Side | None = None
    within: tuple[str, str] | None = None
    against: Side | None = None
    every: bool = False
    alone: bool = False

    @property
    def margin(self) -> float:
        """Largest distance from the neutral value that counts as staying."""
        module, name = self.within or ("", "")
        return float(getattr(importlib.import_module(f"actadd_lens.experiments.{module}"), name))

    def p_value(self, estimate: Estimate | None) -> float:
        """One-sided p of the part, from the number's interval and nulls; NaN where there is no interval."""
        if estimate is None:
            return math.nan
        if self.side is not None:
            return (replace(estimate, nulls=()) if self.alone else estimate).p_moves(self.side)
        return estimate.p_stays(self.margin, against=self.against)

    def of(self, claim: int, findings: Sequence[Finding]) -> tuple[Finding, ...]:
        """The findings that it means."""
        found = tuple(one for one in findings if one.claim == claim and one.about.startswith(self.begins))
        return found if self.every else found[:1]


@dataclass(frozen=True)
class Decision:
    """The decision on a claim.

    Attributes:
        claim: The claim.
        verdict: Over all parts.
        p_value: The largest of the parts'; NaN where one has none.
        parts: Each finding that counts, with its own p.
        without: What else the claim says, and why it is left out.
    """

    claim: int
    verdict: Verdict
    p_value: float
    parts: tuple[tuple[Finding, float], ...]
    without: str


@dataclass(frozen=True)
class Primary:
    """What decides a claim.

    Attributes:
        claim: The claim.
        parts: What has to hold, all of it.
        without: What else the claim says, and why it is left out; empty if nothing is.
    """

    claim: int
    parts: tuple[Part, ...]
    without: str = ""

    def decided(self, findings: Mapping[str, Sequence[Finding]]) -> Decision | None:
        """What the findings of a run say about the claim; None if a part of it was not measured.

        Args:
            findings: By experiment.
        """
        found: list[tuple[Finding, float]] = []
        for part in self.parts:
            own = part.of(self.claim, findings.get(part.experiment, ()))
            if not own:
                return None
            found += [(one, part.p_value(one.estimate)) for one in own]
        verdicts = {one.verdict for one, _ in found}
        verdict = next(one for one in _WORST_FIRST if one in verdicts)
        missing = "not testable here" in verdicts or any(math.isnan(p) for _, p in found)
        p_value = math.nan if missing else max(p for _, p in found)
        return Decision(self.claim, verdict, p_value, tuple(found), self.without)


_WORST_FIRST: tuple[Verdict, ...] = (
    "opposite", "shown to be small", "not testable here", "undecided", "same direction",
)  # fmt: skip
"""A claim is no better off than its worst part."""

PRIMARY: tuple[Primary, ...] = (
    Primary(1, (
        Part("perplexity", "perplexity ratio of on-topic text", "less"),
        Part("perplexity", "percent of perplexity per percentage point", "less"),
        Part("perplexity", "perplexity ratio of other text", within=("perplexity", "MARGIN")),
    )),
    Primary(2, (
        Part("perplexity", "log ratio of on-topic text", "less"),
        Part("perplexity", "perplexity ratio of on-topic text at the last layer", within=("perplexity", "MARGIN")),
        Part("perplexity", "perplexity ratio of other text at layer", "greater"),
    )),
    Primary(3, (Part("topic-words", "share of completions with a topic word", "greater"),)),
    Primary(4, (
        Part("token-shift", "log-probability of the topic's tokens", "greater"),
        Part("token-shift", "share of the vocabulary that rises less", "greater"),
        Part("token-shift", "skewness of the tokens' mean changes", "greater"),
    ), "that the bulk is normal, for which the paper gives no number"),
    Primary(5, (Part("sentiment", "share of ", "greater", every=True),)),
    Primary(6, (Part("toxicity", "negativity (VADER) of continuations", "less"),),
            "profanity, which is too rare in what small models write"),
    Primary(7, (
        Part("sentiment", "relevance of continuations", None, ("continuations", "RELEVANCE_MARGIN"), "less", True),
        Part("toxicity", "relevance of continuations", None, ("continuations", "RELEVANCE_MARGIN"), "less", True),
    ), "the cost in fluency, because a limit on it was part of the choice"),
    Primary(8, (Part("knowledge", "P@", within=("knowledge", "MARGIN"), every=True),)),
    Primary(9, (
        Part("overhead", "time premium of a steered forward", None, ("overhead", "MARGIN"), "greater"),
        Part("overhead", "premium of a forward", "less", alone=True),
    )),
    Primary(10, (Part("nulls", "change of ", "greater"),)),
    Primary(11, (
        Part("prompting", "log-prob of topic words: read at layer 0", "less", every=True),
        Part("prompting", "perplexity of off-topic text", "less", alone=True),
    )),
    Primary(12, (
        Part("dimensions", "topic words per completion with the first 50%", "greater"),
        Part("positions", "topic words per completion at position mid", "greater"),
        Part("positions", "topic words per completion at position back", "greater"),
    )),
)  # fmt: skip
"""What decides each of the twelve claims."""
