"""The user's own data: files as texts and tables, and the roles that they play."""

from pathlib import Path

import pytest

from actadd_lens.errors import SettingError
from actadd_lens.experiments.inputs import (
    Role,
    labelled_of,
    merged,
    read_labelled,
    read_roles,
    read_settings,
    read_table,
    read_texts,
    texts_of,
    words_of,
)

ROLES = {
    "perplexity": {"on_topic": Role("on_topic", "texts", texts_of), "words": Role("words", "words", words_of)},
    "topics": {"prompts": Role("prompts", "texts", texts_of), "words": Role("words", "words", words_of)},
    "sentiment": {"labelled": Role("prompts", "texts by label", labelled_of, ("text", "label"))},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lines.txt").write_text("The dog ran.\n\n  She felt \n")
    (tmp_path / "table.csv").write_text('review,mood\n"Good, so good",up\nBad,down\nFine,up\n,up\n')
    (tmp_path / "nested.jsonl").write_text(
        '{"prompt": {"text": "So he", "toxicity": 0.1}}\n\n{"prompt": {"text": "It"}}\n'
    )
    (tmp_path / "words.txt").write_text("Bride, groom\nwed\nbride\n")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "list.jsonl").write_text("[1, 2]\n")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    return tmp_path


def test_a_text_file_holds_a_text_a_line(folder: Path) -> None:
    assert read_texts(folder / "lines.txt") == ("The dog ran.", "She felt")


def test_columns_are_taken_by_name_without_empty_rows(folder: Path) -> None:
    assert read_texts(folder / "table.csv", column="review") == ("Good, so good", "Bad", "Fine")
    assert list(read_table(folder / "table.csv").columns) == ["review", "mood"]


def test_a_dotted_name_reaches_into_nested_json(folder: Path) -> None:
    assert read_texts(folder / "nested.jsonl", column="prompt.text") == ("So he", "It")


def test_labels_keep_the_order_of_the_file(folder: Path) -> None:
    found = read_labelled(folder / "table.csv", column="review", label="mood")
    assert found == {"up": ("Good, so good", "Fine"), "down": ("Bad",)}
    assert list(found) == ["up", "down"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("absent.txt", "There is no file"),
        ("empty.txt", "holds no row"),
        ("table.csv", "has no column 'text': it has review, mood"),
        ("list.jsonl", "expected an object a line"),
        ("latin.txt", "cannot be read as .txt"),
    ],
)
def test_what_cannot_be_read_is_told(folder: Path, name: str, told: str) -> None:
    with pytest.raises(SettingError, match=told):
        read_texts(folder / name)


def test_a_file_plays_its_role_in_every_experiment_that_has_it(folder: Path) -> None:
    found = read_roles(ROLES, [f"words={folder / 'words.txt'}"])
    assert found == {name: {"words": ("bride", "groom", "wed")} for name in ("perplexity", "topics")}
    assert read_roles(ROLES, [f"topics.words={folder / 'words.txt'}"]) == {
        "topics": {"words": ("bride", "groom", "wed")}
    }


def test_columns_are_told_by_role(folder: Path) -> None:
    columns = ["labelled.text=review", "sentiment.labelled.label=mood", "prompts.text=prompt.text"]
    files = [f"labelled={folder / 'table.csv'}", f"prompts={folder / 'nested.jsonl'}"]
    found = read_roles(ROLES, files, columns)
    assert found["sentiment"]["prompts"] == {"up": ("Good, so good", "Fine"), "down": ("Bad",)}
    assert found["topics"]["prompts"] == ("So he", "It")


def test_several_files_in_one_role_are_taken_together(folder: Path) -> None:
    two = [f"on_topic={folder / name}" for name in ("lines.txt", "words.txt")]
    assert read_roles(ROLES, two)["perplexity"]["on_topic"] == (
        "The dog ran.",
        "She felt",
        "Bride, groom",
        "wed",
        "bride",
    )


