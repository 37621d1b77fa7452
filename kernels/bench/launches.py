"""Tells what the rows of a benchmark launch, without a GPU. Times and computes nothing.

`python -m kernels.bench.launches` keeps a digest for each row in results/launches.csv. A benchmark
writes the digest of what it timed into its row: where the two differ, code or settings were
changed since.

A launch is a kernel's code, with that of all it calls, its grid, its compile-time values, warps,
stages and registers, and the types, strides and sizes of its arguments. Rows run on operands
without memory, on a CPU that stands for the GPU the kernels were made for.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import hashlib
import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels.base.dispatch import interpreting, triton
from kernels.base.variant import Cost
from kernels.bench import special
from kernels.bench.plan import Row
from kernels.bench.providers import Task
from kernels.bench.rivals import Rivals
from kernels.bench.rows import planned_rows
from kernels.bench.special import Special
from kernels.catalogue.discovery import operation_modules
from kernels.catalogue.operation import Draw
from kernels.catalogue.table import OPERATIONS
from kernels.kept.earlier import DIGEST, LAUNCHES, ROW_COLUMNS
from kernels.kept.records import recording
from kernels.losses import token_chunks

PROCESSORS = 132  # of an H100 or H200
DEVICE = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of one kernel; `digest` is of all that decides what the GPU then does."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[tuple[str, str], ...]  # name and dtype or value, of those not compiled in
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, Any], ...]  # num_warps, num_stages, maxnreg

    def digest(self) -> str:
        """Of the kernel's code as it is now."""
        parts = (self.grid, self.arguments, self.constants, self.options)
        return _hashed(code_digest(self.kernel) + repr(parts))


def digest_of(launches: list[Launch]) -> str:
    """One for all launches of a row, in their order."""
    return _hashed("".join(launch.digest() for launch in launches))


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def code_digest(kernel: Any) -> str:
    """Of what a kernel and all it calls say, comments and docstrings aside."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kernel.fn)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:]
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names = sorted(named & {*kernel.fn.__code__.co_names})  # not its own variables
    known = [kernel.fn.__globals__.get(name) for name in names]
    called = [code_digest(found) for found in known if _is_kernel(found)]
    constants = [(type(found).__name__, str(found)) for found in known if _is_value(found)]
    return _hashed(ast.unparse(tree) + "".join(called) + str(constants))


def _is_kernel(found: Any) -> bool:
    return isinstance(found, triton.runtime.JITFunction)


def _is_value(found: Any) -> bool:
    return isinstance(found, int | float | str | triton.language.constexpr)


@contextlib.contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Takes down what is launched in the block, and launches none of it."""
    launches: list[Launch] = []

    def note(kernel: Any, *operands: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append(_launch(kernel, grid, operands, options))

    with mock.patch.object(triton.runtime.JITFunction, "run", note):
        yield launches


def _launch(kernel: Any, grid: Any, operands: tuple[Any, ...], given: dict[str, Any]) -> Launch:
    names = kernel.arg_names
    options = tuple(sorted((name, value) for name, value in given.items() if name not in names))
    values = inspect.signature(kernel.fn).bind(
        *operands, **{name: value for name, value in given.items() if name in names}
    )
    values.apply_defaults()
    fixed = {param.name for param in kernel.params if param.is_constexpr}
    known = values.arguments
    return Launch(
        kernel,
        tuple(grid(known) if callable(grid) else grid),
        tuple((name, _told(value)) for name, value in known.items() if name not in fixed),
        tuple((name, value) for name, value in known.items() if name in fixed),
        options,
    )


def _told(value: Any) -> str:
    """Aligned tensors are alike but for their dtype; a float is no part of the code."""
    if isinstance(value, Tensor):
        return f"*{value.dtype}"
    return "float" if isinstance(value, float) else repr(value)


@contextlib.contextmanager
def pretending() -> Iterator[None]:
    """Tensors without memory on a CPU, for which launchers choose what they choose on a Hopper."""
    with contextlib.ExitStack() as stack:
        for module in {operation.module() for operation in OPERATIONS} | {*operation_modules()}:
            for name, value in _ON_A_GPU.items():
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, value))
        for table in (token_chunks.CHUNK_BYTES, token_chunks.TILE_TOKENS):
            stack.enter_context(mock.patch.dict(table, cpu=table["cuda"]))
        stack.enter_context(mock.patch.object(Task, "_backend", _backend))
        stack.enter_context(mock.patch.object(Rivals, "add", _take_ours))
        stack.enter_context(mock.patch.object(special, "plain_attention", _no_truth))
        stack.enter_context(mock.patch.object(special, "paged_attention_cost", _no_cost))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def _backend(task: Task) -> str:
    return "triton"


def _on_triton(backend: str, example: Tensor) -> str:
    return "triton"


_ON_A_GPU: dict[str, Callable[..., Any]] = {
    "choose_backend": _on_triton,
    "_on_hopper": lambda device: True,
    "_processors": lambda device: PROCESSORS,
}


def _take_ours(
    rivals: Rivals, provider: str, make: Callable[[], Any], results: Callable[[], Any]
) -> None:
    if provider.startswith("ours"):
        rivals.calls[provider] = make()


def _no_truth(**operands: Any) -> Tensor:
    return torch.empty(0)


def _no_cost(*operands: Any) -> Cost:
    return Cost(0, 0)


def launches_of(row: Row | Special) -> dict[str, list[Launch]]:
    """What each of our calls of a row launches, within `pretending`."""
    found = {}
    for provider, call in _calls(row).items():
        with recorded() as launches:
            call()
        found[provider] = launches
    return found


def _calls(row: Row | Special) -> dict[str, Callable[[], Any]]:
    if isinstance(row, Special):
        calls = row.rivals(DEVICE).calls
        return {name: call for name, call in calls.items() if name.startswith("ours")}
    operands = row.operation.operands(Draw(DEVICE, torch.bfloat16), row.model, row.tokens)
    task = Task(row.operation, operands, row.backward)
    (function,) = task.functions("ours").values()
    return {"ours": partial(task.compile, function)}


Key = tuple[str, ...]  # the row's operation, mode, models, tokens and provider


def digests(rows: Iterable[Row | Special]) -> dict[Key, str]:
    """What each of our calls of these rows launches; a row that cannot run has none."""
    found: dict[Key, str] = {}
    with pretending():
        for row in rows:
            label = (row.name, row.mode, row.model_names, str(row.tokens))
            with contextlib.suppress(Exception):  # of one broken module the others tell nothing
                for provider, launches in launches_of(row).items():
                    found[*label, provider] = digest_of(launches)
    return found


def main() -> None:
    """Keeps the digests of all planned rows."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--csv", type=Path, default=LAUNCHES, help="file that is written anew")
    path = parser.parse_args().csv
    if triton is None or interpreting():
        sys.exit("needs Triton, and TRITON_INTERPRET unset: an interpreted kernel is not launched")
    path.unlink(missing_ok=True)
    with recording(os.devnull, path) as file:
        for key, digest in sorted(digests(planned_rows()).items()):
            file.write(dict(zip((*ROW_COLUMNS, DIGEST), (*key, digest), strict=True)))


if __name__ == "__main__":
    main()
