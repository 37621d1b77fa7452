"""Where the tokens of one tokenizer lie among those of another. Knows nothing of texts' meaning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

TokenPlaces = npt.NDArray[np.int16]


def token_places(ours: Sequence[Encoding], theirs: Sequence[Encoding]) -> TokenPlaces:
    """(our tokens of all texts, 2): the first and the last of their tokens that one of ours covers.

    Counted within each text, of which both sides are encodings. Ours that lie between two of theirs
    take the one behind.
    """
    return np.concatenate([_of_text(*pair) for pair in zip(ours, theirs, strict=True)])


def _of_text(ours: Encoding, theirs: Encoding) -> TokenPlaces:
    spans, others = (np.array(e.offsets, dtype=np.int64).reshape(-1, 2) for e in (ours, theirs))
    first = np.searchsorted(others[:, 1], spans[:, 0], side="right")
    last = np.searchsorted(others[:, 0], spans[:, 1], side="left") - 1
    first = np.minimum(first, max(len(others) - 1, 0))
    return np.stack((first, np.maximum(first, last)), axis=1).astype(np.int16)
