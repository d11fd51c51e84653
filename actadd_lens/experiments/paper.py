"""The paper's own words and figures: the twelve claims, and what it measured on GPT-2-XL, for comparison.

Turner et al., "Steering Language Models With Activation Engineering", arXiv 2308.10248. Figures are printed as in their
source; each table names it.
"""

from dataclasses import dataclass

CLAIMS: dict[int, str] = {
    1: "Perplexity of on-topic text falls, the more so the more on-topic; unrelated text stays within about a percent.",
    2: "The effect depends on the layer: strong early to middle, gone at the last layers; too early harms unrelated "
    "text.",
    3: "Completions take up the topic: from a few percent with a topic word to most of them.",
    4: "Next-token shift: topic tokens lead the rises, the bulk is normal, the positive tail heavy.",
    5: "The sentiment of continuations shifts, in both directions.",
    6: "The toxicity of continuations falls.",
    7: "The cost in fluency is moderate, and the continuation stays relevant to the prompt.",
    8: "Off-target knowledge stays: P@K hardly moves.",
    9: "It costs next to nothing to run, and relatively less as models grow.",
    10: "The direction matters: random vectors of equal row norms do not do it.",
    11: "It is not token injection: vectors read at layer 0 and added later do little, and a middle layer beats "
    "prepending the words on unrelated text.",
    12: "Part of the residual dimensions, and other positions, give part of the effect.",
}
"""The twelve claims, by number."""

