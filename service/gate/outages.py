"""Tells an outage of Redis from our own mistakes and says what is the matter. Knows no call.

Beside store.py the only file that knows redis-py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from service.gate.errors import GateUnavailableError

RETRY_AFTER_MS = 1_000
AWAY = "Redis is away; retry shortly"
FORBIDS = "Redis forbids its user what the gate needs; the operator must allow ~* and +@all"
_REPLICA = (
    "Redis is a replica and takes no writes; retry shortly, and if this lasts the operator must "
    "name the primary"
)
_CLUSTER = "Redis Cluster lacks a node or moves its slots; retry shortly"
_BY_CODE = {
    "OOM": "Redis is full and takes no new jobs; retry shortly, and if this lasts the operator "
    "must raise its maxmemory or start more engines",
    "MISCONF": "Redis cannot write to its disk and takes no writes; the operator must look into "
    "its log and make room there, then retry",
    "NOREPLICAS": "Redis has fewer replicas than it must to take writes; retry shortly, and if "
    "this lasts the operator must start them or lower min-replicas-to-write",
    "READONLY": _REPLICA,
    "UNBLOCKED": _REPLICA,  # it became one while a call waited
    "MASTERDOWN": _REPLICA,
    "LOADING": "Redis is loading its data; retry shortly",
    "BUSY": "Redis is busy with a script; retry shortly",
    "CLUSTERDOWN": _CLUSTER,
    "TRYAGAIN": _CLUSTER,
}
# Of these codes redis-py makes classes and takes them off the text.
_CLASSES = {
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    MasterDownError: "MASTERDOWN",
    ClusterDownError: "CLUSTERDOWN",
    TryAgainError: "TRYAGAIN",
    BusyLoadingError: "LOADING",
}
# Redis 6 puts what stopped a script at the end of "Error running script (...): ... -OOM ...", and
# redis-py the command of a pipeline before it.
_CODE = re.compile(rf"(?:^|: -|caused error: )({'|'.join(_BY_CODE)})\b")
_FORBIDDEN = re.compile(r"NOPERM|user executing the script can't run")  # within a script


@contextmanager
def translated() -> Iterator[None]:
    """Around calls of redis-py: an outage becomes GateUnavailableError, our own mistakes pass."""
    try:
        yield
    except (RedisError, RedisClusterException, OSError) as error:
        why = _cause(error)
        if not why:
            raise  # a mistake in our own script, not an outage
        raise GateUnavailableError(why, retry_after_ms=RETRY_AFTER_MS) from error


def _cause(error: Exception) -> str:
    """What is the matter, for whoever reads it; "" if it is no outage."""
    if isinstance(error, ResponseError) and _FORBIDDEN.search(str(error)):
        return FORBIDS
    if isinstance(error, NoPermissionError):
        return FORBIDS
    found = _CODE.search(str(error))
    code = _CLASSES.get(type(error)) or (found[1] if found else "")
    if code:
        return _BY_CODE[code]
    ours = isinstance(error, ResponseError) and not isinstance(error, (AskError, ClusterError))
    return "" if ours else AWAY
