"""Null vectors and controls: what a steering vector has to beat."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import check_run, is_count, is_whole, require
from actadd_lens.errors import SettingError, VectorError
from actadd_lens.methods.actadd import read_vectors
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair
from actadd_lens.prompts.texts import as_texts
from actadd_lens.steering.massive import massive_coordinates, ordinary_norms, outweighed
from actadd_lens.vectors.vector import SteeringVector, check_vectors

NullKind = Literal["unrelated_pairs", "gaussian"]

_MOST_DRAWS = 50
"""Draws of a pair of phrases before giving up on one whose rows all differ."""


def null_vectors(
    model: LensModel,
    vector: SteeringVector,
    *,
    kind: NullKind = "unrelated_pairs",
    n: int = 20,
    seed: int = 0,
    texts: Sequence[str] | None = None,
) -> tuple[SteeringVector, ...]:
    """Vectors with the same row norms that should do nothing in particular.

    `unrelated_pairs` are steering vectors of pairs of unrelated phrases, cut from random places of the package's
    neutral texts; each row is rescaled to the norm of the vector's row, and zero rows stay zero. Nulls of an unpaired
    addition are unpaired additions of such phrases. They keep its BOS row, which is the same for every prompt and many
    times as long as the other rows: an unrelated direction of that length would do far more than the row does, so it
    could not serve as a comparison. In massive rows (see `actadd_lens.steering.massive`), each null likewise keeps the
    vector's own massive coordinates, and the rest is an unrelated direction as long as the vector's rest. Massive
    coordinates of the unrelated pairs themselves are left out. `gaussian` rows are random directions, which are easier
    to beat: a model responds more to differences of its own activations than to noise.

    Args:
        model: The model that the vector is for.
        vector: The vector to match in layer, coefficient, position and row norms.
        kind: `unrelated_pairs` or `gaussian`.
        n: Number of null vectors.
        seed: Seed of the draw.
        texts: Texts to cut phrases from, instead of the package's.

    Raises:
        SettingError: The kind or number is invalid, the texts are too short, the vector mixes BOS rows with others, or
            one of its rows consists of massive coordinates only.
        VectorError: The vector does not match the model.
    """
    return null_table(model, [vector], kind=kind, n=n, seed=seed, texts=texts)[0]


def null_table(
    model: LensModel,
    vectors: Sequence[SteeringVector],
    *,
    kind: NullKind = "unrelated_pairs",
    n: int = 20,
    seed: int = 0,
    texts: Sequence[str] | None = None,
) -> list[tuple[SteeringVector, ...]]:
    """Null vectors of several vectors; null i of vectors of equal length is the same pair, read at each one's layer.

    So a null runs through a whole grid as one vector, and the pairs are read at all layers in one pass.

    Args:
        model: The model that the vectors are for.
        vectors: The vectors to match.
        kind: As in `null_vectors`.
        n: Null vectors of each.
        seed: Seed of the draw.
        texts: Other texts to cut phrases from.

    Raises:
        SettingError: The kind or number is invalid, or the texts are too short.
        VectorError: A vector does not match the model.
    """
    for vector in check_vectors(backend_of(model), vectors):
        _refuse_mixed(vector)
    require(is_count(n), "n", n, "an integer from 1")
    check_run(seed=seed)
    check_null_kind(kind)
    if kind == "gaussian":
        drawn = [_gaussian(vector, n, seed) for vector in vectors]
    else:
        drawn = _unrelated(model, vectors, n=n, seed=seed, texts=texts)
    ordinary = _Ordinary(backend_of(model))
    return [
        tuple(
            _matched(vector, rows, f"{kind} {index} (seed {seed})")
            for index, rows in enumerate(_beside_massive(vector, found, ordinary))
        )
        for vector, found in zip(vectors, drawn, strict=True)
    ]


def check_null_kind(kind: Any) -> None:
    """Refuse what is not a kind of null vectors.

    Raises:
        SettingError: It is none.
    """
    if not (isinstance(kind, str) and kind in ("unrelated_pairs", "gaussian")):
        raise SettingError(f"Null kind {kind!r} is not known: use 'unrelated_pairs' or 'gaussian'.")


def check_nulls(nulls: Any, kind: Any) -> None:
    """Refuse an invalid number or kind of null vectors, before anything runs.

    Raises:
        SettingError: One is invalid.
    """
    check_null_kind(kind)
    require(is_whole(nulls), "nulls", nulls, "an integer from 0")


def unrelated_rows(
    model: LensModel, vector: SteeringVector, *, n: int, seed: int, texts: Sequence[str] | None = None
) -> list[Float[Tensor, "rows d_model"]]:
    """Differences of n unrelated pairs at the vector's layer, with as many rows as it has, not rescaled.

    For an unpaired addition they are the rows of unpaired phrases, BOS row and all. Massive coordinates of the pairs
    are left out.

    Args:
        model: The model that the vector is for.
        vector: The vector to match in layer, rows and leading zero rows.
        n: Number of pairs.
        seed: Seed of the draw.
        texts: Other texts to cut phrases from.
    """
    found = _unrelated(model, [vector], n=n, seed=seed, texts=texts)[0]
    ordinary = _Ordinary(backend_of(model))
    return [_without_massive(vector, _with_bos(vector, rows), ordinary) for rows in found]


def null_phrases(
    model: LensModel, *, tokens: int, n: int, seed: int = 0, texts: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Phrases from random places of unrelated texts: nulls for words in a prompt.

    Args:
        model: The model.
        tokens: Tokens of each.
        n: Number of phrases.
        seed: Seed of the draw.
        texts: Other texts to cut phrases from.
    """
    random, phrases = np.random.default_rng(seed), _Phrases(backend_of(model), texts, tokens)
    return tuple(phrases.draw_two(random)[0] for _ in range(n))


