"""What clients send before a route is chosen, and that none of it stays. Knows no rankings."""

from __future__ import annotations

import json
import socket

import httpx
from prometheus_client.parser import text_string_to_metric_families

from service.bodies.schemas import ErrorEnvelope
from tests.e2e.server import RunningServer

BODY = json.dumps({"context": "Nurse", "candidates": [{"id": "a", "text": "Job"}]}).encode()
H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


def answer(server: RunningServer, *pieces: bytes) -> tuple[bytes, bytes]:
    """Status line and headers, and the body, of a connection that the server closes."""
    url = httpx.URL(server.url)
    received = b""
    with socket.create_connection((url.host, url.port or 80), timeout=60.0) as connection:
        for piece in pieces:
            connection.sendall(piece)
        while piece := connection.recv(1 << 16):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    return head, body


def test_headers_without_end_are_refused(server: RunningServer) -> None:
    endless = [b"X-A: " + b"a" * 300_000, b"a" * 100_000]
    head, body = answer(server, b"GET /livez HTTP/1.1\r\nHost: x\r\n", *endless)
    assert head.startswith(b"HTTP/1.1 431 ")
    error = ErrorEnvelope.model_validate_json(body).error
    assert error.code == "headers_too_large"
    assert "65536" in error.message


def test_a_slate_beside_an_offer_of_http2_is_ranked(
    server: RunningServer, tenant_keys: dict[str, str]
) -> None:
    head = (
        f"POST /v1/rank HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant_keys['ada']}\r\n"
        f"{H2C.replace('HTTP2-Settings', 'HTTP2-Settings, close', 1)}Content-Length: {len(BODY)}"
    )
    status, body = answer(server, head.encode() + b"\r\n\r\n", BODY)
    assert status.startswith(b"HTTP/1.1 200 "), body
    assert [row["id"] for row in json.loads(body)["results"]] == ["a"]


def test_paths_that_anybody_asks_for_make_no_series(
    server: RunningServer, client: httpx.Client
) -> None:
    client.post("/v1/rank", content=BODY)
    for path in (
        "/unheard-of",
        "/unheard-of%00",
        "/v1/queue/unheard-of",
        "/static_content/unheard-of",
    ):
        assert httpx.get(server.url + path).status_code in (401, 404)
    page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=")
    assert "unheard-of" not in page.text
    names = {family.name for family in text_string_to_metric_families(page.text)}
    assert "fairslate_requests" in names
    assert [name for name in names if not name.startswith("fairslate_")] == []


def test_metrics_are_only_read(client: httpx.Client) -> None:
    refused = client.post("/metrics")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
