"""score_head against an fp64 truth, on torch and on interpreted Triton. Knows nothing of models."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import score_head as module
from kernels.score_head import label_difference, score_head, score_probabilities
from tests.kernels.planted import each_caught
from tests.kernels.score_case import EPS, TOLERANCE, operands, truth
from tests.kernels.truth import (
    BACKENDS,
    DTYPES,
    assert_accurate,
    assert_guard_untouched,
    guarded,
    spread,
    surrounded,
)

# rows, hidden, labels: the demo ranker, one value, a tail block, two tail blocks, many labels
SHAPES = [(24, 192, 2), (1, 1, 1), (3, 123, 2), (5, 2049, 3), (2, 700, 128)]
# |p - truth| in fp32; the worst measured is 1.6e-6, of 128 labels whose logits reach 50
PROBABILITY_TOLERANCE = 3.2e-6


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_formula_in_fp64(
    shape: tuple[int, int, int], dtype: torch.dtype, backend: str
) -> None:
    hidden, norm_weight, label_rows = operands(*shape, dtype)
    actual = score_head(hidden, norm_weight, EPS, label_rows, backend=backend)
    assert actual.dtype == torch.float32
    assert_accurate("logits", actual, truth(hidden, norm_weight, label_rows), TOLERANCE)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("labels", [1, 2, 5, 128])
def test_probabilities_are_calibrated_logits(labels: int, backend: str) -> None:
    check_probabilities(module, labels, backend)


def check_probabilities(found: ModuleType, labels: int, backend: str) -> None:
    hidden, norm_weight, label_rows = operands(5, 123, labels)
    scale, shift = 0.37, -1.25 if labels == 1 else 0.0
    logits, probabilities = found.score_probabilities(
        hidden, norm_weight, EPS, label_rows, scale=scale, shift=shift, backend=backend
    )
    exact = truth(hidden, norm_weight, label_rows)
    assert_accurate("logits", logits, exact, TOLERANCE)
    exact = scale * exact + shift
    exact = exact.sigmoid() if labels == 1 else exact.softmax(dim=1)
    error = float((probabilities.double() - exact).abs().max())
    assert error <= PROBABILITY_TOLERANCE, f"probabilities: {error:.3g}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:overflow")
def test_extreme_logits_stay_probabilities(backend: str) -> None:
    check_extreme_logits(module, backend)


def check_extreme_logits(found: ModuleType, backend: str) -> None:
    hidden, norm_weight = torch.ones(1, 64), torch.ones(64)
    label_rows = torch.tensor([[200.0], [-200.0], [200.0]]).expand(3, 64)
    _, several = found.score_probabilities(hidden, norm_weight, EPS, label_rows, backend=backend)
    _, one = found.score_probabilities(hidden, norm_weight, EPS, label_rows[1:2], backend=backend)
    assert torch.equal(several, torch.tensor([[0.5, 0.0, 0.5]]))
    assert torch.equal(one, torch.zeros(1, 1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_difference_of_two_labels_is_their_softmax(backend: str) -> None:
    hidden, norm_weight, label_rows = operands(6, 123, 2, torch.bfloat16)
    difference = label_difference(label_rows[0], label_rows[1])
    assert difference.dtype == torch.float32
    _, one = score_probabilities(hidden, norm_weight, EPS, difference, backend=backend)
    _, two = score_probabilities(hidden, norm_weight, EPS, label_rows, backend=backend)
    torch.testing.assert_close(one[:, 0], two[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_named_rows_are_gathered(dtype: torch.dtype, backend: str) -> None:
    check_gather(module, dtype, backend)


def check_gather(found: ModuleType, dtype: torch.dtype, backend: str) -> None:
    hidden, norm_weight, label_rows = operands(9, 123, 2)
    rows = torch.tensor([8, 0, 3, 3], dtype=dtype)
    actual = found.score_head(hidden, norm_weight, EPS, label_rows, rows=rows, backend=backend)
    expected = truth(hidden[rows.long()], norm_weight, label_rows)
    assert_accurate("logits", actual, expected, TOLERANCE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_eps_keeps_a_row_of_zeros_finite_and_small_rows_small(backend: str) -> None:
    check_eps(module, backend)


def check_eps(found: ModuleType, backend: str) -> None:
    _, norm_weight, label_rows = operands(1, 64, 2)
    hidden = torch.stack((torch.zeros(64), torch.full((64,), 1e-4)))
    actual = found.score_head(hidden, norm_weight, EPS, label_rows, backend=backend)
    expected = truth(hidden, norm_weight, label_rows)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows_give_no_logits(backend: str) -> None:
    _, norm_weight, label_rows = operands(1, 64, 2)
    empty = torch.empty(0, 64)
    assert score_head(empty, norm_weight, EPS, label_rows, backend=backend).shape == (0, 2)
    both = score_probabilities(empty, norm_weight, EPS, label_rows, backend=backend)
    assert [t.shape for t in both] == [(0, 2), (0, 2)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_operands_are_read_in_place_or_copied(backend: str) -> None:
    hidden, norm_weight, label_rows = operands(6, 123, 3)
    expected = score_head(hidden, norm_weight, EPS, label_rows, backend=backend)
    apart = [spread(t) for t in (hidden, norm_weight, label_rows)]
    every_other_row = torch.stack((hidden, hidden + 1), dim=1).flatten(0, 1)[::2]
    by_column = score_head(apart[0], apart[1], EPS, apart[2], backend=backend)
    by_row = score_head(every_other_row, norm_weight, EPS, label_rows, backend=backend)
    assert torch.equal(by_column, expected)
    assert torch.equal(by_row, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_outside_the_output_is_written(backend: str) -> None:
    check_output_is_guarded(module, backend)


def check_output_is_guarded(found: ModuleType, backend: str) -> None:
    hidden, norm_weight, label_rows = operands(5, 123, 3)
    (logits_buffer, logits), (buffer, probabilities) = guarded(5, 3), guarded(5, 3)
    out = (logits, probabilities)
    found.score_probabilities(hidden, norm_weight, EPS, label_rows, backend=backend, out=out)
    expected = truth(hidden, norm_weight, label_rows)
    assert_accurate("logits", logits, expected, TOLERANCE)
    assert_accurate("probabilities", probabilities, expected.softmax(dim=1), 2e-6)
    assert_guard_untouched(logits_buffer, logits)
    assert_guard_untouched(buffer, probabilities)


def test_reads_stop_at_the_last_column() -> None:
    check_reads_are_guarded(module)


def check_reads_are_guarded(found: ModuleType) -> None:
    plain = operands(4, 123, 3)
    hidden, norm_weight, label_rows = map(surrounded, plain)
    actual = found.score_head(hidden, norm_weight, EPS, label_rows, backend="triton")
    assert_accurate("logits", actual, truth(*plain), TOLERANCE)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(8)), count=st.integers(1, 8))
def test_a_row_scores_the_same_in_any_company(order: list[int], count: int) -> None:
    hidden, norm_weight, label_rows = operands(8, 123, 2)
    full = score_head(hidden, norm_weight, EPS, label_rows, backend="triton")
    chosen = order[:count]
    some = score_head(hidden[chosen], norm_weight, EPS, label_rows, backend="triton")
    assert torch.equal(some, full[chosen])


def test_torch_library_accepts_the_operator() -> None:
    hidden, norm_weight, label_rows = operands(4, 16, 2)
    rows, (logits, probabilities) = torch.tensor([3, 1]), torch.empty(2, 2, 2)
    arguments = (logits, probabilities, hidden, norm_weight, EPS, label_rows, rows, 1.0, 0.0)
    torch.library.opcheck(module._launch_score_head.twin, arguments)


# Each is a plausible slip; the checks above must catch every one of them.
PLANTED_BUGS = {
    "eps forgotten": ("/ HIDDEN + eps", "/ HIDDEN"),
    "norm weight forgotten": ("label_row * (x * weight)", "label_row * x"),
    "only the last block squared": ("squares += x * x", "squares = x * x"),
    "mean over the block": ("/ HIDDEN + eps", "/ BLOCK_HIDDEN + eps"),
    "columns unmasked": ("inside = columns < HIDDEN", "inside = columns < 1 << 30"),
    "labels unmasked in the store": ("labels, logits, labels < label_count", "labels, logits"),
    "row stride taken for width": ("row * hidden_row_stride", "row * HIDDEN"),
    "output stride taken for width": ("program * logits_row_stride", "program * label_count"),
    "rows in order": ("row = tl.load(rows_ptr + program).to(tl.int64)", "row = program"),
    "scale forgotten": ("scale * logits + shift)\n        else", "logits + shift)\n        else"),
    "absent labels weighed": ("scale * logits, float", "scale * logits, 0 * float"),
    "largest kept": ("tl.exp(scaled - tl.max(scaled, axis=0))", "tl.exp(scaled)"),
    "probabilities unmasked": (
        "outputs, probabilities, labels < label_count",
        "outputs, probabilities",
    ),
}


def run_all_checks(found: ModuleType) -> None:
    check_output_is_guarded(found, "triton")
    check_reads_are_guarded(found)
    check_eps(found, "triton")
    check_gather(found, torch.int32, "triton")
    check_extreme_logits(found, "triton")
    check_probabilities(found, 1, "triton")
    check_probabilities(found, 5, "triton")
    hidden, norm_weight, label_rows = operands(2, 2049, 3)
    actual = found.score_head(hidden, norm_weight, EPS, label_rows, backend="triton")
    assert_accurate("logits", actual, truth(hidden, norm_weight, label_rows), TOLERANCE)


@pytest.mark.filterwarnings("ignore:overflow")
def test_the_checks_pass_without_a_bug() -> None:
    run_all_checks(module)


test_planted_bugs_are_caught = each_caught(module, PLANTED_BUGS, run_all_checks)


def test_kernels_work_without_triton_installed() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from kernels.score_head import score_head\n"
        "print(score_head(torch.ones(1, 4), torch.ones(4), 0.0, torch.ones(1, 4)).item())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "4.0\n"
