"""The model in its training form: a GPT-Neo written for speed, equal to Hugging Face's weight for weight.

Two things differ from `GPTNeoForCausalLM`, and the export undoes both. Queries, keys and values are one
matrix. Attention is scaled by 1/sqrt(d_head), which GPT-Neo leaves out: unscaled, an optimiser with a
uniform step size would sharpen attention sqrt(d_head) times too fast. The export folds the scale into the
query weights.
"""

import dataclasses

import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """What decides the size of the model; saved in every checkpoint."""

    vocab_size: int
    n_layers: int = 8
    n_local_layers: int = 3
    window: int = 4
    d_model: int = 160
    n_heads: int = 5
    context: int = 256

    @property
    def d_head(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads


def local_attention(query: Tensor, key: Tensor, value: Tensor, window: int, scale: float) -> Tensor:
    """Attention of each token to itself and the `window - 1` before it.

    With a handful of keys per query, shifting keys and values and adding up costs less than a masked square
    of scores.
    """
    n_tokens = query.shape[-2]
    shifted_keys = [nn.functional.pad(key, (0, 0, back, 0))[..., :n_tokens, :] for back in range(window)]
    shifted_values = [nn.functional.pad(value, (0, 0, back, 0))[..., :n_tokens, :] for back in range(window)]
    scores = torch.stack([(query.float() * keys.float()).sum(-1) * scale for keys in shifted_keys], dim=-1)
    position = torch.arange(n_tokens, device=query.device)[:, None]
    outside = position < torch.arange(window, device=query.device)[None, :]
    weights = scores.masked_fill(outside, float("-inf")).softmax(-1)
    mixed = sum(weights[..., back, None] * shifted_values[back].float() for back in range(window))
    return torch.as_tensor(mixed).to(query.dtype)


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention in two halves of the queries, so that the first half never meets the keys after it.

    Compiled on a CPU this takes less than half the time of the built-in kernel, which is meant for longer
    rows.
    """
    if query.is_cuda:
        return nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    n_tokens = query.shape[-2]
    halves = []
    for first, last in ((0, n_tokens // 2), (n_tokens // 2, n_tokens)):
        scores = (query[..., first:last, :] @ key[..., :last, :].mT).float() * scale
        future = torch.ones(last - first, last, dtype=torch.bool, device=query.device).triu(first + 1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        halves.append(weights.to(query.dtype) @ value[..., :last, :])
    return torch.cat(halves, dim=-2)


class Block(nn.Module):
    """One GPT-Neo block: pre-norm attention, local or global, then a four times wider MLP."""

    def __init__(self, shape: ModelShape, *, local: bool) -> None:
        super().__init__()
        self.shape = shape
        self.local = local
        d_model = shape.d_model
        self.ln_1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model)
        self.ln_2 = nn.LayerNorm(d_model)
        self.up = nn.Linear(d_model, 4 * d_model)
        self.down = nn.Linear(4 * d_model, d_model)

    def attend(self, x: Tensor) -> Tensor:
        """What attention adds to the stream."""
        rows, n_tokens, d_model = x.shape
        heads = self.qkv(x).view(rows, n_tokens, 3, self.shape.n_heads, self.shape.d_head)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        scale = self.shape.d_head**-0.5
        if self.local:
            mixed = local_attention(query, key, value, self.shape.window, scale)
        else:
            mixed = causal_attention(query, key, value, scale)
        return self.out(mixed.transpose(1, 2).reshape(rows, n_tokens, d_model))  # type: ignore[no-any-return]  # torch.nn.Module calls are untyped

    def forward(self, x: Tensor) -> Tensor:
        """The stream after the block, [rows, tokens, d_model]."""
        x = x + self.attend(self.ln_1(x))
        hidden = nn.functional.gelu(self.up(self.ln_2(x)), approximate="tanh")
        return x + self.down(hidden)  # type: ignore[no-any-return]  # torch.nn.Module calls are untyped


class StoryModel(nn.Module):
    """Token ids to logits, or to the loss of predicting each next token."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab_size, shape.d_model)
        self.positions = nn.Embedding(shape.context, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape, local=index < shape.n_local_layers) for index in range(shape.n_layers))
        self.ln_f = nn.LayerNorm(shape.d_model)
        self.initialise()

    def initialise(self) -> None:
        """Draw the weights; what writes into the residual stream starts small, whatever the depth."""
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.01)
        for name, parameter in self.blocks.named_parameters():
            if parameter.ndim == 2:
                std = parameter.shape[1] ** -0.5
                residual = ".out." in name or ".down." in name
                nn.init.normal_(parameter, std=std * (2 * self.shape.n_layers) ** -0.5 if residual else std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def typed_blocks(self) -> list[Block]:
        """The blocks, as what they are: a `ModuleList` forgets it."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def hidden(self, ids: Tensor) -> Tensor:
        """The residual stream after the final norm."""
        x = self.embed(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.ln_f(x)  # type: ignore[no-any-return]  # torch.nn.Module calls are untyped

    def forward(self, ids: Tensor) -> Tensor:
        """Logits, [rows, tokens, vocabulary]."""
        return nn.functional.linear(self.hidden(ids), self.embed.weight)

    def losses(self, ids: Tensor, seen: Tensor) -> Tensor:
        """Loss of every prediction in nats, [rows * (tokens - 1)]; a row's last token predicts nothing.

        Args:
            ids: What is to be predicted, [rows, tokens].
            seen: What the model gets to see of it, [rows, tokens].
        """
        logits = self(seen)[:, :-1].flatten(0, 1)
        return nn.functional.cross_entropy(logits.float(), ids[:, 1:].flatten(), reduction="none")
