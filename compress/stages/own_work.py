"""Whose a working folder is: that of one run, and of the one that began it. Knows no stage.

A run that was killed goes on in its folder; what another run left there would be mixed into it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.stages.stage import RecipeError, StageError
from compress.stages.whole_files import unfinished_name, write_json
from models.card import CARD_NAME, file_digest

ORIGIN_NAME = "recipe.json"


@contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """Two runs in one folder would take each other's stages away half written.

    Raises RecipeError while another process holds it; the kernel lets it go when that one dies.
    """
    work.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(work, os.O_RDONLY)
    try:
        _lock(descriptor, work)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, work: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RecipeError(
            f"another run is at work in {work}; wait until it ends or name another --out"
        ) from error


def refuse_others_work(origin: Any, work: Path) -> None:
    """Takes an empty folder for the run that comes from `origin`, or goes on in that run's own.

    Raises RecipeError for a folder of another run, or one that no run began; StageError where what
    it began with cannot be read any more.
    """
    path = work / ORIGIN_NAME
    begun = begun_with(work)
    if begun is None:
        _refuse_files_of_none(work, unfinished_name(path))
        write_json(path, origin)
    elif begun != json.loads(json.dumps(origin)):
        raise RecipeError(f"{work} holds a run of another recipe or of other data; remove it")


def begun_with(work: Path) -> Any:
    """The origin of the run that took the folder, as JSON gives it back; None of an empty one.

    Raises StageError where it cannot be read any more.
    """
    path = work / ORIGIN_NAME
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"{path} is damaged; remove {work} and start again") from error


def forget_beginning(work: Path) -> None:
    """Removes the folder of a run that has put nothing there: it was refused, or needs no state."""
    if [path.name for path in work.iterdir()] == [ORIGIN_NAME]:
        (work / ORIGIN_NAME).unlink()
        work.rmdir()


def _refuse_files_of_none(work: Path, own: Path) -> None:
    """`own` is what a run that was killed at its very start leaves."""
    if any(path != own for path in work.iterdir()):
        raise RecipeError(f"{work} holds files, but no run; remove it or name another --out")


def path_digest(path: Path) -> str:
    """Of a file, or of all files below a directory; of a model directory that of its card."""
    if (path / CARD_NAME).exists():
        return file_digest(path / CARD_NAME)
    if path.is_file():
        return file_digest(path)
    digest = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        name = file.relative_to(path).as_posix()
        digest.update(json.dumps([name, file_digest(file)]).encode())
    return "sha256:" + digest.hexdigest()
