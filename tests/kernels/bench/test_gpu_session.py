"""The session on a GPU calls what exists, by options it has. Runs none of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = (ROOT / "kernels/bench/gpu_session.sh").read_text("utf-8").replace("\\\n", " ")
CALLS = re.findall(r"-m ((?:kernels|models)\.[\w.]+)([^\n]*)", SCRIPT)


def source_of(command: str) -> str:
    """Of the module, or the package, that `python -m` is given."""
    path = ROOT / command.replace(".", "/")
    main = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return main.read_text("utf-8")


def test_it_calls_the_commands() -> None:
    called = {command for command, _ in CALLS}
    assert called >= {"kernels.bench", "kernels.bench.sweep", "models.gpu_bench"}


@pytest.mark.parametrize(("command", "options"), CALLS)
def test_a_command_has_the_options_it_is_given(command: str, options: str) -> None:
    source = source_of(command)
    for option in re.findall(r"(?<=\s)--\w+", options):
        assert f'"{option}"' in source, f"{command} has no {option}"


def test_the_files_it_reads_are_kept() -> None:
    for kept in re.findall(r"kernels/(?:results|eight_bits)/[\w./]+", SCRIPT):
        assert (ROOT / kept).exists()
