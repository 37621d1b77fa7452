"""Builds an engine once and ends with the reason where that fails. Knows no gate and no API.

python -m service.engine_trial
"""

from __future__ import annotations

import sys

from models.directory import load_model_directory
from models.errors import FairslateError
from service.base.config import Settings
from service.engines.engine_process import warm_engine
from service.process.served_models import open_catalogue, open_reasoner


def main() -> None:
    """Of the settings in the environment."""
    settings = Settings.from_environment()
    directory = load_model_directory(settings.model_path)
    try:
        warm_engine(
            settings, directory, open_catalogue(settings, directory), open_reasoner(settings)
        )
    except FairslateError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
