"""Where a run writes: OUT, its page beside it, and its working folder. Knows no stage.

What lies there and is not this run's own is refused before a stage starts, and never removed.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from compress.recipes.page import write_report
from compress.stages.stage import RecipeError
from compress.stages.whole_files import unfinished_name, write_text

PAGE_NAME = "page.html"  # in the working folder: a page beside OUT that equals it is this run's own


def work_of(out: Path) -> Path:
    """Where a run that makes OUT keeps its finished stages and checkpoints."""
    return out.with_name(out.name + ".work")


def page_of(out: Path) -> Path:
    """What tells how OUT came about."""
    return out.with_name(out.name + ".html")


def refuse_taken(out: Path) -> None:
    """Raises RecipeError where a name that the run needs is another's, or longer than names are."""
    _refuse_long_name(out)
    work = work_of(out)
    if os.path.lexists(out):  # a link to nothing too: no directory can be given its name
        raise RecipeError(f"{out} exists; remove it or name another --out")
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        raise RecipeError(
            f"{work} is a link or a file where a run needs a folder of its own; remove it or name "
            "another --out"
        )
    _refuse_anothers_page(out)


def _refuse_long_name(out: Path) -> None:
    """The page is written last, and under the longest name of all."""
    folder = next(one for one in out.absolute().parents if one.is_dir())
    most = os.pathconf(folder, "PC_NAME_MAX")
    beyond = len(os.fsencode(unfinished_name(page_of(out)).name)) - most
    if beyond > 0:
        raise RecipeError(
            f"{out}: its name is {beyond} bytes too long for the page that is written beside it; "
            "name a shorter --out"
        )


def publish(last: Path, out: Path) -> None:
    """Gives the last stage's directory its name, after its page is there, and clears up."""
    _refuse_anothers_page(out)
    kept = work_of(out) / PAGE_NAME
    write_report(last, kept)
    write_text(page_of(out), kept.read_text(encoding="utf-8"))
    last.rename(out)
    _clear_up(out)


def _clear_up(out: Path) -> None:
    """The model is made: what cannot be removed is no reason to call the run failed."""
    try:
        shutil.rmtree(work_of(out))
    except OSError as error:
        print(f"{out} is finished; remove {work_of(out)} by hand ({error})", file=sys.stderr)


def _refuse_anothers_page(out: Path) -> None:
    """A run killed between its page and its model finds its own page."""
    page, kept = page_of(out), work_of(out) / PAGE_NAME
    if not os.path.lexists(page):
        return
    if not (page.is_file() and kept.is_file() and page.read_bytes() == kept.read_bytes()):
        raise RecipeError(f"{page} exists; remove it or name another --out")
