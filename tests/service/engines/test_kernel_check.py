"""An engine on a GPU joins only with kernels that agree with their references.

Here the kernels run in Triton's interpreter; no test has started an engine on a GPU.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.catalogue.table import OPERATIONS
from kernels.readme.usage import users
from models.directory import ModelDirectory
from models.errors import DeviceUnavailableError
from service.base.config import Settings
from service.engines.engine_process import warm_engine
from service.engines.kernel_check import (
    EIGHT_BITS,
    FULL_WIDTH,
    KernelsDisagreeError,
    check_kernels,
    hold,
    served,
)

CPU = torch.device("cpu")
GPU = Settings(device="cuda")


def test_all_that_the_scorer_takes_from_the_kernels_is_checked() -> None:
    taken = {place for place, by in users().items() if "scorer" in by}
    scorers = {
        operation.name
        for operation in OPERATIONS
        if (f"kernels.{operation.module_name or operation.name}", operation.name) in taken
    }
    assert scorers == {*FULL_WIDTH, *EIGHT_BITS}


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "fp8"])
def test_a_model_is_checked_in_the_type_it_is_served_in(dtype: str) -> None:
    labels = {operation.label for operation in served(dtype)}
    eight_bits = {f"{name} {dtype}" for name in EIGHT_BITS}
    assert labels == {*FULL_WIDTH, *(eight_bits if dtype != "bfloat16" else ())}


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_right_kernels_are_held_to_be_right(dtype: str) -> None:
    hold(served(dtype), torch.float32 if dtype == "float32" else torch.bfloat16, CPU)


def test_a_wrong_kernel_and_one_that_does_not_run_are_both_named_on_one_line() -> None:
    def other(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return x * weight

    right, wrong = served("float32")[-1], replace(served("float32")[0], reference=other)
    broken = replace(right, module_name="no\nsuch\nmodule")
    with pytest.raises(
        KernelsDisagreeError, match=r"rms_norm in float32 \(off by .* of 1e-05\)"
    ) as told:
        hold([wrong, right, broken], torch.float32, CPU)
    assert "No module named" in str(told.value)
    assert "FAIRSLATE_SELFCHECK=0" in str(told.value)
    assert len(str(told.value).splitlines()) == 1


@pytest.fixture
def a_gpu_on_which_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as torch tells before it is asked to compute."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))


@pytest.mark.usefixtures("a_gpu_on_which_nothing_runs")
def test_no_engine_is_built_on_kernels_that_do_not_run(tiny_directory: ModelDirectory) -> None:
    with pytest.raises(KernelsDisagreeError, match="paged_attention in bfloat16"):
        warm_engine(GPU, tiny_directory, None, None)


@pytest.mark.usefixtures("a_gpu_on_which_nothing_runs")
def test_whoever_wants_no_check_has_none() -> None:
    check_kernels(replace(GPU, selfcheck=0))
    check_kernels(Settings())


def test_a_missing_gpu_is_told_as_that(tiny_directory: ModelDirectory) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(DeviceUnavailableError):
        warm_engine(GPU, tiny_directory, None, None)


WITHOUT_A_GPU = """
import torch
torch.cuda.is_available = lambda: True
torch.cuda.get_device_capability = lambda _: (9, 0)
from service.engine_trial import main
main()
"""


def test_a_trial_ends_with_the_reason(tiny_model_dir: Path) -> None:
    environment: dict[str, Any] = {
        "FAIRSLATE_DEVICE": "cuda",
        "FAIRSLATE_MODEL": str(tiny_model_dir),
        "FAIRSLATE_REASONER": "",
    }
    trial = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_GPU],
        env=environment,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert trial.returncode
    assert "kernels disagree" in trial.stderr.strip().splitlines()[-1]
