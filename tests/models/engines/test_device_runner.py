"""A GPU's runner against the CPU's, operation by operation on the CPU; on a GPU also its graphs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from kernels.base.dispatch import interpreting
from models.decoder import Decoder
from models.engines.base import JobScores, ScoreJob
from models.engines.device_runner import DeviceRunner, DeviceSettings
from models.engines.fairslate import RunnerEngine
from models.engines.packed_runner import PackedRunner
from models.errors import CandidateTooLongError, ContextTooLongError
from models.head_card import yes_no
from models.prompt import block_hashes

# Measured 1.7e-5 at most over 60 random batches, in bf16 0.48; raw logits span -33 to 36.
TOLERANCE, BF16_TOLERANCE = 3.4e-5, 0.96
LABELS = yes_no((17, 4))
BLOCK = 16
PAGE_BYTES = 2 * 2 * BLOCK * 2 * 16 * 4
SETTINGS = DeviceSettings(
    device="cpu", precision="fp32", token_buckets=(64, 128, 256), max_context_tokens=160
)
TokenIds = tuple[int, ...]


def tokens(rng: random.Random, count: int) -> TokenIds:
    return tuple(rng.randrange(300) for _ in range(count))


def make_job(context: TokenIds, candidates: Sequence[TokenIds]) -> ScoreJob:
    return ScoreJob(context, block_hashes(context, BLOCK), tuple(candidates))


def random_batches(seed: int, batches: int) -> list[list[ScoreJob]]:
    """Slates whose contexts come back whole, cut short or grown, several in a batch."""
    rng = random.Random(seed)
    contexts = [tokens(rng, rng.randrange(160)) for _ in range(6)]

    def draw() -> ScoreJob:
        context = rng.choice(contexts)
        stop = rng.choice((len(context), rng.randrange(len(context) + 1)))
        candidates = [tokens(rng, rng.randrange(1, 60)) for _ in range(rng.randrange(7))]
        return make_job(context[:stop], candidates)

    return [[draw() for _ in range(rng.randrange(1, 5))] for _ in range(batches)]


@pytest.fixture
def truth(tiny_decoder: Decoder) -> RunnerEngine:
    return RunnerEngine(PackedRunner(tiny_decoder, LABELS, BLOCK, 1 << 22))


def engine_of(
    decoder: Decoder, pages: int = 100, settings: DeviceSettings = SETTINGS
) -> RunnerEngine:
    return RunnerEngine(DeviceRunner(decoder, LABELS, BLOCK, pages * PAGE_BYTES, settings))


def assert_close(
    got: Sequence[JobScores], want: Sequence[JobScores], tolerance: float = TOLERANCE
) -> None:
    for answer, expected in zip(got, want, strict=True):
        assert answer.raw_logits == pytest.approx(expected.raw_logits, abs=tolerance, rel=0)


@pytest.mark.parametrize("pages", [0, 3, 12, 100])
def test_random_traffic_scores_as_on_the_cpu(
    tiny_decoder: Decoder, truth: RunnerEngine, pages: int
) -> None:
    engine, held = engine_of(tiny_decoder, pages), set[str]()
    for batch in random_batches(pages, 12):
        assert_close(engine.score(batch), truth.score(batch))
        events = engine.drain_cache_events()
        held = held - set(events.evicted) | set(events.inserted)
        assert len(held) <= pages


def test_a_warm_context_is_not_computed_again(tiny_decoder: Decoder, truth: RunnerEngine) -> None:
    engine = engine_of(tiny_decoder)
    for batch in random_batches(5, 10):
        for answer, expected in zip(engine.score(batch), truth.score(batch), strict=True):
            # A batch computes what its contexts have in common once, which the CPU does not.
            assert answer.cached_tokens >= expected.cached_tokens
        again = engine.score(batch)
        assert all(answer.cached_tokens == answer.context_tokens for answer in again)


def test_contexts_of_one_batch_share_their_common_blocks(
    tiny_decoder: Decoder, truth: RunnerEngine
) -> None:
    rng = random.Random(2)
    stem, candidates = tokens(rng, 40), [tokens(rng, 5)]
    batch = [make_job(stem + tokens(rng, 30), candidates) for _ in range(3)]
    engine = engine_of(tiny_decoder)
    answers = engine.score(batch)
    assert [answer.cached_tokens for answer in answers] == [0, 32, 32]
    assert_close(answers, truth.score(batch))


def test_slates_and_contexts_larger_than_a_pass_are_cut(
    tiny_decoder: Decoder, truth: RunnerEngine
) -> None:
    small = replace(SETTINGS, token_buckets=(64,))
    rng = random.Random(3)
    batch = [make_job(tokens(rng, 150), [tokens(rng, 1 + n % 60) for n in range(70)])] * 2
    assert_close(engine_of(tiny_decoder, 100, small).score(batch), truth.score(batch))
    assert_close(engine_of(tiny_decoder, 0, small).score(batch), truth.score(batch))


def test_more_logits_than_the_host_buffer_holds(tiny_decoder: Decoder, truth: RunnerEngine) -> None:
    rng = random.Random(4)
    job = make_job(tokens(rng, 20), [tokens(rng, 2) for _ in range(1100)])
    assert_close(engine_of(tiny_decoder).score([job]), truth.score([job]))


@pytest.mark.skipif(not interpreting(), reason="Triton runs on the CPU only interpreted")
def test_the_kernels_score_as_torch_does(tiny_decoder: Decoder, truth: RunnerEngine) -> None:
    rng = random.Random(6)
    settings = replace(SETTINGS, backend="triton", token_buckets=(64,))
    engine = engine_of(tiny_decoder, 4, settings)
    context = tokens(rng, 20)
    for _ in range(2):
        batch = [make_job(context, [tokens(rng, 6), tokens(rng, 3)]), make_job((), [(1, 2)])]
        assert_close(engine.score(batch), truth.score(batch))


def test_bf16_stays_near(tiny_decoder: Decoder, truth: RunnerEngine) -> None:
    engine = engine_of(tiny_decoder, 100, replace(SETTINGS, precision="bf16"))
    for batch in random_batches(7, 5):
        assert_close(engine.score(batch), truth.score(batch), tolerance=BF16_TOLERANCE)


def test_what_is_too_long_is_refused_with_its_limit(tiny_decoder: Decoder) -> None:
    engine = engine_of(tiny_decoder)
    with pytest.raises(ContextTooLongError, match="11 blocks, the most served is 10"):
        engine.score([make_job((1,) * 161, [(1,)])])
    with pytest.raises(CandidateTooLongError, match="257 tokens exceeds 256"):
        engine.score([make_job((1, 2), [(1,) * 257])])
    assert engine.score([make_job((1, 2), [(1,)])])[0].cached_tokens == 0
    events = engine.drain_cache_events()
    assert (len(events.inserted), events.evicted) == (1, ())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_replay_what_operators_compute(tiny_decoder: Decoder, truth: RunnerEngine) -> None:
    on_gpu = replace(SETTINGS, device="cuda")
    graphed = engine_of(tiny_decoder, 12, on_gpu)
    eager = engine_of(tiny_decoder, 12, replace(on_gpu, graphs=False))
    for batch in random_batches(9, 12):
        answers = graphed.score(batch)
        assert_close(answers, eager.score(batch), tolerance=0)
        assert_close(answers, truth.score(batch), tolerance=2e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_scoring_takes_no_memory_once_warm(tiny_decoder: Decoder) -> None:
    engine = engine_of(tiny_decoder, 12, replace(SETTINGS, device="cuda", precision="bf16"))
    for batch in random_batches(10, 4):
        engine.score(batch)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for batch in random_batches(11, 8):
        engine.score(batch)
    assert torch.cuda.max_memory_allocated() == before
