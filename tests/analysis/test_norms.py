"""Norms against those of the streams that TransformerLens caches."""

from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al

PROMPT = "The girl looked at the old dog"


@torch.no_grad()
@pytest.mark.parametrize("position", ["front", "back", 3])
def test_relative_norms_are_row_norms_over_cached_stream_norms(model: Any, position: Any) -> None:
    v = -4 * al.compute_steering_vector(model, ("Love", "Hate"), layer=1)
    tokens = model.to_tokens(PROMPT)
    _, cache = model.run_with_cache(tokens)
    start = {"front": 0, "back": tokens.shape[1] - v.rows}.get(position, position)
    found = al.norm_profile(model, v, PROMPT, position=position)
    assert len(found.rows) == v.rows
    for row in found.rows:
        assert row.token == start + row.row
        assert row.norm == pytest.approx(4 * float(v.norms[row.row]), rel=1e-5)
        for layer in range(model.cfg.n_layers):
            stream = float(cache[f"blocks.{layer}.hook_resid_pre"][0, row.token].norm())
            assert found.stream_norms[layer, row.token] == pytest.approx(stream, rel=1e-4)
            assert row.relative[layer] == pytest.approx(row.norm / stream, rel=1e-4)
    assert found.rows[0].relative_norm == 0.0


def test_relative_norms_are_those_of_the_preview(small: Any) -> None:
    vectors = [al.compute_steering_vector(small, ("Love", "Hate"), layer=layer) for layer in (1, 3)]
    found = al.norm_profile(small, vectors, PROMPT)
    previewed = al.preview(small, PROMPT, vectors)
    assert [(touch.vector, touch.token) for touch in previewed.touches] == [
        (row.vector, row.token) for row in found.rows
    ]
    ours = [row.relative_norm for row in found.rows]
    assert [touch.relative for touch in previewed.touches] == pytest.approx(ours, rel=1e-5)


def test_a_row_for_every_token_lands_on_all_but_bos(small: Any) -> None:
    v = al.compute_steering_vector(small, ("Love", "Hate"), layer=1).row(-1)
    found = al.norm_profile(small, v, PROMPT, position="all")
    assert [row.token for row in found.rows] == list(range(1, len(found.tokens)))


def test_one_vector_is_drawn_by_layer_and_several_each_at_its_own(small: Any) -> None:
    one = al.compute_steering_vector(small, ("Love", "Hate"), layer=1)
    found = al.norm_profile(small, one, PROMPT)
    assert found.table.shape == (4, len(found.tokens))
    assert len(found.frame()) == 4 * one.rows
    assert found.frame()["injected"].sum() == one.rows
    several = al.norm_profile(small, [one, one.at_layer(2), one.at_layer(3)], PROMPT)
    assert several.table.shape == (3, len(found.tokens))
    assert np.allclose(several.table[:, : one.rows], found.table[1:, : one.rows])
    labels = [label.get_text() for label in found.plot().get_yticklabels()]
    assert labels == ["layer 0", "layer 1 ◀", "layer 2", "layer 3"]
    several.plot()
    assert "relative norm" in several._repr_html_()
