"""A checked model directory. Knows nothing of tensors, so that an API process needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.card import ModelCard, read_card
from models.config import DecoderConfig
from models.config_reader import read_config
from models.errors import ModelDirectoryError
from models.finite_weights import check_finite
from models.prompt import PromptBuilder
from models.weight_files import WEIGHTS_NAME, checked_tensors

__all__ = ["TOKENIZER_NAME", "WEIGHTS_NAME", "ModelDirectory", "load_model_directory"]

TOKENIZER_NAME = "tokenizer.json"
MAX_OUTPUTS = 128  # of all heads together: what one launch of the scoring kernel takes


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
    """Raises ModelDirectoryError naming the file at fault.

    `verify=False` reads no weights: their digests and values are not looked at.
    """
    path = Path(path)
    if not path.is_dir():
        raise ModelDirectoryError(f"{path}: no such directory; name one that holds a model")
    return directory_of(path, read_card(path, verify), verify)


def directory_of(path: Path, card: ModelCard, verify: bool = True) -> ModelDirectory:
    """Of files that lie at `path` under a card that may not lie there yet.

    Raises as `load_model_directory`, but believes the card's digests.
    """
    config = read_config(path)
    stored = checked_tensors(path, config)
    if verify:
        check_finite(stored)
    _check_room(path, card, config)
    prompt = PromptBuilder(path / TOKENIZER_NAME, card)
    _check_vocabulary(path, prompt, config)
    _check_heads(path, card, prompt, config)
    return ModelDirectory(path, card, config, prompt)


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


def _check_vocabulary(path: Path, prompt: PromptBuilder, config: DecoderConfig) -> None:
    if prompt.largest_token >= config.vocab_size:
        raise ModelDirectoryError(
            f"{path / TOKENIZER_NAME}: knows tokens up to {prompt.largest_token}, but config.json "
            f"beside it says vocab_size {config.vocab_size}; export both of one model"
        )


def _check_heads(path: Path, card: ModelCard, prompt: PromptBuilder, config: DecoderConfig) -> None:
    for head in prompt.heads:
        by_labels = bool(card.scoring_heads[head.name].labels)
        if by_labels == bool(config.num_labels):
            found, wanted = ("a", "classes") if config.num_labels else ("no", "labels")
            raise ModelDirectoryError(
                f"{path}: the model is {found} classifier; grade {wanted} in head {head.name!r}"
            )
        if not by_labels and max(head.rows) >= config.num_labels:
            raise ModelDirectoryError(
                f"{path}: head {head.name!r} names class {max(head.rows)}, but the model has 0 to "
                f"{config.num_labels - 1}; write the card again"
            )
    outputs = sum(len(head.rows) for head in prompt.heads)
    if outputs > MAX_OUTPUTS:
        raise ModelDirectoryError(
            f"{path}: heads read {outputs} outputs, the most is {MAX_OUTPUTS}; leave some out"
        )
