"""Writes the model card that a plain Hugging Face directory lacks, and checks that it is served.

`python -m models.new_card DIR --context 'Member: {context} ' --candidate 'Job: {candidate} Match:'`
and `--labels ' yes' ' no'` for a language model, nothing more for a classifier, whose classes are
graded by their number, or `--head NAME=JSON` for each of several heads. Knows no data: scores are
not calibrated.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.card import CARD_NAME, Labels, ModelCard, PromptTemplate, Truncation, write_card
from models.config import DecoderConfig
from models.config_reader import read_config
from models.directory import ModelDirectory, load_model_directory
from models.errors import FairslateError, ModelDirectoryError
from models.head_card import HeadCard


def write_new_card(directory: Path, card: ModelCard) -> ModelDirectory:
    """Writes `card` and loads the directory with it; a card that does not load does not stay.

    Raises ModelDirectoryError, also when there is a card already, OSError where none can be
    written, and UnicodeEncodeError for a card or a path that is no Unicode.
    """
    path = directory / CARD_NAME
    if path.exists():
        raise ModelDirectoryError(f"{path}: exists; remove it to write another")
    write_card(directory, card)
    try:
        return load_model_directory(directory, verify=False)
    except Exception:
        path.unlink()
        raise


def new_card(arguments: argparse.Namespace, config: DecoderConfig) -> ModelCard:
    """The card that the command line describes."""
    heads = _heads(arguments.head)
    if config.num_labels and not heads:
        heads = {"score": graded_by_number(config.num_labels)}
    if bool(arguments.labels) == bool(heads):
        raise ModelDirectoryError(
            "say what answers: --labels BEST WORST for two tokens of a language model, or --head "
            'NAME=\'{"labels": {" 1": 1, " 2": 2}}\' or \'{"classes": {"0": 0, "1": 1}}\''
        )
    template = PromptTemplate(_lines(arguments.context), _lines(arguments.candidate))
    return ModelCard(
        name=arguments.name or arguments.directory.resolve().name,
        version=arguments.version,
        prompts={"default": template},
        default_prompt="default",
        labels=Labels(*arguments.labels) if arguments.labels else None,
        truncation=Truncation(arguments.max_context_tokens, arguments.max_candidate_tokens),
        heads=heads,
    )


def graded_by_number(classes: int) -> HeadCard:
    """Later classes are better ones, as in transformers' 0 for negative and 1 for positive."""
    if classes == 1:
        return HeadCard(classes={"0": 1})
    return HeadCard(classes={str(row): row for row in range(classes)})


def _heads(texts: Sequence[str]) -> dict[str, HeadCard]:
    heads: dict[str, HeadCard] = {}
    for name, head in map(_head, texts):
        if name in heads:
            raise ModelDirectoryError(f"--head {name} is given twice; give each head once")
        heads[name] = head
    return heads


def _head(text: str) -> tuple[str, HeadCard]:
    name, _, content = text.partition("=")
    try:
        raw = json.loads(content)
        if not isinstance(raw, Mapping):
            raise TypeError("it is no JSON object")
        return name, HeadCard.from_json(raw)
    except (ValueError, TypeError, AttributeError, FairslateError) as error:
        raise ModelDirectoryError(f"--head {text!r} is not NAME=JSON ({error})") from error


def _lines(text: str) -> str:
    """A shell passes no line break easily, so \\n stands for one."""
    return text.replace("\\n", "\n")


def _report(directory: ModelDirectory) -> str:
    heads = ", ".join(directory.card.scoring_heads)
    return (
        f"{directory.path / CARD_NAME}: written, digest {directory.digest[:12]}, heads: {heads}; "
        "scores are not calibrated yet"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m models.new_card", description=__doc__)
    parser.add_argument("directory", type=Path, help="config.json, tokenizer.json and safetensors")
    parser.add_argument("--context", required=True, help="template around {context}")
    parser.add_argument("--candidate", required=True, help="template around {candidate}")
    parser.add_argument("--labels", nargs=2, metavar=("BEST", "WORST"), help="two single tokens")
    parser.add_argument("--head", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--name", help="of the model; by default the directory's")
    parser.add_argument("--version", default="1")
    parser.add_argument("--max-context-tokens", type=int, default=512)
    parser.add_argument("--max-candidate-tokens", type=int, default=256)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when the directory cannot be served, with the reason."""
    arguments = _parser().parse_args(argv)
    try:
        card = new_card(arguments, read_config(arguments.directory))
        print(_report(write_new_card(arguments.directory, card)))
    except FairslateError as error:
        return _failed(str(error))
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 20) : error.end]
        return _failed(
            f"{near!r} is no Unicode text; give names, templates and labels in UTF-8, and rename "
            "the folder if it is its name"
        )
    except OSError as error:
        card_path = arguments.directory / CARD_NAME
        return _failed(f"{card_path}: cannot be written ({error}); make room, or mend the folder")
    return 0


def _failed(why: str) -> int:
    print(f"error: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
