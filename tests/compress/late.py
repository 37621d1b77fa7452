"""Runs the pipeline in processes of which the second clears up late. Knows no stage's inside.

    torchrun ... -m tests.compress.late RECIPE OUT

The first one fails when it is to publish beside what the second one still has to remove.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from compress import pipeline
from compress.recipes import run
from compress.recipes.places import publish, work_of
from compress.stages import parallel

LATE_SECONDS = 1.0


class Late:
    """In place of `shutil` where a run removes what its own rank wrote."""

    def rmtree(self, path: Path, **options: Any) -> None:
        """Late in all processes but the first."""
        time.sleep(LATE_SECONDS if parallel.rank() else 0.0)
        shutil.rmtree(path, **options)


def checked(last: Path, out: Path) -> None:
    """In place of `publish`."""
    assert not (work_of(out) / "unfinished.rank1").exists(), "the other process is not done"
    publish(last, out)


def main() -> int:
    """The command line."""
    recipe, out = sys.argv[1:]
    run.shutil = Late()  # type: ignore[assignment, attr-defined]
    run.publish = checked  # type: ignore[attr-defined]
    sys.argv = ["pipeline", recipe, "--out", out]
    return pipeline.main()


if __name__ == "__main__":
    parallel.end(main())
