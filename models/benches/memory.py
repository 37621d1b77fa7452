"""How much memory this process holds and held at most, by Linux' own count. Knows no benchmark."""

from __future__ import annotations

from pathlib import Path

STATUS = Path("/proc/self/status")
PEAK_RESET = Path("/proc/self/clear_refs")


def resident_mb() -> float:
    """Memory resident now."""
    return _field("VmRSS:")


def peak_mb() -> float:
    """The most that was resident since `reset_peak`."""
    return _field("VmHWM:")


def reset_peak() -> None:
    """Starts a new peak at what is resident now."""
    PEAK_RESET.write_text("5", encoding="ascii")  # proc(5): sets VmHWM to VmRSS


def _field(name: str) -> float:
    (line,) = (row for row in STATUS.read_text("utf-8").splitlines() if row.startswith(name))
    return int(line.split()[1]) / 1024
