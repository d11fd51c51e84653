"""The house rules, read off the source: who imports whom, what is public, which words are used."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import actadd_lens as al
from actadd_lens import moved

PACKAGE = Path(al.__file__).parent
SOURCES = {path.relative_to(PACKAGE): path for path in sorted(PACKAGE.rglob("*.py"))}

NAMES = [str(name) for name in SOURCES]

ROWS = (
    ("errors", "progress", "moved"),
    ("checks", "extending"),
    ("models",),
    ("statistics",),
    ("prompts",),
    ("vectors",),
    ("steering",),
    ("methods", "identity"),
    ("workers",),
    ("writing",),
    ("measuring",),
    ("sweeps", "analysis"),
    ("experiments",),
    ("plots", "pages"),
    ("play",),
    ("cli",),
)
"""The house, from the ground up: a module imports from rows above its own in this list. A name with a star is a family
of modules, and a folder is one; within a family or a folder, modules may import each other.
"""

BESIDE = "storybook"
LATE = ("plots", "pages", BESIDE)
"""What a function may import wherever it stands: a result draws, saves or reads itself when it is asked to."""

ASKED = {("vectors/vector.py", "steering"), ("vectors/interventions.py", "steering")}
"""What else a method may import when it is called: a vector asked for its size beside a stream has the stream read, and
an intervention that is saved may be of any kind.
"""

UNWANTED = (
    r"\bstrengths?\b",
    r"\bmultipliers?\b",
    r"\bcontrol vectors?\b",
    r"x_vector",
    r"act_name",
    r"\bcoeffs?\b",
    r"\bbaselines?\b",
    r"from __future__ import annotations",
    r"typing\.Self",
    r"\bOptional\[",
)


OWN_WORDS = {"methods/sadi.py": r"\bstrengths?\b", "experiments/comparing.py": r"\bstrengths?\b"}
"""A paper's own word for what is none of our ideas: SADI's factor is not an injection coefficient."""


def family_of(module: str) -> str:
    """The entry of the table that a module belongs to."""
    if module == BESIDE:
        return BESIDE
    for row in ROWS:
        for entry in row:
            if module == entry or (entry.endswith("*") and module.startswith(entry[:-1])):
                return entry
    pytest.fail(f"{module} stands in no row of the house: say in which")


def row_of(family: str) -> int:
    return next(index for index, row in enumerate(ROWS) if family in row)


def imports_of(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Modules of ours that a source imports, and whether inside a function; those for type checkers only left out."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.ImportFrom) and (child.module or "").split(".")[0] == "actadd_lens":
                parts = (child.module or "").split(".")
                names = [parts[1]] if len(parts) > 1 else [alias.name for alias in child.names]
                yield from ((name, inside) for name in names if name != "__version__")
            elif isinstance(child, ast.Import):
                yield from (
                    (alias.name.split(".")[1], inside) for alias in child.names if alias.name.startswith("actadd_lens.")
                )
            yield from walk(child, inside or isinstance(child, ast.FunctionDef))

    return walk(tree, inside=False)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__init__.py"])
def test_a_module_imports_only_from_rows_above_its_own(name: str) -> None:
    family = family_of(name.split("/", maxsplit=1)[0].removesuffix(".py"))
    for imported, inside in imports_of(ast.parse((PACKAGE / name).read_text())):
        other = family_of(imported)
        allowed = other == family or (inside and (other in LATE or (name, imported) in ASKED))
        if family != BESIDE and other == BESIDE:
            allowed = True
        elif family != BESIDE and not allowed:
            allowed = row_of(other) < row_of(family)
        assert allowed, f"{name} imports {imported}, which stands in no row above it"


def test_only_models_knows_the_two_families() -> None:
    for name, path in SOURCES.items():
        if name.parts[0] != "models":
            found = re.findall(
                r"(?:import|from) transformer_lens|isinstance\([^)]*(?:HookedTransformer|Bridge)", path.read_text()
            )
            assert not found, f"{name}: {found}"


# -- public names ----------------------------------------------------------------------------------------------

PINNED = set(
    """
    ActAddError AmbiguousPositionError CoefficientError Completions Continuation Effect FingerprintError
    LayerError LensModel Measurement Metric ModelDownloadError ModelError PositionError Preview PromptError
    PromptPair Provenance Sampling SettingError SteeringVector SteeringVectors SteeringWarning VectorError
    VectorFileError ablate_tokens complete compute_steering_vector compute_steering_vectors cosine_similarity
    fwd_hooks linearity load_model logit_lens measure metrics next_token_shift norm_profile null_vectors plots
    preview scorers shuffle_rows steer storybook sweep trace_injection
    """.split()
)
"""Names that people's code relies on: they may grow in number, none may go."""


def test_no_public_name_goes() -> None:
    assert set(al.__all__) >= PINNED


def test_every_public_name_loads_and_tells_what_it_is() -> None:
    assert set(al.__all__) <= set(dir(al))
    for name in al.__all__:
        assert (getattr(al, name).__doc__ or "").strip(), f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = al.no_such_name  # type: ignore[attr-defined]  # wrong on purpose


def test_the_stub_lists_what_it_imports() -> None:
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imported = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == set(al.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_everything_public_has_a_docstring(name: str) -> None:
    tree = ast.parse((PACKAGE / name).read_text())
    assert ast.get_docstring(tree), f"{name} has none itself"
    holders: list[ast.Module | ast.ClassDef] = [
        tree,
        *(node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")),
    ]
    for holder in holders:
        for node in holder.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{name}: {node.name} has none"


@pytest.mark.parametrize("name", NAMES)
def test_one_word_per_idea(name: str) -> None:
    text = (PACKAGE / name).read_text()
    for pattern in set(UNWANTED) - {OWN_WORDS.get(name)}:
        assert not re.findall(pattern, text, re.IGNORECASE), f"{name} says {pattern}"


@pytest.mark.parametrize("name", NAMES)
def test_functions_are_short(name: str) -> None:
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= 40, f"{name}: {node.name} has {lines} lines"


# -- quick to import -------------------------------------------------------------------------------------------


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


HEAVY = "print(sorted({'torch', 'transformer_lens', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)))"


def test_importing_the_package_loads_neither_torch_nor_transformer_lens() -> None:
    assert run(f"import sys, actadd_lens; actadd_lens.__version__; dir(actadd_lens); {HEAVY}") == "[]"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["steer", "--help"], ["show", "--help"], ["demo", "--help"], ["--version"]]
)
def test_help_loads_neither_torch_nor_transformer_lens(arguments: list[str]) -> None:
    code = f"import sys\nfrom actadd_lens.cli import main\ntry: main({arguments!r})\nexcept SystemExit: pass\n{HEAVY}"
    assert run(code).splitlines()[-1] == "[]"


def test_help_loads_little_beside_the_standard_library() -> None:
    code = "import sys\nfrom actadd_lens.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    told = "print(sorted({name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names - {'__main__'}))"
    loaded = run(code + told).splitlines()[-1]
    assert set(ast.literal_eval(loaded)) <= {"actadd_lens", "lazy_loader", "_distutils_hack", "sitecustomize"}, loaded


def test_modules_of_the_first_edition_say_where_they_are_now() -> None:
    with pytest.raises(ModuleNotFoundError, match="is now actadd_lens.measuring.metrics"):
        importlib.import_module("actadd_lens.metrics")
    for old, new in moved._MOVED.items():
        assert importlib.import_module(f"actadd_lens.{new}"), old
