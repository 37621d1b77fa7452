"""Wires what answers calls in this process, and runs the loops behind it. Knows no BentoML."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence

from prometheus_client import REGISTRY, CollectorRegistry

from models.directory import load_model_directory
from service.base.config import Settings
from service.compat.asked import Served
from service.compat.translator import Translator
from service.dispatch.dispatch import Dispatcher
from service.dispatch.fallback import Fallback
from service.dispatch.ledgers import Ledgers
from service.gate.gate import AsyncGate
from service.gate.job import GateStats
from service.metrics.engine_board import EngineBoard, calibrated_label_mass
from service.metrics.metrics import Metrics
from service.metrics.mode_metrics import ModeMetrics
from service.metrics.policy_metrics import PolicyMetrics
from service.process.garbage_collection import GarbageCollector, spare_collector
from service.process.served_models import open_catalogue, open_reasoner, pool_name
from service.process.supervision import run_or_exit
from service.tenants.tenants_file import load_tenants
from service.walk.insight import Insight
from service.walk.ranking import Ranker
from service.walk.reasoning import Reasoner
from service.walk.reception import Reception


class ApiProcess:
    """Call -> `ranker` or `reasoner` -> `reception` -> gateway -> one gate, and back the same way.

    urls: of the Redis servers that jobs may go through, the shared one first.
    """

    def __init__(
        self, settings: Settings, urls: Sequence[str], registry: CollectorRegistry = REGISTRY
    ) -> None:
        directory = load_model_directory(settings.model_path)
        catalogue, reasoner = open_catalogue(settings, directory), open_reasoner(settings)
        tenants = load_tenants(settings.tenants_file)
        self._metrics = metrics = Metrics(tenants.all, settings.gate.refill, registry)
        self._board = board = EngineBoard(calibrated_label_mass(directory.card), registry)
        self._policy = PolicyMetrics(settings.policy, registry)
        self._collector = GarbageCollector()
        pool = pool_name(directory, catalogue, reasoner)
        self._gates = [AsyncGate(url, pool, settings.gate) for url in urls]
        self._gateway = gateway = Fallback(*self._dispatchers(), show=ModeMetrics(registry).show)
        self.insight = Insight(settings, tenants, gateway)
        self.reception = Reception(settings, tenants, gateway, self.insight, metrics, board)
        self.ranker = Ranker(self.reception, directory.card, directory.prompt, catalogue)
        self.translator = Translator(self.ranker.rank, Served.of(directory.card, directory.prompt))
        self.reasoner = reasoner and Reasoner(self.reception, reasoner.card, reasoner.prompt)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answers calls while the block lasts; once only."""
        tasks = [run_or_exit(loop) for loop in self._gateway.loops()]
        spare_collector()
        self._collector.take_over()
        yield
        self._gateway.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._gateway.finish()
        for gate in self._gates:
            await gate.close()

    def _dispatchers(self) -> list[Dispatcher]:
        """One for each gate, all with reply lists of one name, as `Fallback` wants them."""
        ledgers = Ledgers(self._observe, self._side_in_use)
        reply_to, nodes = uuid.uuid4().hex, self._metrics.nodes
        return [
            Dispatcher(gate, ledgers.of(side), self._collect_garbage, nodes, reply_to)
            for side, gate in enumerate(self._gates)
        ]

    def _observe(self, stats: GateStats) -> None:
        self._metrics.observe(stats)
        self._policy.show(stats.policy)
        self._board.forget_all_but(stats.workers)

    def _side_in_use(self) -> int:
        return self._gateway.side

    def _collect_garbage(self, _: int) -> None:
        """However many jobs one side has in flight, a pass stops those of both."""
        self._collector.collect_if_due(self._gateway.in_flight)
