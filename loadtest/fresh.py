"""Does what a newcomer does in a fresh clone and times it. Knows nothing of the project but `make`.

    python -m loadtest.fresh --json loadtest/results/fresh.json

Clones this repository's HEAD under a new HOME with an empty pip cache, runs `make serve` twice with
one request each, then `make test`. Any step that fails makes the exit code non-zero.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
POLL_SECONDS = 0.1
LIMIT_SECONDS = 1800
SLATE = {
    "context": "Headline: Staff nurse on a surgical ward.",
    "candidates": [{"id": "a", "text": "Roofer."}, {"id": "b", "text": "Critical care nurse."}],
}


def main() -> None:
    """Prints the figures, and keeps them where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None, help="where the figures are kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fresh-") as directory:
        figures = json.dumps(newcomer(Path(directory)), indent=2) + "\n"
    print(figures, end="")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(figures, encoding="utf-8")


def newcomer(directory: Path) -> dict[str, Any]:
    """Seconds of each step. Raises CalledProcessError or TimeoutError for one that fails."""
    clone, environment = directory / "fairslate", new_environment(directory / "home")
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True, env=environment)
    first, answer = serve_once(clone, environment)
    second, _ = serve_once(clone, environment)
    started = time.perf_counter()
    subprocess.run(["make", "install"], cwd=clone, env=environment, check=True)
    installed = time.perf_counter()
    subprocess.run(["make", "test"], cwd=clone, env=environment, check=True)
    return conditions(clone) | {
        "model": answer["model"],
        "first_serve_s": round(first, 1),
        "second_serve_s": round(second, 1),
        "test_install_s": round(installed - started, 1),
        "test_s": round(time.perf_counter() - installed, 1),
    }


def conditions(clone: Path = ROOT) -> dict[str, Any]:
    """What the figures hold for; a plus marks changes that the commit does not hold."""
    command = ["git", "-C", str(clone), "describe", "--always", "--dirty=+", "--exclude=*"]
    commit = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return {"commit": commit, "cores": os.cpu_count(), "python": platform.python_version()}


def new_environment(home: Path) -> dict[str, str]:
    """A newcomer's environment: nothing of ours but where pip finds its packages."""
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return kept | {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


def serve_once(clone: Path, environment: dict[str, str]) -> tuple[float, dict[str, Any]]:
    """Seconds from `make serve` to the first answer, and that answer; the server is stopped."""
    port, started = free_port(), time.perf_counter()
    server = subprocess.Popen(
        [shutil.which("make") or "make", "serve", f"PORT={port}"],
        cwd=clone,
        env=environment,
        start_new_session=True,
    )
    try:
        wait_until_ready(server, port)
        answer = rank(port)
        return time.perf_counter() - started, answer
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(timeout=60)


def wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    """Raises TimeoutError when the server ends or is not ready within the limit."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise TimeoutError(f"`make serve` was not ready (exit code {server.poll()})")


def rank(port: int) -> dict[str, Any]:
    """One slate over HTTP."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/rank",
        json.dumps(SLATE).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
