"""What the playground can do, without a browser: a session's plain values, and the server that hands them on."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import actadd_lens as al
from actadd_lens.play import Session, readings, server
from actadd_lens.play.readings import fitting_texts
from actadd_lens.play.settings import Settings

pytest.importorskip("starlette", reason="the extra [play] is not installed")


@pytest.fixture(scope="module")
def session(embedded: Any) -> Session:
    return Session(embedded, "storybook")


@pytest.fixture
def start(session: Session) -> Settings:
    return dataclasses.replace(session.start, max_new_tokens=6)


@pytest.fixture
def page(session: Session) -> Iterator[Any]:
    from starlette.testclient import TestClient

    with TestClient(server.app_of(session)) as client:
        yield client


def asked(settings: Settings, **changes: Any) -> dict[str, Any]:
    return {**vars(settings), **changes}


# -- the session -----------------------------------------------------------------------------------------------


def test_texts_are_those_of_complete_and_grow_token_by_token(session: Session, start: Settings, embedded: Any) -> None:
    seen: list[dict[str, Any]] = []
    found = session.write(start, seen.append)
    vector = start.coefficient * al.compute_steering_vector(embedded, (start.positive, start.negative), layer=4)
    expected = al.complete(embedded, start.prompt, vector, max_new_tokens=6, top_p=0.9)
    assert (found["steered"]["text"], found["unsteered"]["text"]) == (expected.steered[0][0], expected.unsteered[0][0])
    assert len(seen) == 6
    for before, after in itertools.pairwise(seen):
        assert after["steered"].startswith(before["steered"])
    assert seen[-1]["steered"] == expected.steered[0][0]


def test_a_token_is_coloured_by_what_both_models_think_of_it(session: Session, start: Settings, embedded: Any) -> None:
    for position in ("front", "back", "all"):
        rows = "last" if position == "all" else "all"
        asked_for = dataclasses.replace(start, position=position, rows=rows)
        token = session.write(asked_for)["steered"]["tokens"][0]
        metric = al.metrics.next_token_logprob(token["text"])
        vector = session.vector(asked_for)
        expected = al.measure(embedded, start.prompt, vector, metric, position=position, progress=False)
        assert token["steered"] == pytest.approx(expected.steered[0], abs=1e-4), position
        assert token["unsteered"] == pytest.approx(expected.unsteered[0], abs=1e-4), position


def test_without_a_coefficient_no_token_changes(session: Session, start: Settings) -> None:
    found = session.write(dataclasses.replace(start, coefficient=0.0))
    assert found["steered"] == found["unsteered"]
    assert all(token["steered"] == token["unsteered"] for token in found["steered"]["tokens"])


def test_look_shows_what_preview_does(session: Session, start: Settings, embedded: Any) -> None:
    found = session.look(start)
    expected = al.preview(embedded, start.prompt, session.vector(start))
    assert [token["text"] for token in found["tokens"]] == list(expected.tokens)
    assert [row["relative"] for token in found["tokens"] for row in token["rows"]] == [
        touch.relative for touch in expected.touches
    ]


def test_the_lines_of_python_write_the_same_text(
    session: Session, start: Settings, embedded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(al, "load_model", lambda name: embedded)
    for changes in ({}, {"rows": "last", "norm": 80.0, "position": "all", "bos": False}, {"temperature": 0.0}):
        settings = dataclasses.replace(start, **changes)
        lines = session.look(settings)["code"].replace("al.complete(", "found = al.complete(")
        names: dict[str, Any] = {}
        exec(lines, names)
        assert names["found"].steered[0][0] == session.write(settings)["steered"]["text"], changes


def test_an_effect_comes_with_its_nulls(session: Session, start: Settings, embedded: Any) -> None:
    found = session.measure(start, "difference", 3, (" happy", " sad"))
    prompts = al.storybook.neutral_prompts()[:16]
    metric = al.metrics.logit_difference(" happy", " sad")
    expected = al.measure(embedded, prompts, session.vector(start), metric, nulls=3, progress=False).effect
    assert (found["mean"], found["low"], found["nulls"]) == (expected.mean, expected.low, expected.nulls.tolist())
    assert session.measure(start, "damage", 1)["mean"] > 0
    with pytest.raises(al.SettingError, match="nulls is 0"):
        session.measure(start, "difference", 0)
    with pytest.raises(al.SettingError, match="what is measured"):
        session.measure(start, "happiness", 3)


def test_a_saved_vector_can_be_uploaded_and_writes_the_same(session: Session, start: Settings) -> None:
    told = session.upload(session.save(start))
    assert told["layer"] == 4
    again = dataclasses.replace(start, vector=told["key"], coefficient=1.0, positive="")
    assert session.write(again)["steered"] == session.write(start)["steered"]
    with pytest.raises(al.VectorFileError):
        session.upload(b"no vector")
    with pytest.raises(al.SettingError, match="choose it again"):
        session.look(dataclasses.replace(start, vector="gone"))


def test_a_vector_of_another_model_is_refused(session: Session, small: Any, tmp_path: Path) -> None:
    other = al.compute_steering_vector(small, ("a", "b"), layer=1)
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(al.VectorError):
        session.upload((tmp_path / "other.safetensors").read_bytes())


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([], "expected an object"),
        ({"loudness": 3}, "no setting 'loudness'"),
        ({"layer": "three"}, "layer is 'three': expected an integer"),
        ({"layer": True}, "layer is True"),
        ({"coefficient": "much"}, "coefficient is 'much': expected a number"),
        ({"chat": "no"}, "chat is 'no': expected true or false"),
        ({"rows": "first"}, "rows is 'first'"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_settings_that_are_none_are_refused(told: Any, message: str, unchecked: None) -> None:
    with pytest.raises(al.SettingError, match=message):
        Settings.from_json(told)


def test_a_position_may_be_an_index_or_a_name() -> None:
    assert Settings.from_json({"position": " 3"}).position == 3
    assert Settings.from_json({"position": "last"}).position == "last"


# -- other methods, and the J-lens -------------------------------------------------------------------------------

LOVE, HATE = ["I love it so much", "I love this day"], ["I hate it so much", "I hate this day"]


def test_pairs_are_read_line_by_line(session: Session, start: Settings, embedded: Any) -> None:
    asked_for = dataclasses.replace(
        start, method="caa", position="last", positive="\n".join(LOVE), negative="\n".join([*HATE, "", " "])
    )
    expected = al.methods.caa(embedded, list(zip(LOVE, HATE, strict=True)), layer=4, read=-1)
    assert session.vector(asked_for).activations.equal(expected.activations)
    with pytest.raises(al.PromptError, match="1 positive, 2 negative"):
        session.vector(dataclasses.replace(asked_for, positive="I love it"))
    with pytest.raises(al.PromptError, match="negative side has no text"):
        session.vector(dataclasses.replace(asked_for, negative=""))


def test_a_mean_may_stand_alone_or_be_centred(session: Session, start: Settings, embedded: Any) -> None:
    asked_for = dataclasses.replace(start, method="mean_centring", positive="\n".join(LOVE), negative="")
    for negative, training in (("", None), ("\n".join(HATE), HATE)):
        expected = al.methods.mean_centring(embedded, LOVE, training, layer=4, bos=False)
        found = session.vector(dataclasses.replace(asked_for, negative=negative))
        assert found.activations.equal(expected.activations)


@pytest.mark.parametrize("method", ["caa", "mean_centring"])
@pytest.mark.parametrize("bos", [True, False])
def test_every_method_writes_the_same_in_python(
    session: Session, start: Settings, embedded: Any, monkeypatch: pytest.MonkeyPatch, method: str, bos: bool
) -> None:
    monkeypatch.setattr(al, "load_model", lambda name: embedded)
    settings = dataclasses.replace(
        start, method=method, bos=bos, position="last", positive="\n".join(LOVE), negative="\n".join(HATE)
    )
    names: dict[str, Any] = {}
    exec(session.look(settings)["code"].replace("al.complete(", "found = al.complete("), names)
    assert names["found"].steered[0][0] == session.write(settings)["steered"]["text"]
    assert session.facts()["methods"][method]["position"] == "last"


def test_the_j_lens_is_the_one_of_the_layer(session: Session, start: Settings, embedded: Any) -> None:
    lens = al.fit_jacobian(embedded, fitting_texts()[:1], [3, 4], max_tokens=24)
    asked_for = dataclasses.replace(start, rows="last")
    found = Session(embedded, "storybook", lens).read(asked_for, "J-lens")
    (expected,) = al.logit_lens(embedded, session.vector(asked_for), through=lens, k=8).rows
    assert found["rows"][0]["promoted"] == [[token.text, token.z] for token in expected.promoted]
    assert found["rows"] != session.read(asked_for, "logit lens")["rows"]


def test_a_layer_without_a_lens_gets_one_when_it_is_read(
    session: Session, start: Settings, embedded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []

    def fit(model: Any, texts: Any, layer: int, **settings: Any) -> Any:
        fitted.append((len(texts), layer))
        return al.fit_jacobian(model, texts[0], layer, max_tokens=24, **settings)

    monkeypatch.setattr(readings, "fit_jacobian", fit)
    own = Session(embedded, "storybook")
    for layer in (5, 6, 5):
        assert own.read(dataclasses.replace(start, layer=layer), "J-lens")["rows"]
    assert fitted == [(6, 5), (6, 6)]


def test_a_lens_of_another_model_is_refused(embedded: Any, small: Any) -> None:
    lens = al.fit_jacobian(small, fitting_texts()[0], 1, max_tokens=24)
    with pytest.raises(al.FingerprintError, match="fit one on it"):
        Session(embedded, "storybook", lens)


# -- the server ------------------------------------------------------------------------------------------------


def test_the_page_holds_everything_and_asks_no_other_host(page: Any) -> None:
    text = page.get("/").text
    assert "actadd play" in text
    assert not [
        part for part in ("src=", "@import", "https:") if part in text.replace("http://www.w3.org/2000/svg", "")
    ]
    assert "connect-src 'self'" in text


def test_texts_come_line_by_line(page: Any, session: Session, start: Settings) -> None:
    lines = [json.loads(line) for line in page.post("/write", json=vars(start)).text.splitlines()]
    assert len(lines) == 7
    assert lines[-1]["written"] == session.write(start)


def test_every_request_is_answered_with_what_the_session_says(page: Any, session: Session, start: Settings) -> None:
    settings = vars(start)
    assert page.get("/facts").json()["start"] == vars(session.start)
    assert page.post("/look", json=settings).json() == session.look(start)
    read = page.post("/read", json={"settings": settings, "reading": "logit lens"}).json()
    assert read == session.read(start, "logit lens")
    told = {"settings": settings, "measure": "difference", "nulls": 1, "tokens": [" happy", " sad"]}
    assert page.post("/measure", json=told).json()["prompts"] == 16
    saved = page.post("/save", json=settings).content
    assert page.post("/vector", content=saved).json()["rows"] == 4


def test_what_is_wrong_is_told_and_nothing_breaks(page: Any, start: Settings) -> None:
    answer = page.post("/look", json=asked(start, layer=99))
    assert answer.status_code == 400
    assert "Layer 99 does not exist" in answer.json()["error"]
    lines = page.post("/write", json=asked(start, position="nowhere")).text.splitlines()
    assert "nowhere" in json.loads(lines[-1])["error"]
    assert page.post("/look", content=b"{").status_code == 400
    assert page.post("/write", json=asked(start, method="magic")).status_code == 200
    assert page.post("/look", json=vars(start)).status_code == 200


def test_other_sites_and_other_names_are_refused(page: Any, start: Settings) -> None:
    answer = page.post("/look", json=vars(start), headers={"origin": "http://elsewhere.example"})
    assert (answer.status_code, "answers its own page only" in answer.json()["error"]) == (400, True)
    assert page.get("/", headers={"host": "elsewhere.example"}).status_code == 400


def test_a_page_that_left_ends_the_writing(session: Session, start: Settings, embedded: Any) -> None:
    class LeftError(Exception):
        pass

    def leave(told: dict[str, Any]) -> None:
        raise LeftError

    with pytest.raises(LeftError):
        session.write(start, leave)
    vector = al.compute_steering_vector(embedded, (start.positive, start.negative), layer=4)
    found = al.complete(embedded, start.prompt, 3 * vector, max_new_tokens=6, top_p=0.9)
    assert session.write(start)["steered"]["text"] == found.steered[0][0]
