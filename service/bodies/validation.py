"""Reads a body and refuses a bad one by field and limit. Knows nothing of tokens or scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from service.base.config import Settings
from service.base.errors import InvalidRequestError
from service.bodies.fault_words import fault_words
from service.bodies.schemas import (
    Candidate,
    ContextRequest,
    PolicyRequest,
    RankRequest,
    ReasonCandidate,
    ReasonRequest,
    Strict,
)

Body = TypeVar("Body", bound=Strict)
UNKNOWN = "extra_forbidden"  # pydantic's name of an error
NOTHING: Mapping[str, str] = MappingProxyType({})


def parse_rank_request(body: bytes, settings: Settings) -> RankRequest:
    """Raises InvalidRequestError naming the first field at fault and the limit it broke."""
    raw = read_json(body)
    check_count(raw, settings.max_candidates)
    request = validated(RankRequest, raw)
    check_request(request, settings)
    return request


def check_request(request: RankRequest | ReasonRequest, settings: Settings) -> None:
    """What a model cannot say of its fields. Raises InvalidRequestError likewise."""
    _check_slate(request.candidates, settings)
    _check_errand(request, settings)


def parse_reason_request(body: bytes, settings: Settings) -> ReasonRequest:
    """Raises InvalidRequestError as `parse_rank_request` does."""
    raw = read_json(body)
    check_count(raw, settings.most_reasons)
    request = validated(ReasonRequest, raw)
    check_request(request, settings)
    return request


def parse_context_request(body: bytes, settings: Settings) -> ContextRequest:
    """Raises InvalidRequestError as `parse_rank_request` does."""
    request = validated(ContextRequest, read_json(body))
    _check_errand(request, settings)
    return request


def ranking_head(rank_by: str | None, heads: Sequence[str]) -> str:
    """The head that ranks, the model's first by default. Raises InvalidRequestError."""
    name = heads[0] if rank_by is None else rank_by
    if name not in heads:
        raise InvalidRequestError(
            f"rank_by {name!r} is not a head of this model; heads: {', '.join(heads)}",
            code="unknown_head",
            param="rank_by",
        )
    return name


def parse_policy_request(body: bytes) -> PolicyRequest:
    """Raises InvalidRequestError naming the field at fault and the policies there are."""
    return validated(PolicyRequest, read_json(body))


def validated(model: type[Body], raw: Any, sent: Mapping[str, str] = NOTHING) -> Body:
    """The body as a model; sent: names of its fields that stood there under others.

    Raises InvalidRequestError naming the first field at fault.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        raise _invalid(_nearest(errors), model, sent) from error


def _nearest(errors: list[ErrorDetails]) -> ErrorDetails:
    """The first error, or the unknown field beside a missing one: often its mistyped name.

    Of a context, which is text or an object, that of the form it was sent in: pydantic puts the
    form's name behind the field's, where no client looks for it.
    """
    first = errors[0]
    if first["type"] == "missing":
        where = first["loc"][:-1]
        beside = (e for e in errors if e["type"] == UNKNOWN and e["loc"][:-1] == where)
        return next(beside, first)
    if first["loc"][:1] != ("context",):
        return first
    forms = [error for error in errors if error["loc"][:1] == ("context",)]
    sent = max(forms, key=lambda error: len(error["loc"]))
    return {**sent, "loc": ("context", *sent["loc"][2:])}


def read_json(body: bytes) -> Any:
    """Raises InvalidRequestError for what is no JSON in UTF-8."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"the body is not valid UTF-8 (byte {error.start}); send JSON encoded as UTF-8",
            code="invalid_utf8",
        ) from error
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequestError(
            f"the body is not valid JSON ({error}); NaN and Infinity are not JSON",
            code="invalid_json",
        ) from error


def _invalid(
    detail: ErrorDetails, model: type[BaseModel], sent: Mapping[str, str]
) -> InvalidRequestError:
    param = _dotted(tuple(sent.get(str(part), part) for part in detail["loc"]))
    code = "unknown_field" if detail["type"] == UNKNOWN else "invalid_request"
    reason = fault_words(detail)
    if code == "unknown_field":
        known = (sent.get(name, name) for name in _fields_beside(model, detail["loc"]))
        reason = f"is no field here; use {', '.join(known)}"
    return InvalidRequestError(f"{param or 'body'} {reason}", code=code, param=param or None)


