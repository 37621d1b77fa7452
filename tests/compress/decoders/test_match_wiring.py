"""A wired decoder, untrained, names two facts that share a rare word."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer

from compress.reasons.marks import token_marks
from compress.reasons.reasoner import (
    ReasonerOptions,
    cased_tokenizer,
    matching_decoder,
    reason_card,
)
from models.decoder import Decoder
from models.engines.base import ReasonJob
from models.engines.reason_writer import ReasonWriter
from models.prompt import PromptBuilder
from models.reasons.facts import job_facts, member_facts
from models.reasons.frames import Reason
from models.reasons.grammar import ReasonTokens

MEMBER = (
    "Headline: Sailor. Background: some preparation. Skills: Writing, Speaking. "
    "Knowledge: Physics, Law. Experience: {first}; Sort letters at night; Count coins in banks."
)
JOB = (
    "Baker. Duties: Carry heavy boxes around; {second}. Tools: Ovens, Pans. "
    "Level: some preparation."
)
PAIRS = (
    ("Weld thick copper pipes", "Repair copper wires"),
    ("Saw wooden beams", "Clean wooden doors"),
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    facts = [fact for pair in PAIRS for fact in pair]
    form = f"<member>{MEMBER}<candidate_job>{JOB}<reason>"
    texts = [form.format(first=fact, second=fact) for fact in facts]
    openings = "Work such as “a” is close to the duty “b”, Use of helps, Knowledge of, The skill."
    return cased_tokenizer([*texts, openings] * 4, 900)


@pytest.fixture(scope="module")
def decoder(tokenizer: Tokenizer) -> Decoder:
    torch.manual_seed(5)
    common = ["Sort letters at night", "Count coins in banks", "Carry heavy boxes around"] * 3
    marks = token_marks(tokenizer, [*common, *(fact for pair in PAIRS for fact in pair)])
    return matching_decoder(ReasonerOptions(), marks).requires_grad_(False)


@pytest.fixture(scope="module")
def prompt(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> PromptBuilder:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return PromptBuilder(path, reason_card("matching", "1"))


def _reason(decoder: Decoder, prompt: PromptBuilder, member: str, job: str) -> Reason:
    grammar = ReasonTokens(prompt).grammars(member_facts(member), [job_facts(job)])[0]
    assert grammar is not None
    context, candidate = prompt.encode_context(member).ids, prompt.encode_candidates([job])[0].ids
    asked = ReasonJob(context, prompt.block_hashes(context, 16), candidate, grammar.lattice())
    return grammar.read(ReasonWriter(decoder, 16, 0).write([asked])[0].tokens)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_facts_that_share_a_word_are_named(
    decoder: Decoder, prompt: PromptBuilder, first: str, second: str
) -> None:
    member, job = MEMBER.format(first=first), JOB.format(second=second)
    reason = _reason(decoder, prompt, member, job)
    assert (reason.member_fact, reason.job_fact) == (first, second)
