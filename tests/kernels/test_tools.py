"""The tools around the operations: table, check, benchmark, tables of figures. Knows no kernel."""

from __future__ import annotations

import importlib
import inspect
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from kernels.bench.plan import plan
from kernels.bench.timing import time_side_by_side
from kernels.catalogue.accuracy import relative_error, worst_error
from kernels.catalogue.discovery import FOLDER, dotted_name
from kernels.catalogue.operation import Draw, Operation
from kernels.catalogue.shapes import MODELS, TINY
from kernels.catalogue.table import OPERATIONS, named
from kernels.selfcheck import checking as selfcheck

CPU = torch.device("cpu")


def entry(name: str) -> Operation:
    return named([name])[0]


def public_operations() -> set[str]:
    """Functions of the package whose caller may choose a backend."""
    found = set()
    for path in FOLDER.rglob("*.py"):
        if 'backend: str = "auto"' in path.read_text("utf-8"):
            module = importlib.import_module(dotted_name(path))
            for name, function in inspect.getmembers(module, inspect.isfunction):
                chosen = inspect.signature(function).parameters.get("backend")
                if chosen and chosen.default == "auto" and function.__module__ == module.__name__:
                    found.add(name)
    return found


# Not operations of their own: another form of one in the table, and what replaces modules.
OTHERS = {
    "geglu_packed": "swiglu_packed",
    "score_probabilities": "score_head",
    "patch": "",
    "quantized_linear": "quantized_gemm",
}


def test_every_public_operation_stands_in_the_table() -> None:
    assert public_operations() - OTHERS.keys() == {operation.name for operation in OPERATIONS}


def test_an_unknown_operation_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no operation soft_head; known are rms_norm"):
        named(["soft_head"])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_an_operation_is_right_on_torch_and_knows_its_cost(operation: Operation) -> None:
    for dtype in operation.dtypes:
        row = selfcheck.check(operation, "torch", dtype, CPU)
        assert row.ok, row
    operands = operation.operands(Draw(CPU, torch.bfloat16), TINY, 5)
    cost = operation.cost(operands, bool(operation.trained))
    assert cost.bytes > 0


def test_a_wrong_operation_fails_its_check() -> None:
    wrong = replace(entry("rms_norm"), reference=lambda x, weight, eps: x * weight)
    row = selfcheck.check(wrong, "torch", torch.float32, CPU)
    assert not row.ok
    assert row.max_error is not None
    assert row.max_error > 0.1


def test_an_operation_that_raises_is_told_and_hides_no_other() -> None:
    broken = replace(entry("rms_norm"), module_name="no_such_module")
    rows = list(selfcheck.check_all([broken, entry("score_head")], ["torch"], CPU))
    assert [row.ok for row in rows] == [False, False, True, True]
    assert "no_such_module" in rows[0].problem


@pytest.mark.parametrize(
    ("actual", "truth", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([1.0, math.nan], [1.0, 2.0], math.inf),
        ([1.0, -math.inf], [1.0, -math.inf], 0.0),
        ([1.0, 7.0], [1.0, -math.inf], math.inf),
        ([], [], 0.0),
        ([1.0], [1.0, 2.0], math.inf),
    ],
)
def test_errors_are_relative_to_the_largest_value(
    actual: list[float], truth: list[float], error: float
) -> None:
    assert relative_error(torch.tensor(actual), torch.tensor(truth)) == error


def test_a_missing_result_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 results; the reference has 2"):
        worst_error([torch.ones(1)], [torch.ones(1)] * 2)


def test_rows_are_planned_by_importance_and_models_alike_share_one() -> None:
    rows = plan(named(["rms_norm", "linear_distillation"]))
    assert [row.importance for row in rows] == sorted(row.importance for row in rows)
    wide = [row for row in rows if row.name == "rms_norm" and row.model.hidden == 2048]
    assert {row.model_names for row in wide} == {"Qwen3-1.7B, Llama-3.2-1B"}
    first = next(row for row in rows if row.name == "linear_distillation jsd")
    assert first.model == MODELS[2]


def test_calls_take_turns() -> None:
    calls: list[str] = []
    both = {name: partial(calls.append, name) for name in "ab"}
    timings = time_side_by_side(both, CPU, window_ms=0.0)  # the fewest repeats, of either as many
    assert timings["a"].method == "wall"
    assert "".join(calls[-10:]) == "ab" * 5
