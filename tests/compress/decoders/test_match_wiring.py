"""A wired decoder, untrained, names two facts that share a rare word."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer

from compress.decoders.decoding import Sampling, write_answers
from compress.reasons.frames import Reason, parse
from compress.reasons.marks import token_marks
from compress.reasons.reasoner import ReasonerOptions, cased_tokenizer, matching_decoder
from compress.reasons.rule import ReasonRule
from models.decoder import Decoder

MEMBER = (
    "<member>Headline: Sailor. Background: some preparation. Skills: Writing, Speaking. "
    "Knowledge: Physics, Law. Experience: {first}; Sort letters at night; Count coins in banks."
)
JOB = (
    "<candidate_job>Baker. Duties: Carry heavy boxes around; {second}. Tools: Ovens, Pans. "
    "Level: some preparation.<reason>"
)
PAIRS = (
    ("Weld thick copper pipes", "Repair copper wires"),
    ("Saw wooden beams", "Clean wooden doors"),
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    facts = [fact for pair in PAIRS for fact in pair]
    texts = [MEMBER.format(first=fact) + JOB.format(second=fact) for fact in facts]
    openings = "Work such as “a” is close to the duty “b”, Use of helps, Knowledge of, The skill."
    return cased_tokenizer([*texts, openings] * 4, 900)


@pytest.fixture(scope="module")
def decoder(tokenizer: Tokenizer) -> Decoder:
    torch.manual_seed(5)
    common = ["Sort letters at night", "Count coins in banks", "Carry heavy boxes around"] * 3
    marks = token_marks(tokenizer, [*common, *(fact for pair in PAIRS for fact in pair)])
    return matching_decoder(ReasonerOptions(), marks).requires_grad_(False)


def _reason(decoder: Decoder, tokenizer: Tokenizer, member: str, job: str) -> Reason:
    end = tokenizer.token_to_id("<end>")
    assert end is not None

    def encode(texts: list[str]) -> list[list[int]]:
        return [item.ids for item in tokenizer.encode_batch(texts, add_special_tokens=False)]

    rule = ReasonRule(
        member.removeprefix("<member>"),
        job.removeprefix("<candidate_job>").removesuffix("<reason>"),
        encode,
        end,
    )
    answer = write_answers(decoder, encode([member + job]), Sampling(end, 80), rules=[rule])[0]
    reason = parse(tokenizer.decode([token for token in answer if token != end]))
    assert reason is not None
    return reason


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_facts_that_share_a_word_are_named(
    decoder: Decoder, tokenizer: Tokenizer, first: str, second: str
) -> None:
    member, job = MEMBER.format(first=first), JOB.format(second=second)
    reason = _reason(decoder, tokenizer, member, job)
    assert (reason.member_fact, reason.job_fact) == (first, second)
