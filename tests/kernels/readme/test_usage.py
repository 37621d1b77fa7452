"""What uses an operation is told by the imports of the day. Knows no kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernels.catalogue.table import OPERATIONS
from kernels.readme import pages
from kernels.readme.usage import LIBRARY_ONLY, Public, public_functions, users

NORM = ("kernels.norm", "rms_norm")


def written(root: Path, **texts: str) -> Path:
    """Sources by path, its slashes written as two underscores."""
    for name, text in texts.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_each_user_is_named_once(tmp_path: Path) -> None:
    taken = "from kernels.norm import rms_norm\n"
    root = written(
        tmp_path,
        models__engines__one=taken,
        models__two=f"def late() -> None:\n    {taken}",
        service__app=taken,
        compress__students__step="from kernels.norm import add_rms_norm",
        kernels__patch_forwards=taken,
    )
    assert users(root) == {
        NORM: ["scorer", "service", "patch"],
        ("kernels.norm", "add_rms_norm"): ["compress"],
    }


def test_tools_tests_and_benchmarks_are_no_users(tmp_path: Path) -> None:
    taken = "from kernels.norm import rms_norm\n"
    root = written(
        tmp_path,
        kernels__bench__plan=taken,
        kernels__norm_quantize=taken,
        models__gpu_bench=taken,
        compress__benches__step=taken,
        tests__models__test_one=taken,
    )
    assert users(root) == {}


@pytest.mark.parametrize("line", ["import kernels.norm", "from kernels import norm"])
def test_a_module_taken_whole_is_refused(tmp_path: Path, line: str) -> None:
    root = written(tmp_path, models__one=line)
    with pytest.raises(ValueError, match=r"one\.py takes a module of kernels whole"):
        users(root)


def test_the_package_itself_may_be_asked_where_it_is(tmp_path: Path) -> None:
    assert users(written(tmp_path, service__app="import kernels")) == {}


def test_public_functions_choose_a_backend(tmp_path: Path) -> None:
    text = '''
def shown(x: int, *, backend: str = "auto") -> int:
    """Gives what it is
    given; no more. Raises nothing."""

def inner(x: int, *, backend: str = "torch") -> int:
    """Chosen."""

def _given(x: int, backend: str) -> int:
    """Told."""
'''
    found = public_functions(written(tmp_path, kernels__one=text, kernels__base__two=text))
    assert found == [Public("kernels.one", "shown", "Gives what it is given")]


def test_the_page_tells_of_every_public_function_and_its_users() -> None:
    lines = [*pages.operations().splitlines(), *pages.beside().splitlines()]
    told = {line.split("`")[1]: line.split(" | ")[2] for line in lines if line.startswith("| `")}
    assert told.keys() == {found.name for found in public_functions()}
    assert told.keys() >= {operation.name for operation in OPERATIONS}
    assert told["rms_norm"] == "scorer, patch"
    assert told["layer_norm"] == LIBRARY_ONLY


@pytest.mark.parametrize("used", [True, False])
def test_the_dispatcher_is_said_to_be_unused_while_it_is(
    used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {("kernels.quantized_linear", "quantized_linear"): ["scorer"]} if used else {}
    monkeypatch.setattr(pages, "users", lambda: found)
    assert ("does not use it yet" in pages.beside()) is not used
