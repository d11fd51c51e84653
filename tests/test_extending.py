"""Names that other packages give: the template of the documentation, as installed, and packages that are not well."""

import importlib
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens import methods
from actadd_lens.cli import main
from actadd_lens.experiments.comparing import contenders, task
from actadd_lens.extending import load_extension

DOCS = Path(__file__).parents[1] / "docs"
TEMPLATE = DOCS / "extension-template"
PAIRS = [("The dog ran home", "The dog ran away"), ("She was glad", "She was sad"), ("He won", "He lost it all")]

Install = Callable[..., None]
extended: Any = al  # with names that are known once they are asked for


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts the metadata of a package where installed ones lie, as pip would write it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def written(name: str, version: str, points: dict[str, dict[str, str]]) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in some.items()) for group, some in
                 points.items()]  # fmt: skip
        (folder / "entry_points.txt").write_text("\n".join(lines))
        importlib.invalidate_caches()

    return written


@pytest.fixture
def template(install: Install, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The template, installed."""
    project = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]
    install(project["name"], project["version"], project["entry-points"])
    monkeypatch.syspath_prepend(str(TEMPLATE))
    yield
    sys.modules.pop("actadd_lens_example", None)


def test_the_page_shows_the_template_as_it_is() -> None:
    page = (DOCS / "extensions.md").read_text(encoding="utf-8")
    for kind, file in (("toml", "pyproject.toml"), ("python", "actadd_lens_example/__init__.py")):
        shown = re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL)
        assert shown is not None
        assert shown[1] == (TEMPLATE / file).read_text()


@pytest.mark.usefixtures("template")
def test_installed_names_are_listed_without_being_loaded() -> None:
    found = al.extensions()
    assert [str(item) for item in found] == [
        "methods.median_difference from actadd-lens-example 0.1",
        "metrics.margin from actadd-lens-example 0.1",
        "scorers.questions from actadd-lens-example 0.1",
    ]
    assert "actadd_lens_example" not in sys.modules


@pytest.mark.usefixtures("template")
def test_a_method_of_an_extension_is_used_as_if_it_were_built_in(small: Any) -> None:
    vector = extended.methods.median_difference(small, PAIRS, layer=2)
    rows = [methods.caa(small, [pair], layer=2, read=-1).activations[0] for pair in PAIRS]
    assert torch.equal(vector.activations[0], torch.stack(rows).median(dim=0).values)
    with pytest.raises(al.LayerError):
        extended.methods.median_difference(small, PAIRS, layer=99)


@pytest.mark.usefixtures("template")
def test_a_metric_and_a_scorer_of_an_extension_measure(small: Any) -> None:
    vector = methods.caa(small, PAIRS, layer=2, read=-1)
    measured = al.measure(small, ["The dog", "She was"], 0 * vector, extended.metrics.margin(), progress=False)
    by_hand = [small(small.to_tokens(text))[0, -1].topk(2).values for text in ("The dog", "She was")]
    assert measured.unsteered.tolist() == pytest.approx([(top[0] - top[1]).item() for top in by_hand], abs=1e-4)
    assert extended.scorers.questions()(["Who?", "Me."]) == [1.0, 0.0]
    assert extended.scorers.questions().__name__ == "asks something"


@pytest.mark.usefixtures("template")
def test_compare_takes_a_method_of_an_extension(small: Any) -> None:
    found = contenders(small, task("sentiment"), layer=2, others=["median_difference"])
    assert "CAA" in found
    assert found["median_difference"](small).layer == 2


def test_a_name_that_nobody_gives_is_an_attribute_error_and_says_what_there_is(
    template: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for holder in (methods, al.metrics, al.scorers):
        with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
            _ = holder.no_such_name
    assert not hasattr(methods, "__wrapped__")
    assert main(["compare", "--method", "no_such_name"]) != 0
    told = capsys.readouterr().err
    assert "no_such_name" in told
    assert "median_difference" in told


def test_a_name_that_two_packages_give_is_refused(template: None, install: Install) -> None:
    install("other-example", "2.0", {"actadd_lens.methods": {"median_difference": "other:median"}})
    both = "actadd-lens-example 0.1 and other-example 2.0 both give it"
    assert [item.problem for item in al.extensions() if item.kind == "methods"] == [both, both]
    with pytest.raises(al.ExtensionError, match=both):
        _ = extended.methods.median_difference


def test_our_own_names_stay_ours(install: Install) -> None:
    ours = methods.caa
    install("other-example", "2.0", {"actadd_lens.methods": {"caa": "other:caa"}})
    assert methods.caa is ours
    (told,) = al.extensions()
    assert "actadd_lens has one of this name itself" in str(told)
    with pytest.raises(al.ExtensionError, match="itself, which wins"):
        load_extension("methods", "caa")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("no_such_module_at_all:thing", "cannot be loaded: ModuleNotFoundError"),
        ("json:no_such_thing", "cannot be loaded: AttributeError"),
        ("json:__name__", "is a str: expected something that can be called"),
        ("json", "is a module"),
    ],
)
def test_a_broken_package_is_told_by_its_name(install: Install, value: str, told: str) -> None:
    install("broken-example", "0.3", {"actadd_lens.scorers": {"broken": value}})
    assert [str(item) for item in al.extensions()] == ["scorers.broken from broken-example 0.3"]
    with pytest.raises(al.ExtensionError, match=rf"scorers\.broken of broken-example 0\.3 .*{told}"):
        _ = extended.scorers.broken
