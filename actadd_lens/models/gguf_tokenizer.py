"""The tokenizer that a GGUF file describes: byte-level BPE with the pre-tokenization that the model was trained with.

A file names the rule by which a text is split before pairs are merged. An unknown rule is refused, because a wrong rule
also gives tokens, but not those that the model was trained with. (transformers reads SmolLM's files with GPT-2's rule,
so two line breaks before a digit become two tokens, where the model was trained with one.)
"""

from typing import Any

from actadd_lens.errors import ModelError

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_RULES = ("gpt-2", "llama-bpe", "smollm")
_CONTROL, _OWN = 3, 4
"""Types of tokens that are matched as a whole: control tokens, and words that the model's authors added."""


def tokenizer_of(fields: dict[str, Any]) -> Any:
    """The Hugging Face tokenizer of a GGUF file.

    Args:
        fields: The file's keys.

    Raises:
        ModelError: The tokenizer is of another kind, or splits texts by an unknown rule.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    kind, rule = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2" or rule not in _RULES:
        raise ModelError(
            f"The file's tokenizer is of the kind {kind!r} with the rule {rule!r}: only byte-level BPE ('gpt2') with "
            f"one of the rules {', '.join(_RULES)} is understood. Load the model's own Hugging Face folder instead."
        )
    pieces, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=rule == "llama-bpe"))
    tokenizer.pre_tokenizer = _cuts(rule)
    tokenizer.decoder = decoders.ByteLevel()
    for wanted in (_CONTROL, _OWN):
        added = [
            AddedToken(piece, normalized=False, special=wanted == _CONTROL)
            for piece, kind in zip(pieces, types, strict=True)
            if kind == wanted
        ]
        (tokenizer.add_special_tokens if wanted == _CONTROL else tokenizer.add_tokens)(added)
    ids = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    found = {ours: fields.get(f"tokenizer.ggml.{theirs}_token_id") for ours, theirs in ids.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=fields.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        model_max_length=int(fields["llama.context_length"]),
        **{f"{name}_token": pieces[index] for name, index in found.items() if index is not None},
    )


def _cuts(rule: str) -> Any:
    """The pre-tokenizer, which splits a text before pairs are merged."""
    from tokenizers import Regex, pre_tokenizers

    if rule == "llama-bpe":
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_LLAMA3), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return gpt2 if rule == "gpt-2" else pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
