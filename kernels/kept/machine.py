"""Names the machine and the software a figure was measured with. Measures nothing."""

from __future__ import annotations

import importlib.metadata
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch

from kernels.kept.conditions import commit

QUERY = ("driver_version", "clocks.sm", "clocks.mem", "power.limit", "temperature.gpu")


def description(device: torch.device) -> dict[str, str]:
    """Columns for each row of a CSV; an empty string for what is not known or not there."""
    smi = dict(zip(QUERY, _nvidia_smi(), strict=True)) if device.type == "cuda" else {}
    return {
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "driver": smi.get("driver_version", ""),
        "torch": torch.__version__,
        "triton": version("triton"),
        "liger": version("liger-kernel"),
        "transformers": version("transformers"),
        "commit": commit(),
        "sm_clock_mhz": smi.get("clocks.sm", ""),
        "memory_clock_mhz": smi.get("clocks.mem", ""),
        "power_limit_w": smi.get("power.limit", ""),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
    }


def _processor() -> str:
    """What stands in place of a GPU."""
    told = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in told.splitlines() if "model name" in line]
    return f"none: {next(iter(names), 'a CPU')}, {torch.get_num_threads()} threads"


def version(distribution: str) -> str:
    """Its version, or "" where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _nvidia_smi() -> list[str]:
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return [""] * len(QUERY)
    first = (run.stdout.splitlines() or [""])[0].split(", ")
    return first if len(first) == len(QUERY) else [""] * len(QUERY)
