"""Rendering, tokenizing and hashing: boundaries, truncation and hostile text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from models.calibration import Calibration
from models.card import Labels, ModelCard, PromptTemplate, Truncation
from models.directory import ModelDirectory
from models.errors import ModelDirectoryError, PromptError
from models.head_card import HeadCard
from models.prompt import PromptBuilder, block_hashes, render_fields


@pytest.fixture(scope="module")
def builder(tiny_tokenizer_path: Path, tiny_card: ModelCard) -> PromptBuilder:
    return PromptBuilder(tiny_tokenizer_path, tiny_card)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_tokenizer_path))


def test_a_prompt_decodes_to_its_rendered_template(
    builder: PromptBuilder, tokenizer: Tokenizer
) -> None:
    context = builder.encode_context("Welder")
    (candidate,) = builder.encode_candidates(["Roofer"])
    assert tokenizer.decode(context.ids + candidate.ids) == "Member: Welder\nJob: Roofer\nMatch:"


def test_the_other_direction_has_its_own_template(
    builder: PromptBuilder, tokenizer: Tokenizer
) -> None:
    context = builder.encode_context("Welder", "job_to_members")
    (candidate,) = builder.encode_candidates(["Roofer"], "job_to_members")
    assert tokenizer.decode(context.ids + candidate.ids) == "Job: Welder\nMember: Roofer\nMatch:"


def test_named_fields_render_in_the_templates_order(
    builder: PromptBuilder, tokenizer: Tokenizer
) -> None:
    context = builder.encode_context({"skills": "welding", "headline": "Welder"})
    assert tokenizer.decode(context.ids) == "Member: Headline: Welder. Skills: welding.\n"


def test_absent_and_blank_fields_are_left_out(builder: PromptBuilder) -> None:
    expected = builder.encode_context("Skills: welding.")
    assert builder.encode_context({"skills": "welding"}) == expected
    assert builder.encode_context({"headline": " ", "skills": "welding"}) == expected


def test_field_values_are_not_patterns() -> None:
    template = PromptTemplate("{context}", "{candidate}", {"a": "A {value}", "b": "B {value}"})
    assert render_fields(template, {"a": "{value}{context}", "b": "x"}) == "A {value}{context} B x"


@pytest.mark.parametrize("values", [{}, {"headline": "  "}])
def test_a_context_of_no_fields_is_refused(builder: PromptBuilder, values: dict[str, str]) -> None:
    with pytest.raises(PromptError, match="headline, skills") as caught:
        builder.encode_context(values)
    assert caught.value.param == "context"


def test_an_unknown_field_is_named(builder: PromptBuilder) -> None:
    with pytest.raises(PromptError, match="'age' is unknown; fields: headline, skills") as caught:
        builder.encode_context({"age": "5"})
    assert caught.value.param == "context.age"


def test_fields_for_a_template_without_any_are_refused(builder: PromptBuilder) -> None:
    with pytest.raises(PromptError, match="send the context as text"):
        builder.encode_context({"headline": "x"}, "job_to_members")


def test_an_unknown_prompt_is_refused_with_the_known_ones(builder: PromptBuilder) -> None:
    with pytest.raises(PromptError, match="member_to_jobs, job_to_members"):
        builder.encode_candidates(["x"], "nobody")


def test_a_lone_surrogate_is_refused(builder: PromptBuilder) -> None:
    with pytest.raises(PromptError, match="valid Unicode"):
        builder.encode_candidates(["fine", "\ud800"])


def test_text_never_becomes_a_special_token(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    special = tokenizer.token_to_id("<|end|>")
    assert tokenizer.encode("<|end|>").ids == [special]
    assert special not in builder.encode_context("<|end|>").ids
    assert special not in builder.encode_candidates(["a <|end|> b"])[0].ids


@given(st.text(max_size=400))
def test_a_candidate_keeps_the_templates_ends_within_the_limit(
    builder: PromptBuilder, text: str
) -> None:
    empty, full = builder.encode_candidates(["", text])
    limit = 96
    assert len(full.ids) <= limit
    head = next(i for i, pair in enumerate(zip(empty.ids, full.ids, strict=False)) if i == 3)
    assert full.ids[:head] == empty.ids[:head]
    assert full.ids[head - len(empty.ids) :] == empty.ids[head:]
    assert not full.truncated or len(full.ids) == limit


def test_truncation_is_reported_exactly_at_the_limit(
    tiny_tokenizer_path: Path, tiny_card: ModelCard
) -> None:
    roomy = PromptBuilder(tiny_tokenizer_path, tiny_card)
    text = "inspect roofs"
    exact = len(roomy.encode_candidates([text])[0].ids)
    assert exact == roomy.candidate_tokens(text)
    for limit, truncated in ((exact, False), (exact - 1, True)):
        card = replace(tiny_card, truncation=Truncation(limit, limit))
        (candidate,) = PromptBuilder(tiny_tokenizer_path, card).encode_candidates([text])
        assert (len(candidate.ids), candidate.truncated) == (limit, truncated)


def test_a_template_that_fills_the_limit_is_refused(
    tiny_tokenizer_path: Path, tiny_card: ModelCard
) -> None:
    card = replace(tiny_card, truncation=Truncation(256, 5))
    with pytest.raises(ModelDirectoryError, match="between 1 and 4 tokens"):
        PromptBuilder(tiny_tokenizer_path, card)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (Labels(" yes", " absolutely not"), "choose a single one"),
        (Labels(" yes", "\ud800"), "no Unicode"),
        (Labels(" yes", " yes"), "same token"),
        (Labels("", " no"), "0 tokens"),
    ],
)
def test_labels_must_be_two_single_tokens(
    tiny_tokenizer_path: Path, tiny_card: ModelCard, labels: Labels, match: str
) -> None:
    with pytest.raises(ModelDirectoryError, match=match):
        PromptBuilder(tiny_tokenizer_path, replace(tiny_card, labels=labels))


def test_label_ids_are_yes_then_no(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    assert [tokenizer.decode([label]) for label in builder.label_ids] == [" yes", " no"]


def test_other_than_two_labels_have_no_label_ids_and_it_is_said_what_to_take(
    tiny_tokenizer_path: Path, tiny_card: ModelCard
) -> None:
    heads = {"stars": HeadCard(labels={" yes": 2, " no": 1, "e": 0})}
    card = replace(tiny_card, labels=None, calibration=Calibration(), heads=heads)
    with pytest.raises(ModelDirectoryError, match=r"head 'stars' .*; take a .* card names two"):
        _ = PromptBuilder(tiny_tokenizer_path, card).label_ids


def test_prompts_of_another_card_hash_otherwise(
    builder: PromptBuilder, tiny_tokenizer_path: Path, tiny_card: ModelCard
) -> None:
    other = PromptBuilder(tiny_tokenizer_path, replace(tiny_card, version="0.0.2"))
    ids = builder.encode_context("Welder").ids
    assert builder.block_hashes(ids, 16) != other.block_hashes(ids, 16)
    assert builder.block_hashes(ids, 16, "tenant") != builder.block_hashes(ids, 16)


IDS = st.lists(st.integers(0, 2**31), max_size=70)


@given(IDS, IDS, st.integers(1, 20))
def test_hashes_agree_exactly_on_the_shared_blocks(
    first: list[int], second: list[int], block_size: int
) -> None:
    chains = block_hashes(first, block_size), block_hashes(second, block_size)
    assert len(chains[0]) == -(-len(first) // block_size)
    for index, (a, b) in enumerate(zip(*chains, strict=False)):
        stop = (index + 1) * block_size
        assert (a == b) == (first[:stop] == second[:stop])


def test_a_hash_is_128_bits_in_hex() -> None:
    assert [len(name) for name in block_hashes(range(40), 16)] == [32, 32, 32]


def test_the_part_that_is_read_is_where_the_tokens_end(tiny_directory: ModelDirectory) -> None:
    prompt = tiny_directory.prompt
    text = " ".join(f"Nurse{number} on ward ﬁve" for number in range(400))
    for part, ids in (
        (prompt.context_read(text), prompt.encode_context(text).ids),
        (prompt.candidate_read(text), prompt.encode_candidates([text])[0].ids),
    ):
        assert text.startswith(part)
        assert len(part) < len(text)
        again = (prompt.encode_context(part).ids, prompt.encode_candidates([part])[0].ids)
        assert ids in again
    assert prompt.context_read("Nurse") == prompt.candidate_read("Nurse") == "Nurse"
