"""The command `python -m kernels.aot --json - [90 ...]`. Knows nothing of compilers.

Prints one JSON line per kernel, target and shape, and fails if one does not compile, takes more
shared memory than the target has, spills on sm_90 more than it says, or multiplies matrices without
the tensor cores.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from kernels.aot.compiling import SHARED_LIMIT, compile_all
from kernels.base.dispatch import interpreting, triton
from kernels.kept.records import recording


def main() -> None:
    """Compiles for the capabilities named on the command line (default: all known)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("capability", type=int, nargs="*", default=list(SHARED_LIMIT))
    parser.add_argument("--json", default="-", help="file of JSON lines, - for standard output")
    parser.add_argument("--kernels", default="", help="a regular expression for their names")
    options = parser.parse_args()
    if triton is None or interpreting():
        sys.exit("needs Triton, and TRITON_INTERPRET unset: an interpreted kernel is not compiled")
    problems = []
    with recording(options.json) as file:
        for row in compile_all(options.capability, options.kernels):
            file.write(asdict(row))
            if row.problem:
                problems.append(f"{row.kernel} [{row.shape}] on {row.target}: {row.problem}")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
