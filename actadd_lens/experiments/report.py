"""The report of a run: verdicts first, then a section for each experiment; as one page, as Markdown and as JSON."""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from actadd_lens.experiments import primary
from actadd_lens.experiments.evidence import Finding, Verdict
from actadd_lens.experiments.paper import CLAIMS, TABLES, PaperTable
from actadd_lens.experiments.storing import versions, write_json, write_text
from actadd_lens.statistics import LEVEL, benjamini_hochberg

if TYPE_CHECKING:
    from actadd_lens.experiments.suite import Outcome, Reproduction

_LONG = 30
"""A longer table is folded away on the page, and cut in Markdown."""

_SHORT = 32
"""A text of so many characters is not broken into lines."""

_CLASSES = dict(zip(get_args(Verdict), ("same", "small", "opposite", "none", "untestable"), strict=True))

_PRIMARY_COLUMNS = ("claim", "decided by", "verdict", "p", "q")

_READING = (
    "A verdict compares one measured number with the paper's claim. “Same direction”: the whole 95 % interval lies on "
    "the claimed side and, if there are null vectors of equal row norms, p against them is at most .05 (with fewer "
    "than 39 nulls also the p from their mean and spread); for something that is claimed to stay, the interval lies "
    "inside the stated margin. “Opposite”: the same on the other side. “Shown to be small”: the interval lies within a "
    "margin that was fixed in advance, a tenth of the paper's own effect by default. “Undecided”: neither, "
    "which is not evidence that there is no effect. “Not testable here”: nothing that this run measures could decide "
    "it, for the reason given. What decides a claim was fixed before anything was run: all findings that its wording "
    "requires have to hold. Its p is the largest of theirs, one-sided; q is that p adjusted for the false discovery "
    "rate over the claims of this report (Benjamini and Hochberg). The other findings are reported as well, each by "
    "itself; some judge the same steered number in another way."
)


def write_report(run: "Reproduction") -> list[Path]:
    """`report.html` with its pictures inside, `report.md` beside its pictures, and `report.json` with everything.

    Args:
        run: The run.
    """
    html, markdown, told = (run.out / f"report.{suffix}" for suffix in ("html", "md", "json"))
    write_text(html, page(run))
    write_text(markdown, markdown_page(run))
    outcomes = [outcome.record() for outcome in run.outcomes]
    decided = [dict(zip(_PRIMARY_COLUMNS, row, strict=True)) for row in _primary_rows(run)]
    record = {"model": run.model, "versions": versions(), "claims": CLAIMS, "primary": decided, "outcomes": outcomes}
    write_json(told, record)
    return [html, markdown, told]


def digits(value: Any) -> str:
    """A number with few digits; anything else as it is.

    >>> digits(0.123456), digits(1.0002), digits(4.0), digits(12345.6), digits(2.5e16), digits(3), digits(None)
    ('0.123', '1.00', '4', '12,346', '2.50e+16', '3', '')
    """
    if value is None:
        return ""
    if isinstance(value, float):
        if abs(value) < 1e6 and (value.is_integer() or abs(value) >= 1000):
            return f"{value:,.0f}"
        return f"{value:#.3g}".removesuffix(".")
    return ", ".join(map(digits, value)) if isinstance(value, list | tuple) else str(value)


def _title(run: "Reproduction") -> str:
    return f"Activation addition on {run.model['name']}: the paper's experiments"


def _model_line(run: "Reproduction") -> str:
    facts = run.model
    told = (
        f"{facts['name']}: {facts['layers']} layers, d_model {facts['width']}, {facts['precision']}, {facts['weights']}"
    )
    return f"{told}, {facts['family']}, on {facts['device']}. " + ", ".join(
        f"{name} {number}" for name, number in versions().items()
    )


def _counts(run: "Reproduction") -> str:
    rows = _primary_rows(run)
    found = [verdict for _, _, verdict, _, _ in rows]
    told = ", ".join(f"{found.count(verdict)} {verdict}" for verdict in get_args(Verdict))
    adjusted = sum(verdict == "same direction" and (q or 0.0) <= LEVEL for _, _, verdict, _, q in rows)
    quick = " Quick settings, with few prompts and nulls: a first look." if run.quick else ""
    failed = f" {len(run.failed)} failed: {', '.join(run.failed)}." if run.failed else ""
    experiments = f"{len(run.outcomes)} experiment{'s' * (len(run.outcomes) != 1)}"
    claims = f"{len(found)} claim{'s' * (len(found) != 1)}"
    return (
        f"{experiments}, {len(run.findings)} findings. {claims}: {told}; {adjusted} in the same direction with q at "
        f"most {LEVEL:g}.{failed}{quick}"
    )


def _decisions(run: "Reproduction") -> list[primary.Decision]:
    """What became of each claim of which all parts were measured."""
    findings = {outcome.name: outcome.findings for outcome in run.outcomes}
    found = [one.decided(findings) for one in primary.PRIMARY]
    return [one for one in found if one is not None]


