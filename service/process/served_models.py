"""Opens the models that the settings name, and names the pool of those that hold them.

Knows nothing of requests or scores.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from models.catalogue import Catalogue, load_catalogue
from models.directory import ModelDirectory, load_model_directory
from models.errors import ModelDirectoryError
from models.reasons.grammar import ReasonTokens
from service.base.config import Settings
from service.gate.scripts import scripts_digest
from service.jobs.jobs import PAYLOAD_FORMAT


def open_ranker(settings: Settings) -> ModelDirectory:
    """The ranker of the settings. Raises ModelDirectoryError naming the setting."""
    try:
        directory = load_model_directory(settings.model_path)
    except ModelDirectoryError as error:
        raise ModelDirectoryError(f"FAIRSLATE_MODEL: {error}") from error
    try:
        ReasonTokens(directory.prompt)
    except ModelDirectoryError:
        return directory
    raise ModelDirectoryError(
        f"FAIRSLATE_MODEL={settings.model} writes reasons and ranks nothing; name it as "
        "FAIRSLATE_REASONER, and a ranker here"
    )


def open_catalogue(settings: Settings, directory: ModelDirectory) -> Catalogue | None:
    """The catalogue of the settings, if they name one. Raises CatalogueError."""
    return load_catalogue(Path(settings.catalogue), directory) if settings.catalogue else None


def open_reasoner(settings: Settings) -> ModelDirectory | None:
    """The reasoner of the settings, if they name one. Raises ModelDirectoryError."""
    if not settings.reasoner:
        return None
    directory = load_model_directory(Path(settings.reasoner))
    try:
        ReasonTokens(directory.prompt)
    except ModelDirectoryError as error:
        raise ModelDirectoryError(
            f"FAIRSLATE_REASONER={settings.reasoner} is no reasoner: {error}"
        ) from error
    return directory


def pool_name(
    directory: ModelDirectory,
    catalogue: Catalogue | None = None,
    reasoner: ModelDirectory | None = None,
) -> str:
    """Engines and API processes meet only when they hold the very same models and catalogue.

    And only when they keep the queue and its payloads in the same way: while servers are replaced
    by those of another version, each version serves, and drains, a pool of its own.
    """
    stored = f"-{catalogue.digest[:16]}" if catalogue else ""
    kept = hashlib.sha256(f"{scripts_digest()} {PAYLOAD_FORMAT}".encode()).hexdigest()[:8]
    written = f"-{reasoner.digest[:16]}" if reasoner else ""
    return f"rank-{directory.digest[:16]}{stored}{written}-{kept}"
