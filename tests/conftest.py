"""Fixtures many tests share: a tiny random model directory, made in well under a second."""

from __future__ import annotations

import faulthandler
from pathlib import Path

import hypothesis
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from models.calibration import Calibration
from models.card import Labels, ModelCard, PromptTemplate, Truncation
from models.checkpoint import ModelDirectory, load_model_directory, save_model_directory
from models.config import DecoderConfig
from models.decoder import Decoder

hypothesis.settings.register_profile("fairslate", deadline=None)  # no test measures a machine
hypothesis.settings.load_profile("fairslate")

EXIT_SECONDS = 60


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """A thread that a test left running shows where it is, and fails the run that it would hold."""
    faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True)


SENTENCES = [
    "Headline: Registered nurse. Skills: patient care, monitoring, active listening.",
    "Headline: Welder. Tools used: arc welder, grinder, band saw.",
    "Job: Software developer. Duties: design, test and maintain software.",
    "Job: Roofer. Duties: inspect roofs and estimate materials. Match: yes",
    "Member: Teacher. Background: bachelor's degree. Match: no",
] * 4


@pytest.fixture(scope="session")
def tiny_tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([*SENTENCES, *[" yes no"] * 50], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def tiny_config(tiny_tokenizer_path: Path) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=Tokenizer.from_file(str(tiny_tokenizer_path)).get_vocab_size(),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )


@pytest.fixture(scope="session")
def tiny_decoder(tiny_config: DecoderConfig) -> Decoder:
    """Random weights, wide enough that attention and scores are far from uniform."""
    generator = torch.Generator().manual_seed(7)
    with torch.random.fork_rng():
        torch.manual_seed(7)  # layers draw their first weights from torch's own generator
        decoder = Decoder(tiny_config).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        spread = 0.15 if parameter.ndim > 1 else 0.3
        parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return decoder


@pytest.fixture(scope="session")
def tiny_card() -> ModelCard:
    return ModelCard(
        name="tiny",
        version="0.0.1",
        prompts={
            "member_to_jobs": PromptTemplate(
                context="Member: {context}\n",
                candidate="Job: {candidate}\nMatch:",
                fields={"headline": "Headline: {value}.", "skills": "Skills: {value}."},
            ),
            "job_to_members": PromptTemplate(
                context="Job: {context}\n", candidate="Member: {candidate}\nMatch:"
            ),
        },
        default_prompt="member_to_jobs",
        labels=Labels(yes=" yes", no=" no"),
        truncation=Truncation(max_context_tokens=256, max_candidate_tokens=96),
        calibration=Calibration(scale=0.8, shift=-0.2),
    )


@pytest.fixture(scope="session")
def tiny_model_dir(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_decoder: Decoder,
    tiny_tokenizer_path: Path,
    tiny_card: ModelCard,
) -> Path:
    """A complete model directory; treat it as read-only, copy it to damage it."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_model_directory(path, tiny_decoder, tiny_tokenizer_path, tiny_card)
    return path


@pytest.fixture(scope="session")
def tiny_directory(tiny_model_dir: Path) -> ModelDirectory:
    return load_model_directory(tiny_model_dir)
