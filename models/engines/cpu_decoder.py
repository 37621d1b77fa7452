"""The C++ decoder over passes of segments: hidden states of last tokens. Knows no cache policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.decoder import Decoder
from models.engines.passes import Segment
from models.native.layout import PassLayout, PoolLayout
from models.native.library import NativeLibrary
from models.native.weights import pack_weights, padded

Ints = NDArray[np.int32]
SUB_PAGE = 16  # a page holds a multiple of this many tokens
MOST_QUERIES = 48  # query heads that share a key head
LARGEST_HEAD = 512
# Rows that one thread takes through all layers: their activations fit its share of the cache, and
# the weights read for them are used often enough.
TILE_ROWS = 192


@dataclass(frozen=True, slots=True)
class NativePages:
    """Keys and values of contexts, (layers, pages, ...) each; what lies in a page is C++'s."""

    keys: Tensor
    values: Tensor
    page_size: int

    @property
    def layout(self) -> PoolLayout:
        """As C++ takes it."""
        address = self.keys.data_ptr(), self.values.data_ptr()
        return PoolLayout(*address, self.keys.shape[1], self.page_size)


class NativeDecoder:
    """A decoder packed for the C++ side; the same tokens give the same bits in any company.

    dtype: of linear layers. Attention, keys and values are bf16 where linear layers are narrow and
    the CPU has it, else fp32; norms, rotations, sums and the residual stream are fp32.
    vectors: (tokens, hidden) bfloat16, embeddings of the token ids behind the vocabulary.
    """

    def __init__(
        self,
        decoder: Decoder,
        dtype: torch.dtype,
        library: NativeLibrary,
        threads: int,
        vectors: Tensor | None = None,
    ) -> None:
        narrow = dtype != torch.float32 and "avx512_bf16" in library.features
        self.page_dtype = torch.bfloat16 if narrow else torch.float32
        self.config = decoder.config
        self._function = _function_name(dtype, self.page_dtype)
        self._weights = pack_weights(decoder, dtype, vectors)
        self.stored_tokens = 0 if vectors is None else len(vectors)
        self._library = library
        self._threads = threads

    @property
    def features(self) -> tuple[str, ...]:
        """Instructions that the build uses."""
        return self._library.features

    @property
    def head_dim(self) -> int:
        """Width of a head in pages."""
        return padded(self.config.head_dim)

    def __call__(self, segments: Sequence[Segment], pages: NativePages) -> Tensor:
        """Contexts go to their pages; returns (candidates, hidden) fp32 before the final norm.

        Kept segments come first. IndexError for tokens or positions the model does not know.
        """
        kept = sum(segment.kept for segment in segments)
        assert all(segment.kept for segment in segments[:kept])
        hidden = torch.empty(len(segments) - kept, self.config.hidden_size)
        inputs = _PassArrays.of(segments)
        self._refuse_beyond_tables(inputs)
        layout = PassLayout(
            *(array.ctypes.data for array in inputs.arrays),
            kept,
            len(segments),
            TILE_ROWS,
            self._threads,
            hidden.data_ptr(),
        )
        self._library.run(self._function, self._weights.layout, pages.layout, layout)
        return hidden

    def _refuse_beyond_tables(self, inputs: _PassArrays) -> None:
        """What C++ would read from behind the end of a table."""
        config, ids = self.config, inputs.token_ids
        known = config.vocab_size + self.stored_tokens
        if ids.min() < 0 or ids.max() >= known:
            raise IndexError(
                f"token ids reach from {ids.min()} to {ids.max()}, but known are 0 to {known - 1}"
            )
        last = int((inputs.prefixes + np.diff(inputs.starts)).max()) - 1
        if last >= config.max_tokens:
            raise IndexError(
                f"a token stands at position {last}, but the model knows 0 to "
                f"{config.max_tokens - 1}"
            )


@dataclass(frozen=True, slots=True)
class _PassArrays:
    """The arrays of struct Pass."""

    token_ids: Ints
    starts: Ints
    prefixes: Ints
    page_offsets: Ints
    page_ids: Ints

    @property
    def arrays(self) -> tuple[Ints, ...]:
        return (self.token_ids, self.starts, self.prefixes, self.page_offsets, self.page_ids)

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> _PassArrays:
        """Neighbours that share their pages share an offset, which tells C++ so."""
        lengths = [len(segment.ids) for segment in segments]
        starts = np.cumsum([0, *lengths], dtype=np.int32)
        ids = chain.from_iterable(segment.ids for segment in segments)
        pages: dict[int, tuple[int, ...]] = {
            id(segment.pages): segment.pages for segment in segments
        }
        sizes = np.cumsum([0, *map(len, pages.values())])[:-1]
        offsets = dict(zip(pages, sizes.tolist(), strict=True))
        return cls(
            np.fromiter(ids, np.int32, int(starts[-1])),
            starts,
            np.array([segment.prefix_tokens for segment in segments], np.int32),
            np.array([offsets[id(segment.pages)] for segment in segments], np.int32),
            np.fromiter(chain.from_iterable(pages.values()), np.int32),
        )


def _function_name(dtype: torch.dtype, page_dtype: torch.dtype) -> str:
    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int8: "int8"}
    suffix = f"_{names[page_dtype]}" if dtype == torch.int8 else ""
    return f"fairslate_{names[dtype]}{suffix}"
