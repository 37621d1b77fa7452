"""A step's slates packed for the whole decoder, and where in its world every token stands.

Knows nothing of labels, losses or teachers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from compress.data.sampling import Slates
from compress.data.worlds import Texts, TokenWorld
from compress.decoders.slates import SlateBatch

PLACES_FROM = 1 << 20  # above all token ids, so that what frames a text is told from its places
MARKER = -1  # the place of a token that frames a text
Arrays = tuple[Any, ...]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NumberedTexts:
    """A world's texts as places among all of its tokens, which dropout thins as it thins tokens."""

    texts: Texts
    base: int  # tokens of the texts before these

    def __getitem__(self, index: int) -> Places:
        start, stop = self.texts.bounds[index], self.texts.bounds[index + 1]
        return np.arange(start, stop) + self.base + PLACES_FROM


@dataclass(frozen=True, slots=True)
class PlacedSlates:
    """S slates of C candidates in one row of T tokens."""

    arrays: Arrays  # of a SlateBatch
    places: Places  # (T,) into the world's tokens, members before postings, or MARKER
    lengths: Places  # (S + S * C,) tokens of each context and of each candidate


def numbered(world: TokenWorld) -> tuple[NumberedTexts, NumberedTexts]:
    """(members, postings)."""
    members, postings = world.student
    return NumberedTexts(members, 0), NumberedTexts(postings, len(members.flat))


def packed(drawn: Slates, rows: Places, world: TokenWorld) -> PlacedSlates:
    """`rows` of slates that were drawn over the world's numbered texts."""
    contexts = [drawn.contexts[row] for row in rows]
    slates = [[drawn.candidates[index] for index in drawn.slates[row]] for row in rows]
    batch = SlateBatch.pack(contexts, slates)
    found = batch.token_ids.numpy()
    places = np.where(found >= PLACES_FROM, found - PLACES_FROM, MARKER)
    members, postings = world.student
    ids = np.concatenate((members.flat, postings.flat)).astype(np.int64)
    tokens = torch.from_numpy(np.where(places == MARKER, found, ids[places]))
    lengths = np.array([len(text) for text in (*contexts, *chain.from_iterable(slates))])
    return PlacedSlates(as_arrays(replace(batch, token_ids=tokens)), places, lengths)


def as_arrays(batch: SlateBatch) -> Arrays:
    """What processes hand over more cheaply than tensors; the shape comes last."""
    names = [item.name for item in fields(batch) if item.name != "shape"]
    return (*(getattr(batch, name).numpy() for name in names), batch.shape)


def as_slates(arrays: Arrays, device: torch.device) -> SlateBatch:
    """The batch again, on `device`."""
    names = [item.name for item in fields(SlateBatch) if item.name != "shape"]
    tensors = {
        name: torch.from_numpy(array).to(device)
        for name, array in zip(names, arrays[:-1], strict=True)
    }
    return SlateBatch(**tensors, shape=arrays[-1])
