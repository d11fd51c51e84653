"""Sparse autoencoders in a hook point, as sae-lens hangs them: a clear error; once they are gone, all is as before."""

from typing import Any

import pytest
import torch
from torch import nn

import actadd_lens as al
from actadd_lens.models import backend_of
from tests.conftest import FAMILIES


class Autoencoder(nn.Module):
    """Stands in a hook point's place and has none of its own."""

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        return 0.5 * stream


def put(model: Any, module: Any) -> Any:
    """Put a module in the hook point's place, as sae-lens does in each family, and return what stood there."""
    name = backend_of(model)._own_name("blocks.2.hook_resid_pre")
    parent, _, last = name.rpartition(".")
    block = model.get_submodule(parent)
    before = getattr(block, last)
    setattr(block, last, module)
    if hasattr(model, "_hook_registry"):
        model._hook_registry[name] = module
    else:
        model.setup()
    return before


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hook_point_that_is_taken_is_an_error_and_one_that_is_given_back_is_found(load: Any, family: str) -> None:
    model = load("gpt2", family)
    vector = 5 * al.compute_steering_vector(model, ("Love", "Hate"), layer=2)
    tokens = model.to_tokens("The girl looked")
    with al.steer(model, vector):
        expected = model(tokens)
    point = put(model, Autoencoder())
    try:
        with pytest.raises(al.ModelError, match="sparse autoencoder"):
            al.compute_steering_vector(model, ("Love", "Hate"), layer=2)
        with pytest.raises((al.ModelError, al.SteeringError), match="sparse autoencoder"):
            al.complete(model, "The girl", vector, max_new_tokens=1, progress=False)
        put(model, type(point)())  # another hook point than before, as sae-lens leaves one
        with al.steer(model, vector):
            assert torch.equal(model(tokens), expected)
    finally:
        put(model, point)
