"""What commands share: options for the model, and parsing of values."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actadd_lens.vectors.interventions import Intervention


A_MODEL = "a TransformerLens name, a local folder or GGUF file, or smollm2, once fetched by actadd fetch"


def add_position(parser: Any) -> None:
    """The option for the tokens that are steered."""
    parser.add_argument(
        "--position", default="front",
        help="front, mid, back, or a token index; for one row also all, prompt, generated, last, or user in a chat "
        "(default: front)",
    )  # fmt: skip


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options that choose the model."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="storybook", help=f"{A_MODEL} (default: storybook, the embedded model)")
    group.add_argument("--family", choices=("hooked", "bridge"), help="HookedTransformer or TransformerBridge")
    add_device(group)


def add_device(parser: Any) -> None:
    """The options for a model's device and precision."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--dtype", help="precision of the weights: float32, bfloat16 or float16 (default: float32)")


def add_workers(parser: Any) -> None:
    """The options for sharing work among processes."""
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--workers", type=int, metavar="N", help="share the work among N processes on this machine")
    who.add_argument("--dask", metavar="ADDRESS", help="share it among the workers of a Dask scheduler, "
                     "such as tcp://head:8786, or a scheduler file")  # fmt: skip


@contextmanager
def executor_of(options: argparse.Namespace) -> Iterator[Any]:
    """The options as `executor=`; None for this process."""
    if options.workers is not None:
        from actadd_lens.workers import worker_pool

        with worker_pool(options.workers) as pool:
            yield pool
    elif options.dask is not None:
        from actadd_lens.workers import dask_client

        with dask_client(options.dask) as client:
            yield client
    else:
        yield None


def numbers(text: str) -> Sequence[int] | str:
    """Layers from text such as 0:12, 0:12:2, 3,4,9, or all."""
    if text == "all":
        return text
    found: list[int] = []
    for part in text.split(","):
        bounds = part.split(":")
        if len(bounds) > 3 or not all(bound.strip().isdecimal() for bound in bounds):
            raise argparse.ArgumentTypeError(f"{part!r} is not a layer or range of layers, such as 3, 0:12 or 0:12:2")
        numbers = [int(bound) for bound in bounds]
        if len(numbers) == 3 and numbers[2] == 0:
            raise argparse.ArgumentTypeError(f"{part!r} has a step of 0")
        found += numbers if len(numbers) == 1 else range(*numbers)
    return found


def place(text: str) -> Any:
    """A position from text: an index, or a name."""
    return int(text) if text.removeprefix("-").isdecimal() else text


def floats(text: str) -> Sequence[float]:
    """Numbers separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, such as -4,-1,1,4") from None


def loaded(path: str | Path) -> "tuple[Intervention, ...]":
    """What a file given with `--vector` holds: a steering vector, or other interventions."""
    from actadd_lens.steering.files import KIND, load_interventions
    from actadd_lens.vectors.tensor_files import kind_in
    from actadd_lens.vectors.vector import SteeringVector

    return load_interventions(path) if kind_in(path) == KIND else (SteeringVector.load(path),)


def vector_json(found: "Intervention") -> dict[str, Any]:
    """A vector or another intervention as plain values."""
    from actadd_lens.prompts.positions import plain_position

    return {
        "label": found.label,
        "layer": found.layer,
        "position": plain_position(found.position),
        "hook_name": found.hook_name,
        "rows": found.rows,
        **_made_of(found),
        "provenance": found.provenance.to_json(),
    }


def _made_of(found: "Intervention") -> dict[str, Any]:
    """What a kind of intervention has beside its place."""
    from actadd_lens.steering.interventions import Gate, Gated, ProjectionSet
    from actadd_lens.vectors.vector import SteeringVector

    match found:
        case SteeringVector():
            return {"coefficient": found.coefficient, "d_model": found.d_model, "norms": found.norms.tolist()}
        case ProjectionSet():
            return {"direction": found.direction.label, "projection": found.value.tolist()}
        case Gated(gate=Gate() as gate):
            read = {"direction": gate.direction.label, "layer": gate.direction.layer, "token": gate.token,
                    "opens above": gate.threshold}  # fmt: skip
            return {**_made_of(found.inner), "gate": read}
    return {}
