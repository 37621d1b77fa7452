"""Renders and tokenizes contexts and candidates apart, and hashes contexts into blocks.

Knows nothing of weights, caches or HTTP.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.card import ModelCard, PromptTemplate
from models.errors import ModelDirectoryError, PromptError
from models.head_card import HeadCard, HeadOutputs
from models.text_tokenizer import TextTokenizer, load_tokenizer


@dataclass(frozen=True, slots=True)
class EncodedContext:
    """Token ids of the rendered context; `truncated` when text was cut to the card's limit."""

    ids: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class EncodedCandidate:
    """Token ids of one rendered candidate, the template's end always included."""

    ids: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Frame:
    """Tokenized template around a text, and how many tokens the text may take."""

    head: tuple[int, ...]
    tail: tuple[int, ...]
    room: int

    def around(self, text_ids: Sequence[int]) -> tuple[tuple[int, ...], bool]:
        """The ids of template and text, and whether the text was cut."""
        ids = (*self.head, *text_ids[: self.room], *self.tail)
        return ids, len(text_ids) > self.room

    def tokens(self, text_tokens: int) -> int:
        """How many template and text would have together, were the text not cut."""
        return len(self.head) + text_tokens + len(self.tail)


class PromptBuilder:
    """Token ids for the prompts of one model card. Thread-safe: nothing changes after construction.

    Head, text and tail are tokenized separately, so the prefix boundary is a token boundary and no
    text can change, or pass itself off as, a token of the template.
    """

    def __init__(self, tokenizer_path: Path, card: ModelCard) -> None:
        self._card = card
        self._digest = card.digest
        self.limits = card.truncation
        self._template_tokenizer = load_tokenizer(tokenizer_path)
        self._texts = TextTokenizer(tokenizer_path)
        self._context_frames = {
            name: self._frame(prompt.context, "{context}", self.limits.max_context_tokens)
            for name, prompt in card.prompts.items()
        }
        self._candidate_frames = {
            name: self._frame(prompt.candidate, "{candidate}", self.limits.max_candidate_tokens)
            for name, prompt in card.prompts.items()
        }
        self.heads = tuple(self._outputs(name, head) for name, head in card.scoring_heads.items())

    @property
    def largest_token(self) -> int:
        """The largest id that text may be turned into."""
        return self._texts.largest_token

    @property
    def label_ids(self) -> tuple[int, int]:
        """Tokens of the first head's best and worst label, (yes, no), if it has just these two."""
        first = self.heads[0]
        if len(first.rows) != 2 or not self._card.scoring_heads[first.name].labels:
            raise ModelDirectoryError(
                f"head {first.name!r} does not answer with two labels; take a language model whose "
                "card names two"
            )
        yes, no = first.rows if first.gains[0] else reversed(first.rows)
        return yes, no

    def prompt_name(self, prompt: str | None) -> str:
        """The prompt asked for, by default the card's. Raises PromptError for an unknown one."""
        name = self._card.default_prompt if prompt is None else prompt
        if name not in self._card.prompts:
            known = ", ".join(self._card.prompts)
            raise PromptError(f"prompt {name!r} is unknown; use one of: {known}", param="prompt")
        return name

    def encode_context(
        self, context: str | Mapping[str, str], prompt: str | None = None
    ) -> EncodedContext:
        """Raises PromptError for an unknown prompt or field, or text that is not Unicode."""
        name = self.prompt_name(prompt)
        frame = self._context_frames[name]
        (text_ids,) = self._texts.first_ids([self._rendered(context, name)], frame.room)
        return EncodedContext(*frame.around(text_ids))

    def encode_candidates(
        self, texts: Sequence[str], prompt: str | None = None
    ) -> list[EncodedCandidate]:
        """One per text, in order. Raises PromptError as `encode_context` does."""
        frame = self._candidate_frames[self.prompt_name(prompt)]
        found = self._texts.first_ids(texts, frame.room)
        return [EncodedCandidate(*frame.around(text_ids)) for text_ids in found]

    def frame_candidate(self, ids: Sequence[int], prompt: str | None = None) -> EncodedCandidate:
        """The template around tokens that no text stands for: those of a stored candidate."""
        return EncodedCandidate(*self._candidate_frames[self.prompt_name(prompt)].around(ids))

    def context_tokens(self, context: str | Mapping[str, str], prompt: str | None = None) -> int:
        """Of the rendered context and its template, nothing cut off. Takes long for long text."""
        name = self.prompt_name(prompt)
        return self._context_frames[name].tokens(self._texts.count(self._rendered(context, name)))

    def candidate_tokens(self, text: str, prompt: str | None = None) -> int:
        """As `context_tokens`."""
        frame = self._candidate_frames[self.prompt_name(prompt)]
        return frame.tokens(self._texts.count(text))

    def context_read(self, text: str, prompt: str | None = None) -> str:
        """The part of a context's text that is not cut off."""
        return self._texts.first_part(text, self._context_frames[self.prompt_name(prompt)].room)

    def candidate_read(self, text: str, prompt: str | None = None) -> str:
        """The part of a candidate's text that is not cut off."""
        return self._texts.first_part(text, self._candidate_frames[self.prompt_name(prompt)].room)

    def block_hashes(self, ids: Sequence[int], block_size: int, salt: str = "") -> tuple[str, ...]:
        """`block_hashes` of this model: the same ids under another model hash otherwise."""
        return block_hashes(ids, block_size, self._digest + salt)

    def token_id(self, token: str) -> int:
        """Raises ModelDirectoryError where the vocabulary has no such token."""
        number = self._template_tokenizer.token_to_id(token)
        if number is None:
            raise ModelDirectoryError(f"the tokenizer has no token {token!r}; use another model")
        return int(number)

    def text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text without a template. Raises PromptError for what is no Unicode."""
        return self._texts.ids(texts)

    def _rendered(self, context: str | Mapping[str, str], name: str) -> str:
        if isinstance(context, str):
            return context
        return render_fields(self._card.prompts[name], context)

    def _template_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._template_tokenizer.encode(text, add_special_tokens=False).ids)

    def _frame(self, pattern: str, slot: str, limit: int) -> _Frame:
        head, _, tail = pattern.partition(slot)
        head_ids, tail_ids = self._template_ids(head), self._template_ids(tail)
        room = limit - len(head_ids) - len(tail_ids)
        if room < 1 or len(head_ids) + len(tail_ids) == 0:
            raise ModelDirectoryError(
                f"template {pattern!r} must take between 1 and {limit - 1} tokens"
            )
        return _Frame(head_ids, tail_ids, room)

    def _outputs(self, name: str, head: HeadCard) -> HeadOutputs:
        rows = tuple(map(self._label_id, head.labels)) or tuple(map(int, head.classes))
        if len(set(rows)) < len(rows):
            raise ModelDirectoryError(
                f"head {name!r}: two of {list(head.grades)} are the same token; choose others"
            )
        return HeadOutputs(name, rows, head.gains)

    def _label_id(self, label: str) -> int:
        try:
            ids = self._template_ids(label)
        except TypeError as error:  # a lone surrogate
            raise ModelDirectoryError(f"label {label!r} is no Unicode; choose another") from error
        if len(ids) != 1:
            raise ModelDirectoryError(f"label {label!r} is {len(ids)} tokens; choose a single one")
        return ids[0]


def render_fields(template: PromptTemplate, values: Mapping[str, str]) -> str:
    """Joins the template's field patterns in its order; absent and blank fields are left out."""
    known = ", ".join(template.fields) or "none: send the context as text"
    for name in values:
        if name not in template.fields:
            raise PromptError(
                f"field {name!r} is unknown; fields: {known}", param=f"context.{name}"
            )
    parts = [
        pattern.replace("{value}", values[name])
        for name, pattern in template.fields.items()
        if values.get(name, "").strip()
    ]
    if not parts:
        raise PromptError(f"context is empty; fields: {known}", param="context")
    return " ".join(parts)


def block_hashes(ids: Sequence[int], block_size: int, salt: str = "") -> tuple[str, ...]:
    """Chain of blake2b-128 hex digests, one per block; the last block may be short.

    A hash names its block and everything before it, so equal hashes mean equal prefixes.
    """
    parent = hashlib.blake2b(salt.encode(), digest_size=16).digest()
    chain = []
    for start in range(0, len(ids), block_size):
        content = array("q", ids[start : start + block_size]).tobytes()
        parent = hashlib.blake2b(parent + content, digest_size=16).digest()
        chain.append(parent.hex())
    return tuple(chain)