def shuffle_rows(vector: SteeringVector, *, seed: int = 0) -> SteeringVector:
    """A control: the rows that are not zero, in another order. A single row stays as it is.

    Args:
        vector: The vector.
        seed: Seed of the order.

    Raises:
        SettingError: The seed is not an integer from 0.
        VectorError: It is not a vector.
    """
    check_run(seed=seed)
    if not isinstance(vector, SteeringVector):
        raise VectorError(f"{vector!r} is not a steering vector: use compute_steering_vector to make one.")
    nonzero = (vector.norms > 0).nonzero().flatten()
    order = nonzero[torch.from_numpy(np.random.default_rng(seed).permutation(len(nonzero)))]
    activations = vector.activations.clone()
    activations[nonzero] = vector.activations[order]
    return dataclasses.replace(
        vector, activations=activations, provenance=vector.provenance.after(f"shuffle_rows(seed={seed})")
    )


class _Ordinary:
    """The norm of ordinary streams at a layer, read when it is first asked for."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._found: dict[int, float] = {}

    def at(self, layer: int) -> float:
        """The norm at a layer."""
        if layer not in self._found:
            self._found |= ordinary_norms(self._backend, [layer])
        return self._found[layer]


def _massive_by_row(vector: SteeringVector, rows: Tensor, ordinary: _Ordinary) -> dict[int, list[int]]:
    """Massive coordinates of each row that has any; rows are compared with streams where the vector was read."""
    suspects = outweighed(rows).nonzero().flatten().tolist()
    found = {row: massive_coordinates(rows[row], ordinary.at(_read_layer(vector))) for row in suspects}
    return {row: coordinates for row, coordinates in found.items() if coordinates}


def _without_massive(vector: SteeringVector, rows: Tensor, ordinary: _Ordinary) -> Tensor:
    """Rows of unrelated pairs without their massive coordinates; a BOS row, which is the vector's own, stays."""
    found = {row: picks for row, picks in _massive_by_row(vector, rows, ordinary).items() if row >= _bos_rows(vector)}
    if not found:
        return rows
    kept = rows.clone()
    for row, coordinates in found.items():
        kept[row, coordinates] = 0.0
    return kept


