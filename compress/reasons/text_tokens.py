"""Turns examples of texts into token ids and back. Knows no weights and no losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from compress.reasons.text_examples import TextExample
from compress.stages.stage import RecipeError
from models.directory import TOKENIZER_NAME, ModelDirectory
from models.prompt import PromptBuilder

Tokens = list[list[int]]


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """Turns examples into token ids, prompts in the card's templates, answers with their end."""

    prompt: PromptBuilder
    tokenizer: Tokenizer
    end: int

    @classmethod
    def of(cls, directory: ModelDirectory, end: str) -> TextEncoder:
        """Raises RecipeError unless `end` is one token."""
        tokenizer = Tokenizer.from_file(str(directory.path / TOKENIZER_NAME))
        token = tokenizer.token_to_id(end)
        if token is None:
            raise RecipeError(
                f"{end!r} is no token of {directory.path}; name one that ends answers"
            )
        return cls(directory.prompt, tokenizer, token)

    def prompts(self, examples: Sequence[TextExample]) -> Tokens:
        """Context and candidate, one prompt an example."""
        contexts = [self.prompt.encode_context(example.context).ids for example in examples]
        candidates = self.prompt.encode_candidates([example.candidate for example in examples])
        return [
            [*context, *candidate.ids]
            for context, candidate in zip(contexts, candidates, strict=True)
        ]

    def answers(self, examples: Sequence[TextExample]) -> Tokens:
        """What is to be written, the end included."""
        return [[*ids, self.end] for ids in self.encode([item.answer for item in examples])]

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Answers without an end."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, answer: Sequence[int]) -> str:
        """The text of an answer, whose end says nothing."""
        text: str = self.tokenizer.decode([token for token in answer if token != self.end])
        return text
