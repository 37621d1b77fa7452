"""A request's candidates as tokens, texts and stored vectors mixed. Knows no context and no job."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from models.catalogue import Catalogue
from models.errors import StoredCandidateError
from models.prompt import EncodedCandidate, PromptBuilder
from service.base.errors import InvalidRequestError
from service.bodies.schemas import Candidate
from service.slates.token_memory import NO_MEMORY, TokenMemory


def encode_candidates(
    listed: Sequence[Candidate],
    prompt: PromptBuilder,
    name: str,
    catalogue: Catalogue | None,
    memory: TokenMemory = NO_MEMORY,
    salt: str = "",
) -> tuple[EncodedCandidate, ...]:
    """One per candidate, in order, for the prompt called `name`; texts are remembered by salt.

    Raises PromptError, and InvalidRequestError for an entry that the catalogue does not have.
    """
    stored = {
        index: prompt.frame_candidate(_token_ids(index, candidate.embedding, name, catalogue), name)
        for index, candidate in enumerate(listed)
        if candidate.embedding is not None
    }
    tokenize = partial(prompt.encode_candidates, prompt=name)
    encoded = iter(memory.encode((salt, name), _texts(listed), tokenize))
    return tuple(stored[i] if i in stored else next(encoded) for i in range(len(listed)))


def are_remembered(
    listed: Sequence[Candidate], name: str, memory: TokenMemory, salt: str = ""
) -> bool:
    """Whether `encode_candidates` would have nothing to tokenize."""
    return memory.knows((salt, name), _texts(listed))


def _texts(listed: Sequence[Candidate]) -> list[str]:
    return [candidate.text for candidate in listed if candidate.text is not None]


def _token_ids(index: int, entry: str, name: str, catalogue: Catalogue | None) -> range:
    param = f"candidates[{index}].embedding"
    if catalogue is None:
        raise InvalidRequestError(
            f"{param} names a catalogue's entry, but this server has no catalogue; send text, or "
            "start it with FAIRSLATE_CATALOGUE",
            code="no_catalogue",
            param=param,
        )
    try:
        return catalogue.token_ids(entry, name)
    except StoredCandidateError as error:
        raise InvalidRequestError(f"{param}: {error}", code=error.code, param=param) from error
