"""How the gate refuses, with the HTTP status on each class. Knows nothing of Redis."""

from __future__ import annotations

from http import HTTPStatus

from models.errors import FairslateError


class GateUnavailableError(FairslateError):
    """Redis cannot be reached, is late or takes no writes; the request may be sent again."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "gate_unavailable"


class PoolSettingsError(FairslateError):
    """A worker's settings differ from those that the pool's other workers serve by."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "pool_settings_differ"


class EvictingRedisError(FairslateError):
    """Redis may throw away any key when its memory is full, jobs and counters included."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "redis_evicts"


class WorkerNameTakenError(FairslateError):
    """Two workers share one name; the one that joined first gets no more work."""

    code = "worker_name_taken"


class PoolFullError(FairslateError):
    """The pool's queue is at its cap, whoever asks."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "queue_full"


class TenantThrottledError(FairslateError):
    """One tenant's own queue is at its cap; other tenants are still served."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "tenant_throttled"


class LevelConflictError(FairslateError):
    """Jobs stand above or below the level at which this one should wait."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "level_conflict"


class DeadlineExceededError(FairslateError):
    """The deadline had passed before the job was scored."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    code = "deadline_exceeded"


class WorkerLostError(FairslateError):
    """Every worker that took the job vanished before it answered."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "worker_lost"
