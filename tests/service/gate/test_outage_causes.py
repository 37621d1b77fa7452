"""What Redis says when it is out reaches who asked in words that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis._parsers.base import BaseParser

from service.gate.errors import GateUnavailableError
from service.gate.outages import translated
from tests.e2e.server import wait_until
from tests.service.gate.client import SETTINGS, Api
from tests.service.gate.jobs import build_job
from tests.service.gate.redis_servers import RedisServer, running

CODES = {
    "OOM": "is full",
    "MISCONF": "cannot write to its disk",
    "NOREPLICAS": "fewer replicas",
    "READONLY": "is a replica",
    "UNBLOCKED": "is a replica",
    "MASTERDOWN": "is a replica",
    "LOADING": "is loading",
    "BUSY": "is busy",
    "CLUSTERDOWN": "Cluster",
    "TRYAGAIN": "Cluster",
}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("form", ["{} why", "Error running script: @user_script:1: -{} why"])
@pytest.mark.parametrize("pipelined", ["", "Command # 2 (EVALSHA 0) of pipeline caused error: "])
def test_every_code_by_which_redis_is_out_says_what_is_the_matter(
    code: str, form: str, pipelined: str
) -> None:
    """As redis-py reads it: of some codes it makes classes and takes them off the text."""
    error = BaseParser.parse_error(form.format(code))
    error.args = (f"{pipelined}{error}",)
    with pytest.raises(GateUnavailableError, match=CODES[code]) as outage, translated():
        raise error
    assert outage.value.retry_after_ms == 1_000
    assert outage.value.__cause__ is error


def test_a_redis_that_cannot_write_to_its_disk_says_so(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", {"appendonly": "no", "save": "3600 1"})
    with running(server):
        client, api = server.client(), Api(server.url, SETTINGS)
        (tmp_path / "redis" / "dump.rdb").mkdir()  # where it would put the file
        client.set("key", "value")
        client.bgsave()
        wait_until(lambda: client.info()["rdb_last_bgsave_status"] == "err", 10.0, "the failure")
        with pytest.raises(GateUnavailableError, match="cannot write to its disk"):
            api.submit(build_job("job"))
        api.close()
