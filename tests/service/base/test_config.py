"""Settings come from the environment whole or not at all."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.base.config import Settings, SettingsError, pin_paths
from service.gate.settings import GateSettings

NUMBERS = [field.name for field in fields(Settings) if isinstance(field.default, int)]


def test_other_programs_variables_are_left_alone() -> None:
    assert Settings.from_environment({"PATH": "/bin", "FAIRSLATEX": "1"}) == Settings()


@given(st.sampled_from(NUMBERS), st.integers(min_value=10_000, max_value=30_000))
def test_any_number_can_be_set(name: str, value: int) -> None:
    settings = Settings.from_environment({f"FAIRSLATE_{name.upper()}": str(value)})
    assert getattr(settings, name) == value


@pytest.mark.parametrize("value", ["", "1.5", "many", "-1", "0"])
def test_bad_value_names_the_variable(value: str) -> None:
    with pytest.raises(SettingsError, match="FAIRSLATE_TOKEN_BUDGET"):
        Settings.from_environment({"FAIRSLATE_TOKEN_BUDGET": value})


def test_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(SettingsError, match="did you mean FAIRSLATE_REDIS_URL"):
        Settings.from_environment({"FAIRSLATE_REDIS_URI": "redis://"})


def test_deadlines_must_be_in_order() -> None:
    with pytest.raises(SettingsError, match="MAX_DEADLINE_MS"):
        Settings(default_deadline_ms=2, max_deadline_ms=1)
    with pytest.raises(SettingsError, match="60000"):
        Settings(max_deadline_ms=60_001)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cpu:0", ""])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(SettingsError, match="DEVICE must be cpu or cuda"):
        Settings(device=device)
    assert Settings(device="cuda:1").device == "cuda:1"


def test_a_local_gate_needs_a_shared_one_to_stand_in_for() -> None:
    with pytest.raises(
        SettingsError, match="WITHOUT_REDIS must be one of refuse, local, not 'open'"
    ):
        Settings(without_redis="open")
    with pytest.raises(SettingsError, match="REDIS_URL"):
        Settings(without_redis="local")
    assert Settings(without_redis="local", redis_url="redis://there").serves_without_redis
    assert not Settings().serves_without_redis


def test_the_gate_is_shipped_with_its_own_defaults() -> None:
    assert Settings().gate == GateSettings()


def test_gate_gets_its_share() -> None:
    settings = Settings(quantum=7, lease_ms=8, max_pool_jobs=9, max_tenant_jobs=10)
    gate = settings.gate
    assert (gate.quantum, gate.lease_ms, gate.max_pool_jobs, gate.max_tenant_jobs) == (7, 8, 9, 10)


@pytest.mark.parametrize("name", ["FAIRSLATE_POLICY", "FAIRSLATE_ATTRIBUTION"])
def test_a_choice_that_the_gate_does_not_know_ends_the_start(name: str) -> None:
    with pytest.raises(SettingsError, match="must be one of"):
        Settings.from_environment({name: "random"})


def test_every_cap_of_the_gate_can_be_set() -> None:
    caps = {name: 7 for name in (f.name for f in fields(GateSettings)) if name.startswith("max_")}
    names = {f"FAIRSLATE_{name.upper()}": str(value) for name, value in caps.items()}
    gate = Settings.from_environment(names).gate
    assert {name: getattr(gate, name) for name in caps} == caps


def test_paths_are_pinned_to_where_the_start_command_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {
        "FAIRSLATE_MODEL": "/elsewhere",
        "FAIRSLATE_REASONER": "",
        "FAIRSLATE_TENANTS_FILE": "tenants.yaml",
    }
    pin_paths(environment)
    assert environment == {
        "FAIRSLATE_MODEL": "/elsewhere",
        "FAIRSLATE_REASONER": "",
        "FAIRSLATE_TENANTS_FILE": str(tmp_path / "tenants.yaml"),
        "FAIRSLATE_STATE_DIR": str(tmp_path / ".fairslate"),
    }


def test_a_file_that_is_not_named_stays_unnamed() -> None:
    environment: dict[str, str] = {}
    pin_paths(environment)
    assert "FAIRSLATE_TENANTS_FILE" not in environment


def test_a_request_asks_for_no_more_reasons_than_a_tenant_may_have_jobs() -> None:
    assert Settings().most_reasons == Settings().max_reasons == 32
    assert Settings(max_tenant_jobs=8).most_reasons == 8
    assert Settings(max_tenant_in_flight=5).most_reasons == 5


def test_a_batch_lasts_as_long_whatever_it_holds() -> None:
    gate = Settings(output_weight=9).gate
    assert (gate.output_weight, gate.output_room) == (9, 9)
