"""The card that a ranker of members and jobs begins with. Knows no weights and no metrics."""

from __future__ import annotations

from models.card import Labels, ModelCard, PromptTemplate, Truncation

MEMBER_FIELDS = {
    "headline": "Headline: {value}.",
    "background": "Background: {value}.",
    "skills": "Skills: {value}.",
    "knowledge": "Knowledge: {value}.",
    "experience": "Experience: {value}.",
    "tools": "Tools used: {value}.",
}
JOB_FIELDS = {
    "title": "{value}.",
    "duties": "Duties: {value}.",
    "tools": "Tools: {value}.",
    "level": "Level: {value}.",
}


def new_card(name: str, version: str) -> ModelCard:
    """The ranker's card before anything was measured: both prompts, labels and limits."""
    return ModelCard(
        name=name,
        version=version,
        prompts={
            "member_to_jobs": PromptTemplate(
                "<member>{context}", "<candidate_job>{candidate}<match>", MEMBER_FIELDS
            ),
            "job_to_members": PromptTemplate(
                "<job>{context}", "<candidate_member>{candidate}<match>", JOB_FIELDS
            ),
        },
        default_prompt="member_to_jobs",
        labels=Labels(yes="<yes>", no="<no>"),
        truncation=Truncation(max_context_tokens=512, max_candidate_tokens=256),
    )


RANKER_PROMPTS = tuple(new_card("ranker", "1").prompts)
RANKER_HEADS = tuple(new_card("ranker", "1").scoring_heads)
