"""Bodies of other services' routes as pydantic models. Knows nothing of limits or the native route.

Field names and defaults are those of Cohere, Jina, vLLM and Infinity (`/rerank`), of Hugging Face's
TEI (`/rerank` with `texts`), of SGLang (`/v1/score`) and of vLLM (`/score`), as they document them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from service.bodies.schemas import Strict

DOCUMENT_TYPE = "document_type"
QUERIES = ("queries", "text_1", "data_1")  # vLLM's names of the one side, and of the other
DOCUMENTS = ("documents", "text_2", "items", "data_2")

TopN = Annotated[int, Field(ge=0)]
CutAtModelsLimit = Literal[-1]


def as_list(value: Any) -> Any:
    """One text stands for a list of it."""
    return [value] if isinstance(value, str) else value


Texts = Annotated[
    list[str],
    Field(fail_fast=True, json_schema_extra={"type": ["string", "array"]}),
    BeforeValidator(as_list),
]


def every_name(schema: dict[str, Any]) -> None:
    """Adds the other names of both sides to the schema of vLLM's body."""
    fields = schema["properties"]
    for own, *others in (QUERIES, DOCUMENTS):
        fields |= dict.fromkeys(others, fields[own])
    one_of_each = [[{"required": [name]} for name in side] for side in (QUERIES, DOCUMENTS)]
    del schema["required"]  # which are the two by their own names
    schema["allOf"] = [{"oneOf": names} for names in one_of_each]


class ForeignBody(Strict):
    """What every one of them may say; all but `model` are the native route's fields."""

    model: str | None = Field(default=None, description="The served model's name, or nothing.")
    prompt: str | None = Field(default=None, description="As of `POST /v1/rank`.")
    deadline_ms: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="As of `POST /v1/rank`."
    )
    user: str | None = Field(default=None, description="As of `POST /v1/rank`.")
    priority: str | None = Field(default=None, description="As of `POST /v1/rank`.")


class Document(Strict):
    """One document: a text, or an object that holds nothing else."""

    model_config = ConfigDict(
        json_schema_extra={
            "description": "A text in its place means the same.",
            "type": ["string", "object"],
        }
    )

    text: str

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            return {"text": raw}
        if not isinstance(raw, dict):
            raise PydanticCustomError(DOCUMENT_TYPE, "neither text nor an object with text")
        return raw


class RerankBody(ForeignBody):
    """Body of `POST /v1/rerank`, `/v2/rerank` and `/rerank` as Cohere, Jina and vLLM have it."""

    query: str = Field(description="The context.")
    documents: Annotated[list[Document], Field(fail_fast=True)] = Field(
        description="The candidates; one may stand there twice."
    )
    top_n: TopN | None = Field(default=None, description="Answer only with the best n; 0 is all.")
    return_documents: bool | None = Field(default=None, description="Repeat the texts.")
    raw_scores: bool | None = Field(
        default=None, description="Log-odds in place of calibrated probabilities."
    )
    use_activation: bool | None = Field(
        default=None, description="The same the other way round: false asks for log-odds."
    )
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Not below the model's own limit, which holds in any case."
    )
    truncate_prompt_tokens: CutAtModelsLimit | None = None


class TextsBody(ForeignBody):
    """Body of `POST /rerank` as TEI has it."""

    query: str = Field(description="The context.")
    texts: Annotated[list[str], Field(fail_fast=True)] = Field(description="The candidates.")
    top_n: TopN | None = Field(
        default=None, description="As of documents: LiteLLM sends it beside texts too."
    )
    raw_scores: bool | None = Field(
        default=None, description="Log-odds in place of calibrated probabilities."
    )
    return_text: bool | None = Field(default=None, description="Repeat the texts.")
    truncate: bool | None = Field(
        default=None, description="false refuses over-long text, which is cut at its end else."
    )
    truncation_direction: Literal["right", "Right"] | None = None


class ItemsBody(ForeignBody):
    """Body of `POST /v1/score` as SGLang has it."""

    query: str = Field(description="The context, without a template.")
    items: Texts = Field(description="The candidates, or one.")
    label_token_ids: list[int] | None = Field(
        default=None, description="The model's own labels, a column each; see `GET /v1/models`."
    )
    apply_softmax: bool | None = Field(
        default=None, description="Must be true beside labels: scores are shares of the labels."
    )
    item_first: bool | None = Field(default=None, description="Must not be true.")


class PairsBody(ForeignBody):
    """Body of `POST /v1/score` as vLLM has it, each side under one of its names."""

    model_config = ConfigDict(json_schema_extra=every_name)

    queries: Texts = Field(
        min_length=1,
        description="The context, or as many times the same one as there are documents.",
    )
    documents: Texts = Field(description="The candidates, or one.")
    use_activation: bool | None = Field(
        default=None, description="false asks for log-odds in place of calibrated probabilities."
    )
    truncate_prompt_tokens: CutAtModelsLimit | None = None
    encoding_format: Literal["float"] | None = None
