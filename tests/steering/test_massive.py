"""Massive activations: noticed by their arithmetic, told once, known to nulls; ordinary models raise no alarm."""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens.measuring.nulls import unrelated_rows
from actadd_lens.models import backend_of
from actadd_lens.models.fetching import fetched_folder
from actadd_lens.steering.massive import FAR, massive_coordinates, ordinary_norms, outweighed

COORDINATE, SIZE = 5, 1e3
WORD = " went"


@pytest.fixture
def sink(small: Any) -> Iterator[Any]:
    """The small model with one token whose stream is massive: one coordinate of its embedding is."""
    (token,) = backend_of(small).encode(WORD, prepend_bos=False)

    def enlarge(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        larger = output.clone()
        larger[inputs[0] == token, COORDINATE] += SIZE
        return larger

    handle = small.embed.register_forward_hook(enlarge)
    yield small
    handle.remove()


def massive_warnings(caught: list[warnings.WarningMessage]) -> list[str]:
    return [str(item.message) for item in caught if issubclass(item.category, al.MassiveActivationWarning)]


def quiet(pair: Any, model: Any, layer: int = 2) -> al.SteeringVector:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", al.MassiveActivationWarning)
        return al.compute_steering_vector(model, pair, layer=layer)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([100.0, 1.0, 1.0, 1.0], [0]),  # one coordinate, far beyond
        ([3.0, 1.0, 1.0, 0.0], []),  # it outweighs the others, but the norm is no more than 3.3
        ([50.0, 50.0, 50.0, 50.0], []),  # large, but along no axis
        ([-90.0, 60.0, 0.5, 0.0], [0, 1]),  # what is left after the first is massive in its turn
    ],
)
def test_a_row_is_massive_where_one_coordinate_outweighs_the_others_and_the_norm_is_far(
    row: list[float], expected: list[int]
) -> None:
    assert massive_coordinates(torch.tensor(row), ordinary=1.1) == expected


def test_the_bounds_are_those_of_the_arithmetic() -> None:
    assert math.isclose(1 / (1 + FAR**2), 1 / 11)  # the stream's share of the sum's squared norm, at right angles
    assert outweighed(torch.tensor([[1.001, 1.0], [1.0, 1.0]])).tolist() == [True, False]


