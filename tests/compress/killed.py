"""Runs the pipeline and has the process kill itself at a chosen moment. Knows no stage's inside.

    python -m tests.compress.killed RECIPE OUT STAGE MOMENT

A moment is a training step, a file about to be opened for writing, or a rename about to happen.
The process dies at the MOMENT-th of STAGE, or when the stage ends before that. MOMENT 0 kills
nothing and prints how many moments each stage has.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compress import pipeline
from compress.recipes.places import work_of
from compress.recipes.run import Run
from compress.stages import loop

WRITES = os.O_WRONLY | os.O_RDWR


class Moments:
    """Counts moments by stage, and ends the process at the chosen one."""

    def __init__(self, stage: str, moment: int, folder: str) -> None:
        self._stage, self._moment, self._folder = stage, moment, folder
        self.counts: Counter[str] = Counter()
        self.now = ""

    def pass_one(self) -> None:
        """One more moment of the stage that runs now."""
        self.counts[self.now] += 1
        if self.now == self._stage and self.counts[self.now] == self._moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def end_stage(self) -> None:
        """The stage is over; it was to be killed but had fewer moments."""
        if self._moment and self.now == self._stage:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """A hook of sys.addaudithook."""
        writing = event == "open" and arguments[2] is not None and arguments[2] & WRITES
        if self.now and (writing or event == "os.rename"):
            path = os.fspath(arguments[0]) if not isinstance(arguments[0], int) else ""
            if str(path).startswith(self._folder):
                self.pass_one()


def watch(moments: Moments) -> None:
    """Has the pipeline's stages and the loop's steps report their moments."""
    step = loop._step

    def counted(*arguments: Any) -> float:
        moments.pass_one()
        return step(*arguments)

    def staged(make: Callable[..., None]) -> Callable[..., None]:
        def run(self: Run, title: str, *rest: Any) -> None:
            moments.now = title
            make(self, title, *rest)
            moments.end_stage()
            moments.now = ""

        return run

    loop._step = counted  # type: ignore[assignment]
    Run._make = staged(Run._make)  # type: ignore[method-assign]
    sys.addaudithook(moments.audit)


def main() -> int:
    """The command line."""
    recipe, out, stage, moment = sys.argv[1:]
    moments = Moments(stage, int(moment), str(work_of(Path(out))))
    watch(moments)
    sys.argv = ["pipeline", recipe, "--out", out]
    answer = pipeline.main()
    print(json.dumps(moments.counts))
    return answer


if __name__ == "__main__":
    sys.exit(main())
