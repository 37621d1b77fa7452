"""Refuses jobs that a model cannot score, before any compute. Knows no tensors and no queues."""

from __future__ import annotations

from models.config import DecoderConfig
from models.engines.base import ScoreJob
from models.errors import (
    CandidateTooLongError,
    ContextTooLongError,
    PromptError,
    TokenOutOfVocabularyError,
)


def check_job(config: DecoderConfig, job: ScoreJob, stored_tokens: int = 0) -> None:
    """Raises as `models.engines.base.Engine.check` says.

    stored_tokens: those behind the vocabulary that candidates may hold, of a catalogue.
    """
    _check_ids(config.vocab_size, "the context", job.context_ids)
    context, limit = len(job.context_ids), config.max_tokens
    if context >= limit:
        raise ContextTooLongError(
            f"a context of {context} tokens leaves no room for candidates within the model's "
            f"{limit}; shorten it"
        )
    for index, ids in enumerate(job.candidates):
        if not ids:
            raise PromptError(f"candidate {index} has no tokens; give it a text or a template")
        if context + len(ids) > limit:
            raise CandidateTooLongError(
                f"candidate {index} of {len(ids)} tokens exceeds the {limit - context} that the "
                f"model's {limit} leave behind a context of {context}; shorten one of them"
            )
        _check_ids(config.vocab_size + stored_tokens, f"candidate {index}", ids)


def _check_ids(known: int, where: str, ids: tuple[int, ...]) -> None:
    if ids and not 0 <= min(ids) <= max(ids) < known:
        raise TokenOutOfVocabularyError(
            f"{where} holds token ids from {min(ids)} to {max(ids)}, but the model knows 0 to "
            f"{known - 1}; use the tokenizer beside the model, and the catalogue that it was given"
        )
