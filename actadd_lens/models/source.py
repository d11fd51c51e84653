"""The Hugging Face model that a model of the hub is made from."""

import os
from collections.abc import Mapping
from typing import Any

from actadd_lens.errors import ModelError

_LOADED_OTHERWISE = {
    "checkpoint_index": (None,),
    "checkpoint_value": (None,),
    "checkpoint_label": (None,),
    "revision": (None,),
    "device_map": (None,),
    "n_devices": (None, 1),
    "max_memory": (None,),
    "hf_config_overrides": (None,),
    "load_weights": (None, True),
    "model_class": (None,),
    "trust_remote_code": (None, False),
    "quantization_config": (None,),
}
"""Keywords that only TransformerLens can translate for transformers, and the values that change nothing."""

_NOT_BY_TRANSFORMERS = ("NeelNanda", "ArthurConmy", "Baidicoot")
"""Owners whose models are not Hugging Face models, so that there is nothing to compare them with."""


def can_be_compared(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether this package can load a model of the hub as TransformerLens would, so that it can be compared."""
    asked = [key for key, idle in _LOADED_OTHERWISE.items() if settings.get(key) not in idle]
    return not asked and not name.startswith(_NOT_BY_TRANSFORMERS)


def hf_model_of(name: str, dtype: Any, **others: Any) -> Any:
    """The Hugging Face model of a name, loaded as TransformerLens itself would; None if it is quantised.

    Args:
        name: A name of the hub.
        dtype: Precision of the weights.
        **others: Passed on to `from_pretrained`.

    Raises:
        ModelError: It does not predict next tokens.
        OSError: It cannot be fetched.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    token = os.environ.get("HF_TOKEN") or None
    config = AutoConfig.from_pretrained(name, token=token)
    check_predicts(config, name)
    if getattr(config, "quantization_config", None):
        return None
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = None  # configurations of old models do not have it
    options = {"attn_implementation": "eager", "token": token, **others}
    return AutoModelForCausalLM.from_pretrained(name, config=config, dtype=dtype, **options).requires_grad_(False)


def check_predicts(config: Any, name: str) -> None:
    """Refuse what transformers does not load as a next-token predictor, before any weight is loaded.

    Raises:
        ModelError: It is an encoder, an encoder-decoder, or no language model.
    """
    from transformers import AutoModelForCausalLM

    if config.is_encoder_decoder or (
        type(config) not in AutoModelForCausalLM._model_mapping and not getattr(config, "auto_map", None)
    ):
        raise ModelError(
            f"{name} ({config.model_type}) does not predict next tokens from left to right, so it cannot be steered: "
            "pass a decoder, such as a GPT or a Llama."
        )
