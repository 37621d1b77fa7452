"""Runs `bentoml serve` as a user would, in its own process group. Knows nothing of any test."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from loadtest.waiting import wait_until as wait_until
from models.directory import ModelDirectory
from service.base.config import Settings
from service.process.served_models import open_reasoner, pool_name

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 90.0
STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class RunningServer:
    """One `bentoml serve` that answers on loopback."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def client(self, key: str = "") -> httpx.Client:
        """A client of this server, for one tenant's key if one is given."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60.0)

    def worker_pids(self, service: str) -> list[int]:
        """The processes that run one BentoML service now."""
        return [
            child
            for child in children(self.process.pid)
            if service.encode() in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        ]

    def ready(self) -> bool:
        """Whether /readyz says so."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", timeout=2.0).status_code == 200
        return False


def served_pool(directory: ModelDirectory) -> str:
    """The gate's pool of a server of this model with the default reasoner."""
    return pool_name(directory, reasoner=open_reasoner(Settings()))


def spawn(state: Path, settings: Mapping[str, str], port: int) -> subprocess.Popen[bytes]:
    """Starts `bentoml serve` in the repository's root; its output goes to `state/serve.log`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("FAIRSLATE_", "BENTO"))}
    environment = inherited | {
        "BENTOML_HOME": str(state / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "FAIRSLATE_STATE_DIR": str(state / "redis"),
        **{f"FAIRSLATE_{name.upper()}": value for name, value in settings.items()},
    }
    command = [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (state / "serve.log").open("wb") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )


@contextlib.contextmanager
def running_server(state: Path, **settings: str) -> Iterator[RunningServer]:
    """A ready server; at the end its whole process group is gone."""
    port = free_port()
    process = spawn(state, settings, port)
    server = RunningServer(f"http://127.0.0.1:{port}", process, state / "serve.log")
    try:
        wait_until(lambda: process.poll() is not None or server.ready(), START_SECONDS, "readyz")
        assert process.poll() is None, server.log.read_text()
        yield server
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Asks politely; raises TimeoutExpired, with everything killed, when that is not enough."""
    workers = children(process.pid) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    finally:
        # BentoML gives each worker its own process group.
        for pid in [*workers, process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def children(pid: int) -> list[int]:
    """Process ids of the direct children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
