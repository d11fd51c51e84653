"""Check an exported folder: `python -m training.verify --model FOLDER [--checkpoint FILE]`.

Log-probs of Hugging Face, of HookedTransformer and of TransformerBridge, and with a checkpoint of the
training form of the model (its weights rounded as the export rounds them), in single precision; fails where
two differ by more than 1e-4.
"""

import argparse
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.export import load_checkpoint

logger = logging.getLogger("training.verify")
TEXT = (
    "Love, garden. Once upon a time there was a girl who loved her garden more than anything. "
    'She said, "I hate the rain because it makes me sad." A: Do you like music?\nB: Yes, every day! '
) * 4


def hooked_log_probs(folder: Path, hf_model: Any, ids: Tensor) -> Tensor:
    """Through a link with a neutral name: TransformerLens guesses the architecture from the path."""
    from transformer_lens import HookedTransformer
    from transformer_lens import loading_from_pretrained as loading

    with tempfile.TemporaryDirectory() as temporary:
        link = Path(temporary) / "model"
        link.symlink_to(folder.resolve())
        config = loading.get_pretrained_model_config(str(link), dtype=torch.float32)
        state = loading.get_pretrained_state_dict(str(link), config, hf_model, dtype=torch.float32)
        model = HookedTransformer(config, AutoTokenizer.from_pretrained(link))
        model.load_and_process_state_dict(state)
    logger.info("HookedTransformer: window %s, attention %s", config.window_size, config.attn_types)
    return model(ids).log_softmax(-1)  # type: ignore[no-any-return]  # torch.nn.Module calls are untyped


def bridge_log_probs(folder: Path, ids: Tensor) -> Tensor:
    """By TransformerBridge, with the weights as they are."""
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(str(folder), dtype=torch.float32, device="cpu")
    return model(ids).log_softmax(-1)  # type: ignore[no-any-return]  # torch.nn.Module calls are untyped


def rounded_log_probs(checkpoint: Path, weights: str, hf_model: Any, ids: Tensor) -> Tensor:
    """The training form with the exported weights put back into it."""
    model, _ = load_checkpoint(checkpoint, weights=weights)
    exported = hf_model.state_dict()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
        for index, block in enumerate(model.typed_blocks()):
            query = exported[f"transformer.h.{index}.attn.attention.q_proj.weight"]
            block.qkv.weight[: model.shape.d_model] = query * model.shape.d_head**0.5
    return model(ids).log_softmax(-1)  # type: ignore[no-any-return]  # torch.nn.Module calls are untyped


@torch.no_grad()
def verify(folder: Path, checkpoint: Path | None, weights: str) -> dict[str, float]:
    """Largest difference of log-probs from Hugging Face's, in nats, by way of computing."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    hf_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer(tokenizer.bos_token + TEXT, return_tensors="pt", truncation=True)["input_ids"]
    source = hf_model(ids).logits.log_softmax(-1)
    others = {"hooked": hooked_log_probs(folder, hf_model, ids), "bridge": bridge_log_probs(folder, ids)}
    if checkpoint is not None:
        others["training form"] = rounded_log_probs(checkpoint, weights, hf_model, ids)
    return {name: (other - source).abs().max().item() for name, other in others.items()}


def main() -> None:
    """Compare, log, and fail where they differ."""
    parser = argparse.ArgumentParser(description="Compare log-probs of an exported folder.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--weights", choices=["auto", "last", "average"], default="auto")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    differences = verify(arguments.model, arguments.checkpoint, arguments.weights)
    logger.info("largest difference of log-probs: %s", differences)
    if max(differences.values()) > 1e-4:
        raise SystemExit("The folder computes something else than it was trained as.")


if __name__ == "__main__":
    main()
