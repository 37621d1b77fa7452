"""What may be said of an example's two texts, in a model's tokens. Knows no weights."""

from __future__ import annotations

from compress.reasons.text_examples import TextExample
from models.prompt import PromptBuilder
from models.reasons.facts import job_facts, member_facts
from models.reasons.grammar import ReasonGrammar, ReasonTokens


class ExampleGrammars:
    """As a server makes them. Raises ModelDirectoryError for a model that is no reasoner."""

    def __init__(self, prompt: PromptBuilder) -> None:
        self._tokens = ReasonTokens(prompt)

    def of(self, example: TextExample) -> ReasonGrammar:
        """Of an example whose answer is a rationale."""
        sides = member_facts(example.context), [job_facts(example.candidate)]
        grammar = self._tokens.grammars(*sides)[0]
        assert grammar is not None, "an example's rationale names facts of both texts"
        return grammar
