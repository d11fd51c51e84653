"""How often intervals cover and p-values err, by simulation: `python -m benchmarks.coverage [--trials N] [--write]`.

No model is needed: numbers are drawn, and go through the package's own arithmetic. Seeds are fixed. With `--write` the
tables go between their marks on docs/statistics.md.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

import actadd_lens as al
from actadd_lens import statistics
from actadd_lens.sweeps.grid import Grid

DOCS = Path(__file__).parent.parent / "docs"
SIZES = tuple((prompts, samples) for prompts in (10, 16, 44) for samples in (1, 4, 10))
RATES = ((0.01, 0.01), (0.05, 0.05), (0.2, 0.2), (0.5, 0.5), (0.01, 0.2), (0.05, 0.5))
"""Shares of hits, unsteered and steered."""

Conditions = tuple[np.ndarray, np.ndarray]
Random = np.random.Generator


# -- intervals -------------------------------------------------------------------------------------------------


def normal(random: Random, prompts: int, samples: int) -> Conditions:
    """Effects that differ between prompts and samples alike; the mean is 0.5."""
    steered = random.normal(0.5, 1.0, (prompts, 1)) + random.normal(size=(prompts, samples))
    return steered, random.normal(size=(prompts, samples))


def exponential(random: Random, prompts: int, samples: int) -> Conditions:
    """Skewed effects (skewness 2), which samples measure with a little noise; the mean is 1."""
    return random.exponential(1.0, (prompts, 1)) + random.normal(0, 0.2, (prompts, samples)), np.zeros(
        (prompts, samples)
    )


def lognormal(random: Random, prompts: int, samples: int) -> Conditions:
    """Very skewed effects (skewness 6.2), which samples measure with a little noise; the mean is exp(0.5)."""
    return np.exp(random.normal(0, 1, (prompts, 1))) + random.normal(0, 0.2, (prompts, samples)), np.zeros(
        (prompts, samples)
    )


def hits(low: float, high: float) -> Callable[[Random, int, int], Conditions]:
    """Hits and misses with shares `low` and `high`, alike within a prompt and, by the random stream, within a pair."""
    bounds = [NormalDist().inv_cdf(share) for share in (high, low)]

    def draw(random: Random, prompts: int, samples: int) -> Conditions:
        prompt, stream = random.normal(size=(prompts, 1)), random.normal(size=(prompts, samples))
        conditions = [
            0.45 * prompt + 0.3 * random.normal(size=(prompts, 1)) + 0.6 * stream
            + (1 - 0.45**2 - 0.3**2 - 0.6**2) ** 0.5 * random.normal(size=(prompts, samples)) < bound
            for bound in bounds
        ]  # fmt: skip
        return conditions[0].astype(float), conditions[1].astype(float)

    return draw


KINDS: dict[str, tuple[float, Callable[[Random, int, int], Conditions]]] = {
    "normal": (0.5, normal),
    "exponential": (1.0, exponential),
    "lognormal": (float(np.exp(0.5)), lognormal),
    **{f"hits {low:.0%} → {high:.0%}": (high - low, hits(low, high)) for low, high in RATES},
}


def coverage(kind: str, prompts: int, samples: int, trials: int) -> dict[str, Any]:
    """How often `paired_effect` covers the mean effect of such prompts, and how often it warns."""
    truth, draw = KINDS[kind]
    random = np.random.default_rng([prompts, samples, list(KINDS).index(kind)])
    found = [statistics.paired_effect(*draw(random, prompts, samples)) for _ in range(trials)]
    width = [effect.high - effect.low for effect in found]
    return {
        "effects": kind, "prompts": prompts, "samples": samples,
        "covered": float(np.mean([effect.low <= truth <= effect.high for effect in found])),
        "median width": float(np.median(width)), "empty": float(np.mean(np.array(width) <= 0)),
        "warned": float(np.mean([bool(getattr(effect, "caution", "")) for effect in found])),
    }  # fmt: skip


def coverages(trials: int) -> pd.DataFrame:
    """Every kind of effects at every size; `*` marks where the interval covers less than .93 or more than .97."""
    rows = [coverage(kind, *size, trials) for kind in KINDS for size in SIZES]
    frame = pd.DataFrame(rows)
    inside = frame["covered"].between(0.93, 0.97)
    return frame.assign(beside=np.where(inside, "", np.where(frame["covered"] < 0.93, "covers less", "covers more")))


# -- p-values --------------------------------------------------------------------------------------------------


def made_up(effects: np.ndarray, nulls: np.ndarray) -> al.Sweep:
    """A sweep of given numbers: [metrics, layers, prompts], and [metrics, nulls, layers, prompts]."""
    metrics, layers, prompts = effects.shape
    grid = Grid(
        (al.PromptPair("a", "b"),), tuple(range(layers)), (1.0,), ("front",), tuple(map(str, range(prompts))),
        nulls.shape[1],
    )  # fmt: skip
    names = tuple(f"metric {index}" for index in range(metrics))
    return al.Sweep(
        grid, names, ("nats",) * metrics, effects[:, None, :, None, None, :, None],
        np.zeros((metrics, 1, 1, prompts, 1)), nulls[:, :, None, :, None, None],
    )  # fmt: skip


def alike(random: Random, conditions: int, layers: int, prompts: int) -> np.ndarray:
    """Effects of vectors that are all nulls: each has its own in every cell, prompts differ a little."""
    shared = random.normal(size=(conditions, 1, 1)) + random.normal(size=(conditions, layers, 1))
    scale = np.geomspace(0.1, 10.0, layers)[:, None]
    return np.asarray(scale * (shared + 0.3 * random.normal(size=(conditions, layers, prompts))))


def p_alone(random: Random) -> float:
    """One effect beside 99 nulls."""
    return statistics.monte_carlo_p(random.normal(), random.normal(size=99))


def p_two_sided(random: Random) -> float:
    """The same, for either side."""
    return statistics.monte_carlo_p(random.normal(), random.normal(size=99), "two-sided")


def p_few(random: Random) -> float:
    """One effect with 20 nulls, from their mean and spread."""
    return statistics.normal_p(random.normal(), random.normal(size=20))


def p_few_skewed(random: Random) -> float:
    """The same where vectors have exponential effects."""
    return statistics.normal_p(random.exponential(), random.exponential(size=20))


def p_verdict(draw: str) -> Callable[[Random], float]:
    """The p that a verdict uses, with 20 nulls."""
    return lambda random: statistics.verdict_p(getattr(random, draw)(), getattr(random, draw)(size=20))


def p_grid(random: Random) -> float:
    """The best adjusted p of a grid of twelve cells of very different sizes, 99 nulls."""
    conditions = alike(random, 100, 12, 1)
    return float(made_up(conditions[None, 0], conditions[None, 1:]).p_values().min())


def significant(random: Random) -> float:
    """Whether any of twelve cells is significant, 99 nulls, 12 prompts."""
    conditions = alike(random, 100, 12, 12)
    return 0.0 if made_up(conditions[None, 0], conditions[None, 1:]).significant().any() else 1.0


def significant_without_nulls(random: Random) -> float:
    """Whether any of twelve cells is significant without nulls, where steering does nothing on 12 prompts."""
    effects = np.geomspace(0.1, 10.0, 12)[:, None] * random.normal(size=(12, 12))
    return 0.0 if made_up(effects[None], np.zeros((1, 0, 12, 12))).significant().any() else 1.0


def best(share: float, nulls: int) -> Callable[[Random], float]:
    """The p-value of the best of six cells within a limit that a share of vectors can keep; NaN for nothing found."""

    def p_value(random: Random) -> float:
        effects = alike(random, 1 + nulls, 6, 8)
        harm = np.where(random.random((1 + nulls, 1, 1)) < share, 0.0, 1.0) * np.ones((1, 6, 8))
        both = np.stack([effects, harm])
        try:
            return float(made_up(both[:, 0], both[:, 1:]).best(at_most={1: 0.5}).p_value)
        except al.SettingError:
            return float("nan")

    return p_value


def listed(random: Random) -> float:
    """The best adjusted p in three lists out of 1,000 tokens each, 99 nulls, heavy tails."""
    conditions = random.standard_t(4, size=(100, 3, 1000)) + random.normal(size=(100, 1, 1))
    found = statistics.adjusted_over_lists([np.sort(row)[-10:] for row in conditions[0]], conditions[1:].max(axis=2).T)
    return float(min(values.min() for values in found))


def sign_flips(random: Random) -> float:
    """One effect on 16 prompts, without nulls, by flips of signs."""
    return float(statistics.sign_flip_p(random.normal(size=(1, 16)))[0])


def equivalent(random: Random) -> float:
    """Whether an effect that lies on the margin is shown to be small, 16 prompts."""
    steered = random.normal(0.5, 0.5, (16, 1))
    return 0.0 if statistics.paired_effect(steered, np.zeros((16, 1))).equivalent(0.5) else 1.0


def equivalent_hits(random: Random) -> float:
    """The same for shares, 20 % beside 40 % with a margin of 20 points, 44 prompts of 4 samples."""
    return 0.0 if statistics.paired_effect(*hits(0.2, 0.4)(random, 44, 4)).equivalent(0.2) else 1.0


def above_nulls(random: Random) -> float:
    """Whether the interval of effect minus nulls misses the truth, 12 prompts and 20 nulls."""
    prompt = random.normal(size=12)
    nulls = random.normal(size=(20, 1)) + prompt + 0.3 * random.normal(size=(20, 12))
    steered = (2.0 + prompt + random.normal(size=12))[:, None]
    effect = statistics.paired_effect(steered, np.zeros((12, 1))).with_nulls(nulls.mean(axis=1), nulls)
    found = effect.above_nulls()
    return 1.0 if found.low <= 2.0 <= found.high else 0.0


def concept(random: Random) -> float:
    """Whether the interval over six pairs of a concept and 12 prompts misses the truth."""
    table = 1.0 + random.normal(size=(6, 1)) + random.normal(size=(1, 12)) + random.normal(size=(6, 12))
    found = statistics.concept_effect(table)
    return 1.0 if found.low <= 1.0 <= found.high else 0.0


ERRORS: dict[str, Callable[[Random], float]] = {
    "p of one effect, 99 nulls": p_alone,
    "the same, two-sided": p_two_sided,
    "p from mean and spread of 20 nulls, normal": p_few,
    "the same, exponential nulls": p_few_skewed,
    "p of a verdict with 20 nulls, normal": p_verdict("normal"),
    "p of a verdict with 20 nulls, exponential": p_verdict("exponential"),
    "smallest adjusted p of a grid": p_grid,
    "a cell is significant": significant,
    "a cell is significant, without nulls": significant_without_nulls,
    "best cell": best(1.0, 99),
    "best cell within a limit that half of the vectors keep": best(0.5, 99),
    "best cell within a limit that a fifth keeps, 199 nulls": best(0.2, 199),
    "a token is significant in one of three lists": listed,
    "flips of signs, 16 prompts": sign_flips,
    "shown to be small, at the margin": equivalent,
    "the same, shares of hits": equivalent_hits,
    "interval of effect minus nulls misses": above_nulls,
    "interval over pairs of a concept misses": concept,
}


RARE = {
    "best cell within a limit that half of the vectors keep": 2,
    "best cell within a limit that a fifth keeps, 199 nulls": 5,
}
"""How much longer to run where most vectors find nothing."""


def error_rate(name: str, trials: int) -> dict[str, Any]:
    """How often p is at most 0.05 where nothing is true, among the runs that find something."""
    random = np.random.default_rng(list(ERRORS).index(name))
    found = np.array([ERRORS[name](random) for _ in range(trials * RARE.get(name, 1))])
    kept = found[np.isfinite(found)]
    return {"what": name, "runs": len(kept), "at most 0.05": float((kept <= 0.05).mean())}


def error_rates(trials: int) -> pd.DataFrame:
    """Every p-value, and everything that stands or is shown."""
    return pd.DataFrame([error_rate(name, trials) for name in ERRORS])


# -- writing ---------------------------------------------------------------------------------------------------


def shown(frame: pd.DataFrame) -> Iterator[str]:
    """A Markdown table, shares with three decimals."""
    yield "| " + " | ".join(frame.columns) + " |"
    yield "| " + " | ".join("---" for _ in frame.columns) + " |"
    for row in frame.itertuples(index=False):
        yield "| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row) + " |"


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--write", action="store_true", help="put the tables on docs/statistics.md")
    options = parser.parse_args()
    told = f"{options.trials:,} runs of each, `python -m benchmarks.coverage --write`."
    parts = {
        name: "\n".join([told, "", *shown(make(options.trials))])
        for name, make in {"errors": error_rates, "coverage": coverages}.items()
    }
    for name, part in parts.items():
        print(f"## {name}\n\n{part}\n")
    if options.write:
        sys.path.insert(0, str(DOCS))
        from page_parts import write

        write(DOCS / "statistics.md", parts)


if __name__ == "__main__":
    main()
