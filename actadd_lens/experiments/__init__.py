"""The paper's experiments, each a function that returns a result, on any model and with anyone's data.

```python
import actadd_lens as al

model = al.load_model()
al.experiments.sentiment(model)
al.experiments.reproduce(model, ["perplexity", "prompting"], out="reproduction", quick=True)
```
"""

from actadd_lens.experiments.attention import AttentionFrozen, attention_frozen
from actadd_lens.experiments.direction import NullComparison, nulls_against
from actadd_lens.experiments.evidence import Estimate, Experiment, Finding, moves, resampled, stays
from actadd_lens.experiments.examples import Examples, examples
from actadd_lens.experiments.inputs import read_labelled, read_table, read_texts
from actadd_lens.experiments.knowledge import Knowledge, knowledge, read_lama
from actadd_lens.experiments.norms import Norms, norms
from actadd_lens.experiments.overhead import Overhead, overhead
from actadd_lens.experiments.paper import CLAIMS
from actadd_lens.experiments.parts import Dimensions, Positions, dimensions, positions
from actadd_lens.experiments.perplexity import PerplexityOnTopic, perplexity_on_topic, sentences_of
from actadd_lens.experiments.prompting import Prompting, prompting
from actadd_lens.experiments.sentiment import Sentiment, sentiment
from actadd_lens.experiments.suite import Outcome, Reproduction, reproduce
from actadd_lens.experiments.token_shift import TokenShift, token_shift
from actadd_lens.experiments.topic_words import TopicWords, topic_words
from actadd_lens.experiments.topics import Topics, topics
from actadd_lens.experiments.toxicity import Toxicity, toxicity

# Some functions bear the name of their module. Everything is imported here, so that the name is the function's from the
# start, whoever imports what first.
__all__ = [
    "CLAIMS",
    "AttentionFrozen",
    "Dimensions",
    "Estimate",
    "Examples",
    "Experiment",
    "Finding",
    "Knowledge",
    "Norms",
    "NullComparison",
    "Outcome",
    "Overhead",
    "PerplexityOnTopic",
    "Positions",
    "Prompting",
    "Reproduction",
    "Sentiment",
    "TokenShift",
    "TopicWords",
    "Topics",
    "Toxicity",
    "attention_frozen",
    "dimensions",
    "examples",
    "knowledge",
    "moves",
    "norms",
    "nulls_against",
    "overhead",
    "perplexity_on_topic",
    "positions",
    "prompting",
    "read_labelled",
    "read_lama",
    "read_table",
    "read_texts",
    "reproduce",
    "resampled",
    "sentences_of",
    "sentiment",
    "stays",
    "token_shift",
    "topic_words",
    "topics",
    "toxicity",
]
