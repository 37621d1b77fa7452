"""Real servers for the end-to-end tests: one that is left alone, one to be mistreated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from loadtest.redis_process import RedisProcess
from tests.e2e.server import RunningServer, running_server

TENANTS = {"ada": 1, "bob": 1, "cleo": 2, "dan": 4, "pia": 1}
LONER = "zoe"  # sends only where a test counts what it sent
CLASSES = {"interactive": 8, "batch": 1}
ADMIN_KEY = "key-of-the-operator"


@pytest.fixture(scope="session")
def tenant_keys() -> dict[str, str]:
    """Tenant name to API key."""
    return {name: f"key-of-{name}" for name in TENANTS}


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path
) -> Iterator[RunningServer]:
    """Six tenants in two classes, "pia" a private one; the embedded Redis, the tiny model."""
    state = tmp_path_factory.mktemp("server")
    tenants = [
        {
            "name": name,
            "key_sha256": hashlib.sha256(f"key-of-{name}".encode()).hexdigest(),
            "weight": weight,
            "private": name == "pia",
            "users": name == "ada",
        }
        for name, weight in {**TENANTS, LONER: 1}.items()
    ]
    content = yaml.safe_dump({"classes": CLASSES, "tenants": tenants}, sort_keys=False)
    (state / "tenants.yaml").write_text(content)
    with running_server(
        state,
        model=str(tiny_model_dir),
        tenants_file=str(state / "tenants.yaml"),
        admin_key=ADMIN_KEY,
    ) as running:
        yield running


@pytest.fixture
def client(server: RunningServer, tenant_keys: dict[str, str]) -> Iterator[httpx.Client]:
    """Speaks as one tenant of `server`."""
    with server.client(tenant_keys["ada"]) as opened:
        yield opened


@pytest.fixture(scope="module")
def external_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A redis-server that nobody restarts but the test."""
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def fragile(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, external_redis: RedisProcess
) -> Iterator[RunningServer]:
    """One open tenant with a short queue, on a Redis that tests take away."""
    with running_server(
        tmp_path_factory.mktemp("fragile"),
        model=str(tiny_model_dir),
        redis_url=external_redis.url,
        max_tenant_jobs="8",
        max_deadline_ms="60000",
    ) as running:
        yield running
