"""The pages run: every example of docs/ and of the README, in order, page by page, on the embedded model.

A page goes on from the lines that the quick start marks as shared. A block of `>>>` lines is a doctest, for output that
does not depend on the model's weights; any other Python block is run as it stands. `<!-- not run: reason -->` before a
block leaves it out.
"""

import doctest
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import actadd_lens as al
from actadd_lens.models import backend_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md"))]
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*$")
SHARED = "<!-- shared by all pages -->"
FENCE = re.compile(r"^( *)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
CHEAPER = (
    (r"\bnulls=\d+", "nulls=2"),
    (r"\bmax_new_tokens=\d+", "max_new_tokens=4"),
    (r"neutral_prompts\(\)\[:\d+\]", "neutral_prompts()[:10]"),
    (r"\blayers=range\(8\)", "layers=range(3, 5)"),
)
"""Numbers that only cost time, and what the tests put in their place; doctests run as they stand."""


def cheaper(code: str) -> str:
    for pattern, put in CHEAPER:
        code = re.sub(pattern, put, code)
    return code


@dataclass(frozen=True)
class Example:
    """A Python block of a page."""

    page: str
    line: int
    code: str
    not_run: str | None

    @property
    def is_doctest(self) -> bool:
        return self.code.lstrip().startswith(">>> ")

    def run(self, names: dict[str, Any]) -> None:
        """In the namespace that the page shares; failures name page and line."""
        if self.is_doctest:
            self._check(names)
            return
        exec(compile("\n" * self.line + cheaper(self.code), str(ROOT / self.page), "exec"), names)

    def _check(self, names: dict[str, Any]) -> None:
        flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
        parsed = doctest.DocTestParser().get_doctest(self.code, {}, self.page, str(ROOT / self.page), self.line)
        parsed.globs = names
        told: list[str] = []
        doctest.DocTestRunner(optionflags=flags).run(parsed, out=told.append, clear_globs=False)
        if told:
            pytest.fail(f"{self.page}, from line {self.line + 1}:\n{''.join(told)}", pytrace=False)


def examples_of(page: str) -> Iterator[Example]:
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        before = text[: found.start()]
        marked = NOT_RUN.search(before)
        code = re.sub(rf"^{found[1]}", "", found[2], flags=re.MULTILINE)
        yield Example(page, before.count("\n") + 1, code, marked[1] if marked else None)


def shared_lines() -> str:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    found = FENCE.search(text, text.index(SHARED))
    assert found is not None
    return found[2]


@pytest.fixture
def names(embedded: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What a page starts with: the shared lines' names, an empty folder to work in, and one model for all pages."""

    load = al.load_model
    monkeypatch.setattr(al, "load_model", lambda *args, **options: load(*args, **options) if args else embedded)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    found: dict[str, Any] = {"__name__": "page"}
    exec(cheaper(shared_lines()), found)
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if any(not each.not_run for each in examples_of(page))])
def test_the_examples_of_a_page_run_in_order(page: str, names: dict[str, Any]) -> None:
    for example in examples_of(page):
        if not example.not_run:
            example.run(names)


def test_an_example_that_is_not_run_says_why() -> None:
    marks = [
        line for page in PAGES for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if "not run:" in line
    ]
    left_out = [example for page in PAGES for example in examples_of(page) if example.not_run]
    assert len(marks) == len(left_out) >= 1
    assert all(len(str(example.not_run)) > 5 for example in left_out)


def test_a_wrong_example_is_noticed(names: dict[str, Any]) -> None:
    with pytest.raises(al.LayerError):
        Example("README.md", 1, "al.compute_steering_vector(model, ('a', 'b'), layer=99)\n", None).run(names)
    with pytest.raises(pytest.fail.Exception, match="Expected"):
        Example("README.md", 1, ">>> happy.layer\n4\n", None).run(names)


# -- the site --------------------------------------------------------------------------------------------------


