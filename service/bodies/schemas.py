"""Requests and answers as pydantic models. Knows nothing of limits, tenants or scoring."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from service.gate.settings import Policy


class Strict(BaseModel):
    """No coercion and no unknown fields: a mistyped option must not be ignored silently."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _one_unknown_name(cls, raw: Any) -> Any:
        """Of 100,000 unknown fields one is enough to refuse; an error of each takes too long."""
        if not isinstance(raw, dict) or len(raw) <= len(cls.model_fields):
            return raw
        known = {name: raw[name] for name in cls.model_fields if name in raw}
        unknown = next(name for name in raw if name not in known)
        return {**known, unknown: raw[unknown]}


class Candidate(Strict):
    """One item of the slate."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["text"]}, {"required": ["embedding"]}]}
    )

    id: str = Field(min_length=1, description="Unique in its slate; comes back with the score.")
    text: str | None = Field(
        default=None, description="What the model reads; over-long text is cut at its end."
    )
    embedding: str | None = Field(
        default=None, description="Instead of text: an entry of the server's catalogue of vectors."
    )
    # Its values came out of a JSON parser; which of them are not finite is looked for elsewhere.
    metadata: dict[str, Any] | None = Field(
        default=None, description="Handed back untouched when `return_documents` is set."
    )


class ContextRequest(Strict):
    """Body of `POST /v1/contexts`."""

    context: str | Annotated[dict[str, str], Field(fail_fast=True)] = Field(
        description="Member or job text, or the named fields of the model card's template."
    )
    deadline_ms: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Milliseconds from arrival after which the answer is worthless."
    )
    prompt: str | None = Field(default=None, description="A prompt of the model card.")
    truncation: Literal["truncate", "error"] = Field(
        default="truncate", description="What happens to text above the token limits."
    )
    user: str | None = Field(
        default=None, description="Whom it is for: the share of a tenant may be split by user."
    )
    priority: str | None = Field(
        default=None, description="A class open to the tenant; without it, the tenant's own."
    )


class RankRequest(ContextRequest):
    """Body of `POST /v1/rank`."""

    candidates: Annotated[list[Candidate], Field(fail_fast=True)] = Field(
        description="The slate, in any order."
    )
    rank_by: str | None = Field(
        default=None, description="Head that orders the slate, by default the model's first."
    )
    top_n: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Answer only with the best n."
    )
    return_documents: bool = Field(default=False, description="Repeat text and metadata.")


class ReasonCandidate(Strict):
    """One item to be written about."""

    id: str = Field(min_length=1, description="Unique in the request; comes back with the reason.")
    text: str = Field(description="What the model reads; over-long text is cut at its end.")


class ReasonRequest(ContextRequest):
    """Body of `POST /v1/reason`."""

    candidates: Annotated[list[ReasonCandidate], Field(fail_fast=True)] = Field(
        description="What is to be written about, each by itself."
    )


class RankedCandidate(Strict):
    """One row of an answer."""

    id: str
    index: int = Field(description="Position in the request's slate; breaks ties.")
    score: float = Field(ge=0, le=1, description="Calibrated probability, of the ranking head.")
    raw_logit: float = Field(description="Log-odds before calibration; orders the slate.")
    scores: dict[str, float] | None = Field(
        default=None, description="Calibrated probability by head, of a model with several."
    )
    status: Literal["ok", "truncated"]
    text: str | None = None
    embedding: str | None = None
    metadata: dict[str, JsonValue] | None = None


class ServedModel(Strict):
    """Which model answered; the digest names weights, templates and calibration exactly."""

    name: str
    version: str
    digest: str


class Usage(Strict):
    """Prompt tokens: extend = context - cached + candidates is what the engine computed."""

    context_tokens: int
    cached_tokens: int
    candidate_tokens: int
    extend_tokens: int
    reused_candidates: int = Field(description="Scores remembered from earlier; cost no tokens.")


class StageTimes(Strict):
    """Milliseconds in the queue, tokenizing, being scored, and all together."""

    queue: float
    tokenize: float
    score: float
    total: float


class ContextAnswer(Strict):
    """Body of a 200 from `POST /v1/contexts`: the engine has read the context by now."""

    model: ServedModel
    usage: Usage
    timings_ms: StageTimes
    context_status: Literal["ok", "truncated"]
    request_id: str


class RankAnswer(ContextAnswer):
    """Body of a 200 from `POST /v1/rank`, results best first."""

    ranked_by: str = Field(description="The head that ordered the results.")
    results: list[RankedCandidate]


class ReasonUsage(Strict):
    """Prompt tokens as of a slate, and those written."""

    context_tokens: int
    cached_tokens: int
    candidate_tokens: int
    extend_tokens: int
    output_tokens: int = Field(description="Each is charged as several of a prompt.")


class StatedFact(Strict):
    """A piece of a text as it stands there."""

    kind: str = Field(description="task, skill, knowledge, tool, headline; duty, title...")
    text: str


class StatedFacts(Strict):
    """What a reason names, each looked up in the text that states it."""

    context: StatedFact
    candidate: StatedFact
    level: str | None = Field(description="The preparation that both texts state, if named.")


class Reasoned(Strict):
    """One row of an answer; also the data of an event `reason` of a stream."""

    id: str
    index: int = Field(description="Position in the request.")
    reason: str | None = Field(description="One sentence; null where no fact goes into one.")
    facts: StatedFacts | None
    status: Literal["ok", "truncated", "no_fact"]


class ReasonClosing(Strict):
    """The data of the event `done`, the last one of a stream."""

    model: ServedModel
    usage: ReasonUsage
    timings_ms: StageTimes
    context_status: Literal["ok", "truncated"]
    request_id: str


class ReasonAnswer(ReasonClosing):
    """Body of a 200 from `POST /v1/reason`, results in the order of the candidates."""

    results: list[Reasoned]


class WaitingLevel(Strict):
    """One node on a waiting job's way down the weighted tree."""

    node: str = Field(description="Names from the top of the tree, joined by /.")
    deficit: int = Field(description="DLPM counter in tokens; served while it is positive.")
    weight: int
    rounds_until_positive: int
    rivals: int = Field(description="Siblings that wait too.")
    rival_weight: int = Field(description="Sum of their weights.")


class WaitingJob(Strict):
    """Why one job of a request waits, and after how much at the latest it is taken."""

    state: Literal["queued", "leased", "answered", "unknown"]
    worker: str = Field(description="The engine that holds it or in whose queue it waits.")
    queue_ms: int
    deadline_in_ms: int
    due_before: int = Field(description="Jobs of the same queue with an earlier deadline.")
    matched_blocks: int = Field(description="Blocks of its context that the engine holds.")
    levels: list[WaitingLevel]
    drain_rate: int = Field(description="Tokens per second that the pool serves.")
    bound_tokens: int = Field(description="Served before it at most, if nothing more comes.")
    bound_ms: int | None = Field(description="The same at the present drain rate.")


class QueueAnswer(Strict):
    """Body of a 200 from `GET /v1/queue/{request_id}`; a large slate is several jobs."""

    request_id: str
    jobs: list[WaitingJob]


class PolicyRequest(Strict):
    """Body of `POST /admin/policy`, of its 200, and of that of `GET`."""

    policy: Policy


class ErrorDetail(Strict):
    """What went wrong and, in `message`, what to do next."""

    type: str
    code: str
    message: str
    param: str | None = Field(default=None, description="The field at fault.")
    request_id: str
    retry_after_ms: int | None = None


class ErrorEnvelope(Strict):
    """Body of every answer that is not a 200."""

    error: ErrorDetail
