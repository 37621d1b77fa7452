"""Tables, goals, reasons and plots made of kept figures. Knows no kernel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kernels.kept.figures import COPY, EQUAL, MODEL_COLUMNS, grouped, slowest
from kernels.kept.records import read_csv
from kernels.readme import pages, plots, reasons
from kernels.readme.goals import Figures, goals, goals_table
from kernels.readme.report import bench_table, losses_table, won

FOLDERS = pages.measured_folders()


def figures(provider: str, median: float, commit: str = "a") -> dict[str, str]:
    names = {"op": "rms_norm", "mode": "forward", "model": "Qwen3-0.6B", "tokens": "32768"}
    measured = {"median_us": str(median), "share": "0.5", "share_of": "copy", "commit": commit}
    return names | measured | {"provider": provider}


ROWS = [figures("ours", 10.0), figures("liger", 9.0), figures("torch.compile", 10.1)]


def cells(table: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def test_goals_without_figures_read_not_measured() -> None:
    lines = cells(goals_table({"H100": Figures([])}))
    assert lines
    assert all(line[1] == "not measured" for line in lines)


def test_a_missed_goal_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasons, "GOALS", (("`rms_norm` 85", "small"),))
    lines = cells(goals_table({"H100": Figures(ROWS), "H200": Figures([])}))
    shown = next(line for line in lines if line[0].startswith("`rms_norm` 85"))
    assert shown[1:] == ["50% **missed**", "not measured", "small"]


def test_a_copy_timed_beside_a_row_is_what_its_share_is_of() -> None:
    found = goals(Figures([*ROWS, figures(COPY, 9.2)]))
    shown = next(goal for goal in found if goal.asked.startswith("`rms_norm` 85"))
    assert (shown.measured, shown.reached) == ("92%", True)


def test_a_row_we_lose_is_shown_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasons, "ROWS", (("rms_norm forward * 32768", "small"),))
    lost = ["rms_norm", "forward", "liger", "0.90x", "Qwen3-0.6B: 32768", "small"]
    assert cells(losses_table(ROWS)) == [lost]
    with_eager = [*ROWS, figures("eager", 50.0)]
    assert cells(bench_table(with_eager))[0][-2:] == ["0.90x", "small"]
    assert won(ROWS) == "1 of 1 rows against torch.compile, 0 of 1 rows against liger"


def test_the_last_run_stands_alone() -> None:
    (group,) = grouped([*ROWS, figures("ours", 8.0, commit="b")]).values()
    assert group.keys() == {"ours"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_providers_of_a_row_ran_at_one_commit(folder: Path) -> None:
    commits: dict[tuple[str, ...], set[str]] = {}
    for row in read_csv(folder / "bench.csv"):
        commits.setdefault(tuple(row[name] for name in MODEL_COLUMNS), set()).add(row["commit"])
    assert {key: found for key, found in commits.items() if len(found) > 1} == {}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_row_below_one_says_why(folder: Path) -> None:
    lost = {
        key: reasons.reason(key, group)
        for key, group in grouped(read_csv(folder / "bench.csv")).items()
        if slowest(group) < EQUAL
    }
    assert [key for key, why in lost.items() if why == reasons.UNKNOWN] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_missed_goal_says_why(folder: Path) -> None:
    missed = [goal.asked for goal in goals(pages.figures_of(folder)) if goal.reached is False]
    assert [asked for asked in missed if reasons.reason_of_goal(asked) == reasons.UNKNOWN] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_plots_show_every_operation_of_the_file(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "bench.csv"
    kept.write_bytes((folder / "bench.csv").read_bytes())
    assert [path.read_bytes()[:4] for path in plots.draw(tmp_path)] == [b"\x89PNG"] * 2
    groups = grouped(read_csv(kept))
    drawn = {label.split(",")[0] for label in plots.shares(groups) | plots.gains(groups)}
    timed = {row["op"] for row in read_csv(kept) if not row["mode"].startswith("against")}
    assert drawn == timed


def test_links_lead_somewhere() -> None:
    folder = pages.README.parent
    links = re.findall(r"\]\(([^)#:]+)\)", pages.README.read_text("utf-8"))
    assert len(links) > 40
    assert [link for link in links if not (folder / link).exists()] == []


def test_pages_hold_the_kept_figures() -> None:
    text = pages.README.read_text("utf-8")
    assert pages.generated(text) == text, "run python -m kernels.readme"
    for folder in FOLDERS:
        shown = (folder / "README.md").read_text("utf-8")
        assert shown == pages.page(folder), "run python -m kernels.readme"
