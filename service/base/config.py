"""Settings of the service, each default stated once. Knows nothing of BentoML, Redis or models."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import Field, dataclass, fields
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from models.errors import FairslateError
from service.gate.settings import GateSettings

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "FAIRSLATE_"
PATHS = ("model", "reasoner", "catalogue", "state_dir", "tenants_file")
MAY_BE_ZERO = (
    "threads",
    "overtakes",
    "deterministic",
    "selfcheck",
    "token_memory_bytes",
    "score_cache_bytes",
    "drain_ms",
)
DTYPES = ("auto", "float32", "bfloat16", "int8", "fp8")
DEADLINE_CEILING_MS = 60_000
_GATE = GateSettings()
_WITHOUT_REDIS = ("refuse", "local")


class SettingsError(FairslateError):
    """An environment variable of the service has an unknown name or an impossible value."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    code = "settings_invalid"


@dataclass(frozen=True, slots=True)
class Settings:
    """One field per `FAIRSLATE_<FIELD>` variable; integers are positive unless 0 has a meaning."""

    model: str = str(ROOT / "models" / "demo")
    """Model directory that API and engine load."""
    reasoner: str = str(ROOT / "models" / "demo_reason")
    """Model directory of `POST /v1/reason`; empty takes the route away."""
    catalogue: str = ""
    """File of vectors that candidates may name in place of text; empty has none."""
    redis_url: str = ""
    """Redis of the gate; empty starts an embedded one in `state_dir`."""
    without_redis: str = _WITHOUT_REDIS[0]
    """What becomes of requests while `redis_url` does not answer: refuse, or local, which serves
    them through an embedded Redis with this server's own engines."""
    state_dir: str = ".fairslate"
    """Where the embedded Redis keeps its socket, lock and append-only file."""
    tenants_file: str = ""
    """YAML file of tenants; empty admits one open tenant, "demo"."""
    max_candidates: int = 512
    max_reasons: int = 32
    """Candidates of one request for reasons."""
    max_body_bytes: int = 1 << 20
    max_field_characters: int = 256
    """Longest `user`, candidate id, name of a stored candidate and name of a context's field."""
    default_deadline_ms: int = 10_000
    max_deadline_ms: int = 30_000
    token_budget: int = 1536
    """B: extend tokens of one engine batch and of one job; a latency setting, nothing preempts."""
    max_batch_jobs: int = 64
    policy: str = _GATE.policy
    """Order of a new pool, one of `POLICIES`; `POST /admin/policy` switches it later."""
    attribution: str = _GATE.attribution
    """Who pays for a context that several tenants wait on: first, split or platform."""
    quantum: int = _GATE.quantum
    """Q: the most that an idle tenant saves up per unit of weight, to spend when it comes."""
    quantum_parts: int = _GATE.quantum_parts
    """Refills that make a quantum: busy siblings take turns by so small a part of it."""
    worker_quantum: int = _GATE.worker_quantum
    """Q^w of D2LPM: tokens after which a tenant's jobs leave an engine that holds their context."""
    output_weight: int = _GATE.output_weight
    """w_q: what a token of a reason is charged, and takes up of `token_budget`, in tokens of a
    slate; `service.reason_bench` measures what it takes."""
    overtakes: int = _GATE.overtakes
    """Picks by warm context in a row after which the job with the earliest deadline goes."""
    lease_ms: int = _GATE.lease_ms
    max_attempts: int = _GATE.max_attempts
    """Engines that may take a job and vanish before it is answered with an error."""
    max_pool_jobs: int = _GATE.max_pool_jobs
    max_pool_tokens: int = _GATE.max_pool_tokens
    max_tenant_jobs: int = _GATE.max_tenant_jobs
    max_tenant_tokens: int = _GATE.max_tenant_tokens
    max_tenant_in_flight: int = _GATE.max_tenant_in_flight
    """Jobs of one tenant that may wait and be scored together."""
    admin_key: str = ""
    """Bearer key of `/admin`; empty takes these routes away."""
    metrics_key: str = ""
    """Bearer key of `/metrics`, which names the tenants; empty opens it to all."""
    engine_workers: int = 1
    """Engine processes of this server, each with `threads` threads and its own cache."""
    drain_ms: int = 7000
    """Longest that a server which is told to stop goes on scoring what it was sent before; with a
    batch behind it below the 10 s after which Docker kills."""
    device: str = "cpu"
    """Where the engine's tensors live, "cpu" or "cuda"."""
    dtype: str = "auto"
    """What the engine multiplies in: float32, bfloat16, int8, fp8 on a GPU alone, or auto, which is
    bfloat16 on a GPU and asks the machine on a CPU."""
    selfcheck: int = 1
    """Whether an engine on a GPU holds its kernels to their references before it joins; 0 trusts
    them. On a CPU there is nothing to check."""
    deterministic: int = 0
    """1 scores a pair to the same bits in every batch, at a cost in speed; refused on a GPU."""
    cache_bytes: int = 256 << 20
    """Budget of the prefix cache of one engine."""
    reasoner_cache_bytes: int = 64 << 20
    """The same of the reasoner."""
    threads: int = 0
    """Threads of one engine, on CPUs of its own; 0 leaves the number to torch and binds none."""
    tokenizer_threads: int = 2
    max_tenant_waiting: int = 256
    """Requests of a tenant that may wait for those threads; above, 429. A second's work or so."""
    token_memory_bytes: int = 32 << 20
    """Budget of the candidates' texts whose tokens one API process remembers; 0 remembers none."""
    score_cache_bytes: int = 0
    """Budget of the scores that one API process remembers; 0 remembers none."""
    score_cache_seconds: int = 300
    """Age at which a remembered score is forgotten."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            lowest = 0 if field.name in MAY_BE_ZERO else 1
            if isinstance(value, int) and value < lowest:
                name = f"{PREFIX}{field.name.upper()}"
                raise SettingsError(f"{name} must be {lowest} or more, not {value}")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise SettingsError(f"{PREFIX}DEVICE must be cpu or cuda, not {self.device!r}")
        if self.dtype not in DTYPES:
            raise SettingsError(_none_of("DTYPE", DTYPES, self.dtype))
        if self.without_redis not in _WITHOUT_REDIS:
            raise SettingsError(_none_of("WITHOUT_REDIS", _WITHOUT_REDIS, self.without_redis))
        if self.serves_without_redis and not self.redis_url:
            raise SettingsError(
                f"{PREFIX}WITHOUT_REDIS=local stands in for the Redis of {PREFIX}REDIS_URL; set "
                "that too, for the embedded one is started again by itself"
            )
        if not self.default_deadline_ms <= self.max_deadline_ms <= DEADLINE_CEILING_MS:
            raise SettingsError(
                f"{PREFIX}DEFAULT_DEADLINE_MS ({self.default_deadline_ms}) must not be above "
                f"{PREFIX}MAX_DEADLINE_MS ({self.max_deadline_ms}), nor that above "
                f"{DEADLINE_CEILING_MS}; lower what is above"
            )
        _ = self.gate  # what it refuses must end the start, not the first request

    @property
    def gate(self) -> GateSettings:
        """The gate's share of these settings. Raises SettingsError where the gate refuses one."""
        own = {field.name for field in fields(self)}
        shared = [field.name for field in fields(GateSettings) if field.name in own]
        try:
            values = {name: getattr(self, name) for name in shared}
            # A batch is to last as long whatever it holds, and a cost is what lasts as long.
            return GateSettings(**values, output_room=self.output_weight)
        except ValueError as error:
            raise SettingsError(f"a {PREFIX} setting of the gate: {error}") from error

    @property
    def most_jobs(self) -> int:
        """Jobs of one request: a tenant with nothing queued may add so many."""
        return min(self.max_tenant_jobs, self.max_tenant_in_flight, self.max_pool_jobs)

    @property
    def most_reasons(self) -> int:
        """Candidates of a request for reasons: each is a job."""
        return min(self.max_reasons, self.most_jobs)

    @property
    def serves_without_redis(self) -> bool:
        """Whether a Redis of this server's own stands in for the shared one."""
        return self.without_redis == "local"

    @property
    def model_path(self) -> Path:
        return Path(self.model)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Raises SettingsError for unknown FAIRSLATE_ names and for values that do not parse."""
        known = {PREFIX + field.name.upper(): field for field in fields(cls)}
        given = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
        for name in given.keys() - known.keys():
            raise SettingsError(_unknown_name(name, list(known)))
        values: dict[str, Any] = {
            known[name].name: _parse(name, value, known[name]) for name, value in given.items()
        }
        return cls(**values)


def pin_paths(environment: MutableMapping[str, str] = os.environ) -> None:
    """Makes the paths absolute for processes to come, which may start in another directory."""
    settings = Settings.from_environment(environment)
    for name in PATHS:
        if path := getattr(settings, name):
            environment[PREFIX + name.upper()] = str(Path(path).absolute())


def _none_of(name: str, known: Sequence[str], given: str) -> str:
    return f"{PREFIX}{name} must be one of {', '.join(known)}, not {given!r}"


def _unknown_name(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return f"{name} is not a setting; did you mean {nearest}?"


def _parse(name: str, value: str, field: Field[object]) -> str | int:
    if isinstance(field.default, str):
        return value
    try:
        return int(value)
    except ValueError as error:
        raise SettingsError(f"{name} must be a whole number, not {value!r}") from error
