"""Models: loading them, and the one place that distinguishes HookedTransformer and TransformerBridge."""

from typing import Any

from actadd_lens.errors import ModelError
from actadd_lens.models.fetching import fetch
from actadd_lens.models.loading import load_model
from actadd_lens.models.origins import ModelSource, model_source
from actadd_lens.models.protocol import Backend, HookHandle, LensModel, PassContext

__all__ = [
    "Backend",
    "HookHandle",
    "LensModel",
    "ModelSource",
    "PassContext",
    "backend_of",
    "fetch",
    "load_model",
    "model_source",
]


def backend_of(model: Any) -> Backend:
    """The common interface to a model.

    Args:
        model: Any HookedTransformer or TransformerBridge.

    Raises:
        ModelError: It is neither.
    """
    from transformer_lens.model_bridge import TransformerBridge

    from actadd_lens.models.bridge import BridgeBackend
    from actadd_lens.models.hooked import HookedBackend, hooked_transformer

    if isinstance(model, TransformerBridge):
        return BridgeBackend(model)
    hooked = hooked_transformer()
    if hooked is not None and isinstance(model, hooked):
        return HookedBackend(model)
    raise ModelError(
        f"A {type(model).__name__} cannot be steered: pass a HookedTransformer or a TransformerBridge, "
        "such as load_model() returns."
    )
