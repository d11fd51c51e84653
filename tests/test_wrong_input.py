"""What bad input gets: value, expectation and remedy, before any injected block has computed."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actadd_lens as al
from tests.support import FAMILIES_HERE, PAIRS, tokens_of, vector_of

PROMPT = "The girl looked at the dog. She felt"
NAN, INF = float("nan"), float("inf")

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def vector(small: Any) -> al.SteeringVector:
    return vector_of(small, PAIRS[0], 2)


@pytest.fixture
def finished(small: Any) -> Iterator[list[int]]:
    """Blocks that have computed, in order."""
    done: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: done.append(layer))
        for layer, block in enumerate(small.blocks)
    ]
    yield done
    for handle in handles:
        handle.remove()


def verbs(model: Any, vector: al.SteeringVector, **options: Any) -> dict[str, Any]:
    """Every verb that takes a vector."""
    prompt, position = options.get("prompt", PROMPT), options.get("position", "front")
    return {
        "complete": lambda: al.complete(model, prompt, vector, position=position),
        "preview": lambda: al.preview(model, prompt, vector, position=position),
        "measure": lambda: al.measure(model, prompt, vector, al.metrics.entropy(), position=position),
        "steer": lambda: _steered_pass(model, vector, **options),
        "fwd_hooks": lambda: _hooked_pass(model, vector, **options),
    }


def _steered_pass(model: Any, vector: Any, prompt: str = PROMPT, position: Any = "front") -> None:
    with al.steer(model, vector, position=position):
        model(tokens_of(model, prompt))


def _hooked_pass(model: Any, vector: Any, prompt: str = PROMPT, position: Any = "front") -> None:
    model.run_with_hooks(tokens_of(model, prompt), fwd_hooks=al.fwd_hooks(model, vector, position=position))


VERBS = ["complete", "preview", "measure", "steer", "fwd_hooks"]


# -- layers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [5, 12, -1, 10**30])
def test_a_layer_out_of_range(small: Any, finished: list[int], layer: int) -> None:
    with pytest.raises(al.LayerError, match=f"^Layer {layer} does not exist: small has layers 0 to 3, and 4 for"):
        al.compute_steering_vector(small, PAIRS[0], layer=layer)
    with pytest.raises(ValueError, match="does not exist"):
        al.compute_steering_vectors(small, PAIRS, layers=[0, layer])
    assert not finished


@pytest.mark.parametrize("layer", [1.5, 2.0, "2", None, True, [1], np.float64(2)])
def test_a_layer_that_is_no_integer(small: Any, finished: list[int], layer: Any) -> None:
    with pytest.raises(al.LayerError, match="is not an integer: small has layers 0 to 3"):
        al.compute_steering_vector(small, PAIRS[0], layer=layer)
    assert not finished


def test_numpy_integers_are_layers(small: Any, vector: al.SteeringVector) -> None:
    numbers: tuple[Any, ...] = (np.int64(2), np.int32(2), np.uint8(2), torch.tensor(2))
    for layer in numbers:
        found = al.compute_steering_vector(small, PAIRS[0], layer=layer)
        assert torch.equal(found.activations, vector.activations)
        assert type(found.layer) is int


@pytest.mark.parametrize("verb", VERBS)
def test_a_vector_of_a_layer_that_the_model_lacks(small: Any, vector: Any, finished: list[int], verb: str) -> None:
    with pytest.raises(al.LayerError, match="Layer 9 does not exist: small has layers 0 to 3"):
        verbs(small, vector.at_layer(9))[verb]()
    assert not finished


def test_no_layer_and_no_pair(small: Any) -> None:
    with pytest.raises(al.LayerError, match="No layer was given: pass at least one"):
        al.compute_steering_vectors(small, PAIRS, layers=[])
    with pytest.raises(al.PromptError, match="No prompt pair was given: pass at least one"):
        al.compute_steering_vectors(small, [], layers=[1])
    with pytest.raises(al.LayerError, match="Layer 3 was not computed: these vectors have layers 1, 2"):
        al.compute_steering_vectors(small, PAIRS, layers=[1, 2])[0, 3]


# -- prompts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negative", ["", None])
def test_both_prompts_empty(small: Any, finished: list[int], negative: Any) -> None:
    with pytest.raises(al.PromptError, match="Both prompts are empty.*give at least one of them a text"):
        al.compute_steering_vector(small, ("", negative), layer=1)
    assert not finished


@pytest.mark.parametrize(
    "pair", [("Love", 3), (None, "Hate"), (b"Love", "Hate"), ("Love",), "Love", 3, None, ("a", "b", "c")]
)
def test_a_pair_that_is_none(small: Any, finished: list[int], pair: Any) -> None:
    with pytest.raises(
        al.PromptError, match=r"is not a prompt pair: pass \(positive, negative\)|prompt is .*: expected a text"
    ):
        al.compute_steering_vector(small, pair, layer=1)
    assert not finished


@pytest.mark.parametrize(
    ("pad", "told"),
    [
        (
            "wedding cake",
            r"The pad 'wedding cake' is \d+ tokens for small, but must be exactly one: choose another text",
        ),
        ("", "The pad '' is 0 tokens"),
        (-1, "The pad -1 is not a token id of small: ids go from 0 to 499"),
        (500, "ids go from 0 to 499"),
        (1.5, "The pad 1.5 is not a token id"),
        (True, "The pad True is not a token id"),
    ],
)
def test_a_pad_that_is_not_one_token(small: Any, finished: list[int], pad: Any, told: str) -> None:
    for pair in (al.PromptPair("Love and peace", "Hate", pad=pad), al.PromptPair("Love", "Love", pad=pad)):
        with pytest.raises(al.PromptError, match=told):
            al.compute_steering_vector(small, pair, layer=1)
    assert not finished


def test_numpy_integers_are_pads(small: Any) -> None:
    number: Any = np.int64(7)
    negative = al.PromptPair("Love and peace", "Hate", pad=number).tokens(small).negative
    assert negative is not None
    assert negative[-1] == 7


def test_prompts_longer_than_the_context(small: Any, vector: Any, finished: list[int]) -> None:
    text = "the dog " * 60
    with pytest.raises(al.PromptError, match=r"is \d+ tokens long, but small reads at most 64"):
        al.compute_steering_vector(small, (text, "Hate"), layer=1)
    with pytest.raises(
        al.PromptError, match=r"has \d+ tokens and 40 new ones, but small reads at most 64: shorten it or"
    ):
        al.complete(small, text, vector)
    for run in (lambda: al.preview(small, text, vector), lambda: al.measure(small, text, vector, al.metrics.entropy())):
        with pytest.raises(al.PromptError, match=r"has \d+ tokens, but small reads at most 64: shorten it"):
            run()
    assert not finished


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        ([], "No prompt was given"),
        (3, "is not text|No prompt"),
        ([PROMPT, 3], "The prompt 3 is not text"),
        (torch.tensor([[1, 2]]), "is not text: .*inside al.steer"),
        ([[PROMPT]], "is not text: pass one text here"),
        (None, "None is not text|No prompt"),
    ],
)
def test_prompts_that_are_none(small: Any, vector: Any, finished: list[int], prompts: Any, told: str) -> None:
    for run in (
        lambda: al.complete(small, prompts, vector),
        lambda: al.measure(small, prompts, vector, al.metrics.entropy()),
    ):
        with pytest.raises(al.PromptError, match=told):
            run()
    assert not finished


def test_an_empty_prompt_needs_bos(small: Any, vector: Any) -> None:
    with pytest.raises(al.PromptError, match="An empty prompt without BOS has no tokens: give it a text, or BOS"):
        al.complete(small, "", vector, prepend_bos=False)


# -- positions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("position", ["front", "mid", "back", 0])
def test_a_vector_taller_than_the_prompt(
    small: Any, vector: Any, finished: list[int], verb: str, position: Any
) -> None:
    told = f"^A vector of {vector.rows} rows at position {position!r} does not fit onto a prompt of 2 tokens.*longer"
    with pytest.raises(al.PositionError, match=told):
        verbs(small, vector, prompt="a", position=position)[verb]()
    assert 2 not in finished
    assert verb in ("steer", "fwd_hooks") or not finished


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("position", [60, 10**20])
def test_a_position_out_of_range(small: Any, vector: Any, finished: list[int], verb: str, position: int) -> None:
    with pytest.raises(al.PositionError, match=f"at position {position} does not fit onto a prompt of .* tokens"):
        verbs(small, vector, position=position)[verb]()
    assert 2 not in finished


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("position", "told"),
    [
        (-1, "Position -1 is negative: token indices start at 0.*use 'back' for the end"),
        (1.5, "Position 1.5 is not an index"),
        ("end", "Position 'end' is not known: use an index from 0, one of front, mid, back, all"),
        (None, "None is not an index"),
        (True, "True is not an index"),
        ("all", "takes a vector of one row, but this one has .*mean_rows"),
    ],
)
def test_a_position_that_is_none(
    small: Any, vector: Any, finished: list[int], verb: str, position: Any, told: str
) -> None:
    with pytest.raises(al.PositionError, match=told):
        verbs(small, vector, position=position)[verb]()
    assert not finished


@pytest.mark.parametrize("lengths", [[], [0], [-3], [2.5], ["3"], [True], 0, "3", 2.5])
def test_prompt_lengths_that_are_none(small: Any, vector: Any, lengths: Any) -> None:
    with pytest.raises(al.PositionError, match="is not a list of token counts: give one integer from 1 per row"):
        al.fwd_hooks(small, vector, prompt_lengths=lengths)


# -- coefficients and vectors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [NAN, INF, -INF, np.float32("nan"), 10**400])
def test_a_coefficient_that_is_not_finite(vector: Any, number: Any) -> None:
    for run in (
        lambda: number * vector,
        lambda: vector * number,
        lambda: vector / number,
        lambda: al.SteeringVector(vector.activations, 2, number),
    ):
        with pytest.raises(al.CoefficientError, match="The coefficient .* is not finite"):
            run()


def test_a_coefficient_beyond_all_floats(vector: Any) -> None:
    with pytest.raises(al.CoefficientError, match="inf is not finite"):
        1e200 * (1e200 * vector)
    with pytest.raises(al.CoefficientError, match="cannot be divided by 0"):
        vector / 0
    with pytest.raises(al.CoefficientError, match="'5' is not a number"):
        al.SteeringVector(vector.activations, 2, "5")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError):
        "5" * vector


def test_an_injection_beyond_all_floats(small: Any, vector: Any, finished: list[int]) -> None:
    with pytest.raises(al.ActAddError, match="infinite|finite"):
        al.complete(small, PROMPT, 1e300 * vector)
    assert not finished


@pytest.mark.parametrize("verb", VERBS)
def test_a_vector_of_another_model(small: Any, embedded: Any, finished: list[int], verb: str) -> None:
    other = vector_of(embedded, PAIRS[0], 2)
    told = r"was read from storybook \(8 layers, d_model 192\), but the model here is small \(4 layers, d_model 32\)"
    with pytest.raises(al.FingerprintError, match=told):
        verbs(small, other)[verb]()
    assert not finished


@pytest.mark.parametrize("vectors", [None, 3, "Love", [], [3], torch.ones(2, 32), ("Love", "Hate")])
def test_vectors_that_are_none(small: Any, vectors: Any, finished: list[int]) -> None:
    for run in (
        lambda: al.complete(small, PROMPT, vectors),
        lambda: al.fwd_hooks(small, vectors),
        lambda: al.preview(small, PROMPT, vectors),
    ):
        with pytest.raises(
            al.VectorError, match="is not a steering vector: use compute_steering_vector|No steering vector was"
        ):
            run()
    with pytest.raises(al.VectorError, match="No steering vector was given"):
        with al.steer(small):
            pass
    assert not finished


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (torch.ones(2, 3, 4), r"shape torch.Size\(\[2, 3, 4\]\).*expected \[pos, d_model\]"),
        ([[1.0]], "A list holds no rows"),
        (torch.ones(0, 4), "expected"),
        (torch.ones(2, 4, dtype=torch.int64), "type torch.int64.*expected floats"),
        (torch.tensor([[1.0, NAN]]), "NaN or infinite"),
        (np.ones((2, 4), dtype=object), "expected"),
        (torch.tensor(1.0), "expected"),
    ],
)
def test_rows_that_are_no_vector(rows: Any, told: str) -> None:
    with pytest.raises(al.VectorError, match=told):
        al.SteeringVector.from_tensor(rows, layer=1, source="mine")


@pytest.mark.parametrize("layer", [-1, 1.5, "1", True, None])
def test_a_vector_of_no_layer(layer: Any) -> None:
    with pytest.raises(al.LayerError, match=f"Layer {layer!r} is not a layer: expected an integer from 0"):
        al.SteeringVector.from_tensor(torch.ones(1, 4), layer=layer, source="mine")


def test_vectors_that_do_not_go_together(vector: Any) -> None:
    for other, told in (
        (vector.at_layer(3), "Vectors with layer 2 and 3 cannot be added to one: pass both to steer instead"),
        (vector.at(position="back"), "position None and 'back' cannot be added"),
        (al.SteeringVector.from_tensor(torch.ones(1, 8), layer=2, source="mine"), "d_model 32 and 8 cannot be added"),
    ):
        with pytest.raises(al.VectorError, match=told):
            vector + other
    with pytest.raises(TypeError):
        vector + 1


def test_parts_that_do_not_exist(vector: Any) -> None:
    rows = vector.rows
    with pytest.raises(al.VectorError, match=f"Row {rows} does not exist: this vector has rows 0 to {rows - 1}"):
        vector.row(rows)
    for dimensions in ([32], [-40], "ab", [1.5], 3):
        with pytest.raises(al.VectorError, match="do not exist: d_model is 32"):
            vector.keep_dimensions(dimensions)
    with pytest.raises(al.VectorError, match="The norm -1 is not a valid size: expected numbers from 0"):
        vector.with_norm(-1)
    for norm in (NAN, INF):
        with pytest.raises(al.VectorError, match="expected finite numbers"):
            vector.with_norm(norm)
    with pytest.raises(al.VectorError, match=f"norms do not match {rows} rows"):
        vector.with_norm(torch.ones(rows + 1))


# -- settings of complete --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n": 0}, "n is 0: expected an integer from 1"),
        ({"n": 1.5}, "n is 1.5"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"seed": -1}, "seed is -1: expected an integer from 0"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"stop": ""}, "texts that are not empty"),
        ({"stop": [3]}, "texts that are not empty"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 2}, "top_p is 2"),
        ({"freq_penalty": 1.0}, "Did you mean 'frequency_penalty'"),
        ({"max_new_tokens": "9"}, "'9'"),
        ({"do_sample": False}, "no sampling option 'do_sample'"),
        ({"stop": 3}, "stop is 3|texts"),
    ],
)
def test_settings_out_of_range(
    small: Any, vector: Any, finished: list[int], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(al.SettingError, match=told):
        al.complete(small, PROMPT, vector, **options)
    assert not finished


def test_numpy_integers_are_settings(small: Any, vector: Any) -> None:
    one: Any = np.int64(1)
    two: Any = np.int64(2)
    found = al.complete(small, PROMPT, vector, n=two, max_new_tokens=two, seed=one)
    expected = al.complete(small, PROMPT, vector, n=2, max_new_tokens=2, seed=1)
    assert found.steered == expected.steered


# -- models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [None, 3, "gpt2", torch.nn.Linear(2, 2)])
def test_an_object_that_is_no_model(vector: Any, model: Any) -> None:
    for run in (
        lambda: al.compute_steering_vector(model, PAIRS[0], layer=1),
        lambda: al.complete(model, PROMPT, vector),
        lambda: al.fwd_hooks(model, vector),
        lambda: al.PromptPair("a", "b").tokens(model),
    ):
        with pytest.raises(al.ModelError, match="cannot be steered: pass a HookedTransformer or a Transf"):
            run()


def test_a_model_without_a_tokenizer(hooked: Any, vector: Any) -> None:
    from transformer_lens import HookedTransformer

    settings = dataclasses.replace(hooked.cfg, tokenizer_name=None)
    bare = HookedTransformer(settings, tokenizer=None, move_to_device=False)
    with pytest.raises(al.PromptError, match="has no tokenizer.*set_tokenizer"):
        al.compute_steering_vector(bare, PAIRS[0], layer=1)
    direction = al.SteeringVector.from_tensor(torch.ones(1, 32), layer=1, source="a probe")
    for position in ("front", "all"):  # tokens need no tokenizer
        with al.steer(bare, direction, position=position):
            bare(torch.tensor([[3, 4, 5]]))


@pytest.mark.parametrize(
    ("name", "near"),
    [("gpt2-xll", "gpt2-xl"), ("storibook", "storybook"), ("gtp2", "gpt2"), ("pythia-70mm", "pythia-70m")],
)
def test_an_unknown_name_gets_near_matches(name: str, near: str) -> None:
    with pytest.raises(al.ModelError, match=f"'{name}' is neither a model .* nor a folder here. Did you mean .*{near}"):
        al.load_model(name)


@pytest.mark.parametrize("name", ["", "zzzzqqqq", "no/such", 3, None])
def test_a_name_like_none(name: Any) -> None:
    with pytest.raises(al.ModelError):
        al.load_model(name, family="hooked")


def test_an_unknown_family(gpt2_folder: Path) -> None:
    with pytest.raises(al.ModelError, match="Family 'lens' is not known: use 'hooked', 'bridge'"):
        al.load_model(gpt2_folder, family="lens")  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("device", ["warp", "", 3.5, ["cpu"]])
def test_an_unknown_device(gpt2_folder: Path, device: Any) -> None:
    with pytest.raises(al.ModelError, match="is not known to torch: use 'cpu', 'cuda'"):
        al.load_model(gpt2_folder, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there(gpt2_folder: Path) -> None:
    with pytest.raises(al.ModelError, match="Device 'cuda' is not available: torch finds no CUDA device. Use 'cpu'"):
        al.load_model(gpt2_folder, device="cuda")


def test_a_folder_that_is_no_model(tmp_path: Path, gpt2_folder: Path) -> None:
    with pytest.raises(al.ModelError, match="There is no folder .*absent: give the path"):
        al.load_model(tmp_path / "absent")
    with pytest.raises(al.ModelError, match="is not a model folder: it holds no config.json"):
        al.load_model(str(tmp_path))
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(al.ModelError, match="is a file, not a model folder: give the folder"):
        al.load_model(file)
    shutil.copy(gpt2_folder / "config.json", tmp_path)
    with pytest.raises(al.ModelError, match=r"holds a config.json but no weights"):
        al.load_model(tmp_path)


@pytest.mark.parametrize("family", FAMILIES_HERE)
@pytest.mark.parametrize("harm", ["weights", "config", "tokenizer", "kind"])
def test_a_broken_folder(tmp_path: Path, gpt2_folder: Path, family: Any, harm: str) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(gpt2_folder, folder)
    if harm == "weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    elif harm == "config":
        (folder / "config.json").write_text("{not json")
    elif harm == "tokenizer":
        for file in folder.glob("tokenizer*"):
            file.unlink()
    else:
        (folder / "config.json").write_text('{"model_type": "no such kind", "architectures": ["NoSuch"]}')
    with pytest.raises(al.ModelError, match="broken"):
        al.load_model(folder, family=family)


def test_no_network_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for family in FAMILIES_HERE:
        with pytest.raises(
            al.ModelDownloadError, match="could not be fetched.*Check the network.*local folder.*embedded"
        ):
            al.load_model("gpt2-xl", family=family)
        with pytest.raises(OSError, match="is not on this machine"):
            al.load_model("gpt2-xl", family=family)


# -- the tree --------------------------------------------------------------------------------------------------


# -- what newcomers type -----------------------------------------------------------------------------------------


def test_one_text_where_several_are_expected(small: Any, vector: Any) -> None:
    with pytest.raises(al.SettingError, match="texts is one text: pass a list"):
        al.null_vectors(small, vector, n=1, texts="One sentence here.")
    with pytest.raises(al.SettingError, match=r"not a set of tokens: pass a list, such as \[' happy'\]"):
        al.metrics.token_set_logprob(" happy")


def test_one_pair_or_one_layer_where_several_are_expected(small: Any) -> None:
    with pytest.raises(al.PromptError, match="one prompt pair: pass a list"):
        al.compute_steering_vectors(small, ("Love", "Hate"), layers=[1])  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(al.LayerError, match=r"layers is 1: pass a list, such as \[1\]"):
        al.compute_steering_vectors(small, [("Love", "Hate")], layers=1)  # type: ignore[arg-type]  # wrong on purpose


def test_a_pair_of_the_same_text_twice_is_told_to_be_zero(small: Any) -> None:
    with pytest.warns(al.SteeringWarning, match="Both prompts of 'Love' − 'Love' are the same: its vector is zero"):
        vector = al.compute_steering_vector(small, ("Love", "Love"), layer=1)
    assert not vector.activations.any()


def test_a_scorer_that_was_not_called(small: Any, vector: Any, finished: list[int]) -> None:
    with pytest.raises(al.SettingError, match=r"makes a scorer: call it, scorers.sentiment\("):
        al.measure_completions(small, PROMPT, vector, al.scorers.sentiment)  # type: ignore[arg-type]  # wrong on purpose
    assert finished == []


@pytest.mark.parametrize(("keyword", "meant"), [("max_new_token", "max_new_tokens"), ("batchsize", "batch_size")])
def test_a_misspelt_keyword_of_complete(small: Any, vector: Any, keyword: str, meant: str) -> None:
    misspelt: dict[str, Any] = {keyword: 3}
    with pytest.raises(al.SettingError, match=f"Did you mean '{meant}'"):
        al.complete(small, PROMPT, vector, **misspelt)


@pytest.mark.parametrize("family", FAMILIES_HERE)
def test_a_misspelt_keyword_of_load_model(gpt2_folder: Path, family: Any) -> None:
    with pytest.raises(al.ModelError, match="Did you mean 'dtype'"):
        al.load_model(gpt2_folder, family=family, dtpye=torch.float16)
    with pytest.raises(al.ModelError, match="torch_dtype is called dtype"):
        al.load_model(gpt2_folder, family=family, torch_dtype=torch.float16)


def test_a_bridge_has_nothing_to_fold(gpt2_folder: Path) -> None:
    with pytest.raises(al.ModelError, match=r"no keyword 'fold_ln' for this family \(bridge\).*raw weights"):
        al.load_model(gpt2_folder, family="bridge", fold_ln=False)


@pytest.mark.parametrize("family", FAMILIES_HERE)
def test_a_precision_by_its_name(gpt2_folder: Path, family: Any) -> None:
    assert al.load_model(gpt2_folder, family=family, dtype="float16").cfg.dtype == torch.float16
    for wrong in ("half a byte", "int8", "", 16, 0):
        with pytest.raises(al.ModelError, match=r"dtype is .*use torch.float32"):
            al.load_model(gpt2_folder, family=family, dtype=wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_a_direction_that_does_not_go_with_its_model(small: Any) -> None:
    with pytest.raises(al.VectorError, match="d_model 7"):
        al.SteeringVector.from_tensor(torch.ones(7), layer=1, source="a probe", model=small)
    with pytest.raises(al.LayerError):
        al.SteeringVector.from_tensor(torch.ones(small.cfg.d_model), layer=99, source="a probe", model=small)


def test_another_width_is_not_offered_as_something_to_mean(small: Any, embedded: Any) -> None:
    vector = vector_of(small, PAIRS[0], 2)
    with pytest.raises(al.FingerprintError, match="It cannot be added there") as told:
        al.preview(embedded, PROMPT, vector)
    assert "for_model" not in str(told.value)


def test_effects_without_names(small: Any, vector: Any) -> None:
    measured = al.measure(small, PROMPT, vector, al.metrics.entropy())
    with pytest.raises(al.SettingError, match="effects by name"):
        al.plots.plot_effects(measured.effect)  # type: ignore[arg-type]  # wrong on purpose


def test_several_vectors_go_to_steer_one_by_one_or_as_a_list(small: Any, vector: Any) -> None:
    other = vector_of(small, PAIRS[1], 1)
    logits = []
    for vectors in ((vector, other), ([vector, other],)):
        with torch.no_grad(), al.steer(small, *vectors):
            logits.append(small(tokens_of(small, PROMPT)))
    assert torch.equal(*logits)


def test_every_error_is_of_one_tree_and_a_builtin() -> None:
    from actadd_lens import errors

    found = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, Exception)]
    for error in found:
        assert issubclass(error, al.ActAddError)
        assert error is al.ActAddError or issubclass(
            error, (ValueError, OSError, RuntimeError, ArithmeticError, ImportError)
        )
        assert error.__name__ in (errors.__doc__ or "")
        assert getattr(al, error.__name__) is error
