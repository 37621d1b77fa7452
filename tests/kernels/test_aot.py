"""Every kernel compiles for GPUs that are not here. Knows nothing of what the kernels compute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.aot import SHARED_LIMIT


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_every_kernel_compiles(capability: int, tmp_path: Path) -> None:
    # A process of its own: this one interprets its kernels and cannot compile them.
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "kernels.aot", str(capability)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    built = [json.loads(line) for line in run.stdout.splitlines()]
    assert {entry["dtype"] for entry in built} == {"fp32", "bf16", "fp16"}
    assert all(entry["cubin_bytes"] > 1000 for entry in built)
