"""Every experiment by its name, and a run of them that keeps finished work and writes one report."""

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actadd_lens import __version__
from actadd_lens.errors import ActAddError, SettingError
from actadd_lens.experiments.evidence import Experiment, Finding
from actadd_lens.experiments.registry import REGISTRY, Entry, entry
from actadd_lens.experiments.storing import as_json, versions, write_json
from actadd_lens.identity.digests import digest
from actadd_lens.identity.model_state import model_key
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.progress import tracked
from actadd_lens.workers import check_executor

if TYPE_CHECKING:
    import pandas as pd

STORE = "results.sqlite"
"""Where sweeps keep their cells, next to the results."""

_FORMAT = 2
"""Changes whenever a kept result is written otherwise."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of one experiment, as it is stored.

    Attributes:
        name: The experiment.
        title: The same, as the report has it.
        settings: Everything that the numbers depend on.
        findings: What it says about the claims.
        notes: What a reader must know besides the numbers.
        summary: What was done and what was found.
        columns: Names of its table's columns.
        rows: Its table.
        pictures: File names of its pictures, in the folder of the run.
        seconds: How long it took.
        versions: What ran it.
        error: Why it failed; empty where it did not.
    """

    name: str
    title: str
    settings: dict[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    summary: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    pictures: tuple[str, ...] = ()
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    error: str = ""

    def frame(self) -> "pd.DataFrame":
        """Its table."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(self.columns))

    def record(self) -> dict[str, Any]:
        """For JSON."""
        told = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**told, "findings": [finding.record() for finding in self.findings]}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Outcome":
        """The way back."""
        found = {name: record[name] for name in cls.__dataclass_fields__}
        found.update({name: tuple(found[name]) for name in ("notes", "columns", "pictures")})
        found["rows"] = tuple(tuple(row) for row in found["rows"])
        found["findings"] = tuple(Finding.from_record(finding) for finding in found["findings"])
        return cls(**found)


@dataclass(frozen=True, eq=False)
class Reproduction:
    """The outcome of a run of experiments.

    Attributes:
        model: The model, in words and numbers.
        outcomes: Each experiment's outcome, in the order of the run.
        out: The folder that holds them.
        quick: Whether the settings were the quick ones.
    """

    model: dict[str, Any]
    outcomes: tuple[Outcome, ...]
    out: Path
    quick: bool = False

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, claim by claim."""
        return tuple(finding for _, finding in self._by_claim())

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the experiments that failed."""
        return tuple(outcome.name for outcome in self.outcomes if outcome.error)

    def frame(self) -> "pd.DataFrame":
        """The verdict table: a row for each finding; those of one claim may disagree, and none is merged."""
        import pandas as pd

        rows = [
            {"claim": finding.claim, "experiment": name, "finding": finding.about, "verdict": finding.verdict,
             "evidence": "" if finding.estimate is None else str(finding.estimate), "paper": finding.paper,
             "reason": finding.reason}
            for name, finding in self._by_claim()
        ]  # fmt: skip
        columns = ["claim", "experiment", "finding", "verdict", "evidence", "paper", "reason"]
        return pd.DataFrame(rows, columns=columns)

    def save(self) -> list[Path]:
        """Write the report, as a page, as Markdown and as JSON, into the folder of the run."""
        from actadd_lens.experiments.report import write_report

        return write_report(self)

    def _by_claim(self) -> list[tuple[str, Finding]]:
        found = [(outcome.name, finding) for outcome in self.outcomes for finding in outcome.findings]
        return sorted(found, key=lambda item: item[1].claim)

    def __repr__(self) -> str:
        told = ", ".join(outcome.name + (" (failed)" if outcome.error else "") for outcome in self.outcomes)
        return f"Reproduction({self.model.get('name')}: {told})"

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(index=False))


def reproduce(
    model: LensModel,
    names: str | Sequence[str] | None = None,
    *,
    out: str | Path,
    quick: bool = False,
    shared: Mapping[str, Any] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    note: Callable[[Outcome, bool], None] = lambda outcome, kept: None,
    executor: Any = None,
    progress: bool = True,
) -> Reproduction:
    """Run experiments in order, store each as it finishes, and write one report on all of them.

    A stored result with the same model, settings, data and version is read instead of run again; a killed run continues
    where it was, also inside a sweep. If one fails, the report says so, and the others continue.

    Args:
        model: The model.
        names: Which experiments; by default all.
        out: Folder of results and report; made when missing.
        quick: Few prompts, nulls and layers, to see everything in minutes.
        shared: Settings for every experiment here that takes them, such as `{"nulls": 50, "seed": 1}`.
        settings: Settings of single experiments, including data, such as `{"knowledge": {"facts": mine}}`; they take
            precedence.
        note: Called with each outcome, and whether it was stored already.
        executor: What runs the sweeps and writes the texts, as in `sweep`; no outcome depends on it.
        progress: Whether to show bars.

    Raises:
        SettingError: There is no such experiment, none here takes a setting, or a setting cannot be hashed. Nothing was
            run.
    """
    backend = backend_of(model)
    check_executor(backend, executor)
    chosen = chosen_entries(names)
    asked = checked_settings(chosen, shared or {}, settings or {}, quick=quick)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"There can be no folder {folder} ({error}): give another one as out=.") from error
    keys = {one.name: _key(backend, one, asked[one.name]) for one in chosen}
    outcomes: list[Outcome] = []
    for one in tracked(chosen, what="experiments", unit="experiment", shown=progress):
        key = keys[one.name]
        kept = _kept(folder, one, key)
        outcome = kept
        if outcome is None:
            outcome = _run(model, one, asked[one.name], folder, key, executor=executor, progress=progress)
        outcomes.append(outcome)
        run = Reproduction(model_facts(backend), tuple(outcomes), folder, quick)
        run.save()
        note(outcome, kept is not None)
    return run


def chosen_entries(names: str | Sequence[str] | None) -> tuple[Entry, ...]:
    """Experiments by their names, in the registry's order; all by default.

    Raises:
        SettingError: There is no such experiment.
    """
    if names is None:
        return REGISTRY
    wanted = {entry(name).name for name in ([names] if isinstance(names, str) else names)}
    if not wanted:
        raise SettingError("No experiment was named: name one or more, or none at all for all of them.")
    return tuple(one for one in REGISTRY if one.name in wanted)


def checked_settings(
    chosen: Sequence[Entry],
    shared: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]],
    *,
    quick: bool = False,
) -> dict[str, dict[str, Any]]:
    """The keywords that each experiment is called with; what one is not given keeps its default.

    Raises:
        SettingError: A setting goes to no experiment here, or to one that does not take it.
    """
    names = [one.name for one in chosen]
    for name in settings:
        if name not in names:
            raise SettingError(f"There are settings for {name!r}, which is not run here: {', '.join(names)}.")
    takes = {one.name: set(inspect.signature(one.runs).parameters) - {"model"} for one in chosen}
    taken = {one.name: _taken(one, shared, takes[one.name]) for one in chosen}
    for keyword in shared:
        if not any(keyword in own for own in taken.values()):
            raise SettingError(f"None of {', '.join(names)} takes {keyword!r}, or not as {shared[keyword]!r}.")
    for name, own in settings.items():
        for keyword in own:
            if keyword not in takes[name]:
                raise SettingError(f"{name} takes no {keyword!r}: it takes {', '.join(sorted(takes[name]))}.")
    return {
        one.name: {
            **(one.quick() if quick else {}),
            **{name: value for given in taken[one.name].values() for name, value in given.items()},
            **settings.get(one.name, {}),
        }
        for one in chosen
    }


def _taken(one: Entry, shared: Mapping[str, Any], takes: set[str]) -> dict[str, dict[str, Any]]:
    """Of shared settings, those that an experiment takes, each under the keyword that it has for it."""
    found: dict[str, dict[str, Any]] = {}
    for keyword, value in shared.items():
        single = keyword.removesuffix("s")
        if keyword == "pair":
            if one.pair:
                found[keyword] = {one.pair: value if one.pair == "pair" else (value,)}
        elif keyword in takes:
            found[keyword] = {keyword: value}
        elif keyword in ("layers", "coefficients") and single in takes and len(value) == 1:
            found[keyword] = {single: value[0]}
    return found


def model_facts(backend: Backend) -> dict[str, Any]:
    """What a report tells of its model."""
    return {
        "name": backend.name, "layers": backend.n_layers, "width": backend.d_model, "family": backend.family,
        "weights": backend.weight_processing, "precision": str(backend.dtype).removeprefix("torch."),
        "device": backend.device.type,
    }  # fmt: skip


# -- one experiment --------------------------------------------------------------------------------------------


def _run(
    model: LensModel, one: Entry, asked: Mapping[str, Any], folder: Path, key: str, *, executor: Any, progress: bool
) -> Outcome:
    """Run it and keep what came of it; what fails is told, and not kept."""
    takes = inspect.signature(one.runs).parameters
    told = {"path": folder / STORE, "executor": executor, "progress": progress}
    extra = {name: value for name, value in told.items() if name in takes and name not in asked}
    start = time.perf_counter()
    try:
        outcome = _outcome(one.runs(model, **asked, **extra), one, folder, start)
    except Exception as error:  # whatever it was: it is told, and the others go on
        reason = str(error) if isinstance(error, ActAddError) else f"{type(error).__name__}: {error}"
        return Outcome(one.name, one.kind.title, settings=as_json(dict(asked)), versions=versions(), error=reason)
    record: dict[str, Any] = as_json({"format": _FORMAT, "key": key, **outcome.record()})
    write_json(folder / f"{one.name}.json", {**record, "check": _check(record)})
    return outcome


def _outcome(result: Experiment, one: Entry, folder: Path, start: float) -> Outcome:
    seconds, frame = round(time.perf_counter() - start, 2), result.frame()
    return Outcome(
        name=one.name, title=result.title, settings=as_json(result.settings), findings=result.findings(),
        notes=result.notes, summary=result.summary(), columns=tuple(map(str, frame.columns)),
        rows=tuple(tuple(as_json(value) for value in row) for row in frame.itertuples(index=False, name=None)),
        pictures=tuple(_draw(result, one.name, folder)), seconds=seconds, versions=versions(),
    )  # fmt: skip


def _draw(result: Experiment, name: str, folder: Path) -> Iterator[str]:
    """Each picture as a file; its name."""
    import matplotlib.pyplot as plt

    for which, draw in result.pictures().items():
        file = f"{name}-{which}.png" if which else f"{name}.png"
        figure = draw().get_figure(root=True)
        if figure is not None:
            figure.savefig(folder / file, dpi=150, bbox_inches="tight")
            plt.close(figure)
            yield file


def _key(backend: Backend, one: Entry, asked: Mapping[str, Any]) -> str:
    """Everything an outcome depends on: model, experiment, settings and data, version, and how verdicts are made."""
    return digest((_FORMAT, model_key(backend), one.name, _sources(), dict(asked), __version__)).hex()


@cache
def _sources() -> bytes:
    """The experiments' own code, read once: an outcome of other code is not this one's, whatever the version says."""
    folder = Path(__file__).parent
    return digest([(path.name, path.read_bytes()) for path in sorted(folder.glob("*.py"))])


def _kept(folder: Path, one: Entry, key: str) -> Outcome | None:
    """The outcome of an earlier run under the same key, with its pictures; else None, and it is run again."""
    try:
        record = json.loads((folder / f"{one.name}.json").read_text(encoding="utf-8"))
        if record["key"] != key or record["check"] != _check(record):
            return None
        outcome = Outcome.from_record(record)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):  # none yet, or damaged
        return None
    # Pictures are those that lie in the folder: no path that stands in a file is opened.
    there = {path.name for path in (folder / f"{one.name}.png", *folder.glob(f"{one.name}-*.png"))
             if path.is_file() and not path.is_symlink()}  # fmt: skip
    return outcome if outcome.name == one.name and there.issuperset(outcome.pictures) else None


def _check(record: Mapping[str, Any]) -> str:
    """A hash of all that a kept result holds, so that one which was changed or damaged is not read."""
    told = {name: value for name, value in record.items() if name != "check"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
