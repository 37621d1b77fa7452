"""Writes the page of a model that a pipeline made. Knows nothing of its weights and no data.

python -m compress.report DIR --out FILE
An earlier page at FILE is replaced; any other file is refused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from compress.recipes.page import is_page, write_report
from models.errors import FairslateError


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m compress.report")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="HTML file to write")
    given = parser.parse_args()
    if not given.out.name:
        parser.error(f"--out {str(given.out)!r} ends in no name; give that of a file to write")
    if given.out.exists() and not is_page(given.out):
        print(f"{given.out} exists and is no such page; name another --out", file=sys.stderr)
        return 1
    try:
        write_report(given.directory, given.out)
    except FairslateError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{given.out}: cannot be written ({error}); name another file", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
