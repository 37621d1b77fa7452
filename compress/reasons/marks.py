"""What tokens of a reasoner's tokenizer say of texts, facts and sentences. Knows no weights."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from compress.decoders.fact_layout import TokenMarks
from compress.reasons.rationales import STEM
from models.reasons.facts import JOB_NAMES, MEMBER_NAMES
from models.reasons.frames import CLOSE, FRAMES, OPEN

SPACE = "Ġ"  # what byte-level tokens show for it
MEMBER, JOB, ASK = "<member>", "<candidate_job>", "<reason>"


def token_marks(tokenizer: Tokenizer, facts: Sequence[str]) -> TokenMarks:
    """facts: texts in which words are counted."""
    stems = token_stems(tokenizer)
    fields = {**MEMBER_NAMES, **JOB_NAMES}
    kinds: dict[str, list[int]] = {"is_title": [_id(tokenizer, JOB)]}
    for name, kind in fields.items():
        kinds.setdefault(f"is_{_kind(kind)}", []).append(_first(tokenizer, name))
    openers = [_id(tokenizer, name) for name in (MEMBER, JOB, ASK)]
    marks = {
        "strong": [*openers, _first(tokenizer, ";"), *_both(tokenizer, ":", ";")],
        "comma": _both(tokenizer, ","),
        "field": [*openers[1:], *(token for tokens in kinds.values() for token in tokens)],
        **dict(zip(("member", "job", "ask"), ([opener] for opener in openers), strict=True)),
        "open": [_id(tokenizer, OPEN)],
        "choice": [openers[-1], _id(tokenizer, CLOSE), _first(tokenizer, "The")],
        **kinds,
    }
    openings: dict[str, list[int]] = {}
    middles: dict[str, list[int]] = {}
    for frame in FRAMES:
        told = tokenizer.encode(frame.opening, add_special_tokens=False).ids
        openings[_kind(frame.member_kind)] = list(told[:2])
        if frame.member_kind != "headline":
            middles.setdefault(_kind(frame.job_kind), []).append(_first(tokenizer, frame.middle))
    rarity = _rarity(tokenizer, stems, facts)
    rarity[marks["field"]] = 0
    pairs = [(_kind(frame.member_kind), _kind(frame.job_kind)) for frame in FRAMES]
    return TokenMarks(stems, rarity, marks, openings, middles, pairs)


def token_stems(tokenizer: Tokenizer) -> Tensor:
    """(vocab,) numbers: one a beginning of words, one a token that begins none."""
    numbers: dict[str, int] = {}
    found = []
    for token in range(tokenizer.get_vocab_size()):
        text = tokenizer.id_to_token(token) or ""
        word = re.fullmatch(rf"{SPACE}([A-Za-z]+)", text)
        stem = word[1].lower()[:STEM] if word else text + "\n"
        found.append(numbers.setdefault(stem, len(numbers)))
    return torch.tensor(found)


def _rarity(tokenizer: Tokenizer, stems: Tensor, facts: Sequence[str]) -> Tensor:
    """(vocab,) log(N / count) of a token's stem over log N; 0 of what begins no word."""
    numbers = stems.tolist()
    encodings = tokenizer.encode_batch_fast(list(facts), add_special_tokens=False)
    counts = Counter(
        number for encoding in encodings for number in {numbers[token] for token in encoding.ids}
    )
    whole = math.log(len(facts))
    begins = [
        bool(re.fullmatch(rf"{SPACE}[A-Za-z]{{2,}}", tokenizer.id_to_token(token) or ""))
        for token in range(len(numbers))
    ]
    rows = [
        (whole - math.log(max(1, counts[number]))) / whole if word else 0.0
        for number, word in zip(numbers, begins, strict=True)
    ]
    return torch.tensor(rows)


def _kind(kind: str) -> str:
    return "tool" if kind == "listed_tool" else kind


def _id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None, token
    return int(found)


def _first(tokenizer: Tokenizer, text: str) -> int:
    return int(tokenizer.encode(text.strip(), add_special_tokens=False).ids[0])


def _both(tokenizer: Tokenizer, *texts: str) -> list[int]:
    """A sign with and without a space before it."""
    found = (tokenizer.token_to_id(form) for text in texts for form in (text, SPACE + text))
    return [token for token in found if token is not None]
