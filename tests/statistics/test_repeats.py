"""Identical prompts are one prompt, wherever an effect is made of them."""

from typing import Any

import numpy as np
import pytest

import actadd_lens as al
from actadd_lens.statistics import first_places, merged

PROMPTS = ["The girl looked", "One day a dog", "The old man said", "My friend and I"]
TWICE = [*PROMPTS, PROMPTS[0], PROMPTS[0]]


def test_repeats_are_averaged_in_the_order_of_the_first() -> None:
    values = np.array([[1.0, 0.0], [5.0, 1.0], [3.0, 4.0]])
    assert first_places(["a", "b", "a", "c", "b"]) == [0, 1, 3]
    assert merged(values, ["a", "b", "a"]).tolist() == [[2.0, 2.0], [5.0, 1.0]]
    assert merged(values, ["a", "b", "c"]).tolist() == values.tolist()


def same(found: Any, wanted: Any) -> None:
    assert (found.n_prompts, found.covers, found.caution) == (wanted.n_prompts, wanted.covers, wanted.caution)
    assert [found.mean, found.low, found.high] == pytest.approx([wanted.mean, wanted.low, wanted.high], abs=1e-6)
    assert found.nulls == pytest.approx(wanted.nulls, abs=1e-6)


@pytest.mark.filterwarnings("ignore:.*are repeats")
def test_a_measurement_learns_nothing_from_a_prompt_that_is_given_again(quickest: Any) -> None:
    vector = 4 * al.compute_steering_vector(quickest, ("Love", "Hate"), layer=1)
    metric = al.metrics.entropy()
    once, twice = (al.measure(quickest, texts, vector, metric, nulls=3).effect for texts in (PROMPTS, TWICE))
    same(twice, once)


@pytest.mark.filterwarnings("ignore:.*are repeats")
def test_written_texts_of_a_prompt_that_is_given_again_count_once(quickest: Any) -> None:
    vector = 4 * al.compute_steering_vector(quickest, ("Love", "Hate"), layer=1)
    scorer = al.scorers.word_count(["the", "a", "and"])
    options: dict[str, Any] = {"n": 2, "nulls": 2, "max_new_tokens": 6}
    once, twice = (al.measure_completions(quickest, texts, vector, scorer, **options)[0] for texts in (PROMPTS, TWICE))
    same(twice.effect, once.effect)
    same(twice.completions.score(scorer), once.completions.score(scorer))
    assert len(twice.completions.prompts) == 6


@pytest.mark.filterwarnings("ignore:.*are repeats")
def test_a_sweep_counts_a_repeated_prompt_once_in_cells_halves_and_flips(quickest: Any) -> None:
    prompts = [f"{text} {end}" for text in PROMPTS for end in ("to", "for", "at")]
    found = [
        al.sweep(
            quickest, ("Love", "Hate"), layers=[0, 1], coefficients=[1, 4], prompts=texts, nulls=nulls,
            metric=al.metrics.entropy(),
        )
        for texts in (prompts, [*prompts, *prompts[:5]])
        for nulls in (0, 5)
    ]  # fmt: skip
    for once, twice in zip(found[:2], found[2:], strict=True):
        assert len(twice.grid.prompts) == 17
        assert twice.frame().drop(columns="significant").select_dtypes("number").to_numpy() == pytest.approx(
            once.frame().drop(columns="significant").select_dtypes("number").to_numpy(), abs=1e-5, nan_ok=True
        )
        assert (twice.significant() == once.significant()).all()
        same(twice.best().effect, once.best().effect)


@pytest.mark.filterwarnings("ignore:.*are repeats")
def test_a_prompt_under_two_vectors_of_its_own_is_still_one_prompt(quickest: Any) -> None:
    vector = al.compute_steering_vector(quickest, ("Love", "Hate"), layer=1)
    metric = al.metrics.entropy()
    texts, vectors = [*PROMPTS, PROMPTS[0]], [*[4 * vector] * 4, 8 * vector]
    found = al.measure(quickest, texts, al.per_prompt(vectors), metric)
    effects = found.steered - found.unsteered
    assert found.effect.n_prompts == 4
    assert found.effect.mean == pytest.approx(np.mean([(effects[0] + effects[4]) / 2, *effects[1:4]]))
