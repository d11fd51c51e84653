"""One tiny model and the vector files that each line of TransformerLens wrote with it.

The weights come from numpy, and the tokenizer knows bytes only, so that the same folder is built whatever versions are
installed. `python -m tests.line_model` writes the files of the line that it runs on into `tests/data/lines`.
"""

import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import actadd_lens as al
from actadd_lens.models.hooked import hooked_transformer

DATA = Path(__file__).parent / "data" / "lines"
PAIR = (" happy", " sad")
LAYER = 2
COEFFICIENT = 4.0
PROMPT = "The girl looked at the dog."
FILES = ("hooked-3.9.0", "bridge-3.9.0", "bridge-4.3.0")
"""Which family of which version of TransformerLens wrote each file."""


def build(folder: Path, *, seed: int = 0) -> Path:
    """A GPT-2 of 4 layers and width 32 that reads bytes, as a Hugging Face folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    mark = "<|endoftext|>"
    pieces = [mark, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=mark, eos_token=mark).save_pretrained(folder)
    config = GPT2Config(
        vocab_size=len(pieces), n_positions=64, n_embd=32, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config)
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            start = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            values = start + 0.25 * random.standard_normal(tuple(weight.shape))
            weight.copy_(torch.from_numpy(values))
    model.save_pretrained(folder)
    return folder


def main() -> None:
    """Write this line's vector files."""
    DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as parent:
        folder = build(Path(parent) / "line-model")
        for family in ("hooked", "bridge"):
            if family == "hooked" and hooked_transformer() is None:
                continue
            model = al.load_model(folder, family=family)
            vector = COEFFICIENT * al.compute_steering_vector(model, PAIR, layer=LAYER)
            vector.save(DATA / f"{family}-{version('transformer-lens')}.safetensors")


if __name__ == "__main__":
    main()
