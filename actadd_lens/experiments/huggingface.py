"""A Hugging Face model run by itself, with hooks of torch on its blocks: what this package is compared with."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.errors import ModelError


@dataclass(frozen=True, eq=False)
class Source:
    """A Hugging Face model with hooks on its blocks, and nothing of TransformerLens."""

    model: Any
    n_layers: int

    @cached_property
    def blocks(self) -> Any:
        """Its blocks, in order."""
        for module in self.model.modules():
            if isinstance(module, torch.nn.ModuleList) and len(module) == self.n_layers:
                return module
        raise ModelError(f"No stack of {self.n_layers} blocks was found in {type(self.model).__name__}.")

    @property
    def cap(self) -> float | None:
        """What the last logits are capped at."""
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return float(cap) if cap else None

    def logits(self, tokens: Tensor) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits of whole passes, as the model gives them."""
        found: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return found.float()

    def uncapped(self, tokens: Tensor) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits as they are before a cap, which float64 undoes."""
        logits = self.logits(tokens).double()
        return logits if self.cap is None else self.cap * torch.atanh(logits / self.cap)

    @contextmanager
    def adding(self, layer: int, rows: Float[Tensor, "pos d_model"]) -> Iterator[None]:
        """Rows added at the first tokens of what enters a block."""

        def add(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            stream = args[0] if args else kwargs["hidden_states"]
            stream = torch.cat([stream[:, : len(rows)] + rows.to(stream), stream[:, len(rows) :]], dim=1)
            return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})

        handle = self.blocks[layer].register_forward_pre_hook(add, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def written(self, tokens: Tensor) -> tuple[Float[Tensor, "layers d_model"], Float[Tensor, " d_model"]]:
        """What each block adds at the last token, and the stream after the last one."""
        entered: dict[int, Tensor] = {}
        left: dict[int, Tensor] = {}

        def keep(layer: int) -> Any:
            def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
                entered[layer] = (args[0] if args else kwargs["hidden_states"])[0, -1].float()
                left[layer] = (
                    (output[0] if isinstance(output, tuple | list) else output)[..., -1, :].reshape(-1).float()
                )

            return note

        with ExitStack() as stack:
            for layer, block in enumerate(self.blocks):
                stack.callback(block.register_forward_hook(keep(layer), with_kwargs=True).remove)
            self.logits(tokens)
        order = range(self.n_layers)
        return torch.stack([left[layer] - entered[layer] for layer in order]), left[self.n_layers - 1]

    def tail(self, tokens: Tensor, streams: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows d_vocab"]:
        """Uncapped logits of streams put in place of what the last block leaves at the last token, one by one."""

        def put(stream: Tensor) -> Any:
            def replace(module: Any, args: Any, output: Any) -> Any:
                hidden = (output[0] if isinstance(output, tuple | list) else output).clone()
                hidden[..., -1, :] = stream.to(hidden)
                return type(output)((hidden, *output[1:])) if isinstance(output, tuple | list) else hidden

            return replace

        found = []
        for stream in streams:
            handle = self.blocks[-1].register_forward_hook(put(stream))
            try:
                found.append(self.uncapped(tokens)[0, -1])
            finally:
                handle.remove()
        return torch.stack(found)
