"""What the C library itself says about freed buffers, in a process of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

# mallinfo2(3) is ten size_t: arena bytes come first, bytes of blocks mapped one by one fifth.
PROBE = """
import ctypes, sys, torch
from models.allocator import keep_freed_memory

class Information(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "abcdefghij"]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Information

def held():
    information = library.mallinfo2()
    return information.a + information.e

if sys.argv[1] == "tuned":
    assert keep_freed_memory()
buffers = [torch.ones(1 << 18) for _ in range(64)]
before = held()
del buffers
print((before - held()) >> 20)
"""


@pytest.mark.parametrize(("mode", "returned_mebibytes"), [("plain", 64), ("tuned", 0)])
def test_freed_buffers_stay_with_the_process(mode: str, returned_mebibytes: int) -> None:
    run = subprocess.run([sys.executable, "-c", PROBE, mode], check=True, capture_output=True)
    assert int(run.stdout) == returned_mebibytes
