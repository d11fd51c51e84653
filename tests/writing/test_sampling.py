"""Choosing tokens, against the formulas of TransformerLens."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import actadd_lens as al
from actadd_lens.writing.sampling import Sampling, choose_tokens

VOCABULARY, GRID = 12, 6000


def ours(logits: torch.Tensor, counts: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
    """Probabilities with which tokens are chosen, from an even grid of uniform numbers."""
    uniforms = (torch.arange(GRID) + 0.5) / GRID
    spread = None if counts is None else counts.repeat(GRID, 1)
    chosen = choose_tokens(logits.repeat(GRID, 1), Sampling(**options), uniforms, spread)
    return torch.bincount(chosen, minlength=VOCABULARY) / GRID


def theirs(monkeypatch: pytest.MonkeyPatch, logits: torch.Tensor, **options: Any) -> torch.Tensor:
    """Probabilities that TransformerLens samples from."""
    from transformer_lens.utilities.logits_utils import sample_logits

    seen = []

    class Caught:
        def __init__(self, logits: torch.Tensor) -> None:
            seen.append(logits.softmax(dim=-1)[0])

        def sample(self) -> torch.Tensor:
            return torch.zeros(1, dtype=torch.long)

    with monkeypatch.context() as patch:
        patch.setattr(torch.distributions.categorical, "Categorical", Caught)
        sample_logits(logits[None].clone(), **options)
    return seen[0]


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(5)) * 2


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.5}, {"temperature": 3.0}, {"top_k": 1}, {"top_k": 4}, {"top_k": 50}, {"top_p": 0.05},
     {"top_p": 0.5}, {"top_p": 0.9, "temperature": 2.0}, {"top_p": 1.0}],
)  # fmt: skip
def test_probabilities_and_kept_sets_are_those_of_transformer_lens(
    monkeypatch: pytest.MonkeyPatch, logits: torch.Tensor, options: dict[str, Any]
) -> None:
    found, expected = ours(logits, **options), theirs(monkeypatch, logits, **options)
    assert (found - expected).abs().max() < 2 / GRID
    assert not ((found > 0) & (expected == 0)).any()
    assert not ((found == 0) & (expected > 2 / GRID)).any()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("options", [{"frequency_penalty": 0.8}, {"repetition_penalty": 1.7},
                                     {"frequency_penalty": 0.3, "repetition_penalty": 0.6}])  # fmt: skip
def test_penalties_are_those_of_transformer_lens(
    monkeypatch: pytest.MonkeyPatch, logits: torch.Tensor, temperature: float, options: dict[str, float]
) -> None:
    tokens = torch.tensor([[1, 1, 1, 4, 7, 7]])
    counts = torch.bincount(tokens[0], minlength=VOCABULARY).float()
    found = ours(logits, counts, temperature=temperature, **options)
    names = {"frequency_penalty": "freq_penalty"}
    told = {names.get(name, name): value for name, value in options.items()}
    expected = theirs(monkeypatch, logits, temperature=temperature, tokens=tokens, **told)
    assert (found - expected).abs().max() < 2 / GRID


@settings(max_examples=25)
@given(st.integers(1, 400), st.floats(0.01, 0.999), st.floats(0.05, 4), st.integers(0, 1000))
def test_the_nucleus_is_the_smallest_set_that_reaches_its_share(
    size: int, top_p: float, scale: float, seed: int
) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)).double() * scale
    order = sorted(range(size), key=lambda token: -float(logits[token]))
    probabilities, kept, total = logits.softmax(dim=-1), set(), 0.0
    for token in order:
        if total > top_p:
            break
        kept.add(token)
        total += float(probabilities[token])
    if abs(total - top_p) < 1e-5:
        return  # a tie at the edge may fall either way
    uniforms = torch.linspace(0, 1, 3000)
    chosen = choose_tokens(logits.repeat(3000, 1), Sampling(top_p=top_p), uniforms)
    assert set(chosen.tolist()) <= kept


def test_greedy_takes_the_likeliest_and_reads_no_random_number(logits: torch.Tensor) -> None:
    assert choose_tokens(logits[None], Sampling(temperature=0), None).item() == logits.argmax()


def test_a_uniform_number_of_almost_one_stays_inside_the_vocabulary(logits: torch.Tensor) -> None:
    for edge in (0.0, 1 - 2**-24, 1.0):
        token = choose_tokens(logits[None], Sampling(top_k=2), torch.tensor([edge])).item()
        assert token in logits.topk(2).indices.tolist()


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [("temperature", -1, "a number from 0"), ("temperature", float("nan"), "a number from 0"),
     ("top_k", 0, "integer from 1"),
     ("top_k", 2.5, "integer from 1"), ("top_p", 0, "above 0 and up to 1"), ("top_p", 1.1, "above 0 and up to 1"),
     ("frequency_penalty", float("inf"), "a finite number"), ("repetition_penalty", 0, "above 0"),
     ("temperature", "hot", "a number from 0"), ("temperature", True, "a number from 0")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(unchecked: None, option: str, value: Any, expected: str) -> None:
    with pytest.raises(al.SettingError, match=f"{option} is {value!r}: expected .*{expected}"):
        Sampling(**{option: value})


def test_an_unknown_option_is_refused_with_a_near_one() -> None:
    with pytest.raises(al.SettingError, match="no sampling option 'freq_penalty'. Did you mean 'frequency_penalty'"):
        Sampling.from_options({"freq_penalty": 1.0})
    with pytest.raises(al.SettingError, match="Known are temperature, top_k"):
        Sampling.from_options({"beam_width": 3})
