"""The native scorer: each distinct context and candidate of a batch once, answers dealt to jobs.

Knows nothing of queues, tenants, text or calibration, and leaves arithmetic to a runner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import torch

from models.allocator import keep_freed_memory, return_freed_memory
from models.catalogue import Catalogue
from models.checkpoint import ModelDirectory
from models.engines.base import CacheEvents, JobScores, ScoreJob
from models.engines.cpu_runner import new_cpu_runner
from models.engines.device_runner import DeviceRunner
from models.engines.device_settings import device_settings
from models.engines.job_check import check_job
from models.engines.runner import ContextGroup, GroupScores, Runner
from models.extended_embedding import stored_vectors


class RunnerEngine:
    """Engine over any runner; see `models.engines.base.Engine` for what it promises."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    @property
    def block_size(self) -> int:
        return self._runner.block_size

    @property
    def description(self) -> Mapping[str, str]:
        return self._runner.description

    def check(self, job: ScoreJob) -> None:
        check_job(self._runner.config, job, self._runner.stored_tokens)

    def score(self, jobs: Sequence[ScoreJob]) -> list[JobScores]:
        for job in jobs:
            self.check(job)
        sharing = _jobs_by_context(jobs)
        groups = [_group([jobs[index] for index in indices]) for indices in sharing]
        answers: dict[int, JobScores] = {}
        for indices, group, scores in zip(sharing, groups, self._runner.run(groups), strict=True):
            dealt = _answers([jobs[index] for index in indices], group, scores)
            answers.update(zip(indices, dealt, strict=True))
        return [answers[index] for index in range(len(jobs))]

    def drain_label_mass(self) -> tuple[float, ...]:
        return self._runner.drain_label_mass()

    def drain_cache_events(self) -> CacheEvents:
        return self._runner.drain_cache_events()


class FairslateEngine(RunnerEngine):
    """Engine over one model directory.

    cache_bytes: budget of the prefix cache. threads: of torch in this process, None leaves it.
    device: "cpu" or "cuda"; DeviceUnavailableError when torch has no such device.
    dtype, deterministic: see `new_cpu_runner` and, of another device, `device_settings`. backend:
    of the CPU. The defaults need no compiler and no special CPU, for stages of training that
    repeat; a service asks for "auto".
    catalogue: of the candidates that may be stored vectors; CatalogueError if it cannot be read.
    """

    def __init__(
        self,
        directory: ModelDirectory,
        cache_bytes: int,
        threads: int | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        backend: str = "torch",
        deterministic: bool = False,
        catalogue: Catalogue | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        keep_freed_memory()
        vectors = stored_vectors(catalogue)
        if torch.device(device).type == "cpu":
            runner: Runner = new_cpu_runner(
                directory, cache_bytes, dtype, backend, deterministic, vectors
            )
        else:
            longest = directory.card.truncation.max_context_tokens
            settings = device_settings(device, dtype, deterministic, longest)
            runner = DeviceRunner.from_directory(directory, cache_bytes, settings, vectors)
        return_freed_memory()  # weights as they were read, before they were packed
        super().__init__(runner)


def _jobs_by_context(jobs: Sequence[ScoreJob]) -> list[list[int]]:
    """Indices of the jobs, those of one context together, in order of first appearance."""
    sharing: dict[tuple[str, ...], list[int]] = {}
    for index, job in enumerate(jobs):
        sharing.setdefault(job.block_hashes, []).append(index)
    return list(sharing.values())


def _group(jobs: Sequence[ScoreJob]) -> ContextGroup:
    """Equal candidates of one context are one: they tie exactly, wherever they stand."""
    distinct = dict.fromkeys(ids for job in jobs for ids in job.candidates)
    return ContextGroup(jobs[0].context_ids, jobs[0].block_hashes, list(distinct))


def _answers(
    jobs: Sequence[ScoreJob], group: ContextGroup, scores: GroupScores
) -> Iterator[JobScores]:
    """Deals the logits back; the context's first job pays for what was computed."""
    found = dict(zip(group.candidates, scores.raw_logits, strict=True))
    heads = max(map(len, scores.raw_logits), default=1)
    cached = scores.cached_tokens
    for job in jobs:
        yield JobScores(
            raw_logits=tuple(chain.from_iterable(found[ids] for ids in job.candidates)),
            context_tokens=len(group.ids),
            cached_tokens=cached,
            candidate_tokens=sum(map(len, job.candidates)),
            heads=heads,
        )
        cached = len(group.ids)
