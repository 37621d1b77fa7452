"""Tenants as users: sends real slates, checks every answer. Knows nothing of the server's inside.

    locust -f loadtest/locustfile.py --headless -u 8 -t 20s --host http://127.0.0.1:3000
        [--kept loadtest/results/locust.json]

`--api-keys KEY,KEY` (or LOADTEST_API_KEYS) spreads the users over tenants with keys. After a share
`--reasons` of the slates it is asked why the three best fit. Any failed request, wrong answer or
empty run makes the exit code non-zero.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, events, task

from loadtest.checks import AnswerChecker, WrongAnswerError, check_reasons, reason_of
from loadtest.fresh import conditions
from loadtest.traffic import Catalogue, Traffic, load_catalogue

RANK, REASON = "/v1/rank", "/v1/reason"
EXPLAINED = 3  # of a slate's best
DATA = Path(__file__).parent.parent / "models" / "demo" / "onet_jobs"


@events.init_command_line_parser.add_listener
def add_options(parser: ArgumentParser) -> None:
    """Options beside Locust's own."""
    keys = os.environ.get("LOADTEST_API_KEYS", "")
    parser.add_argument("--api-keys", default=keys, help="comma-separated, one per tenant")
    parser.add_argument("--reasons", type=float, default=0.0, help="share of slates, 0 to 1")
    parser.add_argument("--seed", type=int, default=0, help="of the requests drawn")
    parser.add_argument("--data", type=Path, default=DATA, help="directory of the O*NET data")
    parser.add_argument("--kept", type=Path, default=None, help="where the figures are kept")
    parser.add_argument("--split", default="test", help="whose members ask")


class Run:
    """What all users of one run share."""

    def __init__(self, options: Any) -> None:
        self.catalogue: Catalogue = load_catalogue(options.data, options.split)
        self.checkers = {RANK: AnswerChecker(), REASON: AnswerChecker(check_reasons)}
        self.reasons = options.reasons
        keys = [key for key in options.api_keys.split(",") if key]
        self.keys = itertools.cycle(keys or [""])
        self.seeds = itertools.count(options.seed)


@events.init.add_listener
def prepare(environment: Any, **_: Any) -> None:
    """Reads the data once, before the first user starts."""
    environment.fairslate = Run(environment.parsed_options)


@events.quitting.add_listener
def refuse_an_empty_run(environment: Any, **_: Any) -> None:
    """A run that asked nothing proved nothing."""
    if environment.stats.total.num_requests == 0:
        environment.process_exit_code = 1


@events.quitting.add_listener
def keep(environment: Any, **_: Any) -> None:
    """Locust's own figures by route, with their conditions; its `--json-file` names none."""
    options = environment.parsed_options
    if options.kept:
        rows = environment.stats.serialize_stats()
        load = {"users": options.num_users, "run_time": options.run_time}
        text = json.dumps({**conditions(), **load, "rows": rows}, indent=2) + "\n"
        options.kept.write_text(text, encoding="utf-8")


class TenantUser(FastHttpUser):
    """One tenant whose members ask in sessions."""

    wait_time = between(0.0, 0.1)

    def on_start(self) -> None:
        run: Run = self.environment.fairslate
        self.checkers, key = run.checkers, next(run.keys)
        self.reasons, self.random = run.reasons, random.Random(next(run.seeds))
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.traffic = Traffic(run.catalogue, next(run.seeds))
        self.tenant = self.traffic.draw_tenant()
        self.calls = self.traffic.session(self.tenant)

    @task
    def rank(self) -> None:
        """The next slate of the session, or the first of a new one."""
        call = next(self.calls, None)
        if call is None:
            self.calls = self.traffic.session(self.tenant)
            call = next(self.calls)
        ranked = self.send(RANK, call.body)
        if ranked is not None and self.random.random() < self.reasons:
            best = [call.body["candidates"][row["index"]] for row in ranked["results"][:EXPLAINED]]
            self.send(REASON, {"context": call.body["context"], "candidates": best})

    def send(self, route: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """One request's answer; a wrong one is a failure under the promise it breaks, and None."""
        with self.client.post(
            route, json=body, headers=self.headers, catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(f"HTTP {response.status_code}: {reason_of(response.text)}")
                return None
            try:
                answer: dict[str, Any] = response.json()
                self.checkers[route].check(body, answer)
            except (ValueError, WrongAnswerError) as error:
                response.failure(str(error))
                return None
            return answer
