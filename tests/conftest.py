"""Models for the tests: few loads, one thread, no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: a test that would fetch fails at once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jaxtyping
import numpy as np
import pytest
import torch

from tests.checks import check_annotations

PACKAGE = Path(__file__).parents[1] / "actadd_lens"
# Shapes and types are checked at run time, but not in what takes models apart, which calls itself for each small part.
UNCHECKED = ("identity", "adapted")
CHECKED = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("[!_]*.py"))
    if not {path.parent.name, path.stem}.intersection(UNCHECKED)
]
check_annotations(CHECKED)

import actadd_lens as al  # noqa: E402 - the checks have to be there first
from actadd_lens.models.hooked import hooked_transformer  # noqa: E402
from actadd_lens.models.loading import Family  # noqa: E402

torch.set_num_threads(1)
phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.shrink]
hypothesis.settings.register_profile("house", max_examples=6, deadline=None, derandomize=True, phases=phases)
hypothesis.settings.load_profile("house")

SHARED = Path(__file__).parents[2] / "shared"
FAMILIES: tuple[Family, ...] = ("hooked", "bridge")
HAS_HOOKED = hooked_transformer() is not None
_loaded: dict[tuple[str, str], Any] = {}


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, Any]) -> None:
    """What a reader of a docstring's example has imported anyway."""
    doctest_namespace.update(al=al, np=np, torch=torch)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Scripts set the number of threads for their own process; two threads in each of two processes take turns."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_figures_left() -> Iterator[None]:
    """Matplotlib warns of more than 20 open figures, and a warning fails whichever test opens the next one."""
    yield
    if plt := sys.modules.get("matplotlib.pyplot"):
        plt.close("all")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """The package as users run it: tests check annotations at run time, before the package's own errors can speak."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder of models and golden cases beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("there is no folder shared/ beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 with learned absolute positions and a tokenizer of its own, saved as transformers saves it."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "small"
    trainer = ByteLevelBPETokenizer()
    texts = [sentence for topic in al.storybook.topics().values() for sentence in topic.sentences]
    trainer.train_from_iterator(texts, vocab_size=500, special_tokens=["<|endoftext|>"], show_progress=False)
    mark = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trainer._tokenizer, bos_token=mark, eos_token=mark)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0,
        initializer_range=0.25,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def load(gpt2_folder: Path) -> Any:
    """Loads a model by a short name and family, once a session."""
    folders: dict[str, str | Path] = {
        "storybook": "storybook",
        "gpt2": gpt2_folder,
        "tinytalk": SHARED / "models" / "tinytalk-3m",
        "stories": SHARED / "models" / "stories-260k",
    }

    def get(name: str, family: Family) -> Any:
        if family == "hooked" and not HAS_HOOKED:
            pytest.skip("this TransformerLens has no HookedTransformer")
        if (name, family) not in _loaded:
            folder = folders[name]
            if isinstance(folder, Path) and not folder.is_dir():
                pytest.skip(f"{folder.name} is not in shared/ beside the checkout")
            _loaded[name, family] = al.load_model(folder, family=family)
        return _loaded[name, family]

    return get


def _cases(*names: str) -> list[Any]:
    """Models in both families; those beside the checkout are for `make test-slow`."""
    slow, shared = pytest.mark.slow, pytest.mark.shared
    marks = {("tinytalk", family): [shared, slow] for family in FAMILIES}
    marks |= {("stories", family): [shared, slow] for family in FAMILIES}
    return [
        pytest.param((name, family), id=f"{name}-{family}", marks=marks.get((name, family), []))
        for name in names
        for family in FAMILIES
    ]


@pytest.fixture(params=_cases("gpt2", "storybook", "stories"), scope="session")
def model(request: pytest.FixtureRequest, load: Any) -> Any:
    """Every architecture in both families: absolute positions, local windows, rotary with RMSNorm."""
    return load(*request.param)


@pytest.fixture(params=_cases("gpt2"), scope="session")
def small(request: pytest.FixtureRequest, load: Any) -> Any:
    """The quickest model in both families, for what does not hang on the architecture."""
    return load(*request.param)


@pytest.fixture(scope="session")
def hooked(load: Any) -> Any:
    """The quickest model as a HookedTransformer."""
    return load("gpt2", "hooked")


@pytest.fixture(scope="session")
def quickest(load: Any) -> Any:
    """The quickest model in the family that `load_model` prefers."""
    return load("gpt2", "hooked" if HAS_HOOKED else "bridge")


@pytest.fixture(scope="session")
def embedded(load: Any) -> Any:
    """The embedded model in the family that `load_model` prefers."""
    return load("storybook", "hooked" if HAS_HOOKED else "bridge")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, driven as a person would; skips where there is none."""
    import shutil

    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("there is no Chromium with its chromedriver (Debian: chromium and chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for told in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,1400",
    ):
        options.add_argument(told)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()
