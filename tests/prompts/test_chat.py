"""Chat prompts: the template's own text, one BOS, and who says which token."""

import math
import pickle
from pathlib import Path
from typing import Any

import pytest

import actadd_lens as al
from actadd_lens.cli import main
from actadd_lens.models import backend_of
from actadd_lens.prompts.chat import read_spans, token_parts, token_spans
from actadd_lens.prompts.texts import encode_prompts
from tests.models.gguf_files import CHAT
from tests.support import generate

TALK = [
    {"role": "user", "content": "a user"},
    {"role": "assistant", "content": "The dog"},
    {"role": "user", "content": " the  girl "},
]


@pytest.fixture
def talker(small: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model whose tokenizer has a template that begins with its BOS, as ChatML's does."""
    mark = small.tokenizer.bos_token
    template = CHAT.replace("<|im_start|>", mark).replace("<|im_end|>", "")
    monkeypatch.setattr(small.tokenizer, "chat_template", template)
    return small


@pytest.mark.parametrize("messages", ["The girl looked at the dog.", TALK, TALK[:1]])
@pytest.mark.parametrize("system", [None, "Be kind."])
def test_the_tokens_are_those_of_the_tokenizers_own_template(talker: Any, messages: Any, system: str | None) -> None:
    prompt = al.chat(talker, messages, system=system)
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    said = said if system is None else [{"role": "system", "content": system}, *said]
    expected = talker.tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=True)["input_ids"]
    backend = backend_of(talker)
    for prepend_bos in (True, False):
        assert encode_prompts(backend, [prompt], prepend_bos=prepend_bos) == [tuple(expected)]
    assert expected[:2].count(backend.bos_token_id) == 1


def test_each_part_holds_what_is_said_and_nothing_else(talker: Any) -> None:
    prompt = al.chat(talker, TALK, system="Be kind.")
    backend = backend_of(talker)
    (tokens,) = encode_prompts(backend, [prompt])
    spans = token_spans(talker, prompt)
    texts = {name: backend.decode(tokens[start:stop]) for name, (start, stop) in spans.items() if stop is not None}
    assert texts == {
        "system": "Be kind.", "user": " the  girl ", "user 1": "a user", "user 2": " the  girl ",
        "assistant 1": "The dog",
    }  # fmt: skip
    assert spans["assistant"] == spans["assistant 2"] == (len(tokens), None)
    parts = token_parts(talker, prompt)
    assert len(parts) == len(tokens)
    for index, part in enumerate(parts):
        inside = {name for name, (start, stop) in spans.items() if stop is not None and start <= index < stop}
        assert {name.split()[0] for name in inside} == ({part} - {"template"})


def test_a_template_without_bos_gets_the_one_that_every_prompt_gets(
    talker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talker.tokenizer, "chat_template", CHAT.replace("<|im_start|>", "|say|"))
    prompt, backend = al.chat(talker, "The dog"), backend_of(talker)
    (with_bos,), (without,) = (encode_prompts(backend, [prompt], prepend_bos=value) for value in (True, False))
    assert with_bos == (backend.bos_token_id, *without)
    for tokens, prepend_bos in ((with_bos, True), (without, False)):
        start, stop = token_spans(talker, prompt, prepend_bos=prepend_bos)["user"]
        assert backend.decode(tokens[start:stop]) == "The dog"
        assert token_parts(talker, prompt, prepend_bos=prepend_bos)[0] == "template"


