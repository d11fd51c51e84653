"""Streams of texts as they are written: kept pass by pass, and given to the texts that they belong to."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from actadd_lens.models import Backend

if TYPE_CHECKING:
    from actadd_lens.writing.decoding import Continuation


class KeptStreams:
    """The streams of one batch at some layers, as steered.

    Args:
        backend: The model.
        layers: Layers of `resid_pre`.
        samples: Samples of each prompt, which share the pass over it.
    """

    def __init__(self, backend: Backend, layers: Sequence[int], samples: int) -> None:
        self._backend, self._layers, self._samples = backend, layers, samples
        self._steps: dict[int, list[Tensor]] = {layer: [] for layer in layers}

    @contextmanager
    def of_pass(self, *, first: bool) -> Iterator[None]:
        """Keep what passes inside show; hooks hang behind those that steer, so they see the steered stream.

        Args:
            first: Whether it is the pass over the prompts, before samples part.
        """
        with ExitStack() as stack:
            for layer in self._layers:
                keep = self._keeper(layer, repeats=self._samples if first else 1)
                stack.callback(self._backend.add_hook(self._backend.hook_name(layer), keep).remove)
            yield

    def _keeper(self, layer: int, *, repeats: int) -> Any:
        def keep(stream: Tensor, hook: Any) -> None:
            # Without a cache a pass holds all columns: those that were there before are the same ones again.
            before = sum(step.shape[1] for step in self._steps[layer])
            new = stream if stream.shape[1] <= before or not before else stream[:, before:]
            self._steps[layer].append(new.repeat_interleave(repeats, dim=0).to(self._backend.device))

        return keep

    def given_to(
        self, cells: Sequence[Sequence["Continuation"]], prompts: Sequence[int]
    ) -> list[tuple["Continuation", ...]]:
        """The continuations with their streams, paddings left out.

        Args:
            cells: Continuations of each cell.
            prompts: Tokens of each cell's prompt; they end in the same column.
        """
        if not self._layers:
            return [tuple(cell) for cell in cells]
        whole = {layer: torch.cat(steps, dim=1).clone() for layer, steps in self._steps.items()}
        found, longest = [], max(prompts)
        for number, (cell, length) in enumerate(zip(cells, prompts, strict=True)):
            rows = range(number * self._samples, (number + 1) * self._samples)
            given = []
            for row, item in zip(rows, cell, strict=True):
                columns = slice(longest - length, longest + len(item.tokens) - 1)
                streams = {layer: streams[row, columns].clone() for layer, streams in whole.items()}
                given.append(dataclasses.replace(item, streams=streams))
            found.append(tuple(given))
        return found
