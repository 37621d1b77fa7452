"""The manifest of a model directory: template, calibration, lineage, digests. Knows no tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from models.calibration import AnyCalibration, Calibration, calibration_from_json
from models.errors import FairslateError, ModelDirectoryError
from models.head_card import HeadCard

CARD_NAME = "model_card.json"
LARGEST_BLOCK = 1 << 20
REQUIRED_FILES = ("config.json", "tokenizer.json")  # the weights may be one file or several

UNREADABLE = (  # what a card that is none makes its readers raise
    *(OSError, ValueError, TypeError, KeyError, AttributeError),
    *(ArithmeticError, RecursionError, FairslateError),
)
HOW_TO_WRITE = (
    "write it, with this model's own template and labels: python -m models.new_card {} "
    "--context 'Member: {{context}}\\n' --candidate 'Job: {{candidate}}\\nRelevant:' "
    "--labels ' yes' ' no'"
)


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
    """Everything about a model that its weights do not say.

    A model answers either with two `labels`, calibrated by `calibration`, or with named `heads`
    that bring their own; `scoring_heads` reads both alike. The first head ranks unless a request
    says otherwise. `tenant_calibrations` is by tenant, then by head.
    """

    name: str
    version: str
    prompts: Mapping[str, PromptTemplate]
    default_prompt: str
    labels: Labels | None
    truncation: Truncation
    calibration: AnyCalibration = field(default_factory=Calibration)
    block_size: int = 16  # tokens in one prefix-cache block
    dtype: str = "float32"  # served in, not stored in
    lineage: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # name -> "sha256:..."
    heads: Mapping[str, HeadCard] = field(default_factory=dict)
    tenant_calibrations: Mapping[str, Mapping[str, AnyCalibration]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _refuse_wrong_types(self)
        if self.default_prompt not in self.prompts:
            raise ModelDirectoryError(f"prompts hold no default_prompt {self.default_prompt!r}")
        if not 1 <= self.block_size <= LARGEST_BLOCK or self.dtype != "float32":
            raise ModelDirectoryError(
                f"block_size must be from 1 to {LARGEST_BLOCK} and dtype 'float32'"
            )
        if (self.labels is None) == (not self.heads) or (
            self.heads and self.calibration != Calibration()
        ):
            raise ModelDirectoryError("give either labels and calibration, or heads with their own")
        for tenant, calibrations in self.tenant_calibrations.items():
            for head in calibrations.keys() - self.scoring_heads.keys():
                raise ModelDirectoryError(f"tenant {tenant!r} calibrates an unknown head {head!r}")

    @property
    def scoring_heads(self) -> Mapping[str, HeadCard]:
        """Every head by name, the one that ranks by default first; two labels make "score"."""
        if self.labels is None:
            return self.heads
        grades = {self.labels.yes: 1.0, self.labels.no: 0.0}
        if len(grades) == 1:
            raise ModelDirectoryError(f"both labels are {self.labels.yes!r}, the same token")
        return {"score": HeadCard(labels=grades, calibration=self.calibration)}

    def calibration_of(self, head: str, tenant: str) -> AnyCalibration:
        """The tenant's own calibration of a head, or else the head's."""
        own = self.tenant_calibrations.get(tenant, {})
        return own.get(head) or self.scoring_heads[head].calibration

    def to_json(self) -> dict[str, Any]:
        """Content of the file but for the digest; what a card has no use for is left out."""
        content = asdict(self)
        if self.labels is None:
            content = {k: v for k, v in content.items() if k not in ("labels", "calibration")}
        content["heads"] = {name: head.to_json() for name, head in self.heads.items()}
        optional = ("heads", "tenant_calibrations")
        return {name: part for name, part in content.items() if part or name not in optional}

    @property
    def digest(self) -> str:
        """sha256 of the card's JSON: covers every file, the templates and the calibration."""
        # Keys stay in their order: that of the template's fields is the order they are rendered in.
        canonical = json.dumps(self.to_json(), separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


def with_files(directory: Path, card: ModelCard) -> ModelCard:
    """The card with the digests of the files that lie there."""
    files = {name: file_digest(directory / name) for name in _file_names(directory)}
    return replace(card, files=files)


def write_card(directory: Path, card: ModelCard) -> ModelCard:
    """Writes `model_card.json` with the digests of the files that lie there; returns that card.

    Whole or not at all, so that a full disk leaves the directory as it was.
    """
    card = with_files(directory, card)
    content = card.to_json() | {"digest": card.digest}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    beside = directory / f".{CARD_NAME}.writing"
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(directory / CARD_NAME)
    finally:
        beside.unlink(missing_ok=True)
    return card


def read_card(directory: Path, verify: bool = True) -> ModelCard:
    """Raises ModelDirectoryError naming the file that is missing, unknown, damaged or was changed.

    `verify=False` trusts the digests of the files, never that of the card itself.
    """
    path = directory / CARD_NAME
    if (directory / "config.json").is_file() and not path.exists():
        raise ModelDirectoryError(f"{path}: is missing; {HOW_TO_WRITE.format(directory)}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        stated = raw.pop("digest")
        card = _card_from_json(raw)
        digest = card.digest  # of NaN in a lineage there is none
    except UNREADABLE as error:
        raise ModelDirectoryError(f"{path}: not a valid card ({error}); export it again") from error
    if digest != stated:
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
    heads = {name: HeadCard.from_json(head) for name, head in raw.pop("heads", {}).items()}
    if not heads:
        raw["calibration"] = calibration_from_json(raw["calibration"])
    return ModelCard(
        prompts=prompts,
        labels=None if heads else Labels(**raw.pop("labels")),
        truncation=Truncation(**raw.pop("truncation")),
        heads=heads,
        tenant_calibrations={
            tenant: {head: calibration_from_json(content) for head, content in by_head.items()}
            for tenant, by_head in raw.pop("tenant_calibrations", {}).items()
        },
        **raw,
    )


def _refuse_wrong_types(card: ModelCard) -> None:
    kinds = {"str": str, "int": int}
    for part in (card, card.labels, card.truncation):
        for item in fields(part) if part else ():
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
