"""A lint of kernels and their tests: nothing unstable, loose or left out. Runs no kernel."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

from kernels.catalogue.discovery import FOLDER

TESTS = Path(__file__).parent
# Sums of atomics differ from run to run; the others are not in every Triton or not on every GPU.
UNSTABLE = ("atomic_", "make_block_ptr", "libdevice", "inline_asm_elementwise")
LOOSEST = 0.1


@pytest.mark.parametrize("word", UNSTABLE)
def test_no_kernel_uses_what_is_unstable(word: str) -> None:
    found = [path.name for path in FOLDER.rglob("*.py") if word in path.read_text("utf-8")]
    assert found == []


def sources(folder: Path, pattern: str) -> dict[str, str]:
    return {path.stem: path.read_text("utf-8") for path in sorted(folder.rglob(pattern))}


def test_every_operator_is_checked_by_torch_library() -> None:
    tests = "".join(sources(TESTS, "test_*.py").values())
    operators = {
        (module, name)
        for module, text in sources(FOLDER, "*.py").items()
        for name in re.findall(r"^(\w+) = Operator\(", text, re.MULTILINE)
    }
    assert len(operators) >= 27
    assert [name for name in sorted(operators) if f"{name[1]}.twin" not in tests] == []


def test_every_kernel_has_planted_bugs() -> None:
    planted = [text for text in sources(TESTS, "test_*.py").values() if "PLANTED_BUGS = {" in text]
    modules = {
        module
        for module, text in sources(FOLDER, "*.py").items()
        if re.search(r"^@jit\ndef _\w+_kernel\(", text, re.MULTILINE)
    }
    assert len(modules) >= 19
    missing = [module for module in sorted(modules) if not any(module in text for text in planted)]
    assert missing == []


def tolerances(source: str) -> Iterator[float]:
    """What `rtol=`, `atol=`, `rel=`, `abs=` and constants named for tolerances are set to."""
    for node in ast.walk(ast.parse(source)):
        if _sets_a_tolerance(node):
            for value in ast.walk(node.value):
                if isinstance(value, ast.Constant) and isinstance(value.value, float):
                    yield value.value


def _sets_a_tolerance(node: ast.AST) -> TypeGuard[ast.keyword | ast.Assign]:
    if isinstance(node, ast.keyword):
        return node.arg in ("rtol", "atol", "rel", "abs")
    return isinstance(node, ast.Assign) and "TOLERANCE" in ast.unparse(node.targets[0])


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: path.stem)
def test_no_tolerance_is_loose(path: Path) -> None:
    assert [bound for bound in tolerances(path.read_text("utf-8")) if bound > LOOSEST] == []


def test_the_lint_finds_a_loose_tolerance() -> None:
    source = "close(a, b, atol=0.5)\nTOLERANCE, NARROW = 3e-7, 2.5\nx == approx(1.0, rel=1.0)"
    assert sorted(tolerances(source)) == [3e-7, 0.5, 1.0, 2.5]
