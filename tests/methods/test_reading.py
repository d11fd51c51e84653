"""What methods read: tokens, means, pairs, and the layers of papers."""

from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens import methods
from actadd_lens.methods.layers import one_layer, several_layers
from actadd_lens.methods.reading import mean_difference, read_pairs, read_prompts, token_rows
from actadd_lens.models import backend_of
from actadd_lens.models.protocol import Spot
from tests.support import close

TEXTS = ["The dog ran home", "She was sad", "The girl looked at the old dog and then she said that it was good"]
SPOTS = [Spot(2), Spot(1, "mlp_out"), Spot(0, "head")]


@torch.no_grad()
def by_hand(model: Any, text: str, spot: Spot) -> torch.Tensor:
    _, cache = model.run_with_cache(model.to_tokens(text, prepend_bos=True))
    return cache[spot_name(spot)][0].flatten(1)


def spot_name(spot: Spot) -> str:
    return {"resid_pre": f"blocks.{spot.layer}.hook_resid_pre", "mlp_out": f"blocks.{spot.layer}.hook_mlp_out"}.get(
        spot.site, f"blocks.{spot.layer}.attn.hook_z"
    )


@pytest.mark.parametrize("read", [-1, -2, 1])
def test_a_token_of_each_prompt_is_read_whatever_its_length(small: Any, read: int) -> None:
    found = read_prompts(backend_of(small), TEXTS, SPOTS, read=read)
    for spot in SPOTS:
        for text, row in zip(TEXTS, found.of_prompts(spot), strict=True):
            assert close(row.float(), by_hand(small, text, spot)[read], 1e-5)


def test_the_batch_size_changes_nothing(small: Any) -> None:
    backend = backend_of(small)
    one, all_at_once = (read_prompts(backend, TEXTS, SPOTS, read="all", batch_size=size) for size in (1, 16))
    for spot in SPOTS:
        assert close(one.of_prompts(spot), all_at_once.of_prompts(spot), 1e-5)


def test_a_mean_over_all_tokens_weighs_each_token_alike(small: Any) -> None:
    rows = torch.cat([by_hand(small, text, Spot(2)) for text in TEXTS])
    assert close(
        read_prompts(backend_of(small), TEXTS, SPOTS, read="all").mean(Spot(2)).float(), rows.mean(dim=0), 1e-5
    )
    rows = torch.cat([by_hand(small, text, Spot(2))[1:] for text in TEXTS])
    found = read_prompts(backend_of(small), TEXTS, SPOTS, read="all", bos=False)
    assert close(found.mean(Spot(2)).float(), rows.mean(dim=0), 1e-5)


def test_a_mask_reads_the_tokens_that_it_marks(small: Any) -> None:
    masks = [[False, True, True], [False, False, True], [True]]
    found = read_prompts(backend_of(small), TEXTS, SPOTS, read=masks)
    assert found.counts.tolist() == [2, 1, 1]
    assert close(found.of_prompts(Spot(2))[0].float(), by_hand(small, TEXTS[0], Spot(2))[1:3].mean(dim=0), 1e-5)


def test_token_ids_and_tensors_are_read_as_they_stand(small: Any) -> None:
    backend = backend_of(small)
    ids = small.to_tokens(TEXTS[0], prepend_bos=False)[0]
    assert token_rows(backend, [ids, ids.tolist()]) == [tuple(ids.tolist())] * 2
    assert token_rows(backend, [TEXTS[0]])[0] == (small.tokenizer.bos_token_id, *ids.tolist())


def test_pairs_may_differ_in_length(small: Any) -> None:
    plus, minus = read_pairs(backend_of(small), [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[1])], [Spot(3)])
    rows = {text: by_hand(small, text, Spot(3))[-1] for text in TEXTS}
    expected = (rows[TEXTS[0]] + rows[TEXTS[2]]) / 2 - rows[TEXTS[1]]
    assert close(mean_difference(plus, minus, Spot(3)).float(), expected, 1e-5)


def test_what_is_read_inside_steer_is_unsteered(small: Any) -> None:
    vector = al.compute_steering_vector(small, ("Love", "Hate"), layer=1)
    plain = read_prompts(backend_of(small), TEXTS, SPOTS)
    with al.steer(small, 5 * vector):
        inside = read_prompts(backend_of(small), TEXTS, SPOTS)
    assert all(torch.equal(plain.sums[spot], inside.sums[spot]) for spot in SPOTS)


@pytest.mark.parametrize(
    ("prompts", "read", "error", "told"),
    [
        ("one text", -1, al.PromptError, "not a list of prompts"),
        ([], -1, al.PromptError, "one or more"),
        ([TEXTS], -1, al.PromptError, "neither a text nor a list of token ids"),
        ([[1, 10**6]], -1, al.PromptError, "go from 0"),
        ([[True, False]], -1, al.PromptError, "neither"),
        ([[]], -1, al.PromptError, "empty"),
        ([[1] * 65], -1, al.PromptError, "has 65 tokens"),
        (TEXTS, -9, al.PromptError, "there is no token -9"),
        (TEXTS, 2.5, al.SettingError, "expected an index"),
        (TEXTS, "last", al.SettingError, "expected an index"),
        (TEXTS, [[True]], al.SettingError, "each of 3 prompts"),
        (TEXTS, [[1], [1], [1]], al.SettingError, "expected booleans"),
        (TEXTS, [[True], [False], [True]], al.PromptError, "marks no token"),
        (TEXTS, [[True], [False] * 40 + [True], [True]], al.PromptError, "or one beyond"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_read_is_refused(quickest: Any, prompts: Any, read: Any, error: Any, told: str) -> None:
    with pytest.raises(error, match=told):
        read_prompts(backend_of(quickest), prompts, SPOTS, read=read)


@pytest.mark.parametrize("pairs", ["ab", [], ["ab"], [("a",)], [("a", "b", "c")], None])
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_pair_is_refused(quickest: Any, pairs: Any) -> None:
    with pytest.raises(al.PromptError, match="pair"):
        read_pairs(backend_of(quickest), pairs, SPOTS)


def test_bos_alone_has_no_other_token(quickest: Any) -> None:
    with pytest.raises(al.PromptError, match="BOS alone"):
        read_prompts(backend_of(quickest), [[0]], SPOTS, read="all", bos=False)


def test_a_papers_layer_is_one_lower_than_ours(quickest: Any) -> None:
    backend = backend_of(quickest)
    assert one_layer(backend, 3, None) == (3, ())
    assert one_layer(backend, None, 3) == (4, ("paper's layer 3 = resid_pre of 4",))
    assert several_layers(backend, None, [0, 1])[0] == (1, 2)
    for layers in ((None, None), (1, 1)):
        with pytest.raises(al.LayerError, match="Give layer="):
            one_layer(backend, *layers)
    with pytest.raises(al.LayerError, match="does not exist"):
        one_layer(backend, None, 4)
    with pytest.raises(al.LayerError, match="twice"):
        several_layers(backend, [1, 1], None)
    with pytest.raises(al.LayerError, match="at least one"):
        several_layers(backend, [], None)


def test_activation_addition_comes_in_by_the_same_door(small: Any) -> None:
    expected = al.compute_steering_vector(small, ("Love", "Hate"), layer=2)
    for found in (
        methods.actadd(small, ("Love", "Hate"), layer=2),
        methods.actadd(small, ("Love", "Hate"), paper_layer=2),
    ):
        assert torch.equal(found.activations, expected.activations)
        assert found.layer == 2
    with pytest.raises(al.LayerError, match="the same number"):
        methods.actadd(small, ("Love", "Hate"))
