"""A run of experiments: what is kept, what is run again, and what the report says."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

from actadd_lens.errors import LayerError, SettingError
from actadd_lens.experiments import paper, primary, registry, suite
from actadd_lens.experiments.evidence import Estimate, Experiment, Finding
from actadd_lens.experiments.primary import Part, Primary
from actadd_lens.experiments.registry import REGISTRY, Entry
from actadd_lens.experiments.report import digits
from actadd_lens.experiments.storing import as_json
from actadd_lens.plots.style import new_axes

WORDS = Part("told", "share of words", "greater")
FACTS = Part("told", "facts", within=("knowledge", "MARGIN"))
PRIMARY = (Primary(3, (WORDS,)), Primary(8, (FACTS,)), Primary(9, (FACTS, Part("other", "time", "less"))))
RUNS: list[tuple[str, dict[str, Any]]] = []


@dataclass(frozen=True, eq=False, kw_only=True)
class Told(Experiment):
    name: ClassVar[str] = "told"
    title: ClassVar[str] = "What is told <here>"

    value: float

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame({"layer": range(2), "ratio": [self.value, float("nan")], "of": ["a|b", "<b>"]})

    def plot(self, ax: Any = None) -> Any:
        ax = new_axes(ax)
        ax.plot([0, self.value])
        return ax

    def pictures(self) -> dict[str, Any]:
        return {"": self.plot, "again": self.plot}

    def findings(self) -> tuple[Finding, ...]:
        found = Estimate(self.value, 0.5, 1.5, 9, "texts", (1.0, float("nan")), 1.0)
        return (
            Finding(3, "share of words", "opposite", found, "most of them"),
            Finding(1, "ratio <1>", "same direction", found),
            Finding(3, "count of words", "same direction", found, "", "few"),
            Finding(8, "facts", "not testable here", None, ".26", "base rate 0"),
        )

    def summary(self) -> str:
        return f"The ratio is {self.value} & that is all."


def told(model: Any, pair: Any = None, *, value: float = 1.0, nulls: int = 2, seed: int = 0) -> Told:
    """An experiment that only tells what it was asked."""
    RUNS.append(("told", {"value": value, "nulls": nulls, "seed": seed}))
    return Told(model="any", value=value, settings={"value": value, "nulls": nulls, "list": list(range(20))})


def fails(model: Any, *, layer: int = 99) -> Told:
    """An experiment that cannot run."""
    RUNS.append(("fails", {"layer": layer}))
    raise LayerError(f"Layer {layer} does not exist.")


@pytest.fixture(autouse=True)
def two_experiments(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = (
        Entry("fails", (2,), "here", "fails", pair=""),
        Entry("told", (1, 3), "here", "told", lambda: {"nulls": 1}),
    )
    monkeypatch.setattr(registry, "REGISTRY", entries)
    monkeypatch.setattr(suite, "REGISTRY", entries)
    monkeypatch.setattr(primary, "PRIMARY", PRIMARY)
    monkeypatch.setitem(sys.modules, "actadd_lens.experiments.here", sys.modules[__name__])
    RUNS.clear()


def run(model: Any, out: Path, **options: Any) -> suite.Reproduction:
    return suite.reproduce(model, out=out, progress=False, **options)


def test_one_that_fails_is_told_and_the_others_go_on(embedded: Any, tmp_path: Path) -> None:
    found = run(embedded, tmp_path)
    assert [outcome.name for outcome in found.outcomes] == ["fails", "told"]
    assert found.failed == ("fails",)
    assert found.outcomes[0].error == "Layer 99 does not exist."
    assert not (tmp_path / "fails.json").exists()
    assert "Failed: Layer 99 does not exist." in (tmp_path / "report.html").read_text()
    assert "Failed: Layer 99 does not exist." in (tmp_path / "report.md").read_text()


def test_a_second_run_repeats_nothing_and_says_the_same(embedded: Any, tmp_path: Path) -> None:
    first = run(embedded, tmp_path, names="told")
    report = {path.name: path.read_bytes() for path in tmp_path.glob("report.*")}
    kept: list[bool] = []
    second = run(embedded, tmp_path, names="told", note=lambda outcome, was_kept: kept.append(was_kept))
    assert len(RUNS) == 1
    assert kept == [True]
    assert second.frame().equals(first.frame())
    assert {path.name: path.read_bytes() for path in tmp_path.glob("report.*")} == report


def test_another_setting_seed_or_model_never_gets_what_was_kept(embedded: Any, small: Any, tmp_path: Path) -> None:
    run(embedded, tmp_path, names="told")
    run(embedded, tmp_path, names="told", settings={"told": {"value": 2.0}})
    run(embedded, tmp_path, names="told", shared={"seed": 1})
    run(embedded, tmp_path, names="told", quick=True)
    run(small, tmp_path, names="told", quick=True)
    assert [asked for _, asked in RUNS] == [
        {"value": 1.0, "nulls": 2, "seed": 0}, {"value": 2.0, "nulls": 2, "seed": 0},
        {"value": 1.0, "nulls": 2, "seed": 1}, *[{"value": 1.0, "nulls": 1, "seed": 0}] * 2,
    ]  # fmt: skip


def test_shared_settings_go_where_they_are_taken_under_the_keyword_there() -> None:
    chosen = suite.chosen_entries(None)
    asked = suite.checked_settings(chosen, {"layers": [3], "seed": 7, "pair": ("a", "b")}, {"told": {"seed": 8}})
    assert asked == {"fails": {"layer": 3}, "told": {"seed": 8, "pair": ("a", "b")}}
    several = registry.Entry("told", (), "here", "told", pair="pairs")
    assert suite.checked_settings([several], {"pair": ("a", "b")}, {})["told"] == {"pairs": (("a", "b"),)}


def test_an_interrupted_run_leaves_what_is_done(embedded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(model: Any, *, layer: int = 0) -> Told:
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "REGISTRY", registry.REGISTRY[::-1])
    monkeypatch.setattr(sys.modules[__name__], "fails", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(embedded, tmp_path)
    assert json.loads((tmp_path / "told.json").read_text())["summary"] == "The ratio is 1.0 & that is all."
    assert "that is all" in (tmp_path / "report.md").read_text()
    assert not list(tmp_path.glob("*.part"))
    run(embedded, tmp_path, names="told")
    assert len(RUNS) == 1


def test_a_result_whose_picture_is_gone_or_that_is_cut_short_is_made_again(embedded: Any, tmp_path: Path) -> None:
    run(embedded, tmp_path, names="told")
    (tmp_path / "told-again.png").unlink()
    run(embedded, tmp_path, names="told")
    (tmp_path / "told.json").write_text("{")
    run(embedded, tmp_path, names="told")
    assert len(RUNS) == 3


@pytest.mark.parametrize("error", [RuntimeError("boom <b>"), KeyError("x"), MemoryError(), AssertionError()])
def test_the_others_go_on_after_any_exception(
    embedded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(model: Any, *, layer: int = 0) -> Told:
        raise error

    monkeypatch.setattr(sys.modules[__name__], "fails", broken)
    found = run(embedded, tmp_path)
    assert found.failed == ("fails",)
    assert found.outcomes[0].error.startswith(type(error).__name__)
    assert "<b>" not in (tmp_path / "report.html").read_text().replace("<body>", "")


@pytest.mark.parametrize(
    "change",
    [
        {"summary": "The ratio is 9."}, {"pictures": ["../secret.png"]}, {"pictures": 3}, {"rows": [[1]]},
        {"findings": [{}]}, {"name": "fails"}, {"check": None}, {"columns": None},
    ],
)  # fmt: skip
def test_a_kept_result_that_was_changed_is_made_again(embedded: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    out = tmp_path / "out"
    run(embedded, out, names="told")
    record = json.loads((out / "told.json").read_text())
    (out / "told.json").write_text(json.dumps({**record, **change}))
    again = run(embedded, out, names="told")
    assert len(RUNS) == 2
    assert again.outcomes[0].summary == record["summary"]
    assert "c2VjcmV0" not in (out / "report.html").read_text()


def test_no_path_in_a_kept_result_is_opened_though_its_checksum_holds(embedded: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(embedded, out, names="told")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (out / "told-link.png").symlink_to(tmp_path / "secret.png")
    record = json.loads((out / "told.json").read_text())
    for picture in ("../secret.png", str(tmp_path / "secret.png"), "told-link.png"):
        changed = {**record, "pictures": [picture]}
        (out / "told.json").write_text(json.dumps({**changed, "check": suite._check(changed)}))
        assert run(embedded, out, names="told").outcomes[0].pictures == ("told.png", "told-again.png")


def test_findings_of_one_claim_that_disagree_each_stand(embedded: Any, tmp_path: Path) -> None:
    found = run(embedded, tmp_path, names="told").frame()
    assert found["claim"].tolist() == [1, 3, 3, 8]
    assert found[found["claim"] == 3]["verdict"].tolist() == ["opposite", "same direction"]
    assert found["evidence"].tolist()[-1] == ""


def test_the_page_tells_verdicts_in_words_and_escapes_what_it_tells(embedded: Any, tmp_path: Path) -> None:
    run(embedded, tmp_path, names="told")
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    for wanted in (
        "ratio &lt;1&gt;", '<span class="verdict opposite">opposite</span>', "What is told &lt;here&gt;",
        "&lt;b&gt;", "1 opposite", "1 not testable here; 0 in the same direction", "2 claims: ",
            "base rate 0",
        paper.CLAIMS[3],
    ):  # fmt: skip
        assert wanted in page
    assert "Quick settings" not in page
    assert page.count("not measured in this run") == len(paper.CLAIMS) - 3
    assert "<script" not in page
    assert "http" not in page


def test_the_markdown_stands_beside_its_pictures(embedded: Any, tmp_path: Path) -> None:
    run(embedded, tmp_path, names="told")
    text = (tmp_path / "report.md").read_text()
    assert "![What is told <here>](told.png)" in text
    assert "(told-again.png)" in text
    assert r"a\|b" in text
    assert "Not measured in this run: claims " in text
    assert text.count("\n### ") == 4  # the primary findings, and the claims that it bears on
    assert (tmp_path / "told.png").exists()


def test_the_json_holds_everything(embedded: Any, tmp_path: Path) -> None:
    run(embedded, tmp_path, names="told")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["model"]["layers"] == embedded.cfg.n_layers
    assert set(found["claims"]) == {str(number) for number in range(1, 13)}
    (outcome,) = found["outcomes"]
    assert outcome["rows"] == [[0, 1.0, "a|b"], [1, None, "<b>"]]
    assert outcome["findings"][0]["estimate"]["nulls"] == [1.0, None]
    assert as_json(suite.Outcome.from_record(outcome).record()) == outcome


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["tld"]}, "There is no experiment 'tld'. Did you mean 'told'"),
        ({"names": []}, "No experiment was named"),
        ({"shared": {"colour": 1}}, "None of fails, told takes 'colour'"),
        ({"shared": {"layers": (1, 2)}}, "None of fails, told takes 'layers', or not as (1, 2)"),
        ({"settings": {"told": {"colour": 1}}}, "told takes no 'colour': it takes nulls, pair, seed, value"),
        ({"names": "told", "settings": {"fails": {"layer": 1}}}, "'fails', which is not run here"),
    ],
)
def test_wrong_asking_is_told_before_anything_runs(
    embedded: Any, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        run(embedded, tmp_path / "out", **options)
    assert not RUNS
    assert not (tmp_path / "out").exists()


# -- the registry itself ---------------------------------------------------------------------------------------


def test_every_experiment_of_the_registry_is_there_and_takes_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    import inspect

    import actadd_lens as al

    assert len({one.name for one in REGISTRY}) == len(REGISTRY)
    for one in REGISTRY:
        function = one.runs
        assert getattr(al.experiments, one.function) is function
        parameters = inspect.signature(function).parameters
        assert set(one.quick()) <= set(parameters)
        assert {role.keyword for role in one.data.values()} <= set(parameters)
        assert one.pair in ("", *parameters)
        assert (one.kind.name, set(one.claims) <= set(paper.CLAIMS)) == (one.name, True)
        assert one.told().startswith(one.name)


def test_the_papers_tables_stand_beside_experiments_that_there_are() -> None:
    assert set(paper.TABLES) <= {one.name for one in REGISTRY}
    for tables in paper.TABLES.values():
        for table in tables:
            assert all(len(row) == len(table.columns) for row in table.rows)


def test_numbers_are_told_with_few_digits() -> None:
    assert [digits(value) for value in (0.98765, 1234.5, 0.0, 7, None, "x", [1.0, 2.5], -0.99999, 2e-9, 123.4)] == [
        "0.988", "1,234", "0", "7", "", "x", "1, 2.50", "-1.00", "2.00e-09", "123",
    ]  # fmt: skip


NAMED = primary.PRIMARY


def test_every_claim_is_decided_by_findings_named_before_any_run() -> None:
    assert [one.claim for one in NAMED] == sorted(paper.CLAIMS)
    claims = {entry.name: entry.claims for entry in REGISTRY}
    for one in NAMED:
        for part in one.parts:
            assert (part.side is None) == (part.within is not None)
            assert one.claim in claims[part.experiment]
            assert part.side is not None or part.margin > 0


def finding(about: str, verdict: Any, value: float = 2.0, claim: int = 3) -> Finding:
    return Finding(claim, about, verdict, Estimate(value, value - 1, value + 1, 20, "texts"))


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        (("same direction", "same direction"), "same direction"),
        (("same direction", "undecided"), "undecided"),
        (("undecided", "not testable here"), "not testable here"),
        (("same direction", "shown to be small"), "shown to be small"),
        (("opposite", "not testable here"), "opposite"),
    ],
)
def test_a_claim_is_no_better_off_than_its_worst_part(verdicts: tuple[str, ...], whole: str) -> None:
    parts = tuple(Part("told", name, "greater") for name in ("first", "second"))
    found = [finding(name, verdict) for name, verdict in zip(("first", "second"), verdicts, strict=True)]
    decided = Primary(3, parts).decided({"told": found})
    assert decided is not None
    assert decided.verdict == whole


def test_the_p_of_a_claim_is_the_largest_of_its_parts_and_missing_parts_decide_nothing() -> None:
    weak, strong = (finding("share of words", "same direction", value) for value in (1.0, 3.0))
    both = Primary(3, (Part("told", "share", "greater", every=True),)).decided({"told": [strong, weak]})
    first = Primary(3, (Part("told", "share", "greater"),)).decided({"told": [strong, weak]})
    assert both is not None
    assert first is not None
    assert both.p_value == WORDS.p_value(weak.estimate) > first.p_value == WORDS.p_value(strong.estimate)
    assert Primary(3, (WORDS, Part("other", "share", "greater"))).decided({"told": [strong]}) is None


def test_p_agrees_with_the_interval_on_either_side() -> None:
    touching = Estimate(1.0, 0.0, 3.0, 12, "texts")
    assert touching.p_moves("greater") == pytest.approx(0.025)
    assert Estimate(-1.0, -3.0, 0.0, 12, "texts").p_moves("less") == pytest.approx(0.025)
    assert touching.p_stays(3.0) == pytest.approx(0.025)
    assert touching.p_stays(3.0, against="less") < 0.025
    assert Estimate(1.0, 0.01, 3.0, 12, "texts").p_moves("greater") < 0.025
    assert touching.p_moves("less") > 0.5


def test_the_report_tells_what_decides_each_claim_with_p_and_q(embedded: Any, tmp_path: Path) -> None:
    run(embedded, tmp_path, names="told")
    found = json.loads((tmp_path / "report.json").read_text())["primary"]
    assert [row["claim"] for row in found] == [3, 8]  # a part of claim 9 was not measured
    assert found[0]["decided by"] == "share of words"
    assert found[1]["p"] is None  # facts have no number
    assert found[0]["q"] == found[0]["p"] > 0.5
    p_values = [
        WORDS.p_value(Estimate(2.0, 1.0, 3.0, 20, "texts", (0.0,) * 39)),
        WORDS.p_value(Estimate(2.0, 1.9, 2.1, 20, "texts")),
    ]
    assert p_values == pytest.approx([0.025, 0.0], abs=1e-9)
