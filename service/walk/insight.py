"""Why a request waits, and by which policy the pool serves. Knows nothing of HTTP or of scoring."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from service.base.config import Settings
from service.base.errors import RequestNotFoundError, RouteNotFoundError, UnauthorizedError
from service.bodies.validation import parse_policy_request
from service.dispatch.fallback import Fallback
from service.gate.job import Explanation
from service.tenants.tenants import Tenants, bearer_key


class Insight:
    """Knows the jobs of every request in flight in this process; one event loop may share it."""

    def __init__(self, settings: Settings, tenants: Tenants, gate: Fallback) -> None:
        self._admin_key = settings.admin_key
        self._tenants = tenants
        self._gate = gate
        self._in_flight: dict[tuple[str, str], Sequence[str]] = {}

    @contextmanager
    def following(self, tenant: str, request_id: str, job_ids: Sequence[str]) -> Iterator[None]:
        """While the block lasts, the request can be asked about; of two with one id, the later."""
        key = (tenant, request_id)
        self._in_flight[key] = job_ids
        try:
            yield
        finally:
            if self._in_flight.get(key) is job_ids:
                del self._in_flight[key]

    async def explain(self, authorization: str | None, request_id: str) -> dict[str, Any]:
        """What `GET /v1/queue/{request_id}` says. Tenants see no requests but their own.

        Raises UnauthorizedError, RequestNotFoundError or GateUnavailableError.
        """
        tenant = self._tenants.authenticate(authorization)
        job_ids = self._in_flight.get((tenant.name, request_id))
        if job_ids is None:
            raise RequestNotFoundError(
                f"no request {request_id!r} of yours is in flight here; send `x-request-id` with "
                "the request, and ask the server that holds it"
            )
        explanations = await self._gate.explain(job_ids)
        return {"request_id": request_id, "jobs": [explained(one) for one in explanations]}

    async def configure(
        self, authorization: str | None, read_body: Callable[[], Awaitable[bytes]]
    ) -> dict[str, Any]:
        """Switches the pool's policy for all servers and engines of this model.

        Raises RouteNotFoundError without an admin key in the settings, UnauthorizedError for any
        other key than that one, InvalidRequestError or GateUnavailableError.
        """
        self._refuse_others(authorization)
        policy = parse_policy_request(await read_body()).policy
        await self._gate.configure(policy)
        return {"policy": policy}

    async def policy(self, authorization: str | None) -> dict[str, Any]:
        """By which policy slates sent now are served. Raises as `configure`."""
        self._refuse_others(authorization)
        return {"policy": await self._gate.policy()}

    def _refuse_others(self, authorization: str | None) -> None:
        """Than the operator."""
        if not self._admin_key:
            raise RouteNotFoundError("/admin is closed; the operator sets FAIRSLATE_ADMIN_KEY")
        given = bearer_key(authorization).encode()
        if not hmac.compare_digest(given, self._admin_key.encode()):
            raise UnauthorizedError("this is not the admin key; ask the operator")


def explained(explanation: Explanation) -> dict[str, Any]:
    """One job of the answer; its bound in time holds at the pool's present drain rate.

    While nothing more arrives, no more than all that waits now is claimed before it either. What is
    in flight comes on top: the batch that is scored and, for a moment, the next one.
    """
    rate, bound = explanation.drain_rate, min(explanation.bound, explanation.queued_cost)
    return {
        "state": explanation.state,
        "worker": explanation.worker,
        "queue_ms": explanation.queue_ms,
        "deadline_in_ms": explanation.deadline_in_ms,
        "due_before": explanation.due_before,
        "matched_blocks": explanation.matched_blocks,
        "levels": [
            {
                "node": level.node,
                "deficit": level.deficit,
                "weight": level.weight,
                "rounds_until_positive": level.rounds,
                "rivals": level.rivals,
                "rival_weight": level.rival_weight,
            }
            for level in explanation.levels
        ],
        "drain_rate": rate,
        "bound_tokens": bound,
        "bound_ms": bound * 1000 // rate if rate else None,
    }
