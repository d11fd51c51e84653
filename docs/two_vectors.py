"""Measures what two-vectors.md shows: a sentiment and a topic vector, decoded, taken apart and traced."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from page_parts import picture, table

import actadd_lens as al
from actadd_lens.analysis.ablation import TokenAblation
from actadd_lens.analysis.trace import Contributions
from actadd_lens.statistics import max_t_p, on_one_scale

PROMPTS, NULLS, LISTED = 16, 99, 5


@dataclass(frozen=True)
class Subject:
    """A vector to take apart, and what it is meant to move; set before anything was measured."""

    name: str
    pair: tuple[str, str]
    layer: int
    coefficient: float
    metric: al.metrics.Metric


SUBJECTS = (
    Subject(
        "sentiment", ("I am so happy today", "I am so sad today"), 3, 4.0, al.metrics.logit_difference(" happy", " sad")
    ),
    Subject(
        "topic",
        ("I talk about weddings", "I do not talk about weddings"),
        4,
        4.0,
        al.metrics.next_token_logprob(" wedding"),
    ),
)


def parts(model: Any, suffix: str) -> dict[str, str]:
    """The measured parts of the page for one model, by name."""
    prompts = al.storybook.neutral_prompts()[:PROMPTS]
    return {f"{subject.name}{suffix}": taken_apart(model, subject, prompts, suffix) for subject in SUBJECTS}


def taken_apart(model: Any, subject: Subject, prompts: Sequence[str], suffix: str) -> str:
    """All that is told of one vector on one model."""
    vector = subject.coefficient * al.compute_steering_vector(model, subject.pair, layer=subject.layer)
    tokens = al.ablate_tokens(
        model, subject.pair, layer=subject.layer, coefficient=subject.coefficient, prompts=prompts,
        metric=subject.metric, replacement=["remove", "pad"], nulls=NULLS, progress=False,
    )  # fmt: skip
    told = (
        f"`{model.cfg.model_name}`, {subject.coefficient:g} × ({vector.label}) at layer {subject.layer}; "
        f"{subject.metric.name} after {len(prompts)} neutral prompts: {tokens.effect}."
    )
    return "\n\n".join(
        [
            told,
            decoded(model, vector),
            carried_by(tokens, subject, suffix),
            read_by(model, vector, subject, prompts, suffix),
        ]
    )


def decoded(model: Any, vector: al.SteeringVector) -> str:
    """What its rows decode to where they are added, in words and beside the nulls."""
    lens = al.logit_lens(model, vector, k=LISTED, nulls=NULLS)
    rows = [row for row in lens.rows if row.promoted]
    frame = pd.DataFrame(
        {
            "row": [f"`{row.row_name}`" for row in rows],
            "promoted (z)": [listed(row.promoted) for row in rows],
            "share of nulls, promoted": [row.promoted_share for row in rows],
            "demoted (z)": [listed(row.demoted) for row in rows],
            "share of nulls, demoted": [row.demoted_share for row in rows],
        }
    )
    stand = ", ".join(f"`{token.text}`" for token in lens.significant) or "none"
    return (
        f"**Decodes to.** Significant tokens (p at most .05, corrected over all lists; a null vector has one in 5 % of "
        f"runs): {stand}.\n\n{table(frame)}"
    )


def listed(tokens: Any) -> str:
    """Tokens with their z-scores."""
    return ", ".join(f"`{token.text.replace('|', '¦')}` {token.z:+.1f}" for token in tokens)


def carried_by(tokens: TokenAblation, subject: Subject, suffix: str) -> str:
    """The tokens whose absence costs most."""
    frame = tokens.frame()
    frame = frame[frame["kind"].isin(["token", "row dropped"]) & (frame["drop"].abs() > 0)]
    beyond = int((frame["adjusted p"] <= 0.05).sum())
    largest = frame.reindex(frame["drop"].abs().sort_values(ascending=False).index).head(LISTED)
    largest = largest.assign(text=largest["text"].map(lambda text: f"`{text}`"), side=largest["side"].fillna(""))
    columns = ["kind", "side", "text", "replacement", "drop", "drop low", "drop high", "null sd", "adjusted p"]
    drawn = picture(tokens, f"ablation-{subject.name}{suffix}")
    return (
        f"**Carried by.** Significant drops (adjusted p at most .05): {beyond} of {len(frame)}. The largest:"
        f"\n\n{table(largest[columns])}\n\n{drawn}"
    )


def read_by(model: Any, vector: al.SteeringVector, subject: Subject, prompts: Sequence[str], suffix: str) -> str:
    """The heads and MLPs that contribute most in the mean over the prompts, and the picture of the first prompt."""
    traces = [al.trace_injection(model, prompt, vector, metric=subject.metric, nulls=NULLS) for prompt in prompts]
    contributions = np.stack([by_component(trace.contributions) for trace in traces])
    nulls = np.stack([[by_component(null) for null in trace.nulls] for trace in traces]).mean(axis=0)
    frame = traces[0].frame().dropna(subset=["layer"])[["layer", "component"]]
    seen = np.repeat(np.arange(model.cfg.n_layers) >= subject.layer, contributions.shape[1] // model.cfg.n_layers)
    frame["contribution"] = contributions.mean(axis=0)[seen]
    frame["sd over prompts"] = contributions.std(axis=0, ddof=1)[seen]
    frame["null mean"], frame["null sd"] = nulls.mean(axis=0)[seen], nulls.std(axis=0, ddof=1)[seen]
    frame["standardised"] = (frame["contribution"] - frame["null mean"]) / frame["null sd"]
    scaled = on_one_scale(np.concatenate([contributions.mean(axis=0)[None], nulls])[:, seen])
    frame["adjusted p"] = max_t_p(scaled[0], scaled[1:], "two-sided")
    largest = frame.reindex(frame["contribution"].abs().sort_values(ascending=False).index).head(LISTED)
    outside = int((frame["adjusted p"] <= 0.05).sum())
    change = np.mean([trace.change for trace in traces])
    drawn = picture(traces[0], f"trace-{subject.name}{suffix}")
    return (
        f"**Read by.** Significant contributions (p at most .05, corrected over all of them): {outside} of "
        f"{len(frame)} heads and MLPs from layer {subject.layer} on. All parts add up to {change:+.3g} on average over "
        f"the prompts. The largest direct contributions:\n\n{table(largest)}\n\n"
        f"On the first prompt, {traces[0].prompt!r}:\n\n{drawn}"
    )


def by_component(contributions: Contributions) -> np.ndarray:
    """Direct contributions in the order of a trace's frame: by layer, heads before the MLP."""
    return np.concatenate([contributions.heads, contributions.mlps[:, None]], axis=1).flatten()
