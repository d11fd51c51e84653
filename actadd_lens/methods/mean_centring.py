"""Mean-centring: the mean of target texts minus that of text in general (arXiv 2312.03813)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from actadd_lens.methods.layers import one_layer
from actadd_lens.methods.reading import BATCH_SIZE, Prompt, Read, provenance_of, read_prompts, told_read
from actadd_lens.models import LensModel, backend_of
from actadd_lens.models.protocol import Spot
from actadd_lens.vectors.vector import SteeringVector


def mean_centring(
    model: LensModel,
    target: Sequence[Prompt],
    training: Sequence[Prompt] | None,
    *,
    layer: int | None = None,
    paper_layer: int | None = None,
    read: Read = "all",
    bos: bool = True,
    prepend_bos: bool = True,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> SteeringVector:
    """The mean over target texts minus the mean over training texts; all tokens weigh equally in each.

    Read: all tokens of both sets; or the last token of each target text, for the effect of a task in context (a
    function vector), with the training mean still over all tokens. Lands: on the prompt's last token and on every
    generated one. Does: x + c v.

    On models whose first token is much larger than others (SmolLM2, Llama), the two means mostly reflect how long the
    texts are: leave BOS out with `bos=False`.

    Args:
        model: The model to read; if it is being steered, the unsteered model is read.
        target: Texts of one kind, chat prompts, or token ids.
        training: Texts in general, such as the model was trained on; None for the mean of the target texts alone,
            which the paper compares with.
        layer: In this package's count: the stream that enters this block.
        paper_layer: The paper's l, the output of block l, which is our l + 1.
        read: The tokens of the target texts: `all`; an index, -1 for the last; or a mask for each text.
        bos: Whether BOS counts among all tokens, as in the authors' code where the tokenizer adds one.
        prepend_bos: Whether texts start with BOS; token ids are read as they are.
        batch_size: Maximum number of texts per pass.
        progress: Whether to show a bar.

    Returns:
        A vector of one row, with its position. The paper's coefficients go from 1 to 3.

    Raises:
        PromptError: There is no text, or one cannot be read.
        LayerError: Both layers or neither were given, or the model has no such layer.
    """
    backend = backend_of(model)
    number, translated = one_layer(backend, layer, paper_layer)

    def mean_of(texts: Sequence[Prompt], tokens: Read, what: str) -> tuple[Float[Tensor, " d_model"], str]:
        found = read_prompts(
            backend, texts, [Spot(number)], read=tokens, bos=bos, prepend_bos=prepend_bos, batch_size=batch_size,
            progress=progress,
        )  # fmt: skip
        step = told_read(f"mean of {what} texts", tokens, found) + ("" if bos else ", BOS left out")
        return found.mean(Spot(number)), step

    row, step = mean_of(target, read, "target")
    steps = [*translated, step]
    if training is not None:
        centre, step = mean_of(training, "all", "training")
        row, steps = row - centre, [*steps, f"less the {step}"]
    label = f"mean of {len(target)} texts" + ("" if training is None else f", less that of {len(training)}")
    told = provenance_of(backend, label, layer=number, steps=steps)
    return SteeringVector(row.float()[None], number, position="last", provenance=told)