def _primary_rows(run: "Reproduction") -> list[tuple[Any, ...]]:
    """Claim, what decides it, verdict, p and q."""
    found = _decisions(run)
    p_values = np.array([one.p_value for one in found])
    return [
        (one.claim, _parts(one), one.verdict, *(None if math.isnan(value) else float(value) for value in pair))
        for one, pair in zip(found, zip(p_values, benjamini_hochberg(p_values), strict=True), strict=True)
    ]


def _parts(decision: primary.Decision) -> str:
    """The findings that decide a claim, each with its verdict where there are several."""
    if len(decision.parts) == 1:
        told = decision.parts[0][0].about
    else:
        told = "; ".join(f"{finding.about.split(', ')[0]}: {finding.verdict}" for finding, _ in decision.parts)
    return f"{told} (without {decision.without})" if decision.without else told


def _by_claim(run: "Reproduction") -> dict[int, list[tuple[str, Finding]]]:
    found: dict[int, list[tuple[str, Finding]]] = {number: [] for number in CLAIMS}
    for outcome in run.outcomes:
        for finding in outcome.findings:
            found[finding.claim].append((outcome.name, finding))
    return found


def _setting(value: Any) -> str:
    """A setting as short text; long lists by their length."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_setting(item)}" for name, item in value.items())
    if isinstance(value, list):
        shown = [f"“{item}”" if isinstance(item, str) and item != item.strip() else _setting(item) for item in value]
        return ", ".join(shown) if len(shown) <= 12 else f"{', '.join(shown[:4])}, … ({len(shown)} in all)"
    return digits(value)


# -- the page --------------------------------------------------------------------------------------------------


def page(run: "Reproduction") -> str:
    """The report as one HTML page that needs nothing beside it.

    Args:
        run: The run.
    """
    links = "".join(f'<a href="#{escape(outcome.name)}">{escape(outcome.title)}</a> ' for outcome in run.outcomes)
    parts = [
        f'<p class="facts">{escape(_model_line(run))}</p>',
        f"<p>{escape(_counts(run))}</p>",
        f"<nav>{links}</nav>",
        "<h2>The twelve claims</h2>",
        f'<p class="notes">{escape(_READING)}</p>',
        _html_table("What decides each claim", _PRIMARY_COLUMNS, _primary_rows(run)),
        _verdict_table(run),
        *(_section(run, outcome) for outcome in run.outcomes),
    ]
    template = Template((resources.files(__package__) / "report.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(_title(run)), body="\n".join(parts))


def _verdict_table(run: "Reproduction") -> str:
    names = ("finding", "verdict", "evidence", "in the paper", "remark")
    widths = (28, 17, 23, 15, 17)
    columns = "".join(f'<col style="width:{width}%">' for width in widths)
    head = "".join(f"<th>{name}</th>" for name in names)
    body = ""
    for number, found in _by_claim(run).items():
        none = "" if found else " <span>— not measured in this run</span>"
        body += f'<tr class="claim"><td colspan="5">{number}. {escape(CLAIMS[number])}{none}</td></tr>'
        body += "".join(_finding_row(experiment, finding) for experiment, finding in found)
    return (
        f'<table class="verdicts"><colgroup>{columns}</colgroup><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _finding_row(experiment: str, finding: Finding) -> str:
    verdict = f'<span class="verdict {_CLASSES[finding.verdict]}">{escape(finding.verdict)}</span>'
    evidence = escape(_evidence(finding))
    about = f'{escape(finding.about)} (<a href="#{escape(experiment)}">{escape(experiment)}</a>)'
    cells = [("", about), ("", verdict), ("evidence", evidence), ("paper", escape(finding.paper))]
    cells.append(("remark", escape(finding.reason)))
    return "<tr>" + "".join(f'<td data-name="{name}">{cell}</td>' if name else f"<td>{cell}</td>"
                            for name, cell in cells) + "</tr>"  # fmt: skip


def _evidence(finding: Finding) -> str:
    """The number with its interval and nulls, and how near nothing counts as small."""
    if finding.estimate is None:
        return ""
    margin = "" if finding.margin is None else f"; small within {finding.margin:.2g} of {finding.estimate.neutral:g}"
    return f"{finding.estimate}{margin}"


def _section(run: "Reproduction", outcome: "Outcome") -> str:
    parts = [f'<h2 id="{escape(outcome.name)}">{escape(outcome.title)}</h2>']
    if outcome.error:
        return "".join([*parts, f'<p class="failed">Failed: {escape(outcome.error)}</p>'])
    parts.append(f"<p>{escape(outcome.summary)}</p>")
    for picture in outcome.pictures:
        content = base64.b64encode((run.out / picture).read_bytes()).decode()
        parts.append(
            f'<figure><img alt="{escape(outcome.title)}" src="data:image/png;base64,{content}"></figure>'
        )  # fmt: skip
    tables = [_html_table(f"Measured on {run.model['name']}", outcome.columns, outcome.rows)]
    tables += [
        _html_table(f"{paper.caption} ({paper.source})", paper.columns, paper.rows) for paper in _papers(outcome)
    ]
    parts.append(f'<div class="tables">{"".join(tables)}</div>')
    settings = "; ".join(f"{escape(name)}: {escape(_setting(value))}" for name, value in outcome.settings.items())
    parts.append(f'<p class="notes">Settings. {settings}.</p>')
    if outcome.notes:
        parts.append('<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in outcome.notes) + "</ul>")
    return "\n".join(parts)


def _papers(outcome: "Outcome") -> tuple[PaperTable, ...]:
    return TABLES.get(outcome.name, ())


def _html_table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    sides = [f' class="{_kind(rows, place)}"' for place in range(len(columns))]
    head = "".join(f"<th{side}>{escape(name)}</th>" for side, name in zip(sides, columns, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{side}>{escape(digits(cell))}</td>" for side, cell in zip(sides, row, strict=True))
        + "</tr>"
        for row in rows
    )  # fmt: skip
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    if len(rows) > _LONG:
        return f"<div><details><summary>{escape(caption)}: {len(rows)} rows</summary>{table}</details></div>"
    return f'<div><p class="caption">{escape(caption)}</p>{table}</div>'


def _kind(rows: Sequence[Sequence[Any]], place: int) -> str:
    """How a column is set: numbers to the right, short texts in one line, long ones broken."""
    cells = [row[place] for row in rows if row[place] is not None]
    if cells and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells):
        return "number"
    return "short" if all(len(digits(cell)) <= _SHORT for cell in cells) else "long"


# -- Markdown --------------------------------------------------------------------------------------------------


def markdown_page(run: "Reproduction") -> str:
    """The report as Markdown, its pictures beside it.

    Args:
        run: The run.
    """
    parts = [
        f"# {_plain(_title(run))}",
        _plain(_model_line(run)),
        _plain(_counts(run)),
        "## The twelve claims",
        _READING,
    ]
    parts += ["### What decides each claim", _markdown_table(_PRIMARY_COLUMNS, _primary_rows(run))]
    by_claim = _by_claim(run)
    for number, found in by_claim.items():
        if not found:
            continue
        parts.append(f"### {number}. {CLAIMS[number]}")
        rows = [
            (f"{_name(finding.about)} ([{_name(name)}](#{name}))", f"**{finding.verdict}**",
             _evidence(finding), finding.paper, finding.reason)
            for name, finding in found
        ]  # fmt: skip
        names = ("finding", "verdict", "evidence", "in the paper", "remark")
        parts.append(_markdown_table(names, rows))
    missing = [str(number) for number, found in by_claim.items() if not found]
    if missing:
        parts.append(f"Not measured in this run: claims {', '.join(missing)}.")
    parts += [_markdown_section(run, outcome) for outcome in run.outcomes]
    return "\n\n".join(parts) + "\n"


def _markdown_section(run: "Reproduction", outcome: "Outcome") -> str:
    parts = [f'<a id="{escape(outcome.name)}"></a>', f"## {_plain(outcome.title)}"]
    if outcome.error:
        return "\n\n".join([*parts, f"Failed: {_plain(outcome.error)}"])
    parts.append(_marked(outcome.summary))
    parts += [f"![{_name(outcome.title)}]({picture})" for picture in outcome.pictures]
    parts += [f"Measured on {_plain(run.model['name'])}:", _markdown_table(outcome.columns, outcome.rows[:_LONG])]
    if len(outcome.rows) > _LONG:
        parts.append(f"{len(outcome.rows) - _LONG} more rows are in `{outcome.name}.json`.")
    for table in _papers(outcome):
        parts += [f"{table.caption} ({table.source}):", _markdown_table(table.columns, table.rows)]
    settings = "; ".join(f"{name}: {_setting(value)}" for name, value in outcome.settings.items())
    parts.append(_marked(f"Settings. {settings}."))
    parts += [_marked(f"- {note}") for note in outcome.notes]
    return "\n\n".join(parts)


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *([digits(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _name(text: str) -> str:
    """A name of someone else's giving, as Markdown shows it and does not read it."""
    return re.sub(r"([\\`*\[\]#])", r"\\\1", " ".join(text.split()))


def _plain(text: str) -> str:
    """The same outside of a table, whose cells are marked anyway."""
    return _marked(_name(text))


def _cell(text: str) -> str:
    return _marked(text).replace("|", r"\|").replace("\n", " ")


def _marked(text: str) -> str:
    """A text whose signs Markdown would take for its own."""
    return text.replace("<", "&lt;").replace("_", r"\_").replace(" * ", r" \* ")
