"""Reading a model unsteered, whatever steering is open around it, and resolving interventions on known prompts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from actadd_lens.models import Backend
from actadd_lens.models.protocol import SITES, Spot
from actadd_lens.prompts.positions import Position
from actadd_lens.steering.hooks import InjectionHook, Session
from actadd_lens.steering.landings import (
    Assignment,
    Assignments,
    Landing,
    Prompts,
    assign,
    land,
    reach,
    resolve,
)
from actadd_lens.vectors.interventions import CleanReads, Intervention


@contextmanager
def unsteered(backend: Backend) -> Iterator[None]:
    """The model without any steering that is open, the caller's own hooks left in place; for this thread only."""
    paused: list[Session] = []
    try:
        for session in _open_sessions(backend):
            paused.append(session)
            if not session.pause():
                paused.pop()
        yield
    finally:
        for session in paused:
            session.resume()


def _open_sessions(backend: Backend) -> list[Session]:
    spots = [Spot(layer, site) for layer in range(backend.n_layers) for site in SITES] + [Spot(backend.n_layers)]
    found: dict[int, Session] = {}
    for spot in spots:
        for hook in backend.hooks_at(backend.hook_name(*spot)):
            session = hook.session if isinstance(hook, InjectionHook) else None
            if session is not None:
                found[id(session)] = session
    return list(found.values())


@torch.no_grad()
def read_clean(backend: Backend, prompts: Sequence[Sequence[int]], spots: Sequence[Spot]) -> CleanReads:
    """Activations of prompts at some spots, unsteered, from one pass.

    Args:
        backend: The model.
        prompts: Token ids of each prompt, of any lengths.
        spots: What to read.
    """
    longest = max(map(len, prompts))
    filler = backend.pad_token_id or 0
    rows = [[*prompt, *[filler] * (longest - len(prompt))] for prompt in prompts]
    with unsteered(backend):
        values = backend.read(torch.tensor(rows, device=backend.device), list(dict.fromkeys(spots)))
    return CleanReads(values, tuple(map(len, prompts)))


def prompts_of(
    backend: Backend,
    tokens: Sequence[Sequence[int]],
    *,
    first: Sequence[int] | None = None,
    numbers: Sequence[int] | None = None,
) -> Prompts:
    """What is known of prompts whose tokens are known: everything.

    Args:
        backend: The model.
        tokens: Token ids of each row.
        first: The column of each one's first token; 0 by default.
        numbers: Which of the caller's prompts each row is; by default they are in order.
    """
    bos = backend.bos_token_id
    return Prompts(
        first=(0,) * len(tokens) if first is None else tuple(first),
        lengths=tuple(map(len, tokens)),
        starts_with_bos=tuple(row[0] == bos for row in tokens),
        tokens=tuple(map(tuple, tokens)),
        numbers=None if numbers is None else tuple(numbers),
    )


def resolved(backend: Backend, assignments: Assignments, prompts: Prompts) -> dict[Spot, list[Assignment]]:
    """Assignments with their operations; gates and clean values are read in one pass over the prompts."""
    return resolve(backend, assignments, prompts, lambda tokens, spots: read_clean(backend, tokens, spots))


def landings_of(
    backend: Backend, interventions: Sequence[Intervention], position: Position, prompts: Prompts
) -> dict[Spot, list[Landing]]:
    """What lands where at each hook point, without what changes nothing.

    Raises:
        PositionError: Rows overhang a prompt, or a prompt has no such tokens.
    """
    found = resolved(backend, assign(interventions, position), prompts)
    return {spot: land(items, prompts, reader=backend) for spot, items in found.items()}


def check_fits(backend: Backend, interventions: Sequence[Intervention], position: Position, prompts: Prompts) -> None:
    """Check that everything lands on every prompt, without reading or running anything.

    Raises:
        PositionError: Rows overhang a prompt, or a prompt has no such tokens.
    """
    for items in assign(interventions, position).values():
        for item in items:
            for row in range(len(prompts.first)):
                reach(item, prompts.facts(row, backend))
