"""Refuses a start that could not succeed, before any process is started. Knows no server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import kernels
import models
import service
from models.errors import FairslateError
from service.base.config import ROOT, Settings, SettingsError, pin_paths
from service.process.served_models import open_catalogue, open_ranker, open_reasoner
from service.tenants.tenants_file import load_tenants


class ForeignPackageError(FairslateError):
    """A package of ours resolves to somebody else's package of the same name."""

    code = "foreign_package"


def check_start() -> None:
    """Ends `bentoml serve` before it starts any process when no start could succeed."""
    try:
        check_packages(kernels, models, service)
        pin_paths()
        settings = Settings.from_environment()
        load_tenants(settings.tenants_file)
        open_catalogue(settings, open_ranker(settings))
        open_reasoner(settings)
        try_engine(settings)
    except FairslateError as error:
        sys.exit(f"fairslate refuses to start: {error}")


def check_packages(*packages: ModuleType) -> None:
    """Raises ForeignPackageError unless each package lies in this repository.

    Hugging Face publishes a `kernels` too; a stray path entry can swap it for ours.
    """
    for package in packages:
        found = Path(package.__file__ or "").resolve()
        if not found.is_relative_to(ROOT):
            raise ForeignPackageError(
                f"package {package.__name__} was found at {found}, not below {ROOT}; start from "
                "the repository's root and take the other package off the path"
            )


def try_engine(settings: Settings) -> None:
    """Has an engine of a device or type that was asked for by name built once, before any serves.

    In a process of its own, for torch with it. What "auto" finds on a CPU runs, so the usual start
    pays nothing. Raises SettingsError with the reason; BentoML would start such an engine for ever.
    """
    if (settings.device, settings.dtype) == ("cpu", "auto"):
        return
    command = [sys.executable, "-m", "service.engine_trial"]
    trial = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if trial.returncode:
        reason = trial.stderr.strip().splitlines()[-1:] or ["it died without a word"]
        raise SettingsError(f"no engine can be built as the settings ask: {reason[0]}")
