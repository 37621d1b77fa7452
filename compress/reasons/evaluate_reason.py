"""Measures a reasoner on a split: loss, form, grounding, with and without the grammar.

python -m compress.reasons.evaluate_reason MODEL --data DIR --split NAME --json -

Each request of the split gives one pair: its member and its first candidate of the highest grade.
The grammar (models.reasons.grammar) admits only sentences of the known form about the input's
facts, and the writer is the one that serves (models.engines.reason_writer). Knows no training.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from compress.data.requests import Request, load_occupations, load_requests, read_rows
from compress.decoders.decoding import Sampling, write_answers
from compress.decoders.sequences import SequenceBatch
from compress.reasons.example_grammar import ExampleGrammars
from compress.reasons.generation import format_validity, validation_loss
from compress.reasons.rationales import SharedWords, fact_texts, rationale
from compress.reasons.text_examples import TextExample
from compress.reasons.text_tokens import TextEncoder
from models.checkpoint import ModelDirectory, load_decoder, load_model_directory
from models.decoder import Decoder
from models.engines.base import ReasonJob
from models.engines.reason_writer import ReasonWriter
from models.reasons.check import check_reason
from models.reasons.facts import job_facts, member_facts
from models.reasons.frames import parse, possible_reasons
from models.reasons.grammar import END_OF_ANSWER, ReasonGrammar

PAIRS = 64  # of a gate
BATCH = 16
NEW_TOKENS = 120
CACHE_BYTES = 64 << 20


def measure_reasons(
    directory: ModelDirectory, data: Path, split: str, pairs: int | None = PAIRS
) -> dict[str, float]:
    """What gates compare: validation_loss in nats a token, format_validity and grounded, 0 to 1."""
    trial = Trial.of(directory, data, split, pairs)
    return trial.loss() | trial.checked(trial.held())


def evaluate_reasons(
    directory: ModelDirectory, data: Path, split: str, pairs: int | None = None
) -> dict[str, Any]:
    """Metrics of greedy answers held to the grammar and, with the prefix free_, of free ones.

    relevance: how much the two named facts share (SharedWords of the rationales), beside the
    rationale's and that of a sentence drawn at random among the possible ones.
    """
    trial = Trial.of(directory, data, split, pairs)
    held, examples, words = trial.held(), trial.examples, trial.words
    free = trial.checked(trial.free())
    return {
        **trial.loss(),
        **trial.checked(held),
        **{f"free_{name}": value for name, value in free.items()},
        "relevance": _relevance(held, words),
        "rationale_relevance": _relevance([example.answer for example in examples], words),
        "random_relevance": _random_relevance(examples, words),
        "same_as_rationale": _same(held, examples),
        "pairs": len(examples),
        "samples": held[:5],
        "model": {"name": directory.card.name, "digest": directory.digest},
    }


@dataclass(frozen=True, slots=True)
class Trial:
    """A model and the pairs of texts that it is to write about."""

    directory: ModelDirectory
    decoder: Decoder
    encoder: TextEncoder
    examples: Sequence[TextExample]
    words: SharedWords

    @classmethod
    def of(cls, directory: ModelDirectory, data: Path, split: str, pairs: int | None) -> Trial:
        """The first `pairs` of the split, or all."""
        words = SharedWords.of(fact_texts(load_occupations(data)))
        examples = list(_examples(data, load_requests(data, split)[:pairs], words))
        encoder = TextEncoder.of(directory, END_OF_ANSWER)
        return cls(directory, load_decoder(directory), encoder, examples, words)

    def loss(self) -> dict[str, float]:
        """In nats a token of the rationales, their end included."""
        return {"validation_loss": validation_loss(self.decoder, self._batches())}

    def held(self) -> list[str]:
        """Answers held to the grammar, as they are served."""
        block_size = self.directory.card.block_size
        writer, texts = ReasonWriter(self.decoder, block_size, CACHE_BYTES), []
        known = ExampleGrammars(self.directory.prompt)
        for part in self._shown_parts():
            grammars = [known.of(example) for example in part]
            jobs = [self._job(*pair) for pair in zip(part, grammars, strict=True)]
            for grammar, answer in zip(grammars, writer.write(jobs), strict=True):
                texts.append(str(grammar.read(answer.tokens)))
        return texts

    def free(self) -> list[str]:
        """Greedy answers that nothing holds."""
        sampling, texts = Sampling(self.encoder.end, NEW_TOKENS), []
        for part in self._shown_parts():
            answers = write_answers(self.decoder, self.encoder.prompts(part), sampling)
            texts += [self.encoder.decode(answer) for answer in answers]
        return texts

    def checked(self, texts: Sequence[str]) -> dict[str, float]:
        """Shares of well-formed and of grounded answers."""
        checks = [
            check_reason(text, example.context, example.candidate)
            for text, example in zip(texts, self.examples, strict=True)
        ]
        return {
            "format_validity": format_validity(checks, lambda check: check.well_formed),
            "grounded": format_validity(checks, lambda check: check.grounded),
        }

    def _parts(self) -> Iterator[Sequence[TextExample]]:
        starts = range(0, len(self.examples), BATCH)
        return (self.examples[start : start + BATCH] for start in starts)

    def _batches(self) -> Iterator[SequenceBatch]:
        for part in self._parts():
            yield SequenceBatch.pack(self.encoder.prompts(part), self.encoder.answers(part))

    def _shown_parts(self) -> Iterator[Sequence[TextExample]]:
        yield from tqdm(list(self._parts()), "write", mininterval=5, file=sys.stderr)

    def _job(self, example: TextExample, grammar: ReasonGrammar) -> ReasonJob:
        prompt, block_size = self.directory.prompt, self.directory.card.block_size
        context = prompt.encode_context(example.context).ids
        candidate = prompt.encode_candidates([example.candidate])[0].ids
        chain = prompt.block_hashes(context, block_size)
        return ReasonJob(context, chain, candidate, grammar.lattice())


def _examples(data: Path, requests: Sequence[Request], words: SharedWords) -> Iterator[TextExample]:
    """A pair of texts and its rationale for every request whose texts hold facts."""
    names = {row["text"]: row["occ"] for row in read_rows(data / "items.jsonl.gz")}
    splits = ("train", "valid", "test")
    tables = {item.code: item for split in splits for item in load_occupations(data, split)}
    for request in requests:
        best = request.grades.index(max(request.grades))
        candidate = request.candidates[best]
        sides = member_facts(request.context), job_facts(candidate)
        reason = rationale(*sides, tables[names[candidate]], words)
        if reason:
            yield TextExample(request.context, candidate, str(reason))


def _relevance(texts: Sequence[str], words: SharedWords) -> float:
    """Mean over the sentences that can be taken apart; nan without any."""
    reasons = [reason for text in texts if (reason := parse(text))]
    shared = [words.shared(reason.member_fact, reason.job_fact) for reason in reasons]
    return sum(shared) / len(shared) if shared else float("nan")


def _random_relevance(examples: Sequence[TextExample], words: SharedWords) -> float:
    """Of sentences drawn evenly from the possible ones."""
    random = np.random.default_rng(0)
    texts = []
    for example in examples:
        sides = member_facts(example.context), job_facts(example.candidate)
        possible = list(possible_reasons(*sides))
        texts.append(str(possible[random.integers(len(possible))]))
    return _relevance(texts, words)


def _same(texts: Sequence[str], examples: Sequence[TextExample]) -> float:
    same = [text == example.answer for text, example in zip(texts, examples, strict=True)]
    return sum(same) / len(same)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m compress.reasons.evaluate_reason")
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", required=True, help="reads DATA/SPLIT.jsonl.gz")
    parser.add_argument("--json", required=True, help="file to write, - for standard output")
    parser.add_argument("--pairs", type=int, help="only the first so many requests")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    directory = load_model_directory(given.model)
    report = evaluate_reasons(directory, given.data, given.split, given.pairs)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    if given.json == "-":
        print(text)
    else:
        Path(given.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
