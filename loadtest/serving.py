"""Runs `bentoml serve` for a measurement, its engine on a core of its own. Knows no measurement."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loadtest.fresh import ROOT, free_port, wait_until_ready

ADMIN_KEY = "operator"
ENGINE = b"EngineService"
STOP_SECONDS = 30.0
_SAMPLE = re.compile(r'(\w+)\{tenant="([^"]+)"\} (\S+)')


@dataclass(frozen=True, slots=True)
class Server:
    """A ready server on loopback."""

    port: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def configure(self, policy: str) -> None:
        """Switches the scheduling policy."""
        request = urllib.request.Request(
            f"{self.url}/admin/policy",
            json.dumps({"policy": policy}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN_KEY}"},
        )
        with urllib.request.urlopen(request, timeout=10):
            pass

    def by_tenant(self, series: str) -> dict[str, float]:
        """Values of a gauge by its one label."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            samples = _SAMPLE.findall(answer.read().decode())
        return {tenant: float(value) for name, tenant, value in samples if name == series}


@contextlib.contextmanager
def running(state: Path, environment: dict[str, str]) -> Iterator[tuple[Server, int]]:
    """A ready server that leaves nothing outside `state`, and its process."""
    port = free_port()
    own = {"BENTOML_HOME": str(state / "bentoml"), "FAIRSLATE_STATE_DIR": str(state / "redis")}
    own |= {"BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (state / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | own | environment, stdout=log, stderr=log
        )
    try:
        wait_until_ready(process, port)
        yield Server(port), process.pid
    finally:
        stop(process)


@contextlib.contextmanager
def serving(
    state: Path, tenants: Mapping[str, Any], settings: Mapping[str, str]
) -> Iterator[Server]:
    """A server of the demo ranker with these tenants; every name's key is the name itself.

    `tenants` is the tenants file with a name in place of each entry's key_sha256. The engine gets
    one thread and the last core; everything else, the caller included, shares the first.
    """
    entries = [{**entry, "key_sha256": digest(entry["name"])} for entry in tenants["tenants"]]
    (state / "tenants.yaml").write_text(
        yaml.safe_dump({**tenants, "tenants": entries}, sort_keys=False)
    )
    own = {
        "tenants_file": str(state / "tenants.yaml"),
        "admin_key": ADMIN_KEY,
        "threads": "1",
        **settings,
    }
    threads = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    with running(state, threads | variables(own)) as (server, process):
        pin([*descendants(process), *of_redis(state)])
        yield server


def variables(settings: Mapping[str, str]) -> dict[str, str]:
    """The service's settings as its environment has them."""
    return {f"FAIRSLATE_{name.upper()}": value for name, value in settings.items()}


def stop(process: subprocess.Popen[bytes]) -> None:
    """Asks politely; raises TimeoutExpired, with everything killed, when that is not enough."""
    below = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    finally:
        for one in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)


def digest(key: str) -> str:
    """How the tenants file names a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def pin(server: Sequence[int]) -> None:
    """Gives the engine the last core, and the first to the rest of the server and to us."""
    cores = sorted(os.sched_getaffinity(0))
    engine_cores, others = {cores[-1]}, set(cores[:-1]) or {cores[-1]}
    for process in [os.getpid(), *server]:
        is_engine = ENGINE in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        for task in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(task.name), engine_cores if is_engine else others)


def of_redis(state: Path) -> list[int]:
    """The embedded Redis, which is nobody's child: its socket lies in the state folder."""
    folder, found = os.fsencode(state / "redis"), []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            command = path.read_bytes()
            if b"redis-server" in command and folder in command:
                found.append(int(path.parent.name))
    return found


def descendants(process: int) -> list[int]:
    """A process and all below it."""
    found = [process]
    for parent in found:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        found += map(int, children)
    return found
