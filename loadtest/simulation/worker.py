"""One simulated worker: KV pool, prefix cache and continuous batching. Knows no gate, no client.

A job's whole need (its uncached prompt and its output cap) is reserved before it starts, so nothing
is ever preempted; jobs that were claimed but do not fit yet wait, in order, and start first.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from loadtest.simulation.cache import BlockCache
from loadtest.simulation.hardware import Engine
from loadtest.simulation.requests import Request


@dataclass(slots=True)
class Task:
    """A claimed request on its way through a worker."""

    owner: Any  # whatever the simulation wants back
    request: Request
    front: tuple[str, ...] = ()  # blocks locked while it waits to start
    extend_tokens: int = 0  # prompt tokens computed
    steps_left: int = 0
    steps_done: int = 0  # of the last chunk
    tokens: int = 0  # KV tokens read by its next step


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a worker does until its next admit pass, in milliseconds."""

    prefill_ms: float
    decode_ms: float

    @property
    def duration_ms(self) -> float:
        """All of it; 0 when there is nothing to do."""
        return self.prefill_ms + self.decode_ms


class Worker:
    """`accept` what was claimed, `start` what fits, `advance`, then collect what is `finished`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.cache = BlockCache()
        self.running: list[Task] = []
        self.waiting: deque[Task] = deque()
        self._private = 0  # tokens of running jobs outside the cache, output caps included

    @property
    def kv_tokens(self) -> int:
        """KV tokens in use or cached; never above the pool."""
        return self.cache.resident * self.engine.block_tokens + self._private

    @property
    def free_tokens(self) -> int:
        """KV tokens that a new job could have, cached ones that nobody uses included."""
        locked = self.cache.locked * self.engine.block_tokens
        return self.engine.kv_tokens - locked - self._private

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits to."""
        return not self.running and not self.waiting

    def accept(self, task: Task) -> None:
        """Queues a claimed job, and keeps what is cached of it until it starts."""
        context = task.request.context
        task.front = context[: self.cache.matched(context)]
        self.cache.lock(task.front)
        self.waiting.append(task)

    def start(self) -> list[Task]:
        """Starts waiting jobs in order as long as they fit. Returns those started."""
        started = []
        while self.waiting and len(self.running) < self.engine.max_running:
            if not self._fits(self.waiting[0].request):
                if self.running:
                    break
                self._release_last()  # only what waits holds memory: the first goes before the rest
                continue
            task = self.waiting.popleft()
            self._begin(task)
            started.append(task)
        return started

    def advance(self, started: list[Task]) -> Chunk:
        """Prefills what was started, then decodes until the next admit pass."""
        extend = sum(task.extend_tokens for task in started)
        attended = sum(
            task.extend_tokens * (2 * task.tokens - task.extend_tokens) for task in started
        )
        prefill = self.engine.prefill_ms(extend, attended // 2) if started else 0.0
        longest = max((task.steps_left for task in self.running), default=0)
        steps = min(longest, self.engine.admit_every)
        sequence_steps = tokens_read = 0
        for task in self.running:
            done = task.steps_done = min(steps, task.steps_left)
            sequence_steps += done
            tokens_read += done * task.tokens + done * (done + 1) // 2
            task.tokens += done
            task.steps_left -= done
        decode = self.engine.decode_ms(steps, sequence_steps, tokens_read)
        return Chunk(prefill, decode)

    def finished(self) -> list[Task]:
        """Takes out the jobs that are done; their outputs join the cache."""
        done = [task for task in self.running if not task.steps_left]
        self.running = [task for task in self.running if task.steps_left]
        for task in done:
            request = task.request
            self._private -= request.candidate_tokens + request.output_cap
            self.cache.unlock(request.context)
            if request.produces:
                self.cache.add(request.context + request.produces)
            assert self.kv_tokens <= self.engine.kv_tokens
        return done

    def _fits(self, request: Request) -> bool:
        matched = self.cache.matched(request.context)
        blocks = self.cache.unlocked(request.context) + len(request.context) - matched
        own = request.candidate_tokens + request.output_cap
        return blocks * self.engine.block_tokens + own <= self.free_tokens

    def _begin(self, task: Task) -> None:
        request = task.request
        held = request.context[: self.cache.matched(request.context)]
        missing = len(request.context) - len(held)
        self._private += request.candidate_tokens + request.output_cap
        self.cache.lock(held)
        above = self.kv_tokens - self.engine.kv_tokens + missing * self.engine.block_tokens
        self.cache.evict(max(0, -(-above // self.engine.block_tokens)))
        self.cache.lock(request.context)
        self.cache.unlock(held)
        self.cache.unlock(task.front)
        task.extend_tokens = missing * self.engine.block_tokens + request.candidate_tokens
        task.tokens = len(request.context) * self.engine.block_tokens + request.candidate_tokens
        task.steps_left = request.output_tokens
        self.running.append(task)
        assert self.kv_tokens <= self.engine.kv_tokens

    def _release_last(self) -> None:
        for task in reversed(self.waiting):
            if task.front and task is not self.waiting[0]:
                self.cache.unlock(task.front)
                task.front = ()
                return
        raise AssertionError(
            "a job needs more KV tokens than the engine has; give it a larger pool"
        )
