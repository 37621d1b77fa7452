"""Builds the C++ decoder for this machine once, and loads it. Knows no model.

A build is kept under the digest of sources, flags and compiler, so that neither an edit nor
another machine of the same home directory meets a stale one.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from models.errors import OutOfMemoryError, PrecisionUnavailableError
from models.native.layout import ModelLayout, PassLayout, PoolLayout

SOURCES = Path(__file__).parent
COMPILERS = ("g++", "clang++", "c++")
# Products and sums stay apart: whether they are fused must not depend on a block's size.
COMMON_FLAGS = ("-O3", "-std=c++20", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-w")
NEEDED = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni")
OPTIONAL = ("avx512_bf16",)
BUILD_SECONDS = 300


@dataclass(frozen=True, slots=True)
class NativeLibrary:
    """The loaded build: one function a pair of arithmetic and kind of pages."""

    path: Path
    features: tuple[str, ...]
    functions: ctypes.CDLL

    def run(self, name: str, model: ModelLayout, pool: PoolLayout, layout: PassLayout) -> None:
        """Computes a pass; the interpreter's lock is free meanwhile. OutOfMemoryError."""
        if getattr(self.functions, name)(*map(ctypes.byref, (model, pool, layout))):
            raise OutOfMemoryError(
                f"a forward pass of {layout.segments} token runs found no memory; lower the token "
                "budget or give the process more"
            )


@cache
def native_library() -> NativeLibrary:
    """Built on first use. PrecisionUnavailableError, with the reason, where it cannot be."""
    features = cpu_features()
    if missing := [name for name in NEEDED if name not in features]:
        raise PrecisionUnavailableError(f"the CPU lacks {', '.join(missing)}")
    compiler = find_compiler()
    if compiler is None:
        raise PrecisionUnavailableError(f"no C++ compiler ({', '.join(COMPILERS)}); install g++")
    used = (*NEEDED, *(name for name in OPTIONAL if name in features))
    path = _built((*compiler, *COMMON_FLAGS, *(f"-m{name.replace('_', '')}" for name in used)))
    return NativeLibrary(path, used, ctypes.CDLL(str(path)))


def cpu_features() -> frozenset[str]:
    """The kernel's names of what this CPU can do; none where it does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())


def find_compiler() -> tuple[str, ...] | None:
    """`$CXX`, else the first of COMPILERS; as the words of a command."""
    for name in (os.environ.get("CXX", ""), *COMPILERS):
        if (words := shlex.split(name)) and (path := shutil.which(words[0])):
            return (path, *words[1:])
    return None


def _built(command: tuple[str, ...]) -> Path:
    """The library this command makes of the sources; several processes may build at once."""
    path = _cache_directory() / f"decoder-{_digest(command)}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as work:
            made = Path(work) / path.name
            _compile((*command, str(SOURCES / "decoder.cpp"), "-o", str(made)))
            made.replace(path)
    return path


def _compile(command: tuple[str, ...]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=BUILD_SECONDS, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise PrecisionUnavailableError(f"{command[0]} fails: {said.splitlines()[0]}") from error


def _digest(command: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr((command, Path(command[0]).stat().st_mtime_ns)).encode())
    for source in sorted((*SOURCES.glob("*.cpp"), *SOURCES.glob("*.hpp"))):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _cache_directory() -> Path:
    """A directory of ours alone: what lies there is executed."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    directory = Path(home) / "fairslate"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if directory.stat().st_uid == os.getuid() and os.access(directory, os.W_OK):
            return directory
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="fairslate-"))
