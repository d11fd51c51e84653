"""The card of a vector's folder: what it is made of, where it goes, and its measured effect where one is given."""

import json
import re
from collections.abc import Sequence
from typing import Any

from actadd_lens.errors import SettingError
from actadd_lens.vectors.vector import SteeringVector

_HUB_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
TAGS = ("steering-vector", "activation-addition", "actadd-lens")


def card_of(
    vector: SteeringVector,
    place: str,
    *,
    measurements: Sequence[Any] = (),
    licence: str | None = None,
    base_model: str | None = None,
    files: Sequence[tuple[str, str]] = (),
) -> str:
    """The card as Markdown with its YAML head.

    Args:
        vector: The vector.
        place: Where it can be loaded from: a folder's name, or its address on the Hub.
        measurements: What it was measured to do; each must be of this vector alone.
        licence: The licence's identifier, such as `mit`; left out where None.
        base_model: The model's name on the Hub; None takes the provenance's where that is one.
        files: Further files, each with what it holds.

    Raises:
        SettingError: A measurement is of something else, or a name holds a line break.
    """
    for item in measurements:
        check_measured(vector, item)
    told = vector.provenance
    if base_model is None and told.model is not None and _HUB_NAME.fullmatch(told.model):
        base_model = told.model
    head: dict[str, Any] = {"tags": list(TAGS), "library_name": "actadd-lens"}
    for name, value in (("base_model", base_model), ("license", licence)):
        if value is not None:
            head[name] = _line(name, value)
    lines = ["---", *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()), "---", ""]
    lines += [
        f"# {_code(vector.label)}",
        "",
        "A steering vector, to be added to the residual stream of a language model.",
        "",
    ]
    lines += [*_facts(vector), "", "## Use", "", *_use(vector, place), *_files(files), *_effects(measurements)]
    return "\n".join(lines) + "\n"


def check_measured(vector: SteeringVector, item: Any) -> None:
    """Check that a measurement is of this vector alone, with this coefficient.

    Raises:
        SettingError: It is not.
    """
    import torch

    of = getattr(item, "vectors", None)
    of = of if of is not None else getattr(getattr(item, "completions", None), "vectors", None)
    if of is None or not hasattr(item, "effect"):
        raise SettingError(
            f"A {type(item).__name__} is not a measurement: pass a result of measure or measure_completions."
        )
    [one] = of if len(of) == 1 else [None]
    same = (
        isinstance(one, SteeringVector) and one.layer == vector.layer and one.injection.shape == vector.injection.shape
    )
    if not same or not torch.equal(one.injection.cpu(), vector.injection.cpu()):  # type: ignore[union-attr]
        raise SettingError(
            f"The measurement is not of this vector ({vector.told}) alone: measure the vector that is saved, with its "
            "coefficient."
        )


def _facts(vector: SteeringVector) -> list[str]:
    told = vector.provenance
    rows = [
        ("read from", _code(told.model or "a model that is not recorded")),
        ("made of", _made_of(vector)),
        ("layer", f"{vector.layer} (0-based; added to the input of this block, `{vector.hook_name}`)"),
        ("coefficient", f"{vector.coefficient:g}"),
        ("position", "left to the tool" if vector.position is None else _code(str(vector.position))),
        ("rows", f"{vector.rows}, of lengths {', '.join(f'{norm:.3g}' for norm in vector.norms.tolist()[:12])}"),
    ]
    if told.read_layer is not None and told.read_layer != vector.layer:
        rows.append(("read at layer", str(told.read_layer)))
    if told.weight_processing:
        rows.append(("weights", f"{told.weight_processing}, {told.dtype}"))
    if told.steps:
        rows.append(("steps since", ", ".join(_code(step) for step in told.steps)))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in told.versions.items())))
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def _made_of(vector: SteeringVector) -> str:
    told = vector.provenance
    if told.positive is None:
        return _code(told.label)
    if told.negative is None:
        return f"the prompt {_code(told.positive)}"
    bos = "" if told.prepend_bos is None else f", BOS {'first' if told.prepend_bos else 'left out'}"
    return f"the prompt pair {_code(told.positive)} minus {_code(told.negative)}{bos}"


def _use(vector: SteeringVector, place: str) -> list[str]:
    model = vector.provenance.model or "MODEL"
    return [
        "```python",
        "import actadd_lens as al",
        "",
        f"vector = al.SteeringVector.load({json.dumps(place)})",
        f"model = al.load_model({json.dumps(model)})",
        "with al.steer(model, vector):",
        '    model.generate("Your prompt", max_new_tokens=40)',
        "```",
        "",
    ]


def _files(files: Sequence[tuple[str, str]]) -> list[str]:
    if not files:
        return []
    return ["| file | what it holds |", "|---|---|", *(f"| `{name}` | {_cell(told)} |" for name, told in files), ""]


def _effects(measurements: Sequence[Any]) -> list[str]:
    if not measurements:
        return ["## Effect", "", "No measured effect was given with this vector."]
    lines = ["## Effect", "", "Steered minus unsteered, with its interval, and null vectors of equal row norms.", ""]
    lines += ["| measured | effect | interval | over | nulls |", "|---|---|---|---|---|"]
    for item in measurements:
        effect = item.effect
        name = getattr(getattr(item, "metric", None), "name", None) or getattr(item, "scorer", type(item).__name__)
        nulls = "none run"
        if len(effect.nulls):
            spread = effect.nulls.std(ddof=min(1, len(effect.nulls) - 1))
            kind = getattr(item, "null_kind", None)
            nulls = f"{len(effect.nulls)}{f' ({kind})' if kind else ''}: {effect.nulls.mean():+.3g} ± {spread:.2g}"
            nulls += f"; two-sided p = {effect.p_value('two-sided'):.3g}"
        lines.append(
            f"| {_cell(str(name))} | {effect.mean:+.3g} | [{effect.low:.3g}, {effect.high:.3g}] ({effect.level:.0%}) | "
            f"{effect.n_prompts} prompts x {effect.n_samples}, {effect.covers} | {nulls} |"
        )
        if effect.caution:
            lines += ["", f"{_cell(effect.caution)}", ""]
    return lines


def _code(text: str) -> str:
    """A text as inline code on one line, safe in a table, whatever backticks it contains."""
    shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text).replace("|", r"\|")
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * (longest + 1)
    padded = f" {shown} " if shown.startswith(("`", " ")) or shown.endswith(("`", " ")) else shown
    return f"{fence}{padded or ' '}{fence}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _line(name: str, value: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise SettingError(f"{name} is {value!r}: expected a name on one line.")
    return value
