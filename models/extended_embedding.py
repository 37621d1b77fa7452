"""The embedding table of a model, and behind it a catalogue's vectors. Knows no entry by name."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models.catalogue import Catalogue
from models.catalogue_file import HOW_TO_ENCODE, VECTORS
from models.decoder import Decoder
from models.errors import CatalogueError


class ExtendedEmbedding(nn.Module):
    """Looks token ids up in `weight`, those from its end on in `vectors`.

    weight: (vocabulary, hidden). vectors: (tokens, hidden), of any floating dtype.
    """

    def __init__(self, weight: Tensor, vectors: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.vectors = vectors

    def forward(self, token_ids: Tensor) -> Tensor:
        """(T,) int64 to (T, hidden) in the dtype of `weight`."""
        stored = token_ids >= len(self.weight)
        embedded = F.embedding(token_ids.masked_fill(stored, 0), self.weight)
        (places,) = stored.nonzero(as_tuple=True)
        if not len(places):
            return embedded
        rows = F.embedding(token_ids[places] - len(self.weight), self.vectors)
        return embedded.index_copy(0, places, rows.to(embedded.dtype))


def extend_embedding(decoder: Decoder, vectors: Tensor | None) -> None:
    """Has the decoder know the tokens of `vectors`, in place, and those of no earlier ones.

    Its outputs stay as they are. Gradients reach `vectors`.
    """
    if vectors is not None:
        extended = ExtendedEmbedding(decoder.model.embed_tokens.weight, vectors)
        decoder.model.embed_tokens = cast("nn.Embedding", extended)


def stored_vectors(catalogue: Catalogue | None) -> Tensor | None:
    """(tokens, hidden) bfloat16, in memory only as far as it is read. Raises CatalogueError."""
    if catalogue is None:
        return None
    try:
        with safe_open(catalogue.path, framework="pt") as tensors:
            vectors: Tensor = tensors.get_tensor(VECTORS).flatten(0, 1)
    except (OSError, SafetensorError) as error:
        raise CatalogueError(
            f"{catalogue.path}: cannot be loaded ({error}); {HOW_TO_ENCODE}"
        ) from error
    assert vectors.dtype == torch.bfloat16
    return vectors
