"""Finds the Redis that the settings name, or starts one. Knows nothing of what is stored in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from service.base.config import Settings
from service.gate.embedded import EmbeddedRedis


@contextlib.contextmanager
def running_redis(settings: Settings) -> Iterator[list[str]]:
    """URL of the gate's Redis: the configured one, or one of our own while the block lasts.

    Ours stands behind the configured one where it may have to serve in its place.
    """
    configured = [settings.redis_url] if settings.redis_url else []
    if configured and not settings.serves_without_redis:
        yield configured
        return
    embedded = EmbeddedRedis(Path(settings.state_dir))
    try:
        yield [*configured, embedded.start()]
    finally:
        embedded.stop()
