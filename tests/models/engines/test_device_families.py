"""Every served family and kind of head on a GPU's runner, against the CPU's on one directory."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels.base.dispatch import interpreting
from models.calibration import Calibration
from models.card import ModelCard
from models.checkpoint import ModelDirectory, load_model_directory
from models.engines.base import ScoreJob
from models.engines.device_runner import DeviceRunner, DeviceSettings
from models.engines.fairslate import FairslateEngine, RunnerEngine
from models.errors import ModelUnavailableError
from models.head_card import HeadCard
from models.prompt import block_hashes
from tests.models.families import VARIANTS, random_model, store

# Twice the largest difference measured over all variants; raw logits spread by 0.5 to 4.
TOLERANCE, NARROW = 5.8e-6, {"bf16": 0.046, "int8": 0.11}
ON_GPU = {"fp32": 2e-3, "int8": 0.2, "fp8": 0.6}
SETTINGS = DeviceSettings(device="cpu", precision="fp32", token_buckets=(64, 256))
GRADED = HeadCard(classes={"0": 0, "1": 1, "2": 3})
APPLY = HeadCard(classes={"2": 1})
CLICK = HeadCard(labels={" yes": 1, " no": 0})
STARS = HeadCard(labels={"a": 1, "b": 2, "c": 4})
# What a GPU computes apart: biases with and without head norms, scaled rotations, wide heads.
ON_DEVICE = ("qwen3 biased", "qwen2", "llama biased", "llama3 rope", "mistral wide heads")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
Directory = Callable[..., ModelDirectory]


@pytest.fixture
def stored(tiny_tokenizer_path: Path, tiny_card: ModelCard, tmp_path: Path) -> Directory:
    """Makes a random model of a family and stores it, with named heads where they are given."""

    def make(
        family: str, changes: Mapping[str, Any], labels: int = 0, **heads: HeadCard
    ) -> ModelDirectory:
        card = tiny_card
        if heads:
            card = replace(card, labels=None, calibration=Calibration(), heads=heads)
        model = random_model(family, changes, labels)
        return load_model_directory(store(model, tmp_path, tiny_tokenizer_path, card))

    return make


def drawn_jobs() -> list[ScoreJob]:
    """Two contexts, one longer than a pass with a candidate of several tiles, and none at all."""
    draw = random.Random(5)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(400) for _ in range(count))

    slates = ((200, (3, 40, 90)), (31, (7, 1)), (0, (5,)))
    contexts = [(tokens(context), tuple(map(tokens, sizes))) for context, sizes in slates]
    return [ScoreJob(ids, block_hashes(ids, 16), candidates) for ids, candidates in contexts]


def logits(engine: RunnerEngine, tolerance: float = TOLERANCE) -> list[float]:
    """Scored cold and then warm, which must not differ by more than the cut of passes does."""
    cold, warm = (
        [logit for answer in engine.score(drawn_jobs()) for logit in answer.raw_logits]
        for _ in range(2)
    )
    assert warm == pytest.approx(cold, abs=tolerance, rel=0)
    return warm


def assert_as_on_the_cpu(
    directory: ModelDirectory, tolerance: float = TOLERANCE, **changes: Any
) -> None:
    settings = replace(SETTINGS, **changes)
    runner = DeviceRunner.from_directory(directory, 1 << 22, settings)
    want = logits(FairslateEngine(directory, 1 << 22))
    assert torch.tensor(want).std() > 0.4
    assert logits(RunnerEngine(runner), tolerance) == pytest.approx(want, abs=tolerance, rel=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_scores_as_on_the_cpu(name: str, stored: Directory) -> None:
    assert_as_on_the_cpu(stored(*VARIANTS[name]))


@pytest.mark.parametrize("precision", NARROW)
def test_biases_stay_at_narrow_precisions(precision: str, stored: Directory) -> None:
    assert_as_on_the_cpu(stored(*VARIANTS["llama biased"]), NARROW[precision], precision=precision)


@pytest.mark.parametrize("heads", [{"relevance": GRADED, "apply": APPLY}, {"apply": APPLY}])
def test_a_classifiers_heads_score_as_on_the_cpu(
    heads: dict[str, HeadCard], stored: Directory
) -> None:
    assert_as_on_the_cpu(stored("qwen2", {}, 3, **heads))


def test_heads_of_labels_score_as_on_the_cpu(stored: Directory) -> None:
    assert_as_on_the_cpu(stored("mistral", {"sliding_window": None}, click=CLICK, stars=STARS))


@pytest.mark.parametrize("name", ["qwen3 tied", "llama"])
def test_the_label_mass_is_that_of_the_cpu(name: str, stored: Directory) -> None:
    directory = stored(*VARIANTS[name])
    runner = DeviceRunner.from_directory(directory, 1 << 22, SETTINGS)
    engines = [RunnerEngine(runner), FairslateEngine(directory, 1 << 22)]
    job = drawn_jobs()[1]
    for engine in engines:
        for _ in range(2):  # the second pass of candidates is measured
            engine.score([replace(job, candidates=job.candidates[:1])])
    (got,), (want,) = (engine.drain_label_mass() for engine in engines)
    assert got == pytest.approx(want, rel=1e-4)
    assert 0 < got < 1


@pytest.mark.skipif(not interpreting(), reason="Triton runs on the CPU only interpreted")
@pytest.mark.parametrize("name", ["qwen3 biased", "llama biased"])
def test_the_kernels_score_a_family_as_torch_does(name: str, stored: Directory) -> None:
    directory = stored(name.split()[0], VARIANTS[name][1] | {"num_hidden_layers": 1})
    context = tuple(range(20))
    job = ScoreJob(context, block_hashes(context, 16), ((3, 4, 5), (9,)))
    settings = replace(SETTINGS, backend="triton", token_buckets=(64,))
    engine = RunnerEngine(DeviceRunner.from_directory(directory, 1 << 20, settings))
    want = FairslateEngine(directory, 1 << 20).score([job])[0].raw_logits
    for _ in range(2):
        got = engine.score([job])[0].raw_logits
        assert got == pytest.approx(want, abs=TOLERANCE, rel=0)


@pytest.mark.parametrize("changes", [{"head_dim": 48}, {"head_dim": 256}])
def test_heads_without_tiles_are_refused(changes: dict[str, int], stored: Directory) -> None:
    directory = stored("mistral", changes | {"sliding_window": None})
    with pytest.raises(ModelUnavailableError, match=r"one of \(16, 32, 64, 128\).*device='cpu'"):
        DeviceRunner.from_directory(directory, 1 << 20, SETTINGS)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", ON_DEVICE)
def test_a_family_scores_on_a_gpu_as_on_the_cpu(name: str, stored: Directory) -> None:
    assert_as_on_the_cpu(stored(*VARIANTS[name]), ON_GPU["fp32"], device="cuda")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_biases_stay_at_eight_bits_on_a_gpu(precision: str, stored: Directory) -> None:
    directory = stored(*VARIANTS["llama biased"])
    assert_as_on_the_cpu(directory, ON_GPU[precision], device="cuda", precision=precision)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("labels", [0, 3])
def test_several_heads_score_on_a_gpu_as_on_the_cpu(labels: int, stored: Directory) -> None:
    heads = {"relevance": GRADED, "apply": APPLY} if labels else {"click": CLICK, "stars": STARS}
    assert_as_on_the_cpu(stored("qwen2", {}, labels, **heads), ON_GPU["fp32"], device="cuda")
