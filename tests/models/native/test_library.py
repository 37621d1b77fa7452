"""How the C++ decoder is found, built and kept."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.errors import PrecisionUnavailableError
from models.native import library
from models.native.library import NEEDED, cpu_features, find_compiler, native_library

ALL = frozenset((*NEEDED, "avx512_bf16"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[tuple[str, ...]]]:
    """A machine with everything, whose compiler writes an empty file; its commands."""
    commands: list[tuple[str, ...]] = []

    def compiled(command: tuple[str, ...], **_: object) -> None:
        commands.append(command)
        Path(command[-1]).touch()

    (tmp_path / "g++").touch(mode=0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", f"{tmp_path / 'g++'} --quick")
    monkeypatch.setattr(library, "cpu_features", lambda: ALL)
    monkeypatch.setattr(subprocess, "run", compiled)
    monkeypatch.setattr("models.native.library.ctypes.CDLL", str)
    native_library.cache_clear()
    yield commands
    native_library.cache_clear()


def test_one_build_serves_until_sources_flags_or_compiler_change(
    machine: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = native_library()
    native_library.cache_clear()
    assert native_library() == first
    assert len(machine) == 1
    assert machine[0][1] == "--quick"
    assert {"-mavx512vnni", "-mavx512bf16", "-ffp-contract=off"} <= set(machine[0])
    monkeypatch.setattr(library, "cpu_features", lambda: frozenset(NEEDED))
    native_library.cache_clear()
    plain = native_library()
    assert plain.path != first.path
    assert plain.features == NEEDED
    assert "-mavx512bf16" not in machine[1]


def test_a_cpu_without_the_instructions_is_told_which(
    machine: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "cpu_features", lambda: ALL - {"avx512_vnni"})
    with pytest.raises(PrecisionUnavailableError, match="the CPU lacks avx512_vnni"):
        native_library()
    assert machine == []


def test_a_missing_compiler_is_named(
    machine: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_compiler() is None
    with pytest.raises(PrecisionUnavailableError, match="no C\\+\\+ compiler"):
        native_library()


def test_a_failing_compiler_is_quoted_and_leaves_nothing(
    machine: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(command: tuple[str, ...], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="unknown flag\nmore")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(PrecisionUnavailableError, match=r"fails: unknown flag$"):
        native_library()
    assert list((tmp_path / "cache" / "fairslate").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_replaced(
    machine: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    built = native_library().path
    assert built.exists()
    assert tmp_path / "file" not in built.parents


def test_features_are_words_of_the_kernel() -> None:
    assert all(feature.strip() == feature and feature for feature in cpu_features())
