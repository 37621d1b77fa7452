"""Plants one bug in a copy of a module, to see whether the checks notice. Knows no kernel.

A table PLANTED_BUGS = {"name": ("right text", "wrong text")} beside the tests of a module keeps
the slips its checks must catch.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

NO_BUG = ("", "")


def each_caught(
    module: ModuleType, bugs: dict[str, tuple[str, str]], checks: Callable[[ModuleType], None]
) -> Callable[[str, Path], None]:
    """The test that `checks` passes on `module` and fails on a copy with each of the bugs."""
    known = {"none": NO_BUG} | bugs

    @pytest.mark.parametrize("bug", known)
    @pytest.mark.filterwarnings("ignore::RuntimeWarning")  # infinities are read on purpose
    def test(bug: str, tmp_path: Path) -> None:
        if known[bug] == NO_BUG:
            checks(module)
        else:
            assert_caught(module, known[bug], tmp_path, checks)

    return test


def assert_caught(
    module: ModuleType, bug: tuple[str, str], folder: Path, checks: Callable[[ModuleType], None]
) -> None:
    """`checks(copy of module with the bug)` must fail an assertion; `checks(module)` passes."""
    broken = load_broken_copy(module, folder, *bug)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # infinities are read on purpose
        with pytest.raises(AssertionError):
            checks(broken)


def load_broken_copy(module: ModuleType, folder: Path, right: str, wrong: str) -> ModuleType:
    """Imports `module`'s source from `folder` with `right`, which must stand once, put wrong."""
    assert module.__file__ is not None
    source = Path(module.__file__).read_text(encoding="utf-8")
    count = source.count(right)
    assert count == 1, f"{right!r} stands {count} times in {module.__name__}; it must stand once"
    # Under its own name an operator of the copy would take the place of the original's.
    source = source.replace(right, wrong).replace('"fairslate::', '"fairslate_planted::')
    path = folder / f"broken_{module.__name__.rpartition('.')[2]}.py"
    path.write_text(source, encoding="utf-8")
    return _load(path)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
