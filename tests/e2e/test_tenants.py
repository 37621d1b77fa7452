"""What tells tenants apart: private prefixes, classes, users, the operator's key, the metrics."""

from __future__ import annotations

import re
from typing import Any

import httpx

from tests.e2e.conftest import ADMIN_KEY, LONER
from tests.e2e.server import RunningServer, wait_until

SAMPLE = re.compile(r'fairslate_tenant_service\{tenant="(\w+)"\} (\S+)')


def rank(server: RunningServer, key: str, context: str, **options: Any) -> httpx.Response:
    body = {"context": context, "candidates": [{"id": "a", "text": "Job"}], **options}
    with server.client(key) as client:
        return client.post("/v1/rank", json=body)


def cached(response: httpx.Response) -> tuple[int, int]:
    usage = response.json()["usage"]
    return usage["cached_tokens"], usage["context_tokens"]


def test_a_private_tenant_shares_no_prefix_either_way(
    server: RunningServer, tenant_keys: dict[str, str]
) -> None:
    known_to_ada = "A lighthouse keeper who also repairs clocks and keeps bees on the cliff"
    known_to_pia = "A puppeteer who restores old pianos and teaches the accordion at night"
    rank(server, tenant_keys["ada"], known_to_ada)
    shared, whole = cached(rank(server, tenant_keys["bob"], known_to_ada))
    assert shared == whole
    assert cached(rank(server, tenant_keys["pia"], known_to_ada))[0] == 0
    rank(server, tenant_keys["pia"], known_to_pia)
    own, whole = cached(rank(server, tenant_keys["pia"], known_to_pia))
    assert own == whole
    # Nobody but pia has met this prefix, and the template's own tokens do not fill a block.
    assert cached(rank(server, tenant_keys["bob"], known_to_pia))[0] == 0


def test_user_and_priority_find_their_level_or_are_refused(
    server: RunningServer, tenant_keys: dict[str, str]
) -> None:
    fine = rank(server, tenant_keys["ada"], "Nurse", user="u/1 \u00e9", priority="batch")
    assert fine.status_code == 200, fine.text
    refused = rank(server, tenant_keys["ada"], "Nurse", priority="bulk")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "priority")
    assert "interactive, batch" in refused.json()["error"]["message"]


def test_only_the_operator_switches_the_policy(
    server: RunningServer, tenant_keys: dict[str, str]
) -> None:
    def switch(key: str, policy: str) -> int:
        with server.client(key) as client:
            return client.post("/admin/policy", json={"policy": policy}).status_code

    def present(key: str) -> Any:
        with server.client(key) as client:
            return client.get("/admin/policy").json()

    assert switch(tenant_keys["ada"], "fcfs") == 401
    assert switch(ADMIN_KEY, "lifo") == 400
    assert present(tenant_keys["ada"])["error"]["code"] == "invalid_api_key"
    try:
        for policy in ("vtc", "lpm", "fcfs", "hrrn"):
            assert switch(ADMIN_KEY, policy) == 200
            assert present(ADMIN_KEY) == {"policy": policy}
            assert rank(server, tenant_keys["ada"], "Nurse").status_code == 200
    finally:
        assert switch(ADMIN_KEY, "dlpm") == 200


def test_without_an_admin_key_the_route_is_not_there(fragile: RunningServer) -> None:
    with fragile.client("anything") as client:
        response = client.post("/admin/policy", json={"policy": "fcfs"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "route_not_found")


def test_service_on_the_metrics_page_is_what_answers_reported(server: RunningServer) -> None:
    def service() -> float:
        page = httpx.get(f"{server.url}/metrics").text
        return {name: float(value) for name, value in SAMPLE.findall(page)}.get(LONER, 0.0)

    answers = [rank(server, f"key-of-{LONER}", f"Welder number {n}").json() for n in range(5)]
    reported = sum(answer["usage"]["extend_tokens"] for answer in answers)
    wait_until(lambda: service() == reported, 5.0, f"a service of {reported} tokens")