def _beside_massive(vector: SteeringVector, drawn: Sequence[Tensor], ordinary: _Ordinary) -> list[Tensor]:
    """Rows of nulls, each with the direction that it will have once it has the vector's norm.

    Raises:
        SettingError: A row of the vector is nothing but massive coordinates.
    """
    own = _massive_by_row(vector, vector.activations, ordinary)
    rows = [_without_massive(vector, _with_bos(vector, found).clone(), ordinary) for found in drawn]
    for row, coordinates in own.items():
        if row < _bos_rows(vector):
            continue
        rest = vector.activations[row].clone()
        rest[coordinates] = 0.0
        if not bool(rest.any()):
            raise SettingError(
                f"Row {row} of {vector.label} is massive in coordinates {coordinates} and zero elsewhere, so it has no "
                "null: another direction of its norm would do something else altogether. Leave it out by "
                f".without_rows({row})."
            )
        for null in rows:
            null[row, coordinates] = 0.0
            null[row] *= rest.norm() / null[row].norm().clamp_min(1e-30)
            null[row, coordinates] = vector.activations[row, coordinates].to(null)
    return rows


def _matched(vector: SteeringVector, rows: torch.Tensor, source: str) -> SteeringVector:
    """A null with the vector's layer, coefficient, position and row norms."""
    provenance = dataclasses.replace(
        vector.provenance, source=f"null: {source}", positive=None, negative=None, positive_tokens=None,
        negative_tokens=None, pad_token=None, terms=(), steps=(),
    )  # fmt: skip
    null = dataclasses.replace(vector, activations=rows.to(vector.activations), provenance=provenance)
    return dataclasses.replace(null.with_norm(vector.norms), provenance=provenance)


def _gaussian(vector: SteeringVector, n: int, seed: int) -> list[torch.Tensor]:
    random = np.random.default_rng(seed)
    return [torch.from_numpy(random.standard_normal(tuple(vector.activations.shape))).float() for _ in range(n)]


def _unrelated(
    model: LensModel, vectors: Sequence[SteeringVector], *, n: int, seed: int, texts: Sequence[str] | None
) -> list[list[torch.Tensor]]:
    """Rows of n vectors of unrelated pairs for each vector, as many as it has after its leading zero rows.

    For an unpaired addition they are those of unpaired phrases, as many as it has after its BOS row.
    """
    backend = backend_of(model)
    kinds = [(_phrase_rows(vector), _is_unpaired(vector)) for vector in vectors]
    drawn: dict[int, list[torch.Tensor]] = {}
    for tokens, unpaired in sorted(set(kinds)):
        random, phrases = np.random.default_rng(seed), _Phrases(backend, texts, tokens)
        pairs = [PromptPair(*phrases.draw_two(random)) for _ in range(n)]
        if unpaired:
            pairs = [PromptPair(pair.positive, None) for pair in pairs]
        members = [index for index, kind in enumerate(kinds) if kind == (tokens, unpaired)]
        layers = {index: _read_layer(vectors[index]) for index in members}
        found = read_vectors(model, pairs, layers=sorted(set(layers.values())))
        for index in members:
            drawn[index] = [_laid(vectors[index], found[pair, layers[index]], tokens) for pair in range(n)]
    return [drawn[index] for index in range(len(vectors))]


def _is_unpaired(vector: SteeringVector) -> bool:
    """Whether the rows are those of one prompt, BOS row and all, rather than differences."""
    told = vector.provenance
    return told.positive is not None and told.negative is None and told.negative_tokens is None


def _bos_rows(vector: SteeringVector) -> int:
    """Rows of an unpaired addition that are BOS: one, or none where rows were picked or BOS was left out."""
    told = vector.provenance
    tokens = told.positive_tokens or ()
    return int(_is_unpaired(vector) and bool(told.prepend_bos) and vector.rows == len(tokens) > 1)


def _phrase_rows(vector: SteeringVector) -> int:
    """Rows that a phrase of so many tokens gives."""
    return vector.rows - max(_leading_zeros(vector), _bos_rows(vector))


def _with_bos(vector: SteeringVector, rows: torch.Tensor) -> torch.Tensor:
    """A null's rows after the BOS row of an unpaired addition, which all prompts share."""
    bos = _bos_rows(vector)
    return rows if not bos else torch.cat([vector.activations[:bos].to(rows), rows[bos:]])


