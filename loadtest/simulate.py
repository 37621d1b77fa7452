"""Simulates a suite and prints its rows: `python -m loadtest.simulate --suite fig1 --json -`.

Knows only the command line and the files; the engine is `loadtest.simulation`, and every decision
is the gate's own policy code. The same seed and commit give the same rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from loadtest.fresh import conditions
from loadtest.simulation.scenario import Outcome, play
from loadtest.simulation.suites import SUITES, scenarios


def main(arguments: list[str] | None = None) -> None:
    """Runs the scenarios one after the other; progress goes to stderr."""
    options = parse(arguments)
    outcomes: list[Outcome] = []
    for scenario in scenarios(options.suite, options.seed, options.quick):
        outcomes.append(play(scenario))
        row = {name: cell for name, cell in outcomes[-1].row.items() if name != "conditions"}
        print(json.dumps(row), file=sys.stderr)
    if options.json:
        write(options.json, [with_commit(outcome.row) for outcome in outcomes])
    if options.plot:
        from loadtest.simulation.plots import draw  # matplotlib is for developers only

        draw(options.suite, outcomes, options.plot)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=sorted(SUITES), required=True)
    parser.add_argument("--json", metavar="PATH", help="where the rows go; - is stdout")
    parser.add_argument("--plot", metavar="DIR", type=Path, help="where PNG files go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tenth of the time, fewer workers")
    return parser.parse_args(arguments)


def with_commit(row: dict[str, Any]) -> dict[str, Any]:
    """The row; its own conditions say all but which code it is that the same seed repeats."""
    return row | {"conditions": {"commit": conditions()["commit"]} | row["conditions"]}


def write(target: str, rows: list[dict[str, object]]) -> None:
    """One row a line, as a JSON list."""
    text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        Path(target).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
