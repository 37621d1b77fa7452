"""What a failover costs in fairness: two tenants drift apart by the service in the lag, no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.gate.settings import GateSettings
from tests.service.gate import failover
from tests.service.gate.failover import LAGS, PAPERS, SERVICES, failed_over


@pytest.mark.parametrize("settings", [PAPERS, SERVICES], ids=["paper", "service"])
@pytest.mark.parametrize("lag", [0, 1, pytest.param(8, marks=pytest.mark.long)])
def test_a_gap_grows_by_the_service_in_the_lag_at_most(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: GateSettings, lag: int
) -> None:
    monkeypatch.setattr(failover, "CLAIMS", 60)
    check(tmp_path, settings, lag, seed=0)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("lag", LAGS)
def test_the_same_over_many_claims(tmp_path: Path, lag: int) -> None:
    for seed in range(3):
        check(tmp_path / str(seed), PAPERS, lag, seed)


def check(directory: Path, settings: GateSettings, lag: int, seed: int) -> None:
    found = failed_over(directory, settings, lag, seed)
    assert found.unknown == found.lag  # to the token, and so no counter is wrong by more
    assert bool(sum(found.lag.values())) == bool(lag)
    assert found.gap_known <= found.bound
    apart = abs(found.lag["ada"] - found.lag["bob"])
    assert found.gap <= found.bound + apart
    assert found.growth <= max(0, found.gap_known - found.gap_before) + sum(found.lag.values())
