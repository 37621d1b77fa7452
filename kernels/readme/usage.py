"""Tells what uses the operations, by what the sources import. Imports and runs none of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARY_ONLY = "library only"
# What a reader knows the callers as; what measures or tests an operation is no use of it.
USERS = {
    "models/**/*.py": "scorer",
    "compress/**/*.py": "compress",
    "service/**/*.py": "service",
    "kernels/patch*.py": "patch",
}
BENCHES = re.compile(r"(^|[/_])bench")


@dataclass(frozen=True, slots=True)
class Public:
    """A function of a module of kernels whose caller may choose a backend."""

    module: str
    name: str
    told: str  # the first sentence of its docstring


def users(root: Path = ROOT) -> dict[tuple[str, str], list[str]]:
    """By module and name of what they import from kernels, each user once."""
    found: dict[tuple[str, str], list[str]] = {}
    for pattern, user in USERS.items():
        for path in _sources(root, pattern):
            for taken in _taken(path):
                if user not in found.setdefault(taken, []):
                    found[taken].append(user)
    return found


def _sources(root: Path, pattern: str) -> Iterator[Path]:
    paths = sorted(root.glob(pattern))
    return (path for path in paths if not BENCHES.search(path.relative_to(root).as_posix()))


def _taken(path: Path) -> Iterator[tuple[str, str]]:
    """Raises ValueError for a module imported whole, whose functions could then not be told."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kernels":
            if node.module == "kernels":
                raise ValueError(f"{path} takes a module of kernels whole; import its functions")
            yield from ((str(node.module), alias.name) for alias in node.names)
        if isinstance(node, ast.Import) and any(n.name.startswith("kernels.") for n in node.names):
            raise ValueError(f"{path} takes a module of kernels whole; import its functions")


def public_functions(root: Path = ROOT) -> list[Public]:
    """Of the modules that lie in the folder itself, in their order."""
    return [
        Public(f"kernels.{path.stem}", node.name, _first_sentence(node))
        for path in sorted((root / "kernels").glob("*.py"))
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef) and _chooses_a_backend(node)
    ]


def _chooses_a_backend(function: ast.FunctionDef) -> bool:
    given = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return any(
        argument.arg == "backend" and isinstance(default, ast.Constant) and default.value == "auto"
        for argument, default in given
    )


def _first_sentence(function: ast.FunctionDef) -> str:
    told = (ast.get_docstring(function) or "").split("\n\n")[0]
    return re.split(r";|(?<=\.) ", " ".join(told.split()))[0].rstrip(".")
