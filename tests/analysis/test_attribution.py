"""Attribution and minimal sets: against patching and gradients written out with plain Hugging Face modules."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens import metrics
from actadd_lens.models import backend_of
from tests.plain_gpt2 import Held, Run, all_heads, plain_run
from tests.support import hook_state, vector_of

PROMPTS = ("The girl looked at the old dog and then she", "She felt that it was a good day")
PAIR = ("The girl was", "The dog said")
METRIC = metrics.logit_difference(5, 9)


def value(run: Run) -> Any:
    return run.logits[-1, 5] - run.logits[-1, 9]


def attribute(model: Any, vector: al.SteeringVector, prompts: Any = PROMPTS, **settings: Any) -> al.Attribution:
    return al.attribute_injection(model, prompts, vector, METRIC, progress=False, **({"steps": 3} | settings))


def test_what_stands_as_exact_is_patching_by_hand(small: Any, gpt2_folder: Path) -> None:
    vector = 2.0 * vector_of(small, PAIR, 1)
    found = attribute(small, vector, batch_size=9)
    with torch.no_grad():
        for prompt, text in enumerate(PROMPTS):
            tokens = backend_of(small).encode(text)
            plain, steered = plain_run(gpt2_folder, tokens), plain_run(gpt2_folder, tokens, vector)
            assert found.whole.by_prompt[prompt] == pytest.approx(float(value(steered) - value(plain)), abs=2e-4)
            for layer, head in ((1, 3), (2, 0)):
                held = Held(mixed={(layer, head): steered.mixed[layer][head]})
                change = value(plain_run(gpt2_folder, tokens, held=held)) - value(plain)
                assert found.exact[prompt, layer, head] == pytest.approx(float(change), abs=2e-4)
            held = Held(mlps={2: steered.mlps[2]})
            change = value(plain_run(gpt2_folder, tokens, held=held)) - value(plain)
            assert found.exact[prompt, 2, -1] == pytest.approx(float(change), abs=2e-4)
            without = vector.keep_dimensions(slice(None))
            without.activations[1] = 0.0
            lost = value(steered) - value(plain_run(gpt2_folder, tokens, without))
            assert found.dropped[prompt, 1] == pytest.approx(float(lost), abs=2e-4)
    assert not found.exact[:, 0].any()
    assert not found.estimates[:, :, 0].any()


def test_gradients_are_those_of_plain_passes(small: Any, gpt2_folder: Path) -> None:
    vector, steps = 2.0 * vector_of(small, PAIR, 1), 3
    found = attribute(small, vector, PROMPTS[:1], steps=steps)
    tokens = backend_of(small).encode(PROMPTS[0])
    with torch.no_grad():
        plain, steered = plain_run(gpt2_folder, tokens), plain_run(gpt2_folder, tokens, vector)
    for layer, head in ((1, 2), (3, 1)):
        products = []
        for place in (0.0, *((step + 0.5) / steps for step in range(steps))):
            with torch.no_grad():
                there = plain_run(gpt2_folder, tokens, place * vector)
            mixed = there.mixed[layer][head].clone().requires_grad_()
            run = plain_run(gpt2_folder, tokens, place * vector, held=Held(mixed={(layer, head): mixed}))
            (gradient,) = torch.autograd.grad(value(run), mixed)
            products.append(float((gradient * (steered.mixed[layer][head] - plain.mixed[layer][head])).sum()))
        assert found.estimates[0, 0, layer, head] == pytest.approx(products[0], abs=3e-4)
        assert found.estimates[1, 0, layer, head] == pytest.approx(np.mean(products[1:]), abs=3e-4)


def test_integrated_gradients_of_rows_make_the_effect_and_a_small_injection_has_no_error(small: Any) -> None:
    vector = 2.0 * vector_of(small, PAIR, 1)
    few, many = (attribute(small, vector, PROMPTS[:1], steps=steps) for steps in (1, 12))
    assert abs(many.gap) < 0.05 * abs(many.whole.mean) + 1e-3
    assert abs(many.gap) < abs(few.gap) + 1e-6
    tiny = attribute(small, 0.01 * vector, PROMPTS[:1])
    error = dict(zip(tiny.errors()["estimate"], tiny.errors()["error"], strict=True))
    assert error["gradient"] < 0.05
    assert abs(tiny.gap) < 0.05 * abs(tiny.whole.mean) + 1e-4
    assert (many.errors()["correlation"] <= 1).all()
    assert "off by" in repr(many)
    assert "<table" in many._repr_html_()
    assert many.frame()["layer"].min() == 1
    assert list(many.row_frame().columns) == ["row", "dropped", "gradient", "integrated"]


def test_a_set_keeps_what_plain_passes_keep_with_the_rest_frozen(small: Any, gpt2_folder: Path) -> None:
    vector = 2.0 * vector_of(small, PAIR, 2)
    found = al.minimal_set(small, PROMPTS, vector, METRIC, progress=False)
    assert len(found.components) == 2 * 5
    assert found.kept[-1] == pytest.approx(1.0, abs=1e-3)
    tokens = backend_of(small).encode(PROMPTS[1])
    with torch.no_grad():
        plain, steered = plain_run(gpt2_folder, tokens), plain_run(gpt2_folder, tokens, vector)
        free = set(found.components[:4])
        frozen = {key: item for key, item in all_heads(plain.mixed).items() if (key[0], f"head {key[1]}") not in free}
        mlps = {layer: item for layer, item in enumerate(plain.mlps) if (layer, "MLP") not in free}
        kept = value(plain_run(gpt2_folder, tokens, vector, held=Held(mixed=frozen, mlps=mlps))) - value(plain)
        assert found.kept[4] == pytest.approx(float(kept / (value(steered) - value(plain))), abs=2e-3)
        tokens = backend_of(small).encode(PROMPTS[0])
        plain, steered = plain_run(gpt2_folder, tokens), plain_run(gpt2_folder, tokens, vector)
        layer, name = next(item for item in found.components if item[1] != "MLP")
        head = int(name.split()[1])
        held = Held(mixed={(layer, head): plain.mixed[layer][head]})
        lost = value(steered) - value(plain_run(gpt2_folder, tokens, vector, held=held))
    assert found.lost[found.components.index((layer, name))] == pytest.approx(float(lost), abs=3e-4)
    assert (np.abs(found.kept[found.size(0.8) :]) >= 0.8 - 1e-6).all()
    assert found.frame()["kept up to it"].iloc[-1] == pytest.approx(1.0, abs=1e-3)
    assert found.plot().get_ylabel() == "share of the effect"
    assert "components keep 80%" in repr(found)


def test_no_hook_stays(quickest: Any) -> None:
    before = hook_state(quickest)
    attribute(quickest, vector_of(quickest, PAIR, 1), PROMPTS[:1])
    al.minimal_set(quickest, PROMPTS, vector_of(quickest, PAIR, 3), METRIC, progress=False)
    assert hook_state(quickest) == before


@pytest.mark.usefixtures("unchecked")
def test_settings_that_say_nothing_are_refused(quickest: Any) -> None:
    vector = vector_of(quickest, PAIR, 1)
    with pytest.raises(al.SettingError, match="steps is 0"):
        attribute(quickest, vector, steps=0)
    with pytest.raises(al.SettingError, match="has no gradient"):
        al.attribute_injection(quickest, PROMPTS, vector, metrics.precision_at(1, dict.fromkeys(PROMPTS, " dog")))
    with pytest.raises(al.SettingError, match="two or more"):
        al.minimal_set(quickest, PROMPTS[:1], vector, METRIC)
    with pytest.raises(al.SettingError, match="change nothing"):
        al.minimal_set(quickest, PROMPTS, 0.0 * vector, METRIC, progress=False)
