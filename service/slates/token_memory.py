"""Tokens of the texts seen lately. Knows no request, no tenant's rights and no template.

The same postings stand in one slate after the other, and tokenizing them takes a processor longer
than all else that an API process does for a slate.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock

from models.prompt import EncodedCandidate

BYTES_OF_ENTRY = 400  # key, two objects and their place in the order
BYTES_OF_TOKEN = 36  # an integer and its place in a tuple
BYTES_OF_CHARACTER = 2


class TokenMemory:
    """The least recently used texts go first; safe to call from many threads.

    budget_bytes: of texts and tokens together, as estimated; 0 remembers nothing. What is known in
    one scope is unknown in every other.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._used = 0
        self._entries: OrderedDict[tuple[Hashable, str], EncodedCandidate] = OrderedDict()
        self._lock = Lock()

    def encode(
        self,
        scope: Hashable,
        texts: Sequence[str],
        encode: Callable[[Sequence[str]], Sequence[EncodedCandidate]],
    ) -> list[EncodedCandidate]:
        """One per text, in order; `encode` is asked for those that are not known in the scope."""
        with self._lock:
            found = {text: self._recall((scope, text)) for text in texts}
        missing = [text for text, encoded in found.items() if encoded is None]
        fresh = dict(zip(missing, encode(missing), strict=True)) if missing else {}
        with self._lock:
            for text, encoded in fresh.items():
                self._keep((scope, text), encoded)
        return [found[text] or fresh[text] for text in texts]

    def knows(self, scope: Hashable, texts: Sequence[str]) -> bool:
        """Whether `encode` would not ask its tokenizer for any of these, just now."""
        with self._lock:
            return all((scope, text) in self._entries for text in texts)

    def _recall(self, key: tuple[Hashable, str]) -> EncodedCandidate | None:
        encoded = self._entries.get(key)
        if encoded is not None:
            self._entries.move_to_end(key)
        return encoded

    def _keep(self, key: tuple[Hashable, str], encoded: EncodedCandidate) -> None:
        if key in self._entries or _bytes(key, encoded) > self._budget:
            return
        self._entries[key] = encoded
        self._used += _bytes(key, encoded)
        while self._used > self._budget:
            self._used -= _bytes(*self._entries.popitem(last=False))


def _bytes(key: tuple[Hashable, str], encoded: EncodedCandidate) -> int:
    text = BYTES_OF_CHARACTER * len(key[1])
    return BYTES_OF_ENTRY + text + BYTES_OF_TOKEN * len(encoded.ids)


NO_MEMORY = TokenMemory(0)
