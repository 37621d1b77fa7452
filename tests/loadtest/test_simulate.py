"""The command line runs each suite and prints rows with the promised cells; a seed repeats them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from loadtest.simulate import main
from loadtest.simulation.ranking import RankingShape, ranking
from loadtest.simulation.scenario import Outcome, conditions, play
from loadtest.simulation.suites import SUITES, scenarios
from service.gate.settings import GateSettings

OURS = ("ranking", "sybil")
CELLS = [
    *("suite", "workload", "policy", "workers", "quantum", "throughput", "jain", "jain_actual"),
    *("p50_s", "p99_s", "gap_max", "gap_bound"),
]


def played(suite: str, **wanted: object) -> Outcome:
    (scenario,) = [
        scenario
        for scenario in scenarios(suite, 0, quick=True)
        if all(getattr(scenario, name) == cell for name, cell in wanted.items())
    ]
    return play(scenario)


def test_rows_have_the_promised_cells_and_the_conditions(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(["--suite", "overload", "--quick", "--json", "-", "--plot", str(tmp_path)])
    rows = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in rows] == ["dlpm", "vtc", "fcfs"]
    assert all(list(row)[: len(CELLS)] == CELLS for row in rows)
    assert rows[0]["conditions"]["engine"]["kv_tokens"] == 10_000 - 10_000 % 32
    assert all(row["conditions"]["commit"] for row in rows)
    pictures = sorted(path.name for path in tmp_path.iterdir())
    assert pictures == ["overload_service.png", "overload_throughput_jain.png"]


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    texts = []
    for seed in ("3", "3", "4"):
        path = tmp_path / "rows.json"
        main(["--suite", "overload", "--quick", "--json", str(path), "--seed", seed])
        texts.append(path.read_text(encoding="utf-8"))
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("suite", sorted(SUITES.keys() - OURS))
def test_the_papers_suites_take_one_refill_a_quantum_and_the_papers_weights(suite: str) -> None:
    for scenario in scenarios(suite, 0, quick=False):
        settings = scenario.settings
        assert (settings.quantum_parts, settings.output_weight, settings.output_room) == (1, 2, 1)


@pytest.mark.parametrize("suite", OURS)
def test_our_own_suites_take_the_settings_that_the_gate_is_shipped_with(suite: str) -> None:
    for scenario in scenarios(suite, 0, quick=False):
        assert scenario.settings == GateSettings(policy=scenario.policy.split()[0])


def test_conditions_tell_of_refills_that_are_less_than_a_quantum() -> None:
    (ours, papers) = (
        conditions(next(scenarios(suite, 0, quick=True)), []) for suite in ("sybil", "overload")
    )
    assert ours["quantum_parts"] == GateSettings().quantum_parts > 1
    assert "quantum_parts" not in papers


@pytest.mark.parametrize("suite", SUITES)
def test_each_suite_compares_more_than_one_scenario(suite: str) -> None:
    listed = list(scenarios(suite, 5, quick=False))
    assert len({(s.workload, s.policy, s.workers, s.settings.quantum) for s in listed}) > 1
    assert {scenario.seed for scenario in listed} == {5}
    assert all(scenario.warmup_s < scenario.until_s for scenario in listed)


def test_dlpm_is_fair_where_lpm_is_not() -> None:
    fair = played("fig7", workload="s1-qa", workers=2, policy="d2lpm").row
    unfair = played("fig7", workload="s1-qa", workers=2, policy="preble").row
    assert fair["jain_actual"] > 0.97 > 0.9 > unfair["jain_actual"]
    assert fair["gap_max"] <= fair["gap_bound"]


def test_an_overloaded_client_is_never_a_request_behind() -> None:
    row = played("overload", policy="dlpm").row
    assert row["gap_max"] <= 768 < row["gap_bound"]


def test_an_aggressor_costs_the_others_less_than_without_fairness() -> None:
    shape = RankingShape(aggressor_ms=(3_000.0, 18_000.0), aggressor_share=0.3)
    p99 = {
        scenario.policy: play(replace(scenario, clients=partial(ranking, shape, True))).row["p99_s"]
        for scenario in scenarios("ranking", 0, quick=True)
        if scenario.workload == "aggressor" and scenario.policy in ("dlpm", "fcfs")
    }
    assert p99["dlpm"] < p99["fcfs"] / 2


def test_deadlines_that_the_gate_knows_are_missed_less_often_and_fairness_stays() -> None:
    shape = RankingShape(
        aggressor_ms=(3_000.0, 18_000.0), aggressor_share=0.3, first_page_ms=500, deadline_ms=5_000
    )
    rows = {
        scenario.policy: play(
            replace(
                scenario,
                clients=partial(
                    ranking,
                    replace(shape, deadlines_told=not scenario.policy.endswith("untold")),
                    True,
                ),
            )
        ).row
        for scenario in scenarios("ranking", 0, quick=True)
        if scenario.workload == "deadlines" and scenario.policy.split()[0] in ("dlpm", "fcfs")
    }
    missed = {policy: row["deadline_misses_good"] for policy, row in rows.items()}
    assert missed["dlpm"] <= missed["dlpm untold"] < missed["fcfs untold"]
    assert missed["dlpm"] < missed["fcfs"] < missed["fcfs untold"]
    assert rows["dlpm"]["gap_max"] <= rows["dlpm"]["gap_bound"]


def test_rows_tell_of_deadlines_only_where_there_are_any() -> None:
    assert not [cell for cell in played("overload", policy="dlpm").row if "deadline" in cell]
    row = played("ranking", workload="calm", policy="dlpm").row
    assert row["deadline_misses"] == row["deadline_misses_good"] == 0
