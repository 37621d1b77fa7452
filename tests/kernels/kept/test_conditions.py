"""What stands in a kept file: the commit, unless another is noted, and the machine."""

from __future__ import annotations

import os

import pytest

from kernels.kept.conditions import conditions


def test_a_kept_file_names_its_commit_and_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMMIT", raising=False)
    found = conditions()
    assert len(found["commit"]) >= 7
    assert found["cores"] == os.cpu_count()
    monkeypatch.setenv("COMMIT", "noted")
    assert conditions()["commit"] == "noted"
