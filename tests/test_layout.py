"""The walls between the packages, checked on the sources themselves. Knows nothing of behaviour."""

from __future__ import annotations

import ast
import graphlib
import importlib.metadata
import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Which of our packages each one may import; kernels <- models <- {compress, service}.
MAY_IMPORT = {
    "kernels": {"kernels"},
    "models": {"models", "kernels"},
    "compress": {"compress", "models", "kernels"},
    "service": {"service", "models", "kernels"},
    "loadtest": {"loadtest"},
}
# The simulator runs the gate's own decisions, which know no Redis.
PURE_GATE = {f"service.gate.{name}" for name in ("policy", "tree", "pool", "job", "settings")}
SIMULATOR = ("loadtest/simulate", "loadtest/simulation/")
KERNEL_TOOLS = {
    f"kernels/{room}" for room in ("catalogue", "kept", "selfcheck", "aot", "bench", "readme")
}
LONGEST_FILE = 300
COMMAND = 'if __name__ == "__main__":'
PLACES_OF_ONE_MACHINE = re.compile(r"(?<![\w.])/(?:work|root|opt|home)/|file:///|--find-links")


def tracked_files() -> list[Path]:
    """What a clone would hold, files not yet committed included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for line in listing.splitlines() if (path := ROOT / line).is_file()]


def sources() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield "." * node.level + node.module


def forbidden_imports(package: str, path: str, tree: ast.Module) -> list[str]:
    return [
        name
        for name in imports(tree)
        if name.startswith(".")
        or (
            name.split(".")[0] in MAY_IMPORT.keys() - MAY_IMPORT[package]
            and not (path.startswith(SIMULATOR) and name in PURE_GATE)
        )
    ]


def room_imports(root: Path, package: str) -> dict[str, set[str]]:
    """Which folders of a package each of its folders imports from.

    A command on the package's first floor is a door, and so a room by itself.
    """
    rooms: dict[str, set[str]] = {}
    for path in (root / package).rglob("*.py"):
        room = room_of(root, path.relative_to(root).with_suffix(""))
        names = [Path(*name.split(".")) for name in imports(ast.parse(path.read_text("utf-8")))]
        theirs = {room_of(root, name) for name in names if name.parts[0] == package}
        rooms.setdefault(room, set()).update(theirs - {room})
    return rooms


def room_of(root: Path, name: Path) -> str:
    """The folder that a module is in, or is, or the module where it is a door."""
    if (root / name).is_dir() or is_door(root, name):
        return name.as_posix()
    return name.parent.as_posix()


def is_door(root: Path, name: Path) -> bool:
    """Whether it is a command right under its package."""
    source = root / name.with_suffix(".py")
    return len(name.parts) == 2 and source.exists() and COMMAND in source.read_text("utf-8")


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_our_names_resolve_into_this_repository(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin == str(ROOT / name / "__init__.py")


def test_no_distribution_claims_the_name_kernels() -> None:
    # transformers takes such a distribution's version for Hugging Face's and fails on import.
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("kernels")


def test_nothing_of_ours_is_ever_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["setuptools"]["packages"] == []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        assert forbidden_imports(package, name, ast.parse(path.read_text("utf-8"))) == [], name


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_rooms_of_a_package_make_no_circle(package: str) -> None:
    tuple(graphlib.TopologicalSorter(room_imports(ROOT, package)).static_order())  # else CycleError


DRAWN = {"compress": "\ncompress/pipeline.py", "service": "\nservice/app.py"}


def drawn_rooms(package: str) -> list[set[str]]:
    """The folders of a package as README.md draws them, line by line from the top."""
    drawing = (ROOT / "README.md").read_text("utf-8").partition(DRAWN[package])[2]
    lines = drawing.partition("```")[0].splitlines()[1:]
    return [{f"{package}/{room}" for room in re.findall(r"(\w+)/(?:  |$)", x)} for x in lines]


def upward_imports(rooms: dict[str, set[str]], drawn: list[set[str]]) -> dict[str, set[str]]:
    """By room, those that it imports and that are not drawn below it."""
    below: set[str] = set()
    upward: dict[str, set[str]] = {}
    for line in reversed(drawn):
        upward |= {room: rooms[room] - below for room in line if rooms[room] - below}
        below |= line
    return upward


@pytest.mark.parametrize("package", DRAWN)
def test_the_rooms_of_a_package_stand_as_the_readme_draws_them(package: str) -> None:
    rooms, drawn = room_imports(ROOT, package), drawn_rooms(package)
    folders = {room for room in rooms.keys() - {package} if not is_door(ROOT, Path(room))}
    assert set().union(*drawn) == folders
    assert upward_imports(rooms, drawn) == {}


def test_a_room_that_imports_from_its_line_or_above_is_seen() -> None:
    rooms: dict[str, set[str]] = {"top": {"low"}, "side": {"top"}, "low": {"top"}}
    upward = upward_imports(rooms, [{"top", "side"}, {"low"}])
    assert upward == {"side": {"top"}, "low": {"top"}}


def test_kernels_know_none_of_their_tools() -> None:
    rooms = room_imports(ROOT, "kernels")
    known = {room: rooms[room] & KERNEL_TOOLS for room in rooms.keys() - KERNEL_TOOLS}
    assert not any(known.values()), known


def test_a_circle_of_rooms_is_seen(tmp_path: Path) -> None:
    for room, other in (("data", "steps"), ("steps", "data")):
        (tmp_path / "pack" / room).mkdir(parents=True)
        (tmp_path / "pack" / room / "one.py").write_text(f"from pack.{other}.one import x")
    with pytest.raises(graphlib.CycleError):
        tuple(graphlib.TopologicalSorter(room_imports(tmp_path, "pack")).static_order())


@pytest.mark.parametrize(
    ("package", "line", "allowed"),
    [
        ("service", "from compress.data.requests import read", False),
        ("models", "import service.gate.policy", False),
        ("kernels", "from models.errors import FairslateError", False),
        ("loadtest", "from models.prompt import PromptBuilder", False),
        ("service", "from . import jobs, app\nfrom .jobs import encode", False),
        ("service", "import models.card, kernels.base.dispatch, torch", True),
    ],
)
def test_the_import_guard_sees_each_form(package: str, line: str, allowed: bool) -> None:
    assert (forbidden_imports(package, "x.py", ast.parse(line)) == []) is allowed


def test_only_the_simulator_may_know_the_policy() -> None:
    tree = ast.parse("from service.gate.policy import order")
    assert forbidden_imports("loadtest", "loadtest/simulate.py", tree) == []
    assert forbidden_imports("loadtest", "loadtest/traffic.py", tree) != []
    impure = ast.parse("from service.gate.store import GateStore")
    assert forbidden_imports("loadtest", "loadtest/simulation/engine.py", impure) != []


@pytest.mark.parametrize("package", ["models", "compress", "service"])
def test_errors_that_others_see_have_the_one_root(package: str) -> None:
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / package).rglob("*.py")]
    errors = {
        node.name: {ast.unparse(base) for base in node.bases}
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and re.fullmatch(r"[A-Z]\w*Error", node.name)
    }
    assert len(errors) > 5
    errors.pop("FairslateError", None)
    known = errors.keys() | {"FairslateError"}
    assert {name: bases for name, bases in errors.items() if not bases & known} == {}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_files_hold_a_docstring_only(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.py").read_text("utf-8"))
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_tests_have_no_package_files() -> None:
    # A package tests/kernels would shadow ours.
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_every_source_opens_with_what_it_does() -> None:
    silent = [p for p in sources() if not p.read_text("utf-8").startswith('"""')]
    assert silent == []


def test_no_source_is_too_long_to_read() -> None:
    lengths = {p: len(p.read_text("utf-8").splitlines()) for p in sources()}
    assert {p: n for p, n in lengths.items() if n > LONGEST_FILE} == {}


def test_no_file_names_a_place_on_one_machine() -> None:
    texts = [p for p in tracked_files() if p.suffix not in {".gz", ".png", ".safetensors"}]
    found = {p: PLACES_OF_ONE_MACHINE.findall(p.read_text("utf-8")) for p in texts}
    found.pop(Path(__file__))
    assert {p: places for p, places in found.items() if places} == {}


@pytest.mark.parametrize("lock", ["cpu", "dev", "cuda", "vllm"])
def test_a_lock_pins_plain_versions(lock: str) -> None:
    lines = (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 50
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []


def test_tests_run_on_the_versions_that_serve() -> None:
    serving, testing = (
        set((ROOT / "requirements" / name).read_text("utf-8").splitlines()[1:])
        for name in ("cpu.txt", "dev.txt")
    )
    assert serving <= testing
