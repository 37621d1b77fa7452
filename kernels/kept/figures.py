"""Sets kept figures side by side: who is faster by how much. Knows no kernel, prints nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Row = dict[str, str]
Group = dict[str, Row]  # what providers needed for the same
Groups = dict[tuple[str, ...], Group]

MODEL_COLUMNS = ("op", "mode", "model", "tokens")
RUN_COLUMNS = ("gpu", "commit")
RIVALS = ("torch.compile", "liger", "liger chunked")
PROVIDERS = ("eager", *RIVALS)
COPY = "copy of as many bytes"
EQUAL = 0.98  # as much differs from run to run


def grouped(rows: Iterable[Row], columns: Sequence[str] = MODEL_COLUMNS) -> Groups:
    """Rows by provider, for each value of `columns`; of several runs only the last one's."""
    groups: Groups = {}
    for row in rows:
        group = groups.setdefault(tuple(row[name] for name in columns), {})
        if any(_run_of(other) != _run_of(row) for other in group.values()):
            group.clear()
        group[row["provider"]] = row
    return groups


def _run_of(row: Mapping[str, str]) -> list[str | None]:
    return [row.get(name) for name in RUN_COLUMNS]


def value(group: Group, provider: str, column: str = "median_us") -> float | None:
    """None where the provider did not run."""
    text = group.get(provider, {}).get(column, "")
    return float(text) if text else None


def over(slow: float | None, fast: float | None) -> float | None:
    """Their quotient, where both are there."""
    return slow / fast if slow and fast else None


def speeds(group: Group) -> dict[str, float]:
    """How many times as fast as each rival we are."""
    ours = value(group, "ours")
    found = {rival: over(value(group, rival), ours) for rival in RIVALS}
    return {rival: speed for rival, speed in found.items() if speed is not None}


def slowest(group: Group) -> float:
    """Our speed against the fastest rival; infinite where there is none."""
    return min(speeds(group).values(), default=float("inf"))


def copy_share(group: Group) -> float | None:
    """Of a copy of as many bytes in the same run; where none was timed, of a large copy's rate."""
    measured = over(value(group, COPY), value(group, "ours"))
    return measured if measured is not None else value(group, "ours", "share")
