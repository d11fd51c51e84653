"""The experiment on frozen attention: its numbers are those of the tool, its verdicts those of the rule."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import actadd_lens as al
from actadd_lens.experiments import AttentionFrozen, attention_frozen

PROMPTS = al.storybook.neutral_prompts()[:10]


@pytest.fixture(scope="module")
def frozen(load: Any) -> AttentionFrozen:
    from actadd_lens.models.hooked import hooked_transformer

    model = load("storybook", "bridge" if hooked_transformer() is None else "hooked")
    return attention_frozen(model, (" weddings", ""), prompts=PROMPTS, layer=3, nulls=4, progress=False)


def test_its_parts_are_those_of_the_tool_at_both_places(frozen: AttentionFrozen) -> None:
    assert frozen.places == ("front", "all")
    for place, parts in zip(frozen.places, frozen.found, strict=True):
        assert parts.values.shape == (5, 4, 10)
        share, low, high = parts.share("by values")
        left = frozen.left(place)
        assert (left.value, left.low, left.high, left.neutral) == (share, low, high, 0.5)
    assert frozen.found[0].vectors[0].coefficient == 3.0
    assert frozen.found[1].vectors[0].rows == 1


def test_a_verdict_says_where_the_whole_interval_lies(frozen: AttentionFrozen) -> None:
    for place in frozen.places:
        left, verdict = frozen.left(place), frozen.verdict(place)
        if verdict == "same direction":
            assert left.low > 0.5
        if verdict == "opposite":
            assert left.high < 0.5
    frame = frozen.frame()
    assert list(frame["verdict"]).count("") == 6
    assert "2604.08524" in frozen.summary()
    assert frozen.findings() == ()
    assert np.isfinite(frozen.settings["injection norms"]).all()
    assert frozen.plot().get_xlabel().startswith("steered − unsteered")


@pytest.mark.parametrize(("largest", "verdict"), [(1.03, "not testable here"), (0.9, "same direction")])
def test_a_verdict_is_told_only_of_an_effect_beyond_nulls_of_either_sign(
    frozen: AttentionFrozen, largest: float, verdict: str
) -> None:
    conditions = np.outer(
        [0.0, 1.0, 0.9, 0.1], np.linspace(2.9, 3.1, 10)
    )  # by prompt: unsteered, steered, either frozen
    sizes = np.linspace(-largest, largest, 40)  # of the nulls, beside the vector's 1
    values = np.concatenate([conditions[None], sizes[:, None, None] * conditions])
    parts = replace(frozen.found[0], values=values, prompts=PROMPTS)
    assert parts.effect("whole").p_value() <= 0.05  # on the side of the effect alone
    assert replace(frozen, found=(parts, parts)).verdict("front") == verdict