PAPER = "the paper"
TEXT_AND_FIGURE = "the paper's text, and read off a figure of it (error about 0.05 points)"
NOTEBOOK = "the authors' notebooks"
FIGURE = "read off a figure of the paper (error about 0.05 points)"


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper's figures.

    Attributes:
        caption: What was measured, on GPT-2-XL unless it says otherwise.
        source: Where the figures were read.
        columns: Names of the columns.
        rows: The figures, as texts.
    """

    caption: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _rows(text: str) -> tuple[tuple[str, ...], ...]:
    """Rows of a table written with bars."""
    return tuple(tuple(cell.strip() for cell in line.split("|")) for line in text.strip().splitlines())


_ESSAYS_BY_LAYER = PaperTable(
    "Perplexity steered / unsteered of a wedding essay and a shipping essay, ' weddings' − ' ', coefficient 1",
    NOTEBOOK,
    ("layer", "wedding", "shipping"),
    _rows("""
        0 | .9948 | 1.1671
        1 | .9665 | 1.2557
        2 | .9230 | 1.2162
        4 | .8793 | 1.1250
        6 | .8938 | 1.0444
        8 | .9198 | 1.0214
        10 | .9094 | .9971
        12 | .9132 | .9971
        14 | .9157 | .9987
        16 | .9170 | 1.0033
        17 | .9132 | 1.0055
        20 | .9406 | 1.0003
        24 | .9546 | 1.0053
        30 | .9713 | 1.0040
        36 | .9859 | 1.0040
        42 | .9947 | 1.0016
        47 | .9993 | .9997
    """),
)

_ESSAYS_BY_COEFFICIENT = PaperTable(
    "The same by coefficient, at layers 6 and 16",
    NOTEBOOK,
    ("coefficient", "wedding, layer 6", "shipping, layer 6", "wedding, layer 16", "shipping, layer 16"),
    _rows("""
        -1 | 1.0254 | 1.0139 | 1.0065 | 1.0075
        0 | 1 | 1 | 1 | 1
        .5 | .9931 | 1.0120 | .9825 | 1.0027
        1 | .8938 | 1.0444 | .9170 | 1.0033
        1.5 | .8858 | 1.0736 | .8976 | .9998
        2 | .8916 | 1.1100 | .8909 | .9988
        2.5 | .8992 | 1.1771 | .8877 | 1.0024
        3 | .9197 | 1.2404 | .8885 | 1.0126
        3.5 | .9468 | 1.2974 | .8946 | 1.0307
        4 | .9862 | 1.3618 | .9065 | 1.0568
    """),
)

_BY_FREQUENCY = PaperTable(
    "Perplexity steered / unsteered of OpenWebText documents by their share of wedding words, ' weddings' − ' ', "
    "layer 16, coefficient 1",
    TEXT_AND_FIGURE,
    ("wedding words, %", "ratio, %"),
    _rows("""
        0 | 100.0
        0.5 | 98.7
        1.0 | 97.8
        1.5 | 97.25
        2.0 | 96.9
        2.5 | 96.3
        3.0 | 95.95
    """),
)

_TOPIC_WORDS = PaperTable(
    "Wedding words per completion of 40 tokens after 'I went up to my friend and said', coefficient 1, 200 completions",
    TEXT_AND_FIGURE,
    ("layer", "words"),
    _rows("""
        unsteered | 0.025
        0 | 1.0
        5 | 1.77
        10 | 1.34
        16 | 1.16
        20 | 0.65
        30 | 0.12
        from 40 | about 0.02
    """),
)

_TOKEN_SHIFT = PaperTable(
    "Next token after \"I'm excited because I'm going to a\", layer 16, coefficient 1",
    NOTEBOOK,
    ("token", "probability steered / unsteered", "part of KL(steered || unsteered)"),
    _rows("""
        ' wedding' | 12.6 | .78
        ' br' | 13.95 |
        ' show' | 0.23 |
        ' game' | 0.19 |
        the largest but ' wedding' | | .024
    """),
)

_TOPICS = PaperTable(
    "Completions that a GPT model rates as on the topic, steered − unsteered, coefficient 2",
    PAPER,
    ("topics", "points"),
    _rows("finance, music, politics, science, weddings, not art | +5 to +20"),
)

_TOXICITY = PaperTable(
    "Toxicity of continuations of RealToxicityPrompts by an API, 'Love' − 'Hate', layer 6",
    PAPER,
    ("model", "measure", "unsteered", "steered"),
    _rows("""
        OPT-6.7B | toxicity | .134 | .112
        LLaMA-3-8B | toxicity | .114 | .108
        a later revision, coefficient 3, n = 2000 | toxicity | .127 | .101
        a later revision, coefficient 3, n = 2000 | disfluency | 16.0 | 20.4
    """),
)

_SENTIMENT = PaperTable(
    "IMDb reviews continued in the opposite sentiment, a classifier decides, layer 6, coefficient 3, n = 1000",
    PAPER,
    ("direction", "measure", "unsteered", "steered"),
    _rows("""
        positive to negative | success | .207 | .395
        negative to positive | success | .200 | .349
        positive to negative | disfluency | 17.2 | 29.2
        negative to positive | disfluency | 18.5 | 29.3
    """),
)

_KNOWLEDGE = PaperTable(
    "P@K of the right label, ConceptNet part of LAMA",
    FIGURE,
    ("K", "unsteered", "steered"),
    _rows("""
        1 | .094 | .092
        10 | .260 | .254
        100 | .513 | .507
    """),
)

_OVERHEAD = PaperTable(
    "Time steered / unsteered − 1, models of growing size",
    PAPER,
    ("models", "time premium"),
    _rows("all sizes | 0 to 0.4 %, flat or falling with size"),
)

_NORMS = PaperTable(
    "Norm of the vector's rows / norm of the stream that they land on, 'Anger' − 'Calm', coefficient 1",
    NOTEBOOK,
    ("layer", "relative norm"),
    _rows("""
        BOS, all layers | 0
        6 | about 1.0
        20 | .75 to .95
        47 | .38
    """),
)

_NULLS = PaperTable(
    "KL / entropy of the next token, 'Anger' − 'Calm', layer 20, coefficient 10; 58 prompts",
    NOTEBOOK,
    ("vector", "KL / entropy", "prompts in which it moves less"),
    _rows("""
        steering vector | .077 | 55 of 58
        Gaussian of equal row norms | .135 |
    """),
)

_DIMENSIONS = PaperTable(
    "First share of the residual dimensions only, ' wedding' − ' ', layer 6, coefficient 4",
    PAPER,
    ("share", "effect"),
    _rows("growing from 0 to 1 | grows, most of it by .3 to .7"),
)

_POSITIONS = PaperTable(
    "Wedding words per completion by position, ' wedding' − ' ', layer 6, coefficient 4",
    PAPER,
    ("position", "words"),
    _rows("""
        front | .70
        mid | .81
        back | .87 (less coherent)
    """),
)

_PROMPTING = PaperTable(
    "Perplexity against unsteered: injection, and prepending ' weddings' to the text",
    PAPER,
    ("text", "injection", "prompt"),
    _rows("""
        related | .8749 | .8904
        unrelated | .9942 | 1.1322
    """),
)

_TRANSPLANT = PaperTable(
    "Read at one layer, added at another",
    PAPER,
    ("read → added", "effect"),
    _rows("""
        20 → 20 | strong
        2 → 20 | in between
        0 → 20 | almost nothing
    """),
)

TABLES: dict[str, tuple[PaperTable, ...]] = {
    "perplexity": (_BY_FREQUENCY, _ESSAYS_BY_LAYER, _ESSAYS_BY_COEFFICIENT),
    "topic-words": (_TOPIC_WORDS,),
    "token-shift": (_TOKEN_SHIFT,),
    "topics": (_TOPICS,),
    "toxicity": (_TOXICITY,),
    "sentiment": (_SENTIMENT,),
    "knowledge": (_KNOWLEDGE,),
    "overhead": (_OVERHEAD,),
    "norms": (_NORMS,),
    "nulls": (_NULLS,),
    "dimensions": (_DIMENSIONS,),
    "positions": (_POSITIONS,),
    "prompting": (_PROMPTING, _TRANSPLANT),
}
"""The paper's tables, by the name of the experiment that they belong to."""
