"""Reads what is sent to the score routes. Knows nothing of how it is ranked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from service.base.config import Settings
from service.base.errors import InvalidRequestError
from service.bodies.validation import check_count, validated
from service.compat.answers import columns, paired
from service.compat.asked import Asked, Served, native
from service.compat.bodies import DOCUMENTS, QUERIES, ItemsBody, PairsBody

ITEM_NAMES = {"context": "query", "candidates": "items"}


def read_score(raw: Any, settings: Settings, served: Served) -> Asked:
    """SGLang's body has a `query`, vLLM's has not. Raises InvalidRequestError."""
    if isinstance(raw, dict) and "query" not in raw and any(name in raw for name in QUERIES):
        return _pairs(raw, settings, served)
    check_count(raw, settings.max_candidates, "items")
    body = validated(ItemsBody, raw)
    if body.item_first:
        raise InvalidRequestError(
            "item_first is true; this model reads the query first, so leave it out",
            param="item_first",
        )
    yes = _labels(body, served)
    request = native(body, served, body.query, body.items)
    return Asked(request, ITEM_NAMES, partial(columns, yes=yes))


def _pairs(raw: dict[str, Any], settings: Settings, served: Served) -> Asked:
    sent = {"context": _name(raw, QUERIES), "candidates": _name(raw, DOCUMENTS)}
    for name in sent.values():
        check_count(raw, settings.max_candidates, name)
    names = {sent["context"]: QUERIES[0], sent["candidates"]: DOCUMENTS[0]}
    renamed = {names.get(name, name): value for name, value in raw.items()}
    body = validated(PairsBody, renamed, {own: name for name, own in names.items()})
    _refuse_other_queries(body.queries, len(body.documents), sent["context"])
    request = native(body, served, body.queries[0], body.documents)
    return Asked(request, sent, partial(paired, raw=body.use_activation is False))


def _name(raw: dict[str, Any], names: Sequence[str]) -> str:
    """The one of a side that was sent, the first where none was."""
    sent = [name for name in names if name in raw]
    if len(sent) > 1:
        raise InvalidRequestError(
            f"{sent[1]} means the same as {sent[0]}; send one of them", param=sent[1]
        )
    return sent[0] if sent else names[0]


def _refuse_other_queries(queries: Sequence[str], documents: int, name: str) -> None:
    if len(queries) not in (1, documents) or len(set(queries)) > 1:
        raise InvalidRequestError(
            f"{name} has {len(queries)} texts, {len(set(queries))} of them different, beside "
            f"{documents} of the other side; send one, and a request for each",
            param=name,
        )


def _labels(body: ItemsBody, served: Served) -> list[bool] | None:
    """Of every label that was asked for, whether it is the better one."""
    if body.label_token_ids is None:
        return None
    known = served.label_ids
    if known is None or set(body.label_token_ids) != set(known):
        own = "no labels" if known is None else f"{known[0]} and {known[1]}"
        raise InvalidRequestError(
            f"label_token_ids must be this model's own, which has {own}; send those, or leave it "
            "out for one calibrated score",
            code="unknown_label",
            param="label_token_ids",
        )
    if len(set(body.label_token_ids)) < len(body.label_token_ids):
        raise InvalidRequestError(
            "label_token_ids names a label more than once; send each once", param="label_token_ids"
        )
    if not body.apply_softmax:
        raise InvalidRequestError(
            "apply_softmax is not true; this model's scores are shares of its labels, not of all "
            "tokens, so send true, or no label_token_ids for one calibrated score",
            param="apply_softmax",
        )
    return [label == known[0] for label in body.label_token_ids]
