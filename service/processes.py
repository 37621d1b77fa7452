"""What the API process and the engine process start alike. Knows nothing of requests or scores."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from models.catalogue import Catalogue, load_catalogue
from models.directory import ModelDirectory, load_model_directory
from models.errors import FairslateError, ModelDirectoryError
from models.reasons.grammar import ReasonTokens
from service.config import ROOT, Settings, SettingsError
from service.gate.embedded import EmbeddedRedis
from service.gate.scripts import scripts_digest
from service.jobs import PAYLOAD_FORMAT

logger = logging.getLogger("fairslate.processes")

NEVER = 1_000_000  # passes over the middle generation, of thousands of objects each
IDLE_REQUESTS = 8
IDLE_PASS_SECONDS = 10.0
FORCED_PASS_SECONDS = 600.0  # at two thousand requests in flight it stops them for 0.6 s


class ForeignPackageError(FairslateError):
    """A package of ours resolves to somebody else's package of the same name."""

    code = "foreign_package"


def open_catalogue(settings: Settings, directory: ModelDirectory) -> Catalogue | None:
    """The catalogue of the settings, if they name one. Raises CatalogueError."""
    return load_catalogue(Path(settings.catalogue), directory) if settings.catalogue else None


def open_reasoner(settings: Settings) -> ModelDirectory | None:
    """The reasoner of the settings, if they name one. Raises ModelDirectoryError."""
    if not settings.reasoner:
        return None
    directory = load_model_directory(Path(settings.reasoner))
    try:
        ReasonTokens(directory.prompt)
    except ModelDirectoryError as error:
        raise ModelDirectoryError(
            f"FAIRSLATE_REASONER={settings.reasoner} is no reasoner: {error}"
        ) from error
    return directory


def pool_name(
    directory: ModelDirectory,
    catalogue: Catalogue | None = None,
    reasoner: ModelDirectory | None = None,
) -> str:
    """Engines and API processes meet only when they hold the very same models and catalogue.

    And only when they keep the queue and its payloads in the same way: while servers are replaced
    by those of another version, each version serves, and drains, a pool of its own.
    """
    stored = f"-{catalogue.digest[:16]}" if catalogue else ""
    kept = hashlib.sha256(f"{scripts_digest()} {PAYLOAD_FORMAT}".encode()).hexdigest()[:8]
    written = f"-{reasoner.digest[:16]}" if reasoner else ""
    return f"rank-{directory.digest[:16]}{stored}{written}-{kept}"


@contextlib.contextmanager
def running_redis(settings: Settings) -> Iterator[list[str]]:
    """URL of the gate's Redis: the configured one, or one of our own while the block lasts.

    Ours stands behind the configured one where it may have to serve in its place.
    """
    configured = [settings.redis_url] if settings.redis_url else []
    if configured and not settings.serves_without_redis:
        yield configured
        return
    embedded = EmbeddedRedis(Path(settings.state_dir))
    try:
        yield [*configured, embedded.start()]
    finally:
        embedded.stop()


def spare_collector() -> None:
    """Exempts all that lives now from garbage collection, when a process has started."""
    gc.collect()
    gc.freeze()


class Housekeeper:
    """Makes the full passes of garbage collection when they stop nobody, or when they must.

    Beside 500 requests in flight a pass stopped them all for 0.3 s, every four seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    def take_over(self) -> None:
        """Has Python make no full pass by itself; `tidy` must be called from then on."""
        young, middle, _old = gc.get_threshold()
        gc.set_threshold(young, middle, NEVER)

    def tidy(self, in_flight: int) -> bool:
        """To be called about once a second; whether a pass was made."""
        age = self._clock() - self._last
        idle = in_flight <= IDLE_REQUESTS
        due = age >= (IDLE_PASS_SECONDS if idle else FORCED_PASS_SECONDS)
        if due:
            gc.collect()
            self._last = self._clock()
        return due


def check_packages(*packages: ModuleType) -> None:
    """Raises ForeignPackageError unless each package lies in this repository.

    Hugging Face publishes a `kernels` too; a stray path entry can swap it for ours.
    """
    for package in packages:
        found = Path(package.__file__ or "").resolve()
        if not found.is_relative_to(ROOT):
            raise ForeignPackageError(
                f"package {package.__name__} was found at {found}, not below {ROOT}; start from "
                "the repository's root and take the other package off the path"
            )


def try_engine(settings: Settings) -> None:
    """Has an engine of a device or type that was asked for by name built once, before any serves.

    In a process of its own, for torch with it. What "auto" finds on a CPU runs, so the usual start
    pays nothing. Raises SettingsError with the reason; BentoML would start such an engine for ever.
    """
    if (settings.device, settings.dtype) == ("cpu", "auto"):
        return
    command = [sys.executable, "-m", "service.engine_trial"]
    trial = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if trial.returncode:
        reason = trial.stderr.strip().splitlines()[-1:] or ["it died without a word"]
        raise SettingsError(f"no engine can be built as the settings ask: {reason[0]}")


def or_exit(target: Callable[[], None]) -> Callable[[], None]:
    """Wraps a thread's target: when it raises, the process ends, so that BentoML starts another.

    A process whose loop is dead looks alive to everybody, and answers nobody.
    """

    def run() -> None:
        try:
            target()
        except BaseException as error:
            _end_process(error)

    return run


def run_or_exit(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """The same for a task of the running event loop; cancelling the task is no failure."""

    def check(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _end_process(error)

    task = asyncio.create_task(work)
    task.add_done_callback(check)
    return task


def _end_process(error: BaseException) -> None:
    logger.critical("what this process lives for has failed", exc_info=error)
    os._exit(1)
