"""What a server says of a model that it serves. Knows nothing of what the model is for."""

from __future__ import annotations

from typing import Any

from models.card import ModelCard
from models.errors import ModelDirectoryError
from models.prompt import PromptBuilder
from service.base.config import Settings


def identify(card: ModelCard) -> dict[str, str]:
    """For every answer; to be called once: a digest is a hash over the whole card."""
    return {"name": card.name, "version": card.version, "digest": card.digest}


def describe_card(card: ModelCard, max_candidates: int, settings: Settings) -> dict[str, Any]:
    """Its prompts with their fields, and the limits of a request."""
    return {
        "prompts": {
            name: {"context_fields": list(prompt.fields)} for name, prompt in card.prompts.items()
        },
        "default_prompt": card.default_prompt,
        "limits": {
            "max_candidates": max_candidates,
            "max_body_bytes": settings.max_body_bytes,
            "max_context_tokens": card.truncation.max_context_tokens,
            "max_candidate_tokens": card.truncation.max_candidate_tokens,
            "default_deadline_ms": settings.default_deadline_ms,
            "max_deadline_ms": settings.max_deadline_ms,
        },
    }


def label_ids(prompt: PromptBuilder) -> tuple[int, int] | None:
    """Tokens of yes and no, where the first head answers with these two."""
    try:
        return prompt.label_ids
    except ModelDirectoryError:
        return None
