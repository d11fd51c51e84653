"""Quantised models: which family can load them, and how they are recognised."""

from collections.abc import Mapping
from typing import Any

from actadd_lens.errors import ModelError


def quantisation_of(config: Any) -> str | None:
    """How the weights of a model are quantised, such as `bitsandbytes`, `gptq` or `awq`; None for plain weights.

    Args:
        config: A Hugging Face config, as an object or as in config.json, or a quantisation config on its own.
    """
    found = config if _method(config) else _get(config, "quantization_config")
    return _method(found) if found else None


def check_quantised(family: str, config: Any, settings: Mapping[str, Any], name: str) -> str | None:
    """Refuse a quantised HookedTransformer before anything is loaded; the kind of quantisation, if there is one.

    Args:
        family: `hooked` or `bridge`.
        config: The contents of config.json.
        settings: What `load_model` was given.
        name: The model's name.

    Raises:
        ModelError: TransformerLens would convert the quantised weights into plain ones, or cannot read them.
    """
    asked = settings.get("quantization_config")
    if asked is not None and quantisation_of(asked) is None:
        raise ModelError(
            f"quantization_config is {asked!r}: expected a quantisation config of transformers, such as "
            "BitsAndBytesConfig(load_in_8bit=True)."
        )
    loaded = settings.get("hf_model")
    kinds = (quantisation_of(asked), quantisation_of(getattr(loaded, "config", None)), quantisation_of(config))
    kind = next((kind for kind in kinds if kind is not None), None)
    if kind is not None and family == "hooked":
        raise ModelError(
            f"{name} is quantised ({kind}), and a HookedTransformer holds plain weights: use family='bridge', which "
            "runs Hugging Face's own quantised layers."
        )
    return kind


def _get(found: Any, name: str) -> Any:
    return found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)


def _method(found: Any) -> str | None:
    method = _get(found, "quant_method")
    return None if method is None else str(getattr(method, "value", method))
