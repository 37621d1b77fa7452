"""Calls the gate's Lua scripts. Knows redis-py, but no verb's meaning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, NoScriptError, RedisError
from redis.retry import Retry

from service.gate.outages import translated
from service.gate.scripts import Script, script_of
from service.gate.settings import GateSettings
from service.gate.wire import Argument

SOCKET_TIMEOUT_S = 0.75  # a busy machine must not look like a lost Redis, nor a lost one busy
LONGEST_POP_S = 0.25  # below the socket timeout: a paused Redis is noticed within a second
SHORTEST_POP_S = 0.01  # Redis 6 takes a millisecond for no limit at all
REPLIES_AT_ONCE = 256
BEFORE_ALL = b"0-0"  # the entry of a stream before its first
LISTENS_MS = 5_000  # an API process that has not looked for answers for so long is gone


class _Calls:
    """What the sync and the async store share: key names and the arguments of every script."""

    def __init__(self, pool: str, settings: GateSettings) -> None:
        if not re.fullmatch(r"[\w.-]+", pool):
            raise ValueError(f"pool {pool!r} must be letters, digits, '.', '_' or '-'")
        self._tag = f"{{{pool}}}"  # one hash tag, so that one Cluster slot holds the pool
        self._settings = settings

    def key(self, name: str) -> str:
        return f"{self._tag}:{name}"

    def reply_key(self, reply_to: str) -> str:
        return self.key(f"reply:{reply_to}")

    def script(self, verb: str) -> Script:
        return script_of(verb, self._settings)

    def arguments(self, arguments: Sequence[Argument]) -> list[Argument]:
        return [1, self.key("node:"), *arguments]


class Store:
    """Blocking calls, for worker threads; safe to share between threads."""

    def __init__(self, url: str, pool: str, settings: GateSettings) -> None:
        self._calls = _Calls(pool, settings)
        kind = redis.RedisCluster if _is_cluster(url) else redis.Redis
        self._client = kind.from_url(_plain(url), **_options(Retry(NoBackoff(), 0)))

    def call(self, verb: str, arguments: Sequence[Argument]) -> Any:
        """Runs one verb atomically; raises GateUnavailableError when Redis is late."""
        script, cells = self._calls.script(verb), self._calls.arguments(arguments)
        with translated():
            try:
                return self._client.execute_command("EVALSHA", script.digest, *cells)
            except NoScriptError:
                return self._client.execute_command("EVAL", script.source, *cells)

    def call_all(self, calls: Sequence[tuple[str, Sequence[Argument]]]) -> list[Any]:
        """Runs verbs in one round trip, each of them atomically.

        When Redis has forgotten a script all run again, one after the other: each must bear that.
        """
        try:
            with translated(), self._client.pipeline(transaction=False) as pipeline:
                for verb, arguments in calls:
                    digest, cells = (
                        self._calls.script(verb).digest,
                        self._calls.arguments(arguments),
                    )
                    pipeline.execute_command("EVALSHA", digest, *cells)
                return list(pipeline.execute())
        except NoScriptError:
            return [self.call(verb, arguments) for verb, arguments in calls]

    def wait_for_wake(self, worker: str, timeout_s: float) -> bool:
        """Pops the worker's wake token; False when none came in time, LONGEST_POP_S at most."""
        timeout_s = min(max(timeout_s, SHORTEST_POP_S), LONGEST_POP_S)
        with translated():
            key = self._calls.key(f"wake:{worker}")
            return self._client.blpop([key], timeout=timeout_s) is not None

    def reply_key(self, reply_to: str) -> str:
        """The stream that answers the API process `reply_to`."""
        return self._calls.reply_key(reply_to)

    def delete_replies(self, reply_to: str) -> None:
        """Drops the answers of an API process that will not read them."""
        with translated():
            self._client.unlink(self._calls.reply_key(reply_to))

    def eviction_of_any_key(self) -> str:
        """The policy by which a full Redis may drop any key; "" if it may not, or will not say."""
        with translated():
            try:
                memory = self._client.info("memory")
            except NoPermissionError:
                return ""
        policy = str(memory["maxmemory_policy"])
        return policy if memory["maxmemory"] and policy.startswith("allkeys") else ""

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()


class AsyncStore:
    """The same calls for one event loop."""

    def __init__(self, url: str, pool: str, settings: GateSettings) -> None:
        self._calls = _Calls(pool, settings)
        self._read: dict[str, list[bytes]] = {}  # by API process, entries still in its stream
        kind = redis.asyncio.RedisCluster if _is_cluster(url) else redis.asyncio.Redis
        self._client = kind.from_url(_plain(url), **_options(AsyncRetry(NoBackoff(), 0)))

    async def call(self, verb: str, arguments: Sequence[Argument]) -> Any:
        """Runs one verb atomically; raises GateUnavailableError when Redis is late."""
        script, cells = self._calls.script(verb), self._calls.arguments(arguments)
        with translated():
            try:
                return await self._client.execute_command("EVALSHA", script.digest, *cells)
            except NoScriptError:
                return await self._client.execute_command("EVAL", script.source, *cells)

    async def read_replies(self, reply_to: str, timeout_s: float) -> list[bytes]:
        """Waits for replies, LONGEST_POP_S at most; all that are there come at once.

        They stay in Redis until the next read: what was sent to a process too busy to look in time
        comes again. A reply can come twice.
        """
        wait_ms = round(1000 * min(max(timeout_s, SHORTEST_POP_S), LONGEST_POP_S))
        key, listens = self._calls.reply_key(reply_to), self._calls.key(f"listens:{reply_to}")
        read = self._read.get(reply_to)
        with translated():
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.set(listens, 1, px=LISTENS_MS, nx=True)  # a full Redis refuses this alone
                pipeline.pexpire(listens, LISTENS_MS)
                pipeline.xdel(key, *(read or [BEFORE_ALL]))
                pipeline.xread({key: BEFORE_ALL}, count=REPLIES_AT_ONCE, block=wait_ms)
                _, _, removed, streams = await pipeline.execute(raise_on_error=False)
            for answer in (removed, streams):
                if isinstance(answer, RedisError):
                    raise answer
        entries = streams[0][1] if streams else []
        self._read[reply_to] = [entry for entry, _ in entries]
        return [fields[b"reply"] for _, fields in entries]

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def _is_cluster(url: str) -> bool:
    """Whether the URL names one node of a Redis Cluster, as in redis+cluster://host:port."""
    return url.startswith(("redis+cluster://", "rediss+cluster://"))


def _plain(url: str) -> str:
    return url.replace("+cluster://", "://", 1)


def _options(retry: object) -> dict[str, object]:
    # No retries inside the client: a claim whose answer was lost must not be made twice unseen.
    return {
        "retry": retry,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": SOCKET_TIMEOUT_S,
    }
