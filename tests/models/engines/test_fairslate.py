"""The native scorer against transformers, against itself in every arrangement, and its counting.

Every test runs on both runners: the CPU's, and a GPU's which does its operations on the CPU here.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from models.checkpoint import ModelDirectory
from models.decoder import Decoder
from models.engines.base import ScoreJob
from models.engines.device_runner import DeviceRunner, DeviceSettings
from models.engines.fairslate import FairslateEngine, RunnerEngine
from models.engines.packed_runner import PackedRunner
from models.engines.runner import Runner
from models.errors import DeviceUnavailableError
from models.head_card import yes_no
from models.heads import ScoringHeads
from models.prompt import block_hashes

# Measured 1.7e-5 at most over 180 random candidates; raw logits here span -16 to 22.
TOLERANCE = 3.4e-5
CACHE_BYTES = 1 << 22
ON_CPU = DeviceSettings(
    device="cpu", precision="fp32", token_buckets=(64, 192, 384), max_context_tokens=256
)
TokenIds = tuple[int, ...]
MakeEngine = Callable[..., RunnerEngine]


def make_job(context: TokenIds, candidates: list[TokenIds]) -> ScoreJob:
    return ScoreJob(context, block_hashes(context, 16), tuple(candidates))


def tokens(rng: random.Random, count: int) -> TokenIds:
    return tuple(rng.randrange(300) for _ in range(count))


@pytest.fixture
def rng() -> random.Random:
    return random.Random(5)


@pytest.fixture
def jobs(rng: random.Random) -> list[ScoreJob]:
    """Contexts, counts and lengths all differ; the third job shares the first's context."""
    lengths = [(44, [9, 33, 1, 70]), (16, [12]), (44, [5, 5]), (100, [64, 31, 32, 3, 90])]
    drawn = [
        make_job(tokens(rng, context), [tokens(rng, n) for n in candidates])
        for context, candidates in lengths
    ]
    drawn[2] = make_job(drawn[0].context_ids, list(drawn[2].candidates))
    return drawn


@pytest.fixture(params=["packed", "device"])
def make_engine(request: pytest.FixtureRequest, tiny_directory: ModelDirectory) -> MakeEngine:
    def make(cache_bytes: int = CACHE_BYTES) -> RunnerEngine:
        if request.param == "packed":
            return RunnerEngine(PackedRunner.from_directory(tiny_directory, cache_bytes))
        return RunnerEngine(DeviceRunner.from_directory(tiny_directory, cache_bytes, ON_CPU))

    return make


def _packed(decoder: Decoder) -> Runner:
    return PackedRunner(decoder, yes_no((17, 4)), 16, 20_000)


def _device(decoder: Decoder) -> Runner:
    return DeviceRunner(decoder, yes_no((17, 4)), 16, 20_000, ON_CPU)


@pytest.fixture
def engine(make_engine: MakeEngine) -> RunnerEngine:
    return make_engine()


@pytest.fixture(scope="module")
def single_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def logits_of(engine: RunnerEngine, jobs: list[ScoreJob]) -> list[tuple[float, ...]]:
    return [answer.raw_logits for answer in engine.score(jobs)]


def assert_close(got: list[tuple[float, ...]], want: list[tuple[float, ...]]) -> None:
    assert [len(row) for row in got] == [len(row) for row in want]
    for got_row, want_row in zip(got, want, strict=True):
        assert got_row == pytest.approx(want_row, abs=TOLERANCE, rel=0)


def test_agrees_with_transformers_on_the_joined_ids(
    tiny_directory: ModelDirectory, engine: RunnerEngine, jobs: list[ScoreJob]
) -> None:
    peer = AutoModelForCausalLM.from_pretrained(tiny_directory.path, dtype=torch.float32).eval()
    yes, no = tiny_directory.prompt.label_ids

    def peer_logit(ids: TokenIds) -> float:
        with torch.inference_mode():
            last = peer(torch.tensor([ids])).logits[0, -1]
        return float(last[yes] - last[no])

    want = [tuple(peer_logit(job.context_ids + c) for c in job.candidates) for job in jobs]
    got = logits_of(engine, jobs)
    assert_close(got, want)
    assert max(map(max, got)) - min(map(min, got)) > 1


def test_a_candidate_scores_the_same_alone_and_in_any_company(
    make_engine: MakeEngine, engine: RunnerEngine, jobs: list[ScoreJob]
) -> None:
    together = logits_of(engine, jobs)
    for job, expected in zip(jobs, together, strict=True):
        fresh = make_engine()
        alone = [
            logits_of(fresh, [make_job(job.context_ids, [candidate])])[0][0]
            for candidate in job.candidates
        ]
        assert_close([tuple(alone)], [expected])


def test_a_candidate_scores_the_same_in_any_slot(
    engine: RunnerEngine, jobs: list[ScoreJob]
) -> None:
    job = jobs[3]
    expected = logits_of(engine, [job])[0]
    for shift in range(len(job.candidates)):
        order = [(slot + shift) % len(job.candidates) for slot in range(len(job.candidates))]
        turned = make_job(job.context_ids, [job.candidates[i] for i in order])
        assert_close(logits_of(engine, [turned]), [tuple(expected[i] for i in order)])


def test_cold_and_warm_agree(engine: RunnerEngine, jobs: list[ScoreJob]) -> None:
    assert_close(logits_of(engine, jobs), logits_of(engine, jobs))


