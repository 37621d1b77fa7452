"""A checked model directory. Knows nothing of tensors, so that an API process needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.card import ModelCard, read_card
from models.config import DecoderConfig
from models.config_reader import read_config
from models.errors import ModelDirectoryError
from models.prompt import PromptBuilder
from models.weight_files import WEIGHTS_NAME, checked_tensors

__all__ = ["TOKENIZER_NAME", "WEIGHTS_NAME", "ModelDirectory", "load_model_directory"]

TOKENIZER_NAME = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A checked model directory, its weights not yet read."""

    path: Path
    card: ModelCard
    config: DecoderConfig
    prompt: PromptBuilder

    @property
    def digest(self) -> str:
        """Names this model exactly: weights, tokenizer, templates and calibration."""
        return self.card.digest


def load_model_directory(path: Path, verify: bool = True) -> ModelDirectory:
    """Raises ModelDirectoryError naming the file at fault. `verify=False` skips file digests."""
    path = Path(path)
    card = read_card(path, verify)
    config = read_config(path)
    checked_tensors(path, config)
    _check_room(path, card, config)
    return ModelDirectory(path, card, config, PromptBuilder(path / TOKENIZER_NAME, card))


def _check_room(path: Path, card: ModelCard, config: DecoderConfig) -> None:
    limits = card.truncation
    asked = limits.max_context_tokens + limits.max_candidate_tokens
    if asked <= config.max_tokens:
        return
    name = "max_position_embeddings"
    if config.sliding_window and config.sliding_window < config.max_position_embeddings:
        name = "sliding_window"
    raise ModelDirectoryError(
        f"{path / 'config.json'}: {name} {config.max_tokens} is below the card's context and "
        f"candidate limits, {asked} together; lower the card's truncation"
    )