def test_of_large_files_some_rows_are_taken_evenly(folder: Path) -> None:
    (folder / "many.txt").write_text("\n".join(map(str, range(100))))
    found = read_roles(ROLES, [f"prompts={folder / 'many.txt'}"], most=4)
    assert found["topics"]["prompts"] == ("0", "33", "66", "99")
    columns = ["labelled.text=review", "labelled.label=mood"]
    found = read_roles(ROLES, [f"labelled={folder / 'table.csv'}"], columns, most=1)
    assert found["sentiment"]["prompts"] == {"up": ("Good, so good",), "down": ("Bad",)}
    with pytest.raises(SettingError, match="most is 0"):
        read_roles(ROLES, [], most=0)


@pytest.mark.parametrize(
    ("files", "columns", "told"),
    [
        (["facts=x.csv"], [], "no 'facts' to give a file to. .* perplexity.on_topic"),
        (["topics.on_topic=x.txt"], [], "no 'topics.on_topic'"),
        (["words"], [], "'words' is not ROLE=FILE"),
        (["words=absent.txt"], [], "There is no file absent.txt"),
        ([], ["words.text=a"], "no file"),
        ([], ["words.answer=a"], "needs no 'answer' of a file, but text"),
    ],
)
def test_wrong_roles_are_told_before_anything_is_read(files: list[str], columns: list[str], told: str) -> None:
    with pytest.raises(SettingError, match=told):
        read_roles(ROLES, files, columns)


def test_settings_are_json_or_text_and_later_ones_win() -> None:
    told = read_settings(["topics.n=4", "topics.null-kind=gaussian", 'sentiment.pairs=[["Love", "Hate"]]'])
    assert told == {"topics": {"n": 4, "null_kind": "gaussian"}, "sentiment": {"pairs": (("Love", "Hate"),)}}
    assert merged(told, {"topics": {"n": 5}})["topics"] == {"n": 5, "null_kind": "gaussian"}
    with pytest.raises(SettingError, match="EXPERIMENT.SETTING=VALUE"):
        read_settings(["n=4"])


# -- as they stand ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        (
            "a.csv",
            b"text\nNA\nNone\n1990\n007\nnan\nTrue\n1.50\n",
            ("NA", "None", "1990", "007", "nan", "True", "1.50"),
        ),
        ("a.CSV", b"\xef\xbb\xbftext,label\r\n' a',x\r\n", ("' a'",)),
        ("a.TSV", b"text\tlabel\nGood, so good\tup\n", ("Good, so good",)),
        ("a.csv", b'text\n"[""a"", ""b""]"\n', ('["a", "b"]',)),
        ("a.csv", b'text\n"two\nlines"\n', ("two\nlines",)),
        ("a.JSONL", b'{"text": 1990}\n{"text": 0.10}\n{"text": "007"}\n{"text": null}\n', ("1990", "0.10", "007")),
        ("a.json", b'[{"text": "one"}, {"text": "two"}]', ("one", "two")),
        ("a.txt", b"\xef\xbb\xbfone\r\nNA\r\nline\xe2\x80\xa8still\n", ("one", "NA", "line\u2028still")),
    ],
)
def test_texts_are_read_as_they_stand(tmp_path: Path, name: str, content: bytes, texts: tuple[str, ...]) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_texts(tmp_path / name) == texts


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "a.csv",
            b"text,label\nGood, so good,up\n",
            "row 2, .* has 3 cells, but the head has 2: put a text .* in double quotes",
        ),
        ("a.csv", b"text,label\nGood\n", "has 1 cells, but the head has 2"),
        ("a.csv", b"text,text\na,b\n", "expected each name once"),
        ("a.csv", b'text\n"never closed\n', "cannot be read as .csv"),
        ("a.csv", "text\na\n".encode("utf-16"), "cannot be read as .csv: it holds zero bytes"),
        ("a.jsonl", b'{"text": ["a", "b"]}\n', "holds .*'a', 'b'.* in column 'text': expected a text"),
        ("a.jsonl", b'{"text": true}\n', "holds True in column 'text'"),
        ("a.json", b'{"text": "a"}', "expected a list of objects"),
        ("a.json", b'["a"]', "expected an object"),
        ("a.csv", b"", "has no column 'text'"),
    ],
)
def test_what_could_be_read_two_ways_is_refused(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingError, match=told):
        read_texts(tmp_path / name)
