"""Measures the numbers of faq.md and how-steering-fails.md: `python docs/faq_measured.py` (some seconds)."""

from typing import Any

from page_parts import DOCS, write

import actadd_lens as al

PAIR, LAYER, LATE, COEFFICIENT, LARGE = (" happy", " sad"), 3, 7, 4, 16
COEFFICIENTS = (1, 4, 16, 64)
UNPAIRED = " wedding"
PROMPTS, NULLS = 16, 20


class Numbers:
    """What both pages say, measured on one model."""

    def __init__(self, model: Any) -> None:
        """Measure."""
        self.prompts = al.storybook.neutral_prompts()[:PROMPTS]
        metric = al.metrics.logit_difference(*PAIR)
        by_layer = al.compute_steering_vectors(model, [PAIR], layers=range(model.cfg.n_layers))
        self.layers = [al.measure(model, self.prompts, COEFFICIENT * vector, metric).effect for vector in by_layer]
        happy = list(by_layer)[LAYER]
        self.coefficients = {c: al.measure(model, self.prompts, c * happy, metric).effect for c in COEFFICIENTS}
        self.perplexity = {
            c: al.measure(model, self.prompts, c * happy, al.metrics.perplexity()).ratio for c in COEFFICIENTS
        }
        self.beside = al.measure(model, self.prompts, COEFFICIENT * happy, metric, nulls=NULLS).effect
        alone = al.compute_steering_vector(model, al.PromptPair(UNPAIRED, None), layer=LAYER)
        self.unpaired = [float(norm) for norm in alone.norms]


def faq(found: Numbers) -> dict[str, str]:
    """The parts of faq.md."""
    titles = " | ".join(f"{layer}" for layer in range(len(found.layers)))
    effects = " | ".join(f"{effect.mean:.2f}" for effect in found.layers)
    lines = ["| coefficient | effect, logits | perplexity, steered / unsteered |", "|---|---|---|"]
    lines += [f"| {c} | {found.coefficients[c].mean:.2f} | {found.perplexity[c]:.2f} |" for c in COEFFICIENTS]
    bos, *words = found.unpaired
    return {
        "layers": f"| layer | {titles} |\n{'|---' * (len(found.layers) + 1)}|\n| effect, logits | {effects} |",
        "coefficients": "\n".join(lines),
        "unpaired": f"Here the BOS row has norm {bos:.0f}, and the row of the word {words[-1]:.0f}.",
    }


def failures(found: Numbers) -> str:
    """The table of how-steering-fails.md."""
    effect, late = found.beside, found.layers[LATE]
    wrong = round(effect.wrong_way * PROMPTS)
    mean, spread = float(effect.nulls.mean()), float(effect.nulls.std(ddof=1))
    p, bos, word = effect.p_value(), found.unpaired[0], found.unpaired[-1]
    rows = [
        (
            "**Steering costs fluency.** The larger the coefficient, the more likely the text breaks.",
            "[Stickland et al.](https://arxiv.org/abs/2406.15518)",
            "`al.measure(model, prompts, c * happy, al.metrics.perplexity()).ratio`",
            "; ".join(
                f"at coefficient {c} the effect is {found.coefficients[c].mean:.2f} logits and perplexity is "
                f"{found.perplexity[c]:.1f} times the unsteered one"
                for c in (COEFFICIENT, LARGE)
            ),
        ),
        (
            "**The layer is wrong.** The same pair does almost nothing at another layer.",
            "[Turner et al.](https://arxiv.org/abs/2308.10248)",
            "`al.sweep(model, pair, layers=range(8), ...)`",
            f"{effect.mean:.2f} [{effect.low:.2f}, {effect.high:.2f}] logits at layer {LAYER}, "
            f"{late.mean:.2f} [{late.low:.2f}, {late.high:.2f}] at layer {LATE}",
        ),
        (
            "**Some inputs are steered the wrong way,** although the mean effect is right.",
            "[Tan et al.](https://arxiv.org/abs/2407.12404)",
            "`effect.wrong_way`",
            f"{wrong} of {PROMPTS} prompts" + ("" if wrong else ", so it does not appear here"),
        ),
        (
            "**Any vector of that size does it.** The effect depends on the norm and not on the direction.",
            "[Turner et al.](https://arxiv.org/abs/2308.10248) compare with random vectors of equal norms",
            "`al.measure(..., nulls=20).effect`",
            f"{effect.mean:.2f}, against {mean:.2f} ± {spread:.2f} for {NULLS} null vectors (p = {p:.3f})"
            + (", so it does not appear here" if p <= 0.05 else ""),
        ),
        (
            "**The BOS row does it.** An unpaired addition carries a row of the first token, which is large in every "
            "model with massive activations.",
            "[Sun et al.](https://arxiv.org/abs/2402.17762)",
            f'`al.compute_steering_vector(model, al.PromptPair("{UNPAIRED}", None), layer={LAYER}).norms`',
            f"norm {bos:.0f} for BOS, {word:.0f} for the word",
        ),
        (
            "**The best of many cells is noise.** The largest cell of a sweep is large because it was selected.",
            "Westfall and Young (1993), *Resampling-Based Multiple Testing*",
            "`sweep.best()`, `sweep.p_values()`",
            "[statistics](statistics.md) shows how often each p-value is wrong",
        ),
    ]
    lines = ["| failure | reported by | the call that shows it | measured here |", "|---|---|---|---|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def main() -> None:
    """Measure, and write both pages."""
    found = Numbers(al.load_model())
    write(DOCS / "faq.md", faq(found))
    write(DOCS / "how-steering-fails.md", {"failures": failures(found)})


if __name__ == "__main__":
    main()
