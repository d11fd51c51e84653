"""`actadd steer`: complete a prompt, steered and unsteered."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actadd_lens.cli.options import add_model, add_position, loaded, place, vector_json
from actadd_lens.errors import SettingError

if TYPE_CHECKING:
    from actadd_lens.models import LensModel
    from actadd_lens.vectors.vector import SteeringVector
    from actadd_lens.writing.completions import Completions


def add(commands: Any) -> None:
    """Add the command and its options."""
    steer = commands.add_parser(
        "steer",
        help="complete a prompt, steered and unsteered",
        epilog='example: actadd steer "The girl looked at the dog. She felt" --pair " happy" " sad" --layer 3 '
        "--coefficient 4 --n 3",
    )
    steer.add_argument("prompt", nargs="+", help="one or more prompts")
    steer.add_argument(
        "--chat", action="store_true", help="treat the prompts as user messages and format them as a chat"
    )
    steer.add_argument("--system", metavar="TEXT", help="system message of the chat (default: the model's own)")
    source = steer.add_argument_group("steering vectors")
    source.add_argument("--pair", nargs=2, action="append", default=[], metavar=("POSITIVE", "NEGATIVE"),
                        help="prompt pair; may be given several times")  # fmt: skip
    source.add_argument(
        "--layer", type=int, action="append", default=[], help="injection layer, one for all pairs or one each"
    )
    source.add_argument("--coefficient", type=float, action="append", default=[],
                        help="injection coefficient, one for all pairs or one each (default: 1)")  # fmt: skip
    source.add_argument(
        "--vector",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="file with a steering vector or other interventions",
    )
    source.add_argument("--no-bos", action="store_true", help="read the pairs without BOS")
    source.add_argument("--row", type=int, metavar="INDEX", help="only this row of each pair's vector (-1: the last)")
    source.add_argument("--norm", type=float, help="scale each row of the pairs' vectors to this norm")
    add_position(source)
    source.add_argument("--save", type=Path, metavar="FILE", help="write the vector of the pair to a file")
    _add_text(steer)
    add_model(steer)
    steer.add_argument("--json", action="store_true", help="print JSON")
    steer.set_defaults(run=run)


def _add_text(steer: argparse.ArgumentParser) -> None:
    """The options for how the text is written."""
    text = steer.add_argument_group("text")
    text.add_argument("--n", type=int, default=1, help="samples per prompt (default: 1)")
    text.add_argument("--max-new-tokens", type=int, default=40, help="maximum number of tokens to add (default: 40)")
    text.add_argument("--seed", type=int, default=0, help="seed of the samples (default: 0)")
    text.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: 1)")
    text.add_argument("--top-p", type=float, help="only the likeliest tokens up to this total probability")
    text.add_argument("--top-k", type=int, help="only the k likeliest tokens")
    text.add_argument(
        "--frequency-penalty",
        type=float,
        default=0.0,
        help="subtracted from a token's logit for each occurrence (default: 0)",
    )
    text.add_argument(
        "--stop", action="append", default=[], help="text that ends a completion; may be given several times"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    layers, coefficients = _per_pair(options, "layer", None), _per_pair(options, "coefficient", 1.0)
    if options.save and (len(options.pair) != 1):
        raise SettingError(f"--save writes the vector of one pair, but {len(options.pair)} were given.")
    if options.system is not None and not options.chat:
        raise SettingError("--system needs --chat: it is the system message of a chat.")
    if not options.pair and (options.no_bos or options.row is not None or options.norm is not None):
        raise SettingError("--no-bos, --row and --norm need --pair; a vector from a file is used as it is.")
    if not options.pair and not options.vector:
        raise SettingError("Nothing to steer with: give --pair POSITIVE NEGATIVE with --layer, or --vector FILE.")
    position = place(options.position)
    from actadd_lens.models import load_model
    from actadd_lens.prompts.chat import chat
    from actadd_lens.writing.completions import complete

    from_files = [found for path in options.vector for found in loaded(path)]
    model = load_model(options.model, family=options.family, device=options.device, dtype=options.dtype)
    computed = [
        coefficient * _computed(model, pair, layer, options)
        for pair, layer, coefficient in zip(options.pair, layers, coefficients, strict=True)
    ]
    if options.save:
        computed[0].save(options.save)
    completions = complete(
        model,
        [chat(model, text, system=options.system) for text in options.prompt] if options.chat else options.prompt,
        [*computed, *from_files],
        position=position,
        n=options.n,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
        stop=options.stop,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        frequency_penalty=options.frequency_penalty,
    )
    print(json.dumps(_completions_json(completions), indent=2, ensure_ascii=False) if options.json else completions)
    return 0


def _computed(model: "LensModel", pair: list[str], layer: int, options: argparse.Namespace) -> "SteeringVector":
    """The vector of a pair, read and cut according to the options."""
    from actadd_lens.methods.actadd import compute_steering_vector
    from actadd_lens.prompts.pairs import PromptPair

    positive, negative = pair
    vector = compute_steering_vector(model, PromptPair(positive, negative, prepend_bos=not options.no_bos), layer=layer)
    vector = vector if options.row is None else vector.row(options.row)
    return vector if options.norm is None else vector.with_norm(options.norm)


def _per_pair(options: argparse.Namespace, name: str, default: Any) -> list[Any]:
    """One value for each pair, from one for all or one each."""
    given, pairs = getattr(options, name), len(options.pair)
    if not given and default is None and pairs:
        raise SettingError(f"--pair needs --{name}.")
    values = given or [default]
    if not pairs and given:
        raise SettingError(f"--{name} needs --pair; a vector from a file has its own.")
    if len(values) not in (1, pairs) and pairs:
        raise SettingError(f"--{name} was given {len(values)} times for {pairs} pairs: give one, or one for each.")
    return values * pairs if len(values) == 1 else values


def _completions_json(completions: "Completions") -> dict[str, Any]:

    return {
        "vectors": [vector_json(vector) for vector in completions.vectors],
        "settings": completions.settings,
        "completions": completions.frame().to_dict(orient="records"),
    }