def test_a_grown_context_agrees_with_a_cold_one(
    make_engine: MakeEngine, engine: RunnerEngine, rng: random.Random
) -> None:
    context, candidates = tokens(rng, 90), [tokens(rng, 8)]
    engine.score([make_job(context[:40], candidates)])
    (grown,) = engine.score([make_job(context, candidates)])
    (cold,) = make_engine().score([make_job(context, candidates)])
    assert (grown.cached_tokens, cold.cached_tokens) == (32, 0)
    assert_close([grown.raw_logits], [cold.raw_logits])


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_a_tiny_cache_changes_no_score(
    make_engine: MakeEngine, engine: RunnerEngine, jobs: list[ScoreJob], blocks: int
) -> None:
    block_bytes = 2 * 2 * 16 * 2 * 16 * 4
    small = make_engine(blocks * block_bytes)
    expected = logits_of(engine, jobs)
    for _ in range(3):
        assert_close(logits_of(small, jobs), expected)
    held = small.drain_cache_events()
    assert len(held.inserted) <= blocks


def test_tokens_are_counted_as_they_were_computed(
    engine: RunnerEngine, jobs: list[ScoreJob]
) -> None:
    cold, warm = engine.score(jobs), engine.score(jobs)
    assert [a.context_tokens for a in cold] == [44, 16, 44, 100]
    assert [a.cached_tokens for a in cold] == [0, 0, 44, 0]
    assert [a.cached_tokens for a in warm] == [44, 16, 44, 100]
    assert [a.candidate_tokens for a in cold] == [113, 12, 10, 220]
    assert [a.extend_tokens for a in cold] == [157, 28, 10, 320]


def test_events_name_every_block_that_came(engine: RunnerEngine, jobs: list[ScoreJob]) -> None:
    engine.score(jobs)
    events = engine.drain_cache_events()
    assert set(events.inserted) == {name for job in jobs for name in job.block_hashes}
    assert len(events.inserted) == len(set(events.inserted))
    assert events.evicted == ()
    engine.score(jobs)
    assert engine.drain_cache_events().inserted == ()


def test_another_salt_shares_nothing(engine: RunnerEngine, jobs: list[ScoreJob]) -> None:
    engine.score(jobs[:1])
    ids = jobs[0].context_ids
    private = ScoreJob(ids, block_hashes(ids, 16, "tenant"), jobs[0].candidates)
    assert engine.score([private])[0].cached_tokens == 0


def test_a_job_without_candidates_gets_an_empty_answer(
    engine: RunnerEngine, jobs: list[ScoreJob]
) -> None:
    empty = make_job(jobs[1].context_ids, [])
    assert [a.raw_logits for a in engine.score([empty])] == [()]
    assert_close(logits_of(engine, [empty, jobs[0]])[1:], logits_of(engine, jobs[:1]))


def test_equal_candidates_tie_exactly_and_the_rest_keep_their_places(
    engine: RunnerEngine, rng: random.Random
) -> None:
    context, twin = tokens(rng, 20), tokens(rng, 7)
    others = [tokens(rng, n) for n in (5, 11, 3)]
    mixed = make_job(context, [others[0], twin, others[1], twin, others[2], twin])
    (answer,), (alone,) = engine.score([mixed]), engine.score([make_job(context, [*others, twin])])
    assert len({answer.raw_logits[index] for index in (1, 3, 5)}) == 1
    assert_close([tuple(answer.raw_logits[index] for index in (0, 2, 4, 1))], [alone.raw_logits])
    assert answer.candidate_tokens == 3 * 7 + 5 + 11 + 3


def test_no_jobs_no_answers(engine: RunnerEngine) -> None:
    assert engine.score([]) == []


def test_a_failed_pass_raises_its_cause_and_spoils_nothing(
    engine: RunnerEngine, jobs: list[ScoreJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits_of(engine, jobs)
    monkeypatch.setattr(ScoringHeads, "raw_logits", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.score(jobs)
    monkeypatch.undo()
    assert_close(logits_of(engine, jobs), expected)


@pytest.mark.parametrize("make_runner", [_packed, _device])
def test_a_context_that_is_not_finite_spoils_no_other(
    tiny_decoder: Decoder, make_runner: Callable[[Decoder], Runner]
) -> None:
    broken, sound = make_job((7,) * 40, [(5, 6)]), make_job((8,) * 35, [(5, 6), (9, 6, 2)])
    decoder = copy.deepcopy(tiny_decoder)
    expected = logits_of(RunnerEngine(make_runner(decoder)), [sound])
    decoder.model.embed_tokens.weight[7] = float("inf")
    spoilt = RunnerEngine(make_runner(decoder))
    for _ in range(4):  # pages go round
        assert math.isnan(logits_of(spoilt, [broken])[0][0])
        assert_close(logits_of(spoilt, [sound, broken])[:1], expected)


class _LargestOutput(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the largest tensor any operator returns while active."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_tokens_by_vocabulary_never_exists(
    tiny_directory: ModelDirectory, make_engine: MakeEngine, jobs: list[ScoreJob]
) -> None:
    engine = make_engine(1 << 18)  # so that views of the pool of pages are small, too
    pass_tokens = ON_CPU.token_buckets[-1]
    assert pass_tokens >= sum(len(c) for job in jobs for c in job.candidates)
    vocabulary = tiny_directory.config.vocab_size
    largest = _LargestOutput()  # type: ignore[no-untyped-call]
    with largest:
        engine.score(jobs)
    assert 0 < largest.elements < pass_tokens * vocabulary / 2


def test_threads_are_set_when_asked(tiny_directory: ModelDirectory, single_thread: None) -> None:
    FairslateEngine(tiny_directory, CACHE_BYTES, threads=1)
    assert torch.get_num_threads() == 1


def test_block_size_is_the_cards(engine: RunnerEngine) -> None:
    assert engine.block_size == 16


def test_a_device_torch_does_not_have_is_refused(tiny_directory: ModelDirectory) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(DeviceUnavailableError, match="no CUDA device"):
        FairslateEngine(tiny_directory, CACHE_BYTES, device="cuda")
