"""An embedded Redis, and small servers of the protocol, for the service's own tests."""

from __future__ import annotations

import gc
import uuid
from collections.abc import Iterator

import pytest

from service.edge.bounded_protocol import BoundedProtocol
from service.gate.embedded import EmbeddedRedis
from tests.service.edge.raw_server import Hasty, serving


@pytest.fixture(scope="session")
def service_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedRedis(tmp_path_factory.mktemp("service-redis"))
    yield server.start()
    server.stop()


@pytest.fixture
def pool() -> str:
    """A pool that no other test uses."""
    return f"pool-{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def hasty_port() -> Iterator[int]:
    with serving(Hasty) as port:
        yield port


@pytest.fixture(scope="module")
def patient_port() -> Iterator[int]:
    with serving(BoundedProtocol) as port:
        yield port


@pytest.fixture
def own_garbage() -> Iterator[None]:
    """The process of the tests is to collect as before."""
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)
