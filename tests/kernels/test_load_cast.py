"""A lint of the kernels' sources: what a load gives is cast at once. Runs no kernel.

The interpreter computes garbage on bf16 values, mostly without a word, so each `tl.load` must be
followed by `.to(...)` in the same expression, or stand in the list of exceptions with its reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernels.catalogue import discovery

INTEGERS = "int32 or int64, which the interpreter computes right"
FOR_TENSOR_CORES = "cast before the product when interpreted, kept narrow for the tensor cores"
# (kernel, what the address starts with): the loads that are not cast at once, and why.
EXCEPTIONS = {
    ("_cross_entropy_kernel", "targets_ptr"): INTEGERS,
    ("_distillation_kernel", "targets_ptr"): INTEGERS,
    ("_sparse_kernel", "targets_ptr"): INTEGERS,
    ("_sparse_kernel", "outcomes_ptr"): INTEGERS,
    ("_sparse_kernel", "scores_ptr"): "always fp32: the launcher widens them",
    ("_paged_attention_kernel", "tile_starts_ptr"): INTEGERS,
    ("_paged_attention_kernel", "tile_stops_ptr"): INTEGERS,
    ("_paged_attention_kernel", "tile_groups_ptr"): INTEGERS,
    ("_paged_attention_kernel", "item_starts_ptr"): INTEGERS,
    ("_paged_attention_kernel", "page_offsets_ptr"): INTEGERS,
    ("_paged_attention_kernel", "prefix_lengths_ptr"): INTEGERS,
    ("_paged_attention_kernel", "q_ptr"): FOR_TENSOR_CORES,
    ("_paged_attention_kernel", "k_ptr"): FOR_TENSOR_CORES,
    ("_paged_attention_kernel", "v_ptr"): FOR_TENSOR_CORES,
    ("load_prefix", "keys_at"): FOR_TENSOR_CORES,
    ("load_prefix", "values_at"): FOR_TENSOR_CORES,
    ("page_of", "pages"): INTEGERS,
    ("starts_of", "item_starts_ptr"): INTEGERS,
    ("bounds_of", "tile_starts_ptr"): INTEGERS,
    ("bounds_of", "tile_stops_ptr"): INTEGERS,
    ("_quantized_gemm_kernel", "a_tile"): FOR_TENSOR_CORES,
    ("_quantized_gemm_kernel", "b_tile"): FOR_TENSOR_CORES,
    ("_weight_only_kernel", "x_tile"): FOR_TENSOR_CORES,
    ("_weight_only_kernel", "packed_ptr"): "int32, of which four bits each are taken",
    ("_quantize_rows_kernel", "x_ptr"): "cast by the statement that follows",
}


def jitted(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(
            ast.unparse(decorator) in ("jit", "triton.jit") for decorator in node.decorator_list
        ):
            yield node


def bare_loads(function: ast.FunctionDef) -> Iterator[str]:
    """The first name in the address of each `tl.load` that no `.to(...)` is called on."""
    cast = {
        id(node.func.value)
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "to"
    }
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and is_load(node) and id(node) not in cast:
            yield first_name(node.args[0])


def first_name(address: ast.expr) -> str:
    while isinstance(address, ast.BinOp):
        address = address.left
    return ast.unparse(address)


def is_load(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "tl.load"


def found_in(source: str) -> set[tuple[str, str]]:
    tree = ast.parse(source)
    return {(function.name, name) for function in jitted(tree) for name in bare_loads(function)}


def kernel_sources() -> list[Path]:
    return [
        path for path in sorted(discovery.FOLDER.rglob("*.py")) if "@jit" in path.read_text("utf-8")
    ]


@pytest.mark.parametrize("path", kernel_sources(), ids=lambda path: path.stem)
def test_what_is_loaded_is_cast(path: Path) -> None:
    assert found_in(path.read_text("utf-8")) - EXCEPTIONS.keys() == set()


def test_no_exception_is_out_of_date() -> None:
    found = set().union(*(found_in(path.read_text("utf-8")) for path in kernel_sources()))
    assert EXCEPTIONS.keys() - found == set()


KERNEL = """
@jit
def kernel(x_ptr, y_ptr):
    x = {load}
    tl.store(y_ptr, x * 2)
"""


@pytest.mark.parametrize(
    ("load", "caught"),
    [
        ("tl.load(x_ptr).to(tl.float32)", False),
        ("tl.load(x_ptr)", True),
        ("tl.load(x_ptr) * 2.0", True),
        ("tl.load(x_ptr, mask=m, other=0.0)", True),
        ("tl.dot(tl.load(x_ptr), tl.load(y_ptr).to(tl.float32))", True),
        ("tl.load(y_ptr + tl.load(x_ptr)).to(tl.float32)", True),
    ],
)
def test_the_lint_sees(load: str, caught: bool) -> None:
    assert bool(found_in(KERNEL.format(load=load))) is caught
