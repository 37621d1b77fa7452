"""The benchmark's turns, rows and page, on providers that answer at once and in fixed time."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import ndcg_score

from models import bench
from models.benches.checks import check_engine
from models.benches.memory import peak_mb, reset_peak, resident_mb
from models.benches.providers import SHORT_NAMES, ours
from models.benches.quality import Quality, kendall_tau, ndcg
from models.benches.rows import Row, keep_rows, read_csv, rows_of
from models.benches.shapes import TINY_SLATE, linear_operations
from models.benches.slates import GradedJob, demo_slates, graded_jobs, random_slates
from models.benches.subjects import Subject, prepare
from models.benches.turns import Process, ProviderError, Reading, Spec, take_turns
from models.checkpoint import load_model_directory
from models.engines.base import ScoreJob
from models.engines.fairslate import FairslateEngine

DEMO = Path("models/demo")
CONDITIONS = {"cpu": "a cpu", "cores": 2, "torch": "2", "commit": "c", "date": "2026-01-01"}


class Fake(Process):
    """Takes a second for each token that it has to compute, and keeps one context."""

    def __init__(self, spec: Spec, log: list[tuple[str, ScoreJob]], fails_at: int = -1) -> None:
        self.spec, self.loaded_mb = spec, 3.0
        self._log, self._fails_at = log, fails_at
        self._held: tuple[int, ...] = ()

    def __enter__(self) -> Fake:
        return self

    def close(self) -> None: ...

    def score(self, job: ScoreJob) -> Reading:
        self._log.append((self.spec.provider, job))
        if len(self._log) == self._fails_at:
            raise ProviderError("no more")
        tokens = sum(map(len, job.candidates))
        tokens += len(job.context_ids) if job.context_ids != self._held else 0
        self._held = job.context_ids
        return Reading(job, float(tokens), 7.0, [float(n) for n in range(len(job.candidates))])


def spec(name: str, dtype: str = "int8", kind: str = "fairslate") -> Spec:
    return Spec(name, dtype, kind)


def test_providers_take_turns_on_the_same_fresh_slates() -> None:
    log: list[tuple[str, ScoreJob]] = []
    fakes = [Fake(spec(name), log) for name in "abc"]
    take_turns(fakes, random_slates(TINY_SLATE, 1, warm=False), rounds=2, warm=False)
    assert ["".join(name for name, _ in log[at : at + 3]) for at in (0, 3, 6)] == [
        "cab",
        "abc",
        "bca",
    ]
    assert len({job.candidates for _, job in log}) == len({job.context_ids for _, job in log}) == 3


def test_a_warm_context_is_known_and_its_candidates_are_not() -> None:
    log: list[tuple[str, ScoreJob]] = []
    (turns,) = take_turns(
        [Fake(spec("a"), log)], random_slates(TINY_SLATE, 1, warm=True), rounds=3, warm=True
    ).values()
    assert [r.seconds for r in turns.readings] == [
        sum(map(len, r.job.candidates)) for r in turns.readings
    ]
    seen = [ids for _, job in log for ids in job.candidates]
    assert len(seen) == len(set(seen)) == 4 * (1 + TINY_SLATE.candidates)
    assert {job.context_ids for _, job in log} == {log[0][1].context_ids}


def test_the_slow_have_a_few_turns_and_the_failed_leave_the_rest_alone() -> None:
    log: list[tuple[str, ScoreJob]] = []
    slow, broken = Fake(spec("slow"), log), Fake(spec("broken"), [], fails_at=3)
    turns = take_turns([slow, broken], random_slates(TINY_SLATE, 1, False), rounds=9, warm=False)
    assert len(turns[slow.spec].readings) == 3
    assert turns[slow.spec].failure == ""
    assert turns[broken.spec].failure == "no more"


def readings(*seconds: float) -> list[Reading]:
    slates = random_slates(TINY_SLATE, 1, warm=True)
    return [Reading(next(slates).job, second, second, [0.0]) for second in seconds]


def test_a_row_sums_up_its_turns() -> None:
    from models.benches.turns import Turns

    own, limit, failed = spec("a"), spec("limit", kind="product"), spec("b")
    calls = readings(1.0, 2.0, 4.0)
    turns = {own: Turns(calls), limit: Turns(readings(2.0)), failed: Turns(failure="no")}
    row, other = rows_of("tiny", "warm", TINY_SLATE.config, turns, {own: 5.0, failed: 6.0})
    assert (row.items_per_s, row.p50_ms, row.peak_mb, row.loaded_mb, row.turns) == (
        2,
        2000,
        4,
        5,
        3,
    )
    assert row.items_p20 is not None
    assert row.items_p80 is not None
    assert row.items_p20 < 2 < row.items_p80
    assert row.limit_gops == round(4096**3 / 1e9, 1)
    rates = [linear_operations(TINY_SLATE.config, c.job, True) / c.seconds for c in calls]
    assert row.gemm_fraction == round(np.median(rates) / 4096**3, 3)
    assert (other.note, other.items_per_s, other.turns) == ("no", None, 0)


def test_kept_rows_replace_those_of_their_shape(tmp_path: Path) -> None:
    path = tmp_path / "results" / "rows.csv"
    keep_rows(path, [Row("B", "old", "int8", "warm"), Row("A", "a", "int8", "warm")], CONDITIONS)
    keep_rows(path, [Row("B", "new", "int8", "warm", items_per_s=2.5)], CONDITIONS)
    rows = read_csv(path)
    assert [(row["shape"], row["provider"]) for row in rows] == [("A", "a"), ("B", "new")]
    assert rows[1]["items_per_s"] == "2.5"
    assert rows[1]["commit"] == "c"


def test_likeness_is_what_the_libraries_say() -> None:
    rng = np.random.default_rng(0)
    some, others = rng.integers(0, 6, (2, 20)).astype(float).tolist()
    assert kendall_tau(some, others) == pytest.approx(kendalltau(some, others).statistic)
    grades, scores = rng.integers(0, 5, 20), rng.permutation(20).astype(float).tolist()
    expected = ndcg_score([np.exp2(grades) - 1], [scores], k=10)
    assert ndcg(scores, grades.tolist(), 10) == pytest.approx(expected)
    assert math.isnan(ndcg(scores, [0] * 20, 10))
    quality = Quality.of([[0.0, 1.0]], [[math.log(3), 1.0]], [[1, 0]])
    assert (quality.max_abs_dp, quality.kendall_tau, quality.ndcg_1) == (0.25, -1, 0)


def test_everybody_is_compared_on_the_same_slates(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [slate.job for slate, _ in zip(subject.slates(warm=False), range(9), strict=False)]
    graded = [GradedJob(job, (1, 0, 2, 0)) for job in jobs]
    monkeypatch.setattr("models.bench.Process", lambda spec: Fake(spec, []))
    log: list[tuple[str, ScoreJob]] = []
    processes = [Fake(spec(name), log) for name in ("fairslate", "peer")]
    found = bench.measure_quality(replace(subject, graded=graded), processes)
    ours, peer = found["fairslate", "int8"], found["peer", "int8"]
    assert (ours.ndcg_10, ours.ndcg_1) == (peer.ndcg_10, peer.ndcg_1)
    assert [job for name, job in log if name == "peer"] == jobs[::8]
    assert ours.ndcg_10_all is not None
    assert peer.ndcg_10_all is None


def test_memory_at_its_peak_is_seen() -> None:
    reset_peak()
    before = resident_mb()
    np.ones(64 << 20)  # 512 MB: what else a process takes and gives back is small beside it
    assert peak_mb() - before > 400
    reset_peak()
    assert peak_mb() - before < 200


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return prepare("tiny", tmp_path_factory.mktemp("scratch"), threads=1)


def test_a_process_scores_as_the_engine_it_holds(subject: Subject) -> None:
    directory, slate = subject.setting.directory, next(subject.slates(warm=True))
    options = subject.setting.options | {"backend": "torch"}
    with Process(Spec("fairslate", "fp32", "fairslate", options)) as process:
        reading = process.score(slate.job)
        nothing = ScoreJob((10**6,), (), ((1,),))
        with pytest.raises(ProviderError, match="1000000"):
            process.score(nothing)
        again = process.score(slate.job)
    (answer,) = FairslateEngine(directory, 1 << 20).score([slate.job])
    assert reading.logits == again.logits == pytest.approx(answer.raw_logits, abs=1e-6)
    assert reading.seconds > 0


def test_a_provider_that_cannot_load_says_so(subject: Subject) -> None:
    with pytest.raises(ProviderError, match="ended"):
        Process(Spec("x", "int8", "nobody", subject.setting.options))


def test_what_a_process_reads_is_made_before_it_starts(subject: Subject) -> None:
    steps: list[str] = []
    wanted = Spec("x", "int8", "nobody", subject.setting.options, prepare=lambda: steps.append("x"))
    assert steps == []
    with pytest.raises(ProviderError, match="ended"):
        Process(wanted)
    assert steps == ["x"]


@pytest.mark.parametrize(
    ("name", "skip", "whole"),
    [("B", None, False), ("B", "", True), ("tiny", None, True), ("C", None, True)],
)
def test_large_shapes_leave_out_whom_they_cannot_have_at_once(
    subject: Subject, name: str, skip: str | None, whole: bool
) -> None:
    specs = bench._asked(replace(subject, name=name), "hf,ort", skip)
    asked = {f"{spec.provider} {spec.dtype}" for spec in specs}
    assert "hf-shared bf16" in asked
    large = {"hf-naive bf16", "hf-shared fp32", "ort-shared fp32", "fairslate-torch fp32"}
    assert asked & large == (large if whole else set())


def test_every_dtype_that_runs_here_has_a_row(subject: Subject) -> None:
    found = [(s.provider, s.dtype) for s in ours(subject.setting)]
    for provider in ("fairslate-torch", "fairslate-compiled"):
        assert {(provider, name) for name in SHORT_NAMES.values()} <= set(found)
    assert len(found) == len(set(found))


def test_the_demo_gives_its_graded_requests() -> None:
    graded = graded_jobs(load_model_directory(DEMO), DEMO / "onet_jobs", "valid")
    assert len(graded) == 438
    assert (
        {len(item.grades) for item in graded}
        == {len(item.job.candidates) for item in graded}
        == {24}
    )
    slates = demo_slates(graded)
    jobs = [next(slates).job for _ in range(len(graded) + 1)]
    assert jobs[0] is jobs[-1]
    assert len(set(map(id, jobs))) == len(graded)


def check_values(subject: Subject, process: Fake, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    monkeypatch.setattr("models.benches.checks.Process", lambda spec: process)
    return [check.ok for check in check_engine(subject, process.spec)]


def test_promises_that_are_kept_and_broken(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(Fake):
        def score(self, job: ScoreJob) -> Reading:
            self._held = ()
            reading = super().score(job)
            steps = math.ceil(len(job.candidates) / 100) * 1000
            return replace(reading, peak_mb=1e4, seconds=reading.seconds + steps)

    assert check_values(subject, Fake(spec("a"), []), monkeypatch) == [True, True, True]
    assert check_values(subject, Forgetful(spec("a"), []), monkeypatch) == [False, False, False]


def test_the_command_prints_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def measure(subject: Subject, specs: list[Spec], rounds: int, caches: list[str]) -> list[Row]:
        asked.extend(f"{s.provider} {s.dtype}" for s in specs)
        return [Row(subject.name, "a", "int8", cache) for cache in caches]

    monkeypatch.setattr(bench, "measure", measure)
    kept = tmp_path / "cpu.csv"
    options = ["--shapes", "tiny", "--peers", "hf", "--skip", "*fp32,hf-naive*", "--csv", str(kept)]
    monkeypatch.setattr(sys, "argv", ["bench", *options])
    bench.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["cache"] for line in lines] == ["warm", "cold"]
    assert lines[0].keys() >= {"cpu", "cores", "torch", "commit", "gemm_fraction", "kendall_tau"}
    assert len(read_csv(kept)) == 2
    assert "hf-shared bf16" in asked
    assert "fairslate-torch int8" in asked
    assert not [name for name in asked if name.endswith("fp32") or name.startswith("hf-naive")]
