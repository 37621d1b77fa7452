"""README's table of compression is what the kept files say, misses included."""

from __future__ import annotations

from pathlib import Path

from compress.benches.kept_runs import FIGURES, KeptRun, read_runs
from compress.benches.rows import Row
from compress.figures import (
    BLOCK,
    MEANINGS,
    README,
    STORED_BLOCK,
    TRAINED,
    kept_films,
    kept_records,
    kept_rows,
    stored_table,
    table,
)
from compress.recipes.records import Record


def test_readme_shows_what_is_kept() -> None:
    shown = BLOCK.search(README.read_text(encoding="utf-8"))
    assert shown is not None
    assert shown.group() == table(kept_rows(), read_runs(), kept_records(), kept_films())


def test_readme_shows_what_stored_candidates_were_worth() -> None:
    shown = STORED_BLOCK.search(README.read_text(encoding="utf-8"))
    assert shown is not None
    assert shown.group() == stored_table()


def test_stored_candidates_stand_beside_the_same_as_text(tmp_path: Path) -> None:
    path = tmp_path / "stored.csv"
    path.write_text(
        "shape,candidates,dtype,tokens,items_per_s,ndcg_10,ndcg_10_low,ndcg_10_high,gauc\n"
        "A,text,int8,24.0,584.3,,,,\nA,stored,int8,3.0,4175.3,,,,\nA,text,float32,24.0,1.0,,,,\n"
        "C,text,int8,51.3,4866.0,0.8622,0.846,0.8749,0.9274\n"
        "C,stored,int8,3.0,40626.4,0.849,0.8344,0.863,0.9242\n"
    )
    *_, shipped, other = stored_table(path).splitlines()
    assert shipped.endswith(
        "51 tokens a text | 4,866 | 40,626 | 0.862 (0.846 to 0.875), 0.927 "
        "| 0.849 (0.834 to 0.863), 0.924 |"
    )
    assert other.endswith("24 tokens a text | 584 | 4,175 | - | - |")


def test_a_miss_is_said_and_stages_stand_in_their_order() -> None:
    rows = [Row("kd_peak_ratio", 0.2345, 0.25, True), Row("kd_time_ratio", 1.6, 1.1, False)]
    arms = {"kd": 0.9, "sft": 0.88}
    run = KeptRun("kd_minus_sft_auc", "auc", "test", "d", arms, -0.01, 0.04, {}, "m", "n")
    metrics = {"gauc": 0.8, "ndcg@10": 0.7, "ece": 0.01}
    records = [
        Record(name, "train", "d", metrics, {}, (), 1000, 2_500_000) for name in ("train", "prune")
    ]
    text = table(rows, [run], records, {"value": 0.61, "low": 0.59, "high": 0.63})
    assert "| 0.6100 (0.5900 to 0.6300) | above 0.627, missed |" in text
    assert "| 0.234 | 0.25 |" in text
    assert "| 1.6 | 1.1, missed |" in text
    assert "| 0.0200 (auc, difference -0.0100 to +0.0400) | 0, missed |" in text
    assert text.index("| train | 1,000 | 2.5 |") < text.index("| prune | 1,000 | 2.5 |")


def test_every_figure_has_words() -> None:
    assert set(TRAINED) == set(FIGURES)
    assert {row.name for row in kept_rows()} <= MEANINGS.keys() | TRAINED.keys()