def _fields_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Of the object, within a body of this kind, that holds the field at `location`."""
    for part in location[:-1]:
        if isinstance(part, str):
            model = _model_in(model.model_fields[part].annotation)
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel]:
    """What a list holds."""
    model: type[BaseModel]
    [model] = get_args(annotation)
    return model


def _dotted(location: tuple[int | str, ...]) -> str:
    return "".join(map(_step, location)).removeprefix(".")


def _step(part: int | str) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{part}"


def check_count(raw: Any, most: int, name: str = "candidates") -> None:
    """Before anything is made of the candidates, which may be 40,000; name: of their list.

    Raises InvalidRequestError.
    """
    candidates = raw.get(name) if isinstance(raw, dict) else None
    if isinstance(candidates, list) and len(candidates) > most:
        raise InvalidRequestError(
            f"{name} has {len(candidates)} entries; the limit is {most}; send the rest in "
            "another request",
            code="too_many_candidates",
            param=name,
        )


def _check_errand(request: ContextRequest, settings: Settings) -> None:
    """What a slate and a context alone have in common."""
    _check_context(request.context, settings)
    _check_length("user", request.user or "", settings)
    if request.deadline_ms is not None and request.deadline_ms > settings.max_deadline_ms:
        raise InvalidRequestError(
            f"deadline_ms is {request.deadline_ms}; the limit is {settings.max_deadline_ms}; "
            "allow less, or send fewer candidates at once",
            code="deadline_too_long",
            param="deadline_ms",
        )


def _check_slate(candidates: Sequence[Candidate | ReasonCandidate], settings: Settings) -> None:
    if not candidates:
        raise InvalidRequestError(
            "candidates is empty; send at least 1", code="no_candidates", param="candidates"
        )
    for index, candidate in enumerate(candidates):
        if isinstance(candidate, Candidate):
            _check_content(f"candidates[{index}]", candidate, settings)
            _check_finite(f"candidates[{index}].metadata", candidate.metadata or {})
        else:
            _check_text(f"candidates[{index}].text", candidate.text)
        _check_length(f"candidates[{index}].id", candidate.id, settings)
    _check_unique([candidate.id for candidate in candidates])


def _check_content(param: str, candidate: Candidate, settings: Settings) -> None:
    """A candidate is either a text or an entry of the catalogue."""
    if candidate.text is not None and candidate.embedding is not None:
        raise InvalidRequestError(
            f"{param} has both text and embedding; send one of them", param=f"{param}.embedding"
        )
    if candidate.embedding is not None:
        _check_text(f"{param}.embedding", candidate.embedding)
        _check_length(f"{param}.embedding", candidate.embedding, settings)
    elif candidate.text is not None:
        _check_text(f"{param}.text", candidate.text)
    else:
        raise InvalidRequestError(
            f"{param}.text is missing; send it, or embedding in its place", param=f"{param}.text"
        )


def _check_finite(param: str, value: Any) -> None:
    """Looks for what JSON wrote as 1e999; in Python, so that a large value holds nobody up."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in parts:
        if isinstance(part, (dict, list)):
            _check_finite(param + _step(key), part)
        elif isinstance(part, float) and not math.isfinite(part):
            place = param + _step(key)
            raise InvalidRequestError(f"{place} is no finite number; send one", param=place)


def _check_unique(identifiers: list[str]) -> None:
    repeated = [identifier for identifier, count in Counter(identifiers).items() if count > 1]
    if repeated:
        second = identifiers.index(repeated[0], identifiers.index(repeated[0]) + 1)
        raise InvalidRequestError(
            f"candidates[{second}].id: {repeated[0]!r} stands in the slate more than once; "
            "ids must be unique",
            code="duplicate_id",
            param=f"candidates[{second}].id",
        )


def _check_context(context: str | dict[str, str], settings: Settings) -> None:
    if isinstance(context, str):
        _check_text("context", context)
        return
    if not context:
        raise InvalidRequestError(
            "context has no fields; send text or at least 1 field",
            code="empty_text",
            param="context",
        )
    for name, value in context.items():
        _check_length("context", name, settings)
        _check_text(f"context.{name}", value)


def _check_text(param: str, text: str) -> None:
    if not text.strip():
        raise InvalidRequestError(
            f"{param} is empty; send at least 1 visible character", code="empty_text", param=param
        )


def _check_length(param: str, value: str, settings: Settings) -> None:
    if len(value) > settings.max_field_characters:
        raise InvalidRequestError(
            f"{param} has {len(value)} characters; the limit is {settings.max_field_characters}; "
            "shorten it",
            code="field_too_long",
            param=param,
        )
