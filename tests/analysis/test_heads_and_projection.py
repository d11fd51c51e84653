"""Heads on a vector, and texts along one: against plain Hugging Face modules, written out, and planted truths."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from actadd_lens.models import backend_of
from actadd_lens.statistics import max_t_p, on_one_scale
from tests.plain_gpt2 import plain_gpt2, plain_run
from tests.support import hook_state, vector_of

PROMPTS = ("The girl looked at the old dog and then she", "She felt that it was a good day")
PAIR = ("The girl was", "The dog said")


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def encode(model: Any, text: str) -> list[int]:
    return backend_of(model).encode(text)


@pytest.mark.parametrize(("layer", "head"), [(1, 0), (3, 2)])
def test_a_head_looks_and_writes_as_its_weights_do_by_hand(
    small: Any, gpt2_folder: Path, layer: int, head: int
) -> None:
    vector = 3.0 * vector_of(small, PAIR, 1)
    found = al.head_reading(small, vector, PROMPTS, k=3)
    model, looks, paid, written = plain_gpt2(gpt2_folder), [], [], []
    on = vector.norms.nonzero().flatten().tolist()
    for text in PROMPTS:
        tokens = encode(small, text)
        plain, steered = (plain_run(gpt2_folder, tokens, added) for added in (None, vector.at_layer(layer)))
        later = range(vector.rows, len(tokens))
        share = [[float(run.patterns[layer][head, query, on].sum()) for query in later] for run in (plain, steered)]
        odds = np.log(np.array(share) / (1 - np.array(share)))
        looks.append((odds[1] - odds[0]).mean())
        paid.append(np.mean(share, axis=1))
        change = (steered.values[layer][head, on] - plain.values[layer][head, on]).mean(dim=0)
        written.append(change @ model.transformer.h[layer].attn.c_proj.weight[head * 8 : head * 8 + 8])
    place = found.layers.index(layer)
    assert found.looks[0, place, head] == pytest.approx(np.mean(looks), abs=2e-4)
    np.testing.assert_allclose(found.attention[:, place, head], np.mean(paid, axis=0), atol=1e-5)
    row = torch.stack(written).mean(dim=0)
    row = row - row.mean()
    assert found.written[place, head] == pytest.approx(float(row.norm()), abs=2e-4)
    directions = model.transformer.ln_f.weight[:, None] * model.lm_head.weight.T
    directions = directions - directions.mean(dim=0) - directions.mean(dim=1, keepdim=True) + directions.mean()
    z = row @ directions / (row.norm() * directions.norm(dim=0) / 31**0.5)
    assert [token.token for token in found.promoted[place][head]] == z.topk(3).indices.tolist()
    assert found.promoted[place][head][0].z == pytest.approx(float(z.max()), abs=1e-3)


def test_families_agree_on_heads_where_key_heads_are_shared(load: Any) -> None:
    for name in ("storybook", "stories"):
        models = [load(name, family) for family in ("hooked", "bridge")]
        vector = 2.0 * vector_of(models[0], PAIR, 2)
        found = [al.head_reading(model, vector, PROMPTS[0], k=1) for model in models]
        np.testing.assert_allclose(found[0].looks, found[1].looks, atol=5e-3)
        np.testing.assert_allclose(found[0].written, found[1].written, rtol=1e-3, atol=1e-3)


def test_nulls_go_through_the_same_and_stand_as_seldom_as_they_should(quickest: Any) -> None:
    vector = 3.0 * vector_of(quickest, PAIR, 2)
    found = al.head_reading(quickest, vector, PROMPTS[0], nulls=30, null_kind="gaussian", k=2)
    null = al.null_vectors(quickest, vector, kind="gaussian", n=30)[0]
    alone = al.head_reading(quickest, null, PROMPTS[0], k=2)
    np.testing.assert_allclose(found.looks[1], alone.looks[0], atol=1e-4)
    table = found.looks[1:].reshape(30, -1)
    stood = []
    for index in range(30):
        scaled = on_one_scale(np.concatenate([table[index][None], np.delete(table, index, axis=0)]))
        stood.append((max_t_p(scaled[0], scaled[1:], "two-sided") <= 0.05).any())
    assert np.mean(stood) <= 0.05
    frame = found.frame()
    assert frame["adjusted p, token"].between(1 / 31, 1).all()
    assert frame["adjusted p, look"].between(1 / 31, 1).all()
    assert "<table" in found._repr_html_()


def test_projections_are_those_of_plain_streams(small: Any, gpt2_folder: Path) -> None:
    vector = 3.0 * vector_of(small, PAIR, 2)
    found = al.project(small, PROMPTS, vector, steered_by=vector, others=PROMPTS)
    direction = vector.activations.sum(dim=0)
    direction = (direction - direction.mean()) / (direction - direction.mean()).norm()
    rest: list[float] = []
    for number, text in enumerate(PROMPTS):
        tokens = encode(small, text)
        for added, shown in ((None, found.texts[number].unsteered), (vector, found.texts[number].steered)):
            stream = plain_run(gpt2_folder, tokens, added).streams[2]
            if added is not None:  # what is kept by hand is the stream behind the addition
                assert found.texts[number].injected == tuple(vector.norms.nonzero().flatten().tolist())
            along = stream @ direction
            assert shown is not None
            np.testing.assert_allclose(shown, along.numpy(), atol=2e-4)
            rest += along[1:].tolist() if added is None else []
    assert found.mean == pytest.approx(np.mean(rest), abs=1e-3)
    assert found.spread == pytest.approx(np.std(rest, ddof=1), abs=1e-3)
    assert len(found.frame()) == sum(len(encode(small, text)) for text in PROMPTS)
    assert found._repr_html_().count("<u>") == 2 * len(found.texts[0].injected)
    assert "z against" in repr(found)
    assert "steered" in str(found)


def test_streams_are_kept_as_texts_are_written(model: Any) -> None:
    vector = 2.0 * vector_of(model, PAIR, 1)
    settings: dict[str, Any] = {
        "n": 2,
        "max_new_tokens": 5,
        "progress": False,
        "keep_streams": [1, 2, model.cfg.n_layers],
    }
    found = al.complete(model, PROMPTS, vector, position="back", **settings)
    plain = al.complete(model, PROMPTS, vector, position="back", use_past_kv_cache=False, **settings)
    backend = backend_of(model)
    for number, text in enumerate(PROMPTS):
        ids = backend.encode(text)
        for condition in ("steered", "unsteered"):
            for sample in range(2):
                item = getattr(found, f"{condition}_continuations")[number][sample]
                other = getattr(plain, f"{condition}_continuations")[number][sample]
                assert item.tokens == other.tokens
                whole = torch.tensor([[*ids, *item.tokens[:-1]]])
                start = len(ids) - vector.rows
                added = [vector.at(position=start)] if condition == "steered" else []
                with al.steer(model, *added, prompt_lengths=len(ids)) if added else torch.no_grad():
                    streams = backend.residuals(whole, [1, 2, model.cfg.n_layers])
                for layer, expected in streams.items():
                    scale = float(expected.abs().max())
                    assert item.streams[layer].shape == expected[0].shape
                    assert torch.allclose(item.streams[layer], expected[0], atol=2e-4 * scale)
                    assert torch.allclose(other.streams[layer], expected[0], atol=2e-4 * scale)


def test_streams_are_not_kept_unless_they_are_asked_for(quickest: Any) -> None:
    before = hook_state(quickest)
    (row,) = al.complete(quickest, PROMPTS[0], vector_of(quickest, PAIR, 1), max_new_tokens=2).steered_continuations
    assert row[0].streams == {}
    assert hook_state(quickest) == before


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_looked_at_or_laid_along_is_refused(quickest: Any) -> None:
    vector = vector_of(quickest, PAIR, 1)
    with pytest.raises(al.PositionError, match="No token of the prompt comes after"):
        al.head_reading(quickest, vector, PROMPTS[0], position="back")
    with pytest.raises(al.SettingError, match="k is 0"):
        al.head_reading(quickest, vector, PROMPTS[0], k=0)
    with pytest.raises(al.VectorError, match="sum to zero"):
        al.project(quickest, PROMPTS, 0.0 * vector)
    with pytest.raises(al.LayerError, match="does not exist"):
        al.project(quickest, PROMPTS, vector, layer=9)
    with pytest.raises(al.LayerError, match="does not exist"):
        al.complete(quickest, PROMPTS, vector, keep_streams=[9])
