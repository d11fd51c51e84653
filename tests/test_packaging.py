"""What pip and people are told of the package, and what the wheel holds; `.ci/wheel-trial` builds and installs one."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

import actadd_lens as al

ROOT = Path(__file__).parents[1]
METADATA = distribution("actadd-lens").metadata


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(name: str) -> dict[str, str]:
    """Package names and versions of a constraints file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = dict(line.split("==") for line in lines if not line.startswith("#"))
    return {package.lower().replace("_", "-"): pinned for package, pinned in found.items()}


# -- one version -----------------------------------------------------------------------------------------------


def test_the_version_stands_in_one_place_and_the_rest_follows_it(project: dict[str, Any]) -> None:
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "actadd_lens/__init__.py"
    assert METADATA["Version"] == al.__version__
    assert f"\nversion: {al.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    first = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None
    assert first[1] == al.__version__


# -- what pip is told ------------------------------------------------------------------------------------------


def test_both_lines_of_transformer_lens_are_allowed_and_no_other(project: dict[str, Any]) -> None:
    assert "transformer-lens>=3.9,<5" in project["project"]["dependencies"]
    assert pins("constraints.txt")["transformer-lens"].startswith("3.9.")
    assert pins("constraints-bridge.txt")["transformer-lens"].startswith("4.3.")


def test_the_lines_are_tried_with_the_same_versions_of_everything_else() -> None:
    ours, theirs = pins("constraints.txt"), pins("constraints-bridge.txt")
    differing = {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}
    assert differing == {"transformer-lens"}


def test_every_requirement_is_pinned_for_both_lines(project: dict[str, Any]) -> None:
    told = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=\[ ]", requirement)[0].lower() for requirement in told}
    for file in ("constraints.txt", "constraints-bridge.txt"):
        assert names <= pins(file).keys(), file


def test_classifiers_exist_and_name_the_pythons_that_are_required(project: dict[str, Any]) -> None:
    trove = pytest.importorskip("trove_classifiers")
    told = project["project"]["classifiers"]
    assert set(told) <= trove.classifiers
    assert told == sorted(told)
    assert "Programming Language :: Python :: 3.11" in told
    assert project["project"]["requires-python"] == ">=3.11"
    assert METADATA["License-Expression"] == "MIT"


def test_the_command_is_installed() -> None:
    commands = {point.name: point.value for point in distribution("actadd-lens").entry_points}
    assert commands == {"actadd": "actadd_lens.cli:main"}


# -- what the wheel holds --------------------------------------------------------------------------------------


def test_the_wheel_holds_the_package_folder_and_that_has_all_it_needs(project: dict[str, Any]) -> None:
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["actadd_lens"]}
    package = ROOT / "actadd_lens"
    for wanted in ("py.typed", "__init__.pyi", "storybook/model/model.safetensors", "storybook/texts/cloze.jsonl"):
        assert (package / wanted).is_file(), wanted


def test_the_package_runs_without_what_only_the_repository_has() -> None:
    imports = re.compile(r"^\s*(?:from|import) (training|tests|benchmarks|hypothesis|pytest|beartype)\b", re.MULTILINE)
    for module in (ROOT / "actadd_lens").rglob("*.py"):
        assert not imports.search(module.read_text(encoding="utf-8")), module


def test_the_sdist_holds_every_folder_and_file_of_the_top_level(project: dict[str, Any]) -> None:
    told = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    tracked = {f"/{line.split('/')[0]}" for line in listed.stdout.splitlines()}
    assert tracked - {"/.gitignore", "/pyproject.toml"} <= set(told)


# -- public names ----------------------------------------------------------------------------------------------


def test_every_public_name_can_be_had_and_tells_what_it_is() -> None:
    stub = ast.parse((ROOT / "actadd_lens" / "__init__.pyi").read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(al.__all__) <= imported | {"__version__"}
    assert set(al.__all__) <= set(dir(al))
    for name in al.__all__:
        found = getattr(al, name)
        assert name == "__version__" or getattr(found, "__doc__", None), name


def test_importing_the_package_loads_neither_torch_nor_transformer_lens() -> None:
    code = "import actadd_lens, sys; sys.exit(bool({'torch', 'transformer_lens', 'matplotlib'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
