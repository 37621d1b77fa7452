"""What the C library itself says about freed buffers, in a process of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

GIVEN_BACK = """
import torch
from models.allocator import keep_freed_memory, return_freed_memory
from models.benches.memory import resident_mb

assert keep_freed_memory()
buffers = [torch.ones(1 << 18) for _ in range(64)]
last = torch.ones(1 << 18)  # what is free lies below it
before = resident_mb()
del buffers
kept = before - resident_mb()
return_freed_memory()
print(round(kept), round(before - resident_mb()))
"""

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


def test_what_is_kept_can_be_given_back_once() -> None:
    run = subprocess.run([sys.executable, "-c", GIVEN_BACK], check=True, capture_output=True)
    kept, given = map(int, run.stdout.split())
    assert kept < 4
    assert given >= 60
