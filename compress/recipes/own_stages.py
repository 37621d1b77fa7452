"""Which of a working folder's stages are those of a recipe, and whole. Knows no stage and no data.

A recipe may be mended behind what has begun: a stage goes on, bit for bit, where it and all before
it come from the same; what has left nothing there yet may be anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.measure.scorers import SCORER_NAME, open_scorer
from compress.recipes.records import folder_digests
from compress.stages.own_work import ORIGIN_NAME, begun_with, refuse_others_work
from compress.stages.stage import RecipeError, StageError
from compress.stages.whole_files import write_json
from models.checkpoint import load_model_directory
from models.errors import FairslateError


def refuse_others_stages(start: Any, stages: Sequence[Sequence[Any]], work: Path) -> None:
    """Takes an empty folder for a run from `start` through `stages`, or goes on in one.

    stages: in order, what each comes from, its title first. Raises RecipeError where those that
    have begun there, or their start, are not these; StageError where that cannot be read any more.
    """
    origin = json.loads(json.dumps({"start": start, "stages": stages}))
    found = begun_with(work)
    if not isinstance(found, dict) or found.get("start") != origin["start"]:
        refuse_others_work(origin, work)
        return
    ours, theirs = origin["stages"], found["stages"]
    begun = _begun(work, theirs)
    same = next((n for n in range(begun) if ours[n : n + 1] != theirs[n : n + 1]), begun)
    if same < begun:
        names = " ".join(str(path) for path in _files(work, same))
        raise RecipeError(
            f"{work} holds a run of another recipe from stage {theirs[same][0]!r} on; remove it, "
            f"or only what that stage and later ones left: {names}"
        )
    if ours != theirs:
        write_json(work / ORIGIN_NAME, origin)


def refuse_damaged(done: Path, record: Path, folders: Mapping[str, str]) -> None:
    """Raises StageError for a finished stage whose files are not those that it wrote.

    record: the file of its record, which says what its `folders` held.
    """
    try:
        if (done / SCORER_NAME).exists():
            open_scorer(done)
        else:
            load_model_directory(done)
        _refuse_other_folders(done, folders)
    except (FairslateError, OSError) as error:
        said = str(error).partition(";")[0]
        raise StageError(
            f"{said}; remove {done} and {record}, and give the same command again"
        ) from error


def _refuse_other_folders(done: Path, folders: Mapping[str, str]) -> None:
    found = folder_digests(done)
    for name in sorted(found.keys() | folders.keys()):
        if found.get(name) != folders.get(name):
            raise StageError(f"{done / name} is not as the stage wrote it; write it again")


def _begun(work: Path, stages: Sequence[Any]) -> int:
    """How many, from the first one, until the last that has left something."""
    return max((n + 1 for n in range(len(stages)) if list(work.glob(f"{n}-*"))), default=0)


def _files(work: Path, first: int) -> list[Path]:
    """Of that stage and all after it."""
    return sorted(
        path for path in work.glob("[0-9]*-*") if int(path.name.partition("-")[0]) >= first
    )
