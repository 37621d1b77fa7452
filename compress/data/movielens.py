"""Puts movielens_small into words: beside title and genres, what `train` says of a film.

    python -m compress.data.movielens --source ../shared/data/movielens_small --out DIR

DIR is a data folder as the ranking stages read it. A film's words are how many liked it, how its
ratings stand to what its raters usually give, and how many know it; in a request of `train` the
member's own rating counts for none of them. Knows no model. The data are not for commercial use.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data.requests import (
    Columns,
    DataError,
    Kinds,
    checked_rows,
    finite,
    read_table,
)
from compress.stages.whole_files import unfinished_name
from models.errors import FairslateError

SPLITS = ("train", "valid", "test")
RATING: Columns = {"userId": int, "movieId": int, "rating": finite, "split": str}
FILM: Kinds = {"id": int, "text": str, "genres": str}
REQUEST: Kinds = {"user": int, "prefix": str, "cand": list, "hist": list, "hist_rating": list}
LIKED = 4.0  # stars, as in the data's own labels
PRIOR = 4.0  # ratings that a film's mean starts from
SURE = 2.0  # films of a genre before a member's taste for it is believed
SCALES = """
one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty

first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth
fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth
"""
CARDINALS, ORDINALS = (words.split() for words in SCALES.split("\n\n"))
FAME = ("unseen", "obscure", "rare", "uncommon", "known", "famous", "ubiquitous")
DECADES = (
    *("tens", "twenties", "thirties", "forties", "fifties", "sixties"),
    *("seventies", "eighties", "nineties", "noughties", "newest"),
)
TASTES = ("hater", "critic", "viewer", "lover", "fanatic")
TASTE_EDGES = (-0.4, -0.1, 0.1, 0.4)  # stars above the member's usual

Film = int
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one film among members: raters, the share that liked it, stars above their usual."""

    raters: int
    liked: float
    above: float


class Ratings:
    """Those of `train`, by film; any one of them can be left out."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        given = {
            (row["userId"], row["movieId"]): row["rating"]
            for row in rows
            if row["split"] == "train"
        }
        by_member: dict[int, list[float]] = defaultdict(list)
        for (member, _), stars in given.items():
            by_member[member].append(stars)
        usual = {member: float(np.mean(stars)) for member, stars in by_member.items()}
        self._own = {
            (member, film): np.array([1.0, stars >= LIKED, stars - usual[member]])
            for (member, film), stars in given.items()
        }
        self._sums: dict[Film, Floats] = defaultdict(lambda: np.zeros(3))
        for (_, film), counted in self._own.items():
            self._sums[film] += counted
        self._prior = sum(one[1] for one in self._own.values()) / max(1, len(self._own))

    def standing(self, film: Film, member: int) -> Standing:
        """What all others say of a film."""
        sums = self._sums.get(film, np.zeros(3)) - self._own.get((member, film), 0.0)
        raters, liked, above = sums.tolist()
        weight = raters + PRIOR
        return Standing(round(raters), (liked + PRIOR * self._prior) / weight, above / weight)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where the words of a scale change; equally many candidates of `train` fall between two."""

    liked: Floats
    above: Floats

    @classmethod
    def of(cls, standings: Sequence[Standing]) -> Bounds:
        """From those of all candidates."""
        places = np.linspace(0, 1, len(CARDINALS) + 1)[1:-1]
        scales = ([one.liked for one in standings], [one.above for one in standings])
        return cls(*(np.quantile(np.array(values), places) for values in scales))

    def words(self, standing: Standing) -> str:
        """A phrase such as "liked twelve, rated ninth, famous"."""
        liked = CARDINALS[int(np.searchsorted(self.liked, standing.liked))]
        rated = ORDINALS[int(np.searchsorted(self.above, standing.above))]
        fame = FAME[min(len(FAME) - 1, standing.raters.bit_length())]
        return f"liked {liked}, rated {rated}, {fame}"