def test_one_warning_tells_which_rows_are_massive_and_by_how_much(sink: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = al.compute_steering_vectors(sink, [(WORD, " day"), (" day" + WORD, " the")], layers=[1, 2])
    (told,) = massive_warnings(caught)
    ratio = float(found[0, 1].norms[1]) / ordinary_norms(backend_of(sink), [1])[1]
    assert f"row 1 ({WORD!r}) at layer 1: {ratio:.3g} times" in told
    assert f"coordinate {COORDINATE}" in told
    assert "without_rows" in told
    assert "row 2" in told
    assert "row 1" in told


def test_preview_and_norm_profile_tell_of_massive_tokens_that_a_row_lands_on(sink: Any) -> None:
    vector = al.compute_steering_vector(sink, (" day", " the"), layer=2)
    prompt = "The day went with her"
    place = backend_of(sink).token_strings(backend_of(sink).encode(prompt)).index(WORD)
    for look in (al.preview, al.norm_profile):
        arguments = (prompt, vector.row(-1)) if look is al.preview else (vector.row(-1), prompt)
        with pytest.warns(al.MassiveActivationWarning, match=rf"Token {place} \('{WORD}'\)") as caught:
            found = look(sink, *arguments, position=place)
        assert len(caught) == 1
        (token,) = found.massive
        assert (token.index, token.coordinate) == (place, COORDINATE)
        assert token.ratio > FAR
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert look(sink, *arguments, position=place + 1).massive == ()
    with pytest.warns(al.MassiveActivationWarning):
        assert "massive" in str(al.preview(sink, prompt, vector.row(-1), position="prompt"))


def test_preview_tells_of_massive_rows(sink: Any) -> None:
    with pytest.warns(al.MassiveActivationWarning, match="row 1 at layer 2"):
        al.preview(sink, "The day with her", quiet((WORD, " day"), sink))


def test_without_rows_leaves_the_others_on_their_tokens(sink: Any) -> None:
    vector = quiet((WORD + " day", " the her"), sink)
    kept = vector.without_rows(1)
    assert float(kept.norms[1]) == 0
    assert torch.equal(kept.activations[2:], vector.activations[2:])
    assert kept.rows == vector.rows
    assert kept.provenance.steps[-1] == "without_rows(1)"
    assert torch.equal(vector.without_rows(-1).activations, vector.without_rows(2).activations)
    with pytest.raises(al.VectorError, match="does not exist"):
        vector.without_rows(9)
    with pytest.raises(al.VectorError, match="nothing is left"):
        vector.without_rows(*range(vector.rows))


@pytest.mark.parametrize("kind", ["unrelated_pairs", "gaussian"])
def test_nulls_keep_massive_coordinates_and_match_the_rest(sink: Any, kind: Any) -> None:
    vector = quiet((WORD, " day"), sink)
    rest = vector.activations[1].clone()
    rest[COORDINATE] = 0.0
    nulls = al.null_vectors(sink, vector, kind=kind, n=6)
    for null in nulls:
        row = null.activations[1]
        assert torch.allclose(row[COORDINATE], vector.activations[1, COORDINATE], rtol=1e-5)
        assert math.isclose(float(row.norm()), float(vector.norms[1]), rel_tol=1e-4)
        row = row.clone()
        row[COORDINATE] = 0.0
        assert math.isclose(float(row.norm()), float(rest.norm()), rel_tol=1e-3)
        assert abs(float(torch.cosine_similarity(row, rest, dim=0))) < 0.99


def test_nulls_of_an_ordinary_row_hold_no_massive_coordinate(sink: Any) -> None:
    vector = al.compute_steering_vector(sink, (" day", " the"), layer=2)
    texts = [f"a{WORD}{WORD}{WORD}", f"the{WORD}{WORD}", "she felt that it was good"]
    for null in al.null_vectors(sink, vector, n=12, texts=texts):
        assert not bool(outweighed(null.activations).any())
    for rows in unrelated_rows(sink, vector, n=12, seed=0, texts=texts):
        assert float(rows.norm(dim=-1).max()) < SIZE


def test_a_row_that_is_nothing_but_massive_has_no_null(sink: Any) -> None:
    vector = quiet((WORD, " day"), sink).keep_dimensions([COORDINATE])
    with pytest.raises(al.SettingError, match="has no null"):
        al.null_vectors(sink, vector, n=2)


@pytest.mark.parametrize("bos", [True, False])
def test_ordinary_models_raise_no_alarm(model: Any, bos: bool) -> None:
    words = ["Love", "Hate", " wedding", "", " happy", " sad", "I love it", "I hate it", "The dog ran.", "1,2"]
    pairs = [
        al.PromptPair(plus, minus, prepend_bos=bos)
        for plus, minus in zip(words[::2], words[1::2], strict=True)
        if bos or minus
    ]
    layers = range(model.cfg.n_layers + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", al.MassiveActivationWarning)
        found = al.compute_steering_vectors(model, pairs, layers=layers)
        al.compute_steering_vectors(model, [al.PromptPair("I love it", None)], layers=layers)
        for layer in layers:
            al.norm_profile(model, 15 * found[0, layer], "The girl looked at the dog. She felt")


@pytest.mark.smollm2
@pytest.mark.skipif(fetched_folder("smollm2") is None, reason="smollm2 is not here: run `actadd fetch smollm2`")
def test_a_real_models_massive_rows_and_tokens_are_found() -> None:
    model = al.load_model("smollm2")
    with pytest.warns(al.MassiveActivationWarning, match="' river'"):
        river = al.compute_steering_vector(model, (" river", ""), layer=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error", al.MassiveActivationWarning)
        al.compute_steering_vector(model, (" wedding", ""), layer=20)
        pair = al.PromptPair("I love it", "I hate it", prepend_bos=False)
        love = al.compute_steering_vector(model, pair, layer=20)
        al.preview(model, "How was your day?", love.row(1), position="all")
    with pytest.warns(al.MassiveActivationWarning, match="Token 0"):
        al.preview(model, "How was your day?", love.row(1), position="all+bos")
    (null,) = al.null_vectors(model, river, n=1)
    cosine = torch.cosine_similarity(null.activations[1], river.activations[1], dim=0)
    assert float(cosine) > 0.98  # massive in the same coordinate, and little else
