"""A method, a metric and a scorer for actadd_lens: replace them with your own."""

import torch

import actadd_lens as al
from actadd_lens import methods


def median_difference(model, pairs, *, layer):
    """A steering vector: the median over pairs of what the first text has more than the second, at the last token."""
    rows = [methods.caa(model, [pair], layer=layer, read=-1).activations[0] for pair in pairs]
    row = torch.stack(rows).median(dim=0).values
    source = f"median difference of {len(pairs)} pairs"
    return al.SteeringVector.from_tensor(row, layer=layer, source=source, model=model).at(position="last")


def margin():
    """A metric: by how much the likeliest next token leads, in nats."""

    def bind(backend):
        return lambda reading: reading.logits.topk(2, dim=-1).values.diff(dim=-1)[:, 0].neg()

    return al.Metric("margin of the likeliest token", "nats", "last", bind)


def questions():
    """A scorer: whether a text asks something."""

    def scorer(texts):
        return [float("?" in text) for text in texts]

    scorer.__name__ = "asks something"
    return scorer