def test_every_public_name_stands_in_the_api() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md"))
    described = set(re.findall(r"^::: actadd_lens\.([\w.]+)", text, re.MULTILINE))
    homes = {name: getattr(getattr(al, name), "__module__", None) or getattr(al, name).__name__ for name in al.__all__}
    in_modules = {name for name, home in homes.items() if home.removeprefix("actadd_lens.") in described}
    assert {"errors", "measuring.metrics", "steer"} <= described
    assert set(al.__all__) - described - in_modules == set()


def test_every_kind_of_error_has_a_section_with_wrong_and_right_code() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    kinds = [kind for kind in vars(al.errors).values() if isinstance(kind, type) and issubclass(kind, al.ActAddError)]
    assert len(kinds) > 10
    for kind in kinds:
        assert f"\n## {kind.__name__}\n" in text, kind
        assert kind.section() == f"errors.md#{kind.__name__.lower()}"


def test_the_page_of_all_verbs_names_every_public_function() -> None:
    text = (DOCS / "all.md").read_text(encoding="utf-8")
    verbs = [name for name in al.__all__ if inspect.isfunction(getattr(al, name))]
    assert [name for name in verbs if f"al.{name}" not in text] == []


def test_every_page_stands_in_the_navigation() -> None:
    told = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    pages += [path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert [page for page in pages if page not in told] == []


def test_the_site_asks_nothing_of_other_hosts() -> None:
    told = (ROOT / "mkdocs.yml").read_text(encoding="utf-8") + (DOCS / "site.css").read_text(encoding="utf-8")
    assert "font: false" in told
    assert not re.search(r"https?://|cdn|@import", told)


def test_the_page_of_the_embedded_model_was_measured_on_the_weights_that_come_with_the_package() -> None:
    measured = json.loads((DOCS / "storybook_measured.json").read_text(encoding="utf-8"))
    shipped = backend_of(al.load_model()).fingerprint_sample()
    assert shipped == pytest.approx(measured["weights"], rel=1e-3, abs=1e-4)


# -- parts that scripts write -----------------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script of docs/ by its name, imported as its neighbours import it."""
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module


def part(page: Path, name: str) -> str:
    found = re.search(rf"<!-- measured: {name} -->\n(.*?)\n<!-- end -->", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, name
    return found[1]


def test_the_first_screen_says_what_its_script_measures(script: Any, embedded: Any) -> None:
    first = script("first_screen")
    vector = al.compute_steering_vector(embedded, first.PAIR, layer=first.LAYER)
    shown = first.caption(embedded, vector)
    assert part(ROOT / "README.md", "text") == shown
    assert part(DOCS / "index.md", "text") == first.in_docs(shown) != shown
    assert first.landing(embedded, vector)
    drawn = re.findall(r"<!-- (.*?) -->", (DOCS / "images" / "text.svg").read_text(encoding="utf-8"))
    for coefficient, name in ((-4, "−4 ×"), (3, "+3 ×")):
        tokens = first.written(embedded, vector, coefficient).tokens
        start = drawn.index(name) + 1
        assert tuple(drawn[start : start + len(tokens)]) == tokens


def test_badges_are_files_of_the_repository(script: Any) -> None:
    shown = part(ROOT / "README.md", "badges")
    assert shown == script("first_screen").badges()
    assert all((ROOT / file).is_file() for file in re.findall(r"!\[.*?\]\((.*?)\)", shown))


NUMBER = re.compile(r"[-−]?\d+(?:\.\d+)?")


def test_questions_and_failures_show_what_is_measured(script: Any, embedded: Any) -> None:
    measure = script("faq_measured")
    found = measure.Numbers(embedded)
    shown = {("faq.md", name): text for name, text in measure.faq(found).items()}
    shown["how-steering-fails.md", "failures"] = measure.failures(found)
    for (page, name), now in shown.items():
        kept = part(DOCS / page, name)
        assert NUMBER.sub("#", kept) == NUMBER.sub("#", now)
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (kept, now)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=0.011), (page, name)
