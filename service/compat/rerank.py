"""Reads what is sent to the rerank routes. Knows nothing of how it is ranked."""

from __future__ import annotations

from functools import partial
from typing import Any

from service.base.config import Settings
from service.base.errors import InvalidRequestError
from service.bodies.validation import check_count, validated
from service.compat.answers import listed, reranked
from service.compat.asked import TRUNCATE, Asked, Served, native
from service.compat.bodies import RerankBody, TextsBody

DOCUMENT_NAMES = {"context": "query", "candidates": "documents"}
TEXT_NAMES = {"context": "query", "candidates": "texts", TRUNCATE: "truncate true"}


def read_rerank(raw: Any, settings: Settings, served: Served) -> Asked:
    """Whose body it is, its list of candidates tells. Raises InvalidRequestError."""
    if isinstance(raw, dict) and "texts" in raw and "documents" not in raw:
        return _texts(raw, settings, served)
    check_count(raw, settings.max_candidates, "documents")
    body = validated(RerankBody, raw)
    _refuse_shorter(body.max_tokens_per_doc, served)
    request = native(
        body,
        served,
        body.query,
        [document.text for document in body.documents],
        top_n=body.top_n or None,
        return_documents=bool(body.return_documents),
    )
    raw_scores = bool(body.raw_scores) or body.use_activation is False
    return Asked(request, DOCUMENT_NAMES, partial(reranked, raw=raw_scores))


def _texts(raw: Any, settings: Settings, served: Served) -> Asked:
    check_count(raw, settings.max_candidates, "texts")
    body = validated(TextsBody, raw)
    request = native(
        body,
        served,
        body.query,
        body.texts,
        top_n=body.top_n or None,
        return_documents=bool(body.return_text),
        truncation="error" if body.truncate is False else "truncate",
    )
    return Asked(request, TEXT_NAMES, partial(listed, raw=bool(body.raw_scores)))


def _refuse_shorter(asked: int | None, served: Served) -> None:
    if asked is not None and asked < served.max_candidate_tokens:
        raise InvalidRequestError(
            f"max_tokens_per_doc is {asked}; this model reads {served.max_candidate_tokens} of any "
            "document, so leave it out, or shorten the documents",
            param="max_tokens_per_doc",
        )
