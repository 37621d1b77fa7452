"""A checked model directory. Knows nothing of tensors, so that an API process needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from models.card import ModelCard, read_card
from models.config import DecoderConfig
from models.errors import ModelDirectoryError
from models.prompt import PromptBuilder

TOKENIZER_NAME = "tokenizer.json"
WEIGHTS_NAME = "model.safetensors"


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
    config = DecoderConfig.from_directory(path)
    _check_shapes(path / WEIGHTS_NAME, config)
    limits = card.truncation
    if limits.max_context_tokens + limits.max_candidate_tokens > config.max_position_embeddings:
        raise ModelDirectoryError(
            f"{path / 'config.json'}: max_position_embeddings {config.max_position_embeddings} is "
            "below the card's context and candidate limits; lower the card's truncation"
        )
    return ModelDirectory(path, card, config, PromptBuilder(path / TOKENIZER_NAME, card))


def _check_shapes(path: Path, config: DecoderConfig) -> None:
    """Reads the header only: an engine that cannot load its weights would be started for ever."""
    try:
        expected = config.weight_shapes()
        with safe_open(path, framework="numpy") as weights:
            found = {name: weights.get_slice(name).get_shape() for name in weights.offset_keys()}
    except (OSError, SafetensorError, TypeError) as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error}); export it again") from error
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise ModelDirectoryError(
                f"{path}: {name} has shape {found.get(name)}, but config.json beside it says "
                f"{expected.get(name)}; export the model again"
            )