def test_a_template_that_trims_tells_where_the_rest_lies(talker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template = talker.tokenizer.chat_template.replace("message['content']", "message['content'] | trim")
    monkeypatch.setattr(talker.tokenizer, "chat_template", template)
    prompt = al.chat(talker, "  The dog \n")
    (part, turn) = prompt.parts
    assert prompt[part.start : part.stop] == "The dog"
    assert (turn.name, turn.start, turn.stop) == ("assistant", len(prompt), None)


def test_a_template_that_rewrites_a_message_is_refused(talker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template = talker.tokenizer.chat_template.replace("message['content']", "message['content'] | upper")
    monkeypatch.setattr(talker.tokenizer, "chat_template", template)
    with pytest.raises(al.PromptError, match=r"does not write message 0 \(user\) as it is"):
        al.chat(talker, "The dog")


def test_a_chat_prompt_is_used_wherever_prompts_are(talker: Any) -> None:
    prompt = al.chat(talker, "The dog")
    assert pickle.loads(pickle.dumps(prompt)).parts == prompt.parts
    vector = al.compute_steering_vector(talker, ("Love", "Hate"), layer=2)
    found = al.complete(talker, [prompt, "The dog"], vector, max_new_tokens=3, temperature=0, progress=False)
    assert found.prompts == (prompt, "The dog")
    again = al.complete(talker, str(prompt), vector, max_new_tokens=3, temperature=0, prepend_bos=False, progress=False)
    assert again.steered[0] == found.steered[0]
    al.measure(talker, [prompt, "The dog"], vector, al.metrics.entropy(), nulls=2)


def test_preview_tells_the_templates_tokens_from_the_users(talker: Any) -> None:
    vector = al.compute_steering_vector(talker, ("Love", "Hate"), layer=2)
    seen = al.preview(talker, al.chat(talker, "The dog"), vector)
    assert seen.parts == token_parts(talker, al.chat(talker, "The dog"))
    assert set(seen.frame()["part"]) == {"template", "user"}
    assert all(part in line for part, line in zip(seen.parts, str(seen).splitlines(), strict=True))
    assert seen._repr_html_().count("color:gray") == seen.parts.count("template")
    assert seen._repr_html_().count("<tr>") == math.ceil(len(seen.tokens) / 10) > 1
    plain = al.preview(talker, "The dog sat", vector)
    assert plain.parts == ()
    assert "part" not in plain.frame()


@pytest.mark.parametrize(
    ("messages", "system", "message"),
    [
        ([], None, "The conversation is empty"),
        ([{"role": "user"}], None, "is not a message: expected a mapping"),
        ([{"role": "user", "content": 3}], None, "is not a message: expected a mapping"),
        ([{"role": "assistent", "content": "A"}], None, "did you mean 'assistant'"),
        (["Hi"], None, "'Hi' is not a message"),
        ([{"role": "system", "content": "A"}, *TALK], "B", "leave one out"),
        ("Hi", 3, "The system message is 3"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_conversations_are_told(talker: Any, messages: Any, system: Any, message: str) -> None:
    with pytest.raises(al.PromptError, match=message):
        al.chat(talker, messages, system=system)


def test_what_the_template_itself_refuses_is_told(talker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talker.tokenizer, "chat_template", "{{ raise_exception('Roles must take turns') }}")
    with pytest.raises(al.PromptError, match="rejects this conversation: Roles must take turns"):
        al.chat(talker, "Hi")


def test_a_tokenizer_without_a_template_is_told(small: Any) -> None:
    with pytest.raises(al.PromptError, match="has no chat template.*write the prompt as a text"):
        al.chat(small, "Hi")


def test_only_a_chat_prompt_has_parts(small: Any) -> None:
    with pytest.raises(al.PromptError, match=r"'Hi' is not a chat prompt.*make one by chat\(\)"):
        token_spans(small, "Hi")


def test_the_command_line_writes_a_chat(gpt2_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    folder = tmp_path / "talker"
    shutil.copytree(gpt2_folder, folder)
    (folder / "chat_template.jinja").write_text(CHAT.replace("<|im_start|>", "<|endoftext|>"))
    told = [
        "steer",
        "The dog",
        "--model",
        str(folder),
        "--pair",
        "Love",
        "Hate",
        "--layer",
        "1",
        "--max-new-tokens",
        "2",
    ]
    assert main([*told, "--chat", "--system", "Be kind."]) == 0
    printed = capsys.readouterr().out
    assert "<|endoftext|>system\nBe kind.<|im_end|>\n<|endoftext|>user\nThe dog<|im_end|>" in printed
    assert main([*told, "--system", "Be kind."]) == 2
    assert "--system needs --chat" in capsys.readouterr().err


@pytest.mark.parametrize("messages", ["The girl looked at the dog.", TALK])
@pytest.mark.parametrize("system", [None, "Be kind."])
def test_the_parts_can_be_told_from_the_tokens_alone(talker: Any, messages: Any, system: str | None) -> None:
    prompt, backend = al.chat(talker, messages, system=system), backend_of(talker)
    tokens = backend.encode(prompt)
    assert read_spans(backend, tokens) == token_spans(talker, prompt)
    assert read_spans(backend, tokens[:-1]) is None
    assert read_spans(backend, backend.encode("The girl looked at the dog.")) is None


def test_positions_name_the_parts_of_a_chat(talker: Any) -> None:
    prompt = al.chat(talker, TALK, system="Be kind.")
    vector = al.compute_steering_vector(talker, (" happy", " sad"), layer=2).row(-1)
    spans = token_spans(talker, prompt)

    def touched(position: Any) -> list[int]:
        return [touch.token for touch in al.preview(talker, prompt, vector, position=position).touches]

    for role in ("system", "user"):
        start, stop = spans[role]
        assert touched(role) == list(range(start, stop or 0)) != []
    assert touched("assistant") == []
    length = len(backend_of(talker).encode(prompt))
    assert touched(al.after("assistant")) == [length - 1]
    assert touched(al.after("user")) == list(range(spans["user"][0] - 1, length))


def test_a_part_is_steered_alike_whether_the_prompt_or_only_its_tokens_are_known(talker: Any) -> None:
    prompts = [al.chat(talker, "The girl"), al.chat(talker, TALK, system="Be kind.")]
    vector = 8 * al.compute_steering_vector(talker, (" happy", " sad"), layer=2).row(-1)
    for position in ("user", "assistant", al.after("assistant")):
        written = al.complete(talker, prompts, vector, position=position, temperature=0, max_new_tokens=5)
        for prompt, (continuation,) in zip(prompts, written.steered_continuations, strict=True):
            tokens = talker.to_tokens(prompt, prepend_bos=False)
            with al.steer(talker, vector.at(position=position)):
                found = generate(talker, tokens, 5)[0, -5:].tolist()
            assert list(continuation.tokens)[:5] == found[: len(continuation.tokens)]


def test_what_is_no_chat_has_no_parts(talker: Any) -> None:
    vector = al.compute_steering_vector(talker, (" happy", " sad"), layer=2).row(-1)
    with pytest.raises(al.PositionError, match="not a chat prompt"):
        al.preview(talker, "The girl looked", vector, position="user")
    with pytest.raises(al.PositionError, match="only assistant"):
        al.preview(talker, al.chat(talker, "Hi"), vector, position="system")
    touched = al.preview(talker, "The user looked", vector, position=al.after("user")).touches
    assert touched[0].text.endswith("r")  # outside a chat a mark is a text