def film_words(text: str) -> str:
    """The data's own "Title (year) - genres", and the decade in a word."""
    year = re.search(r"\((\d{4})\)", text)
    if year is None:
        return text
    decade = min(len(DECADES) - 1, max(0, (int(year[1]) - 1910) // 10))
    return f"{text}, {DECADES[decade]}"


def tastes(stars: Sequence[float], genres: Sequence[Sequence[str]]) -> str:
    """What a history says of genres, such as "dramalover, horrorcritic", by how it rated them."""
    usual = float(np.mean(stars))
    sums, counts = defaultdict[str, float](float), Counter[str]()
    for given, named in zip(stars, genres, strict=True):
        for genre in named:
            sums[genre] += given - usual
            counts[genre] += 1
    kinds = {name: sums[name] / (counts[name] + SURE) for name in counts}
    return ", ".join(
        f"{_letters(name)}{TASTES[int(np.searchsorted(TASTE_EDGES, value))]}"
        for name, value in sorted(kinds.items())
    )


def _letters(genre: str) -> str:
    return re.sub(r"[^a-z]", "", genre.lower())


class Writer:
    """Rewrites requests; every film is an item once for each phrase that stands beside it."""

    def __init__(self, source: Path) -> None:
        rows = list(checked_rows(source / "items.jsonl.gz", FILM))
        self._texts = {row["id"]: film_words(row["text"]) for row in rows}
        self._genres = {row["id"]: row["genres"].split("|") for row in rows}
        self._ratings = Ratings(read_table(source / "ratings.csv.gz", RATING))
        train = self._requests(source / "train.jsonl.gz")
        self._bounds = Bounds.of(
            [self._ratings.standing(film, row["user"]) for row in train for film in row["cand"]]
        )
        self._items: dict[str, str] = {}

    def rewritten(self, path: Path) -> Iterator[dict[str, Any]]:
        """The same requests with ids of items in words. Raises DataError for what is none."""
        for row in self._requests(path):
            yield self._rewritten(row)

    def phrased(self) -> Iterator[dict[str, Any]]:
        """The items of all requests that were rewritten until now."""
        for name, text in self._items.items():
            yield {"id": name, "text": text}

    def _requests(self, path: Path) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(checked_rows(path, REQUEST), 1):
            self._refuse_unknown(path, number, row)
            yield row

    def _refuse_unknown(self, path: Path, number: int, row: Mapping[str, Any]) -> None:
        for film in (*row["cand"], *row["hist"]):
            if type(film) is not int or film not in self._texts:
                raise DataError(
                    f"{path}: row {number} names {film!r}, which is no film of items.jsonl.gz; "
                    "write the row again"
                )
        stars = row["hist_rating"]
        if len(stars) != len(row["hist"]) or any(type(one) not in (int, float) for one in stars):
            raise DataError(
                f"{path}: hist_rating of row {number} is {stars!r}; write a number for each of "
                f"{len(row['hist'])} films of hist"
            )

    def _rewritten(self, row: Mapping[str, Any]) -> dict[str, Any]:
        candidates = [self._candidate(film, row["user"]) for film in row["cand"]]
        return {**row, "cand": candidates, "prefix": self._context(row)}

    def _candidate(self, film: Film, member: int) -> str:
        phrase = self._bounds.words(self._ratings.standing(film, member))
        text = f"{self._texts[film]}. {phrase}"
        name = f"{film}: {phrase}"
        self._items[name] = text
        return name

    def _context(self, row: Mapping[str, Any]) -> str:
        """The data's own text and the tastes behind it."""
        genres = [self._genres[film] for film in row["hist"]]
        return f"{row['prefix']} Tastes: {tastes(row['hist_rating'], genres)}."


def write(source: Path, out: Path) -> None:
    """All files or none. Raises DataError for a source of another form, or one that is `out`.

    Raises OSError where either folder cannot be used.
    """
    if out.exists() and out.samefile(source):
        raise DataError(f"--out {out} is the source itself; name another folder")
    writer = Writer(source)
    out.mkdir(parents=True, exist_ok=True)
    files = {
        f"{split}.jsonl.gz": writer.rewritten(source / f"{split}.jsonl.gz") for split in SPLITS
    }
    files["items.jsonl.gz"] = writer.phrased()  # of those that the requests before it named
    beside = {name: unfinished_name(out / name) for name in files}
    try:
        for name, rows in files.items():
            _write_rows(beside[name], rows)
        for name, path in beside.items():
            path.replace(out / name)
    finally:
        for path in beside.values():
            path.unlink(missing_ok=True)


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Without a time stamp, so that the same data have the same digest."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        for line in _lines(rows):
            file.write(line)


def _lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    for row in rows:
        yield (json.dumps(row, ensure_ascii=False) + "\n").encode()


def main() -> int:
    """The command line; data that cannot be read or written exit with 1."""
    parser = argparse.ArgumentParser(prog="python -m compress.data.movielens")
    parser.add_argument("--source", type=Path, required=True, help="movielens_small")
    parser.add_argument("--out", type=Path, required=True, help="data folder to write")
    options = parser.parse_args()
    try:
        write(options.source, options.out)
    except FairslateError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error}; mend that and give the same command again", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
