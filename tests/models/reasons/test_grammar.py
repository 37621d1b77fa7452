"""Grammars of pairs of texts: every sentence and no other, in the shipped reasoner's tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from compress.data.requests import load_requests
from models.directory import load_model_directory
from models.errors import ModelDirectoryError
from models.prompt import PromptBuilder
from models.reasons.check import check_reason
from models.reasons.facts import job_facts, member_facts
from models.reasons.frames import possible_reasons
from models.reasons.grammar import (
    MOST_FACT_TOKENS,
    MOST_FACTS,
    ReasonGrammar,
    ReasonTokens,
    ReasonUnreadableError,
)
from tests.models.reasons.test_lattice import ways

MODEL = Path("models/demo_reason")
MEMBER = "Experience: Cut, shape, and trim materials; Count items. Tools used: Tin snips."
JOB = "Sewer. Duties: Trim fabrics; Mark products. Tools: Shears. Level: some preparation."
TOKENS = ReasonTokens(load_model_directory(MODEL).prompt)
TOKENIZER = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
ODD = st.text(st.sampled_from("abC ﬁ½é—'.,;:<>“”endrason"), max_size=30)


def grammar_of(member: str, job: str) -> ReasonGrammar:
    grammar = TOKENS.grammars(member_facts(member), [job_facts(job)])[0]
    assert grammar is not None
    return grammar


def test_it_holds_every_sentence_as_it_is_tokenized_whole() -> None:
    for request in load_requests(Path("models/demo/onet_jobs"), "valid")[:12]:
        member = member_facts(request.context)
        jobs = [job_facts(text) for text in request.candidates[:4]]
        for job, grammar in zip(jobs, TOKENS.grammars(member, jobs), strict=True):
            assert grammar is not None
            reasons = list(possible_reasons(member, job))
            whole = [
                (*TOKENIZER.encode(str(one), add_special_tokens=False).ids, TOKENS.end)
                for one in reasons
            ]
            assert sorted(ways(grammar.lattice())) == sorted(whole)
            assert [grammar.read(tokens) for tokens in whole] == reasons


@settings(deadline=None, max_examples=60)
@given(member=ODD, job=ODD)
def test_whatever_is_said_of_odd_texts_is_found_in_them(member: str, job: str) -> None:
    member, job = f"Tools used: {member}, Tin snips.", f"{job}. Duties: Trim; {job}."
    grammar = grammar_of(member, job)
    for tokens in ways(grammar.lattice()):
        assert check_reason(str(grammar.read(tokens)), member, job).grounded


def test_letters_that_tokens_do_not_keep_are_kept() -> None:
    grammar = grammar_of("Tools used: ﬁne ½-inch snips.", JOB)
    sentences = [str(grammar.read(tokens)) for tokens in ways(grammar.lattice())]
    assert all("“ﬁne ½-inch snips”" in sentence for sentence in sentences)


def test_text_cannot_pass_itself_off_as_the_end() -> None:
    grammar = grammar_of("Tools used: Snips <end>.", JOB)
    assert all(way.count(TOKENS.end) == 1 for way in ways(grammar.lattice()))


def test_a_text_of_many_or_long_facts_stays_small() -> None:
    member = "Experience: " + "; ".join(f"Weld beam {number}" for number in range(5_000)) + "."
    job = f"Welder. Duties: {'weld ' * (MOST_FACT_TOKENS + 1)}; Braze."
    lattice = grammar_of(member, job).lattice()
    assert sum(1 for _ in ways(lattice)) == MOST_FACTS * 2  # with the duty "Braze" or the title
    assert lattice.longest < 3 * MOST_FACT_TOKENS


def test_texts_without_a_fact_allow_nothing() -> None:
    assert TOKENS.grammars(member_facts("“”"), [job_facts("Sewer."), job_facts("")]) == [None, None]


@pytest.mark.parametrize("change", ["cut", "other quote", "other fact", "nothing"])
def test_other_tokens_are_no_sentence(change: str) -> None:
    grammar = grammar_of(MEMBER, JOB)
    way = min(ways(grammar.lattice()))
    spoilt = {
        "cut": way[: len(way) // 2],
        "other quote": tuple(7 if token == TOKENS.open else token for token in way),
        "other fact": (*way[: way.index(TOKENS.open) + 1], 7, *way[way.index(TOKENS.close) :]),
        "nothing": (),
    }
    with pytest.raises(ReasonUnreadableError):
        grammar.read(spoilt[change])


def test_a_model_without_quotes_is_no_reasoner() -> None:
    prompt: PromptBuilder = load_model_directory(Path("models/demo")).prompt
    with pytest.raises(ModelDirectoryError, match="“"):
        ReasonTokens(prompt)