def _refuse_mixed(vector: SteeringVector) -> None:
    """Check that no row mixes a BOS row with others.

    Raises:
        SettingError: One does, so that no phrase gives rows of its kind.
    """
    told = vector.provenance
    with_bos, length = _is_unpaired(vector) and bool(told.prepend_bos), len(told.positive_tokens or ())
    averaged = with_bos and any(step in ("mean_rows()", "row(0)", f"row({-length})") for step in told.steps)
    summed = float(vector.norms[0]) > 0 and any(
        term.positive is not None and term.negative is None and term.negative_tokens is None and term.prepend_bos
        for _, term in told.terms
    )
    if averaged or summed:
        what = "a row or a mean of rows" if averaged else "a sum"
        raise SettingError(
            f"The vector ({vector.label}) is {what} that includes the BOS row of an unpaired addition, which has no "
            "nulls: pass the terms as a list of vectors, or leave BOS out (prepend_bos=False, or row(-1))."
        )


def _leading_zeros(vector: SteeringVector) -> int:
    nonzero = (vector.norms > 0).nonzero().flatten()
    return int(nonzero[0]) if len(nonzero) else vector.rows - 1


def _read_layer(vector: SteeringVector) -> int:
    return vector.layer if vector.provenance.read_layer is None else vector.provenance.read_layer


def _laid(vector: SteeringVector, null: SteeringVector, needed: int) -> torch.Tensor:
    """Rows of a null behind the vector's leading zero rows."""
    body = null.activations[null.rows - needed :] if null.rows >= needed else null.activations
    leading = vector.rows - needed
    padded = torch.zeros_like(vector.activations)
    padded[leading : leading + len(body)] = body[:needed].to(padded)
    return padded


class _Phrases:
    """Phrases of as many tokens as asked for, from random places of texts, cut where a word begins."""

    def __init__(self, backend: Backend, texts: Sequence[str] | None, tokens: int) -> None:
        if isinstance(texts, str):
            raise SettingError("texts is one text: pass a list of two or more, to cut phrases from.")
        self._backend = backend
        self._tokens = tokens
        self._words = [text.split() for text in (null_texts() if texts is None else as_texts(texts))]
        self._words = [words for words in self._words if words]
        # SentencePiece puts a space before every text; one more would be a token that all phrases share.
        spaced, bare = (len(backend.encode(text, prepend_bos=False)) for text in (" a", "a"))
        self._lead = "" if spaced > bare else " "
        if len(self._words) < 2:
            raise SettingError("Phrases for null vectors need two texts or more.")

    def draw_two(self, random: np.random.Generator) -> tuple[str, str]:
        """Two phrases from different texts whose first tokens differ, so that no row is zero.

        Where no text is long enough, a phrase runs on into the texts that follow.
        """
        for runs_on in (False, True):
            for _ in range(_MOST_DRAWS):
                first, second = random.choice(len(self._words), size=2, replace=False)
                phrases = [self._cut(int(index), random, runs_on=runs_on) for index in (first, second)]
                if None in phrases:
                    continue
                ids = [self._backend.encode(phrase or "", prepend_bos=False) for phrase in phrases]
                if ids[0][0] != ids[1][0]:
                    return str(phrases[0]), str(phrases[1])
        raise SettingError(
            f"No two phrases of {self._tokens} tokens were found for null vectors: pass longer or more varied texts=."
        )

    def _cut(self, text: int, random: np.random.Generator, *, runs_on: bool) -> str | None:
        """So many tokens from a random word on, as a text; None where there are fewer, or they split badly."""
        start = int(random.integers(len(self._words[text])))
        words = self._words[text][start:]
        if runs_on:  # a word is a token at least
            following = itertools.chain.from_iterable([*self._words[text + 1 :], *self._words[:text]])
            words = [*words, *itertools.islice(following, self._tokens)]
        tokens = self._backend.encode(self._lead + " ".join(words), prepend_bos=False)[: self._tokens]
        if len(tokens) < self._tokens:
            return None
        phrase = self._backend.decode(tokens)
        return phrase if self._backend.encode(phrase, prepend_bos=False) == tokens else None


def null_texts() -> list[str]:
    """The package's texts that phrases are cut from.

    They have no topic and no mood: a phrase about weddings would not be a null for a wedding vector.
    """
    from actadd_lens import storybook

    return [*storybook.neutral_prompts(), *storybook.sentiment_sentences()["neutral"]]
