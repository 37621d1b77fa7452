"""The greeting's request has a key where there are tenants."""

from __future__ import annotations

from service.hello import greeting


def test_an_open_server_is_asked_without_a_key() -> None:
    text = greeting(3001, "")
    assert "http://127.0.0.1:3001/v1/rank" in text
    assert "KEY" not in text


def test_a_server_with_tenants_is_asked_with_a_key_and_says_whose() -> None:
    text = greeting(3001, "people.yaml")
    assert "/v1/rank -H 'Authorization: Bearer KEY' -H 'Content-Type" in text
    assert "tenant in people.yaml" in text
