"""The gate's Lua scripts as text: one verb each, with what it needs. Knows no arguments."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from service.gate.settings import GateSettings

_LUA = Path(__file__).parent / "lua"
_LIBRARY = ("state", "index", "cache", "fleet", "jobs")
_OF_SOME_VERBS = {
    "claim": ("choice", "switch"),
    "reap": ("switch",),
    "configure": ("switch",),
}
# A full Redis refuses a script by its first write alone, and drains only if it lets the others in.
_TAKES_MEMORY = ("submit",)
_WHATEVER_MEMORY = "call('UNLINK', pool .. 'nothing')"


@dataclass(frozen=True, slots=True)
class Script:
    """What Redis runs, and the SHA1 by which it knows it."""

    source: str
    digest: str


@cache
def script_of(verb: str, settings: GateSettings) -> Script:
    """One verb behind the shared library and the settings as text: none is parsed per call.

    The policy is the root's, so that settings agree whatever policy the pool was switched to.
    """
    names = (*_LIBRARY, *_OF_SOME_VERBS.get(verb, ()), verb)
    *library, body = [(_LUA / f"{name}.lua").read_text() for name in names]
    values = asdict(settings) | {"refill": settings.refill}
    agreed = {name: value for name, value in values.items() if name != "policy"}
    values["digest"] = _digest(repr(sorted(agreed.items())))
    source = "\n".join(
        [
            f"local settings = {_lua_table(values)}",
            *library,
            f"local function run()\n{body}\nend",
            "" if verb in _TAKES_MEMORY else _WHATEVER_MEMORY,
            "local answer = run()",
            "gate.finish()",
            "return answer",
        ]
    )
    return Script(source, _digest(source))


def scripts_digest() -> str:
    """Names what the scripts make of a pool's keys: who differs in it must not share a pool.

    Comments and indentation do not count.
    """
    texts = [path.read_text() for path in sorted(_LUA.glob("*.lua"))]
    lines = [line.partition("--")[0].strip() for text in texts for line in text.splitlines()]
    return _digest("\n".join(filter(None, lines)))


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _lua_table(values: dict[str, int | str]) -> str:
    cells = ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
    return f"{{ {cells} }}"
