"""score_head against an fp64 truth, on torch and on interpreted Triton. Knows nothing of models."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import score_head as module
from kernels.score_head import score_head

EPS = 1e-6
ScoreHead = Callable[..., Tensor]

# rows, hidden, labels: the demo ranker, one value, a tail block, two tail blocks, many labels
SHAPES = [(24, 192, 2), (1, 1, 1), (3, 123, 2), (5, 1025, 3), (2, 700, 128)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# RMS of the error over RMS of the truth; the worst measured over SHAPES and DTYPES is 2.7e-7
TOLERANCE = 5e-7


def operands(rows: int, hidden: int, labels: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(rows * 7919 + hidden)
    draw = [torch.randn(s, generator=generator) for s in ((rows, hidden), (hidden,))]
    label_rows = torch.randn((labels, hidden), generator=generator)
    return draw[0].mul(3).to(dtype), draw[1].add(1).to(dtype), label_rows.to(dtype)


def truth(hidden: Tensor, norm_weight: Tensor, label_rows: Tensor) -> Tensor:
    rows = hidden.double()
    norm = rows / (rows.square().mean(-1, keepdim=True) + EPS).sqrt()
    return (norm * norm_weight.double()) @ label_rows.double().T


def relative_error(actual: Tensor, expected: Tensor) -> float:
    error = (actual.double() - expected).square().mean().sqrt()
    return float(error / expected.square().mean().sqrt())


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_formula_in_fp64(
    shape: tuple[int, int, int], dtype: torch.dtype, backend: str
) -> None:
    hidden, norm_weight, label_rows = operands(*shape, dtype)
    actual = score_head(hidden, norm_weight, EPS, label_rows, backend=backend)
    assert actual.dtype == torch.float32
    expected = truth(hidden, norm_weight, label_rows)
    assert relative_error(actual, expected) <= TOLERANCE


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_eps_keeps_a_row_of_zeros_finite_and_small_rows_small(backend: str) -> None:
    _, norm_weight, label_rows = operands(1, 64, 2, torch.float32)
    hidden = torch.stack((torch.zeros(64), torch.full((64,), 1e-4)))
    actual = score_head(hidden, norm_weight, EPS, label_rows, backend=backend)
    torch.testing.assert_close(
        actual.double(), truth(hidden, norm_weight, label_rows), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_no_rows_give_no_logits(backend: str) -> None:
    _, norm_weight, label_rows = operands(1, 64, 2, torch.float32)
    empty = score_head(torch.empty(0, 64), norm_weight, EPS, label_rows, backend=backend)
    assert empty.shape == (0, 2)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_strided_operands_are_read_in_place_or_copied(backend: str) -> None:
    hidden, norm_weight, label_rows = operands(6, 123, 3, torch.float32)
    expected = score_head(hidden, norm_weight, EPS, label_rows, backend=backend)
    spread = [t.repeat_interleave(2, dim=-1)[..., ::2] for t in (hidden, norm_weight, label_rows)]
    every_other_row = torch.stack((hidden, hidden + 1), dim=1).flatten(0, 1)[::2]
    by_column = score_head(spread[0], spread[1], EPS, spread[2], backend=backend)
    by_row = score_head(every_other_row, norm_weight, EPS, label_rows, backend=backend)
    torch.testing.assert_close(by_column, expected, rtol=0, atol=0)
    torch.testing.assert_close(by_row, expected, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_nothing_outside_the_output_is_written(backend: str) -> None:
    assert_output_is_guarded(score_head, backend)


def assert_output_is_guarded(function: ScoreHead, backend: str) -> None:
    hidden, norm_weight, label_rows = operands(5, 123, 3, torch.float32)
    guarded = torch.full((7, 9), -7.5)
    function(hidden, norm_weight, EPS, label_rows, backend=backend, out=guarded[1:6, 3:6])
    written = guarded[1:6, 3:6].clone()
    guarded[1:6, 3:6] = -7.5
    assert relative_error(written, truth(hidden, norm_weight, label_rows)) <= TOLERANCE
    assert (guarded == -7.5).all()


def test_reads_stop_at_the_last_column() -> None:
    assert_reads_are_guarded(score_head)


def assert_reads_are_guarded(function: ScoreHead) -> None:
    """Surrounds each operand with infinities, which spoil every sum they enter."""
    plain = operands(4, 123, 3, torch.float32)
    guarded = [torch.full((t.numel() // 123 + 2, 131), torch.inf) for t in plain]
    inner = [g[1:-1, 4:127] for g in guarded]
    for view, operand in zip(inner, plain, strict=True):
        view.copy_(operand.reshape(-1, 123))
    actual = function(inner[0], inner[1][0], EPS, inner[2], backend="triton")
    assert relative_error(actual, truth(*plain)) <= TOLERANCE


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(8)), count=st.integers(1, 8))
def test_a_row_scores_the_same_in_any_company(order: list[int], count: int) -> None:
    hidden, norm_weight, label_rows = operands(8, 123, 2, torch.float32)
    full = score_head(hidden, norm_weight, EPS, label_rows, backend="triton")
    chosen = order[:count]
    some = score_head(hidden[chosen], norm_weight, EPS, label_rows, backend="triton")
    assert torch.equal(some, full[chosen])


@pytest.mark.parametrize(
    ("hidden", "norm_weight", "label_rows", "message"),
    [
        ((4,), (4,), (2, 4), r"hidden has shape \(4,\)"),
        ((3, 4), (5,), (2, 4), r"norm_weight has shape \(5,\); it must be \(4,\)"),
        ((3, 4), (4,), (2, 5), r"label_rows has shape \(2, 5\); it must be \(labels, 4\)"),
        ((3, 4), (4,), (0, 4), "label_rows has 0 labels; pass 1 to 128"),
        ((3, 4), (4,), (129, 4), "label_rows has 129 labels; pass 1 to 128"),
    ],
)
def test_wrong_shapes_are_named_and_never_reach_the_kernel(
    hidden: tuple[int, ...], norm_weight: tuple[int, ...], label_rows: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score_head(torch.ones(hidden), torch.ones(norm_weight), EPS, torch.ones(label_rows))


@pytest.mark.parametrize(
    "out", [torch.empty(3, 3), torch.empty(4, 2).half(), torch.empty(2, 4).T], ids=str
)
def test_an_output_of_another_form_is_refused(out: Tensor) -> None:
    hidden, norm_weight, label_rows = operands(4, 8, 2, torch.float32)
    with pytest.raises(ValueError, match=r"it must be float32 \(4, 2\)"):
        score_head(hidden, norm_weight, EPS, label_rows, out=out)


# Each is a plausible slip; the checks above must catch every one of them.
PLANTED_BUGS = {
    "eps forgotten": ("/ hidden_size + eps", "/ hidden_size"),
    "norm weight forgotten": ("(x * weight)[None, :]", "x[None, :]"),
    "only the last block squared": ("squares += x * x", "squares = x * x"),
    "mean over the block": ("/ hidden_size + eps", "/ BLOCK_HIDDEN + eps"),
    "columns unmasked": ("inside = columns < hidden_size", "inside = columns < 1 << 30"),
    "labels unmasked in the store": ("rstd, labels < label_count", "rstd, labels < 1 << 30"),
    "row stride taken for width": ("row * hidden_row_stride", "row * hidden_size"),
    "output stride taken for width": ("row * output_row_stride", "row * label_count"),
}


@pytest.mark.parametrize("bug", PLANTED_BUGS)
def test_planted_bugs_are_caught(bug: str, tmp_path: Path) -> None:
    broken = load_broken_copy(tmp_path, *PLANTED_BUGS[bug])
    with pytest.raises(AssertionError):
        run_all_checks(broken.score_head)


def load_broken_copy(folder: Path, right: str, wrong: str) -> ModuleType:
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(right) == 1, f"{right!r} no longer names one place of score_head.py"
    path = folder / "broken_score_head.py"
    path.write_text(source.replace(right, wrong), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    broken = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(broken)
    return broken


def run_all_checks(function: ScoreHead) -> None:
    assert_output_is_guarded(function, "triton")
    assert_reads_are_guarded(function)
    for shape in SHAPES:
        hidden, norm_weight, label_rows = operands(*shape, torch.float32)
        actual = function(hidden, norm_weight, EPS, label_rows, backend="triton")
        assert relative_error(actual, truth(hidden, norm_weight, label_rows)) <= TOLERANCE
    tiny = torch.full((1, 64), 1e-4)
    ones = torch.ones(64)
    actual = function(tiny, ones, EPS, ones[None], backend="triton")
    assert relative_error(actual, truth(tiny, ones, ones[None])) <= 1e-5


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
