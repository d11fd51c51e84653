"""Where the modules of 0.1 are now: importing one by its old name raises an error with the new name."""

import sys
from typing import Any

_MOVED = {
    "compute": "methods.actadd",
    "demonstration": "experiments.demonstration",
    "files": "vectors.files",
    "generation": "writing.completions",
    "metrics": "measuring.metrics",
    "naming": "vectors.naming",
    "nulls": "measuring.nulls",
    "positions": "prompts.positions",
    "previews": "steering.preview",
    "provenance": "vectors.provenance",
    "sampling": "writing.sampling",
    "scorers": "measuring.scorers",
    "sweep_results": "sweeps.results",
    "sweep_store": "sweeps.store",
}


class _Moved:
    """A finder that knows the old names, and finds nothing; its base class would triple the time of an import."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        """Tell where a module of 0.1 is now."""
        package, _, name = fullname.partition(".")
        if package == "actadd_lens" and name in _MOVED:
            raise ModuleNotFoundError(
                f"actadd_lens.{name} is now actadd_lens.{_MOVED[name]}; public names are imported from actadd_lens.",
                name=fullname,
            )


def tell_of_moves() -> None:
    """Answer for the old names, once."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
