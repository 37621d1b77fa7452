"""The manifest of a model directory: template, calibration, lineage, digests. Knows no tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from models.calibration import Calibration
from models.errors import FairslateError, ModelDirectoryError

CARD_NAME = "model_card.json"
REQUIRED_FILES = ("config.json", "tokenizer.json")  # the weights may be one file or several


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """`context` holds `{context}` once, `candidate` holds `{candidate}` once.

    `fields` maps a field's name to its pattern, such as "Headline: {value}.", in rendering order.
    """

    context: str
    candidate: str
    fields: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        slots = [(self.context, "{context}"), (self.candidate, "{candidate}")]
        slots += [(pattern, "{value}") for pattern in self.fields.values()]
        for pattern, slot in slots:
            if pattern.count(slot) != 1:
                raise ModelDirectoryError(f"template {pattern!r} must hold {slot} exactly once")


@dataclass(frozen=True, slots=True)
class Labels:
    """The two answers whose logits are compared; each is a single token of the tokenizer."""

    yes: str
    no: str


@dataclass(frozen=True, slots=True)
class Truncation:
    """Limits in tokens, template included; the template itself is never cut."""

    max_context_tokens: int
    max_candidate_tokens: int


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Everything about a model that its weights do not say."""

    name: str
    version: str
    prompts: Mapping[str, PromptTemplate]
    default_prompt: str
    labels: Labels
    truncation: Truncation
    calibration: Calibration = field(default_factory=Calibration)
    block_size: int = 16  # tokens in one prefix-cache block
    dtype: str = "float32"  # served in, not stored in
    lineage: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # name -> "sha256:..."

    def __post_init__(self) -> None:
        _refuse_wrong_types(self)
        if self.default_prompt not in self.prompts:
            raise ModelDirectoryError(f"prompts hold no default_prompt {self.default_prompt!r}")
        if self.block_size < 1 or self.dtype != "float32":
            raise ModelDirectoryError("block_size must be at least 1 and dtype 'float32'")

    @property
    def digest(self) -> str:
        """sha256 of the card's JSON: covers every file, the templates and the calibration."""
        # Keys stay in their order: that of the template's fields is the order they are rendered in.
        canonical = json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


def write_card(directory: Path, card: ModelCard) -> ModelCard:
    """Writes `model_card.json` with the digests of the files that lie there; returns that card."""
    files = {name: file_digest(directory / name) for name in _file_names(directory)}
    card = replace(card, files=files)
    content = asdict(card) | {"digest": card.digest}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (directory / CARD_NAME).write_text(text, encoding="utf-8")
    return card


def read_card(directory: Path, verify: bool = True) -> ModelCard:
    """Raises ModelDirectoryError naming the file that is missing, unknown, damaged or was changed.

    `verify=False` trusts the digests of the files, never that of the card itself.
    """
    path = directory / CARD_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        stated = raw.pop("digest")
        card = _card_from_json(raw)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, FairslateError) as error:
        raise ModelDirectoryError(f"{path}: not a valid card ({error}); export it again") from error
    if card.digest != stated:
        raise ModelDirectoryError(f"{path}: was changed after it was written; export it again")
    _verify_names(directory, card)
    if verify:
        _verify_files(directory, card)
    return card


def file_digest(path: Path) -> str:
    """ "sha256:" and the hex digest of the file's bytes."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def _card_from_json(raw: dict[str, Any]) -> ModelCard:
    """Raises TypeError or KeyError for missing and unknown fields alike."""
    prompts = {name: PromptTemplate(**prompt) for name, prompt in raw.pop("prompts").items()}
    return ModelCard(
        prompts=prompts,
        labels=Labels(**raw.pop("labels")),
        truncation=Truncation(**raw.pop("truncation")),
        calibration=Calibration(**raw.pop("calibration")),
        **raw,
    )


def _refuse_wrong_types(card: ModelCard) -> None:
    kinds = {"str": str, "int": int}
    for part in (card, card.labels, card.truncation):
        for item in fields(part):
            kind = kinds.get(str(item.type))
            if kind is not None and type(getattr(part, item.name)) is not kind:
                raise ModelDirectoryError(f"field {item.name} must be of type {item.type}")


def _file_names(directory: Path) -> list[str]:
    """Regular files directly in the directory, but the card and hidden ones."""
    names = (path.name for path in directory.iterdir() if path.is_file())
    return sorted(name for name in names if name != CARD_NAME and not name.startswith("."))


def _verify_names(directory: Path, card: ModelCard) -> None:
    present = set(_file_names(directory))
    for name in sorted({*REQUIRED_FILES, *card.files} - present):
        raise ModelDirectoryError(f"{directory / name}: is missing; export the model again")
    for name in sorted(present - card.files.keys()):
        raise ModelDirectoryError(
            f"{directory / name}: is not in the card; remove it or write the card again"
        )


def _verify_files(directory: Path, card: ModelCard) -> None:
    for name, stated in card.files.items():
        if file_digest(directory / name) != stated:
            raise ModelDirectoryError(
                f"{directory / name}: differs from its digest in the card; export the model again"
            )
