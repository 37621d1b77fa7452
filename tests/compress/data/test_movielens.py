"""Films in words: what is counted, what is left out, and a folder that ranking stages read."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.data.movielens import (
    CARDINALS,
    Bounds,
    Ratings,
    Standing,
    film_words,
    main,
    tastes,
    write,
)
from compress.data.requests import load_requests

# Films 1 and 2 by members 1 to 3; the last row is of no training split.
STARS = [(1, 1, 5.0), (1, 2, 3.0), (2, 1, 4.0), (2, 2, 2.0), (3, 2, 4.0), (3, 1, 1.0)]


def _ratings() -> list[dict[str, Any]]:
    splits = ["train"] * 5 + ["test"]
    return [
        {"userId": member, "movieId": film, "rating": stars, "split": split}
        for (member, film, stars), split in zip(STARS, splits, strict=True)
    ]


def _request(member: int, split: str) -> dict[str, object]:
    return {
        "qid": f"{split}-{member}",
        "user": member,
        "prefix": "Liked: A (1999).",
        "hist": [1, 2],
        "hist_rating": [5.0, 3.0],
        "cand": [1, 2],
        "label": [1, 0],
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "movielens"
    folder.mkdir()
    with gzip.open(folder / "ratings.csv.gz", "wt", newline="") as file:
        writer = csv.DictWriter(file, ["userId", "movieId", "rating", "split"])
        writer.writeheader()
        writer.writerows(_ratings())
    items = [
        {"id": 1, "text": "A (1999) - Sci-Fi", "title": "A (1999)", "genres": "Sci-Fi"},
        {"id": 2, "text": "B - Drama, War", "title": "B", "genres": "Drama|War"},
    ]
    rows = {"items": items} | {
        split: [_request(member, split) for member in (1, 2, 3)]
        for split in ("train", "valid", "test")
    }
    for name, content in rows.items():
        with gzip.open(folder / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in content)
    return folder


def test_a_member_is_not_told_the_own_rating() -> None:
    ratings = Ratings(_ratings())
    # Of film 1 member 2's rating is left, a star above that member's mean; of 5, 3 are liked.
    for member, raters, liked, above in ((1, 1, 1, 1), (9, 2, 2, 2)):
        found = ratings.standing(1, member)
        assert found.raters == raters
        assert found.liked == pytest.approx((liked + 4 * 0.6) / (raters + 4))
        assert found.above == pytest.approx(above / (raters + 4))
    assert ratings.standing(1, 3) == ratings.standing(1, 9)  # 3 rated it in `test` alone
    assert ratings.standing(7, 1).liked == pytest.approx(0.6)


def test_words_of_a_scale_are_equally_frequent() -> None:
    standings = [Standing(n % 90, n / 1000, (n * 7 % 1000) / 1000) for n in range(1000)]
    bounds = Bounds.of(standings)
    liked = [bounds.words(one).split(",")[0].removeprefix("liked ") for one in standings]
    assert np.unique(liked, return_counts=True)[1].tolist() == [50] * len(CARDINALS)
    assert bounds.words(standings[0]) == "liked one, rated first, unseen"
    assert bounds.words(standings[-1]).endswith("known")  # 9 raters


def test_decades_and_tastes_are_words() -> None:
    assert film_words("A (1999) - Drama") == "A (1999) - Drama, nineties"
    assert film_words("A (2018) - Drama") == "A (2018) - Drama, newest"
    assert film_words("Without a year - Drama") == "Without a year - Drama"
    found = tastes([5.0, 5.0, 2.0], [["Sci-Fi"], ["Sci-Fi"], ["Drama"]])
    assert found == "dramahater, scififanatic"


def test_a_folder_is_written_that_stages_read(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "one")
    write(source, tmp_path / "two")
    for name in ("items", "train", "valid", "test"):
        both = [(tmp_path / out / f"{name}.jsonl.gz").read_bytes() for out in ("one", "two")]
        assert both[0] == both[1]
        assert both[0][4:8] == bytes(4)  # gzip's time stamp, which would tell two seconds apart
    (first, *_), (tested, *_) = (load_requests(tmp_path / "one", s) for s in ("train", "test"))
    assert first.context == "Liked: A (1999). Tastes: dramacritic, scifilover, warcritic."
    assert first.candidates[0].startswith("A (1999) - Sci-Fi, nineties. liked ")
    assert first.candidates[0].endswith("obscure")  # without the member's own
    assert tested.candidates == first.candidates  # the member rated it in train: left out as well
    assert first.binary
    assert first.by_user


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def told(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[Path, Path], str]:
    """What a command that fails says, on one line."""

    def call(source: Path, out: Path) -> str:
        monkeypatch.setattr("sys.argv", ["x", "--source", str(source), "--out", str(out)])
        assert main() == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return call


def test_the_source_is_never_written_over(
    source: Path, tmp_path: Path, told: Callable[[Path, Path], str]
) -> None:
    before = _content(source)
    (tmp_path / "link").symlink_to(source)
    for out in (source, tmp_path / "link", source / "." / ".." / source.name):
        assert "is the source itself" in told(source, out)
        assert _content(source) == before


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-12])


def _changed(path: Path, **fields: Any) -> None:
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in [*rows[:-1], rows[-1] | fields])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda source: shutil.rmtree(source), "No such file or directory"),
        (lambda source: _cut(source / "ratings.csv.gz"), "ratings.csv.gz: cannot be read after"),
        (lambda source: _changed(source / "items.jsonl.gz", genres=5), "genres of row 2 is 5"),
        (lambda source: _changed(source / "test.jsonl.gz", user=None), "user of row 3 is None"),
        (lambda source: _changed(source / "train.jsonl.gz", cand=[1, 9]), "row 3 names 9"),
        (lambda source: _changed(source / "test.jsonl.gz", hist=[1, [2]]), "row 3 names [2]"),
        (lambda source: _changed(source / "test.jsonl.gz", hist_rating=[1, "a"]), "a number for"),
        (lambda source: _changed(source / "test.jsonl.gz", hist_rating=[1]), "each of 2 films"),
    ],
    ids=range(8),
)
def test_what_is_no_source_is_named_and_nothing_of_the_old_folder_changes(
    source: Path,
    tmp_path: Path,
    told: Callable[[Path, Path], str],
    damage: Callable[[Path], None],
    said: str,
) -> None:
    write(source, tmp_path / "out")
    before = _content(tmp_path / "out")
    damage(source)
    assert said in told(source, tmp_path / "out")
    assert _content(tmp_path / "out") == before
