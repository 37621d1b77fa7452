"""The command `python -m kernels.selfcheck --json - [--ops ...]`. Knows nothing of right results.

Prints one JSON line per operation, backend and dtype and fails if one is wrong. Without a GPU the
Triton rows run in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict

import torch

from kernels.catalogue.table import named
from kernels.kept.machine import version
from kernels.kept.records import recording
from kernels.selfcheck.checking import check_all


def main() -> None:
    """Prints the rows; exit status 1 if any operation is wrong."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", default="-", help="file of JSON lines, - for standard output")
    parser.add_argument("--ops", nargs="*", default=None, help="names; default: all")
    parser.add_argument("--backends", nargs="*", default=["torch", "triton"])
    parser.add_argument("--part", metavar="I/N", default="0/1", help="every Nth operation from I")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":  # before any operation's module imports Triton
        os.environ["TRITON_INTERPRET"] = "1"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, interpreted"
    good, where = True, {"device": name, "triton": version("triton")}
    with recording(options.json) as file:
        for row in check_all(named(options.ops)[part::parts], options.backends, device):
            file.write(asdict(row) | where)
            good = good and row.ok
    sys.exit(not good)


if __name__ == "__main__":
    main()
