"""The real model: the same greedy texts by transformers, HookedTransformer and bridge; only where it was fetched."""

from functools import cache
from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens.models.fetching import fetched_folder
from actadd_lens.models.loading import Family
from tests.conftest import FAMILIES, HAS_HOOKED

pytestmark = [
    pytest.mark.skipif(fetched_folder("smollm2") is None, reason="smollm2 is not here: run `actadd fetch smollm2`"),
    pytest.mark.smollm2,
    # The vector of one-word prompts has massive rows, which is told once, and does not matter here.
    pytest.mark.filterwarnings("ignore::actadd_lens.steering.massive.MassiveActivationWarning"),
]
NEW_TOKENS = 12
STARTS = (
    "The weather this morning", "My neighbour told me", "In 1969, the", "She opened the letter and",
    "A good recipe for", "The first rule of chess", "Water boils at", "def fibonacci(n):", "Dear Sir or Madam,",
    "1. Wash the rice.\n\n2.",
)  # fmt: skip
QUESTIONS = (
    "Who are you?", "What is the capital of France?", "Write a line about rain.", "How many legs has a spider?",
    "Hi", "Name three colours.", "Is the moon a planet?", "Tell me a joke.", "What is 12 + 7?", "Thank you!",
)  # fmt: skip


@cache
def source() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(fetched_folder("smollm2"), local_files_only=True).eval()


@cache
def tokenizer() -> Any:
    """The folder's own; TransformerLens has its copy put BOS before every text."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(fetched_folder("smollm2"), local_files_only=True)


@cache
def loaded(family: Family) -> Any:
    return al.load_model("smollm2", family=family)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    if request.param == "hooked" and not HAS_HOOKED:
        pytest.skip("this TransformerLens has no HookedTransformer")
    return loaded(request.param)


@cache
def generated(tokens: tuple[int, ...]) -> list[int]:
    """What transformers writes, greedily."""
    with torch.no_grad():
        out = source().generate(
            torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens), dtype=torch.long), do_sample=False,
            max_new_tokens=NEW_TOKENS,
        )  # fmt: skip
    return out[0, len(tokens) :].tolist()


def written(model: Any, prompts: list[str]) -> list[list[int]]:
    """What `complete` writes in its unsteered condition, all prompts in one batch."""
    vector = 0 * al.compute_steering_vector(model, ("Love", "Hate"), layer=3)
    found = al.complete(model, prompts, vector, max_new_tokens=NEW_TOKENS, temperature=0, progress=False)
    return [list(row[0].tokens) for row in found.unsteered_continuations]


@pytest.mark.slow
def test_plain_prompts_go_on_as_in_transformers(model: Any) -> None:
    expected = [generated((tokenizer().bos_token_id, *tokenizer()(text).input_ids)) for text in STARTS]
    assert written(model, list(STARTS)) == expected


@pytest.mark.slow
def test_chat_prompts_are_answered_as_in_transformers(model: Any) -> None:
    rows = [
        tokenizer().apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
        for text in QUESTIONS
    ]
    expected = [generated(tuple(row)) for row in rows]
    assert written(model, [al.chat(model, text) for text in QUESTIONS]) == expected


@pytest.mark.slow
def test_the_models_own_generate_writes_the_same(model: Any) -> None:
    for prompt in (STARTS[1], al.chat(model, QUESTIONS[1])):
        tokens = model.to_tokens(prompt, prepend_bos=not prompt.startswith(model.tokenizer.bos_token))
        settings = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "verbose": False, "return_type": "tokens"}
        out = model.generate(tokens, **settings)[0, tokens.shape[1] :].tolist()
        assert out == generated(tuple(tokens[0].tolist()))


def test_the_model_is_the_one_that_is_meant(model: Any) -> None:
    cfg = model.cfg
    assert (cfg.model_name, cfg.n_layers, cfg.d_model, cfg.n_heads, cfg.d_vocab) == ("smollm2", 30, 576, 9, 49152)
    assert (model.tokenizer.bos_token, model.tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer().tokenize("a\n\n12") == model.tokenizer.tokenize("a\n\n12") == ["a", "ĊĊ", "1", "2"]


def test_a_row_of_love_and_hate_moves_the_answer(model: Any) -> None:
    pair = al.PromptPair("I love it", "I hate it", prepend_bos=False)
    love = al.compute_steering_vector(model, pair, layer=16).row(1).with_norm(60)
    metric = al.metrics.logit_difference(" love", " hate")
    prompts = [al.chat(model, text) + f"I{word}" for text in QUESTIONS[:4] for word in ("", " think I")]
    effects = [al.measure(model, prompts, sign * love, metric, position="all") for sign in (1, -1)]
    assert effects[0].effect.mean > 0 > effects[1].effect.mean
