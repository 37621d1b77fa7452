"""Tenants as users: sends real slates, checks every answer. Knows nothing of the server's inside.

    locust -f loadtest/locustfile.py --headless -u 8 -t 20s --host http://127.0.0.1:3000

`--api-keys KEY,KEY` (or LOADTEST_API_KEYS) spreads the users over tenants with keys. Any failed
request, wrong answer or empty run makes the exit code non-zero.
"""

from __future__ import annotations

import itertools
import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, events, task

from loadtest.checks import AnswerChecker, WrongAnswerError
from loadtest.traffic import Catalogue, RankCall, Traffic, load_catalogue

DATA = Path(__file__).parent.parent / "models" / "demo" / "onet_jobs"


@events.init_command_line_parser.add_listener
def add_options(parser: ArgumentParser) -> None:
    """Options beside Locust's own."""
    keys = os.environ.get("LOADTEST_API_KEYS", "")
    parser.add_argument("--api-keys", default=keys, help="comma-separated, one per tenant")
    parser.add_argument("--seed", type=int, default=0, help="of the requests drawn")
    parser.add_argument("--data", type=Path, default=DATA, help="directory of the O*NET data")
    parser.add_argument("--split", default="test", help="whose members ask")


class Run:
    """What all users of one run share."""

    def __init__(self, options: Any) -> None:
        self.catalogue: Catalogue = load_catalogue(options.data, options.split)
        self.checker = AnswerChecker()
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


class TenantUser(FastHttpUser):
    """One tenant whose members ask in sessions."""

    wait_time = between(0.0, 0.1)

    def on_start(self) -> None:
        run: Run = self.environment.fairslate
        self.checker, key = run.checker, next(run.keys)
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
        self.send(call)

    def send(self, call: RankCall) -> None:
        """One request; a wrong answer counts as a failure under the promise it breaks."""
        with self.client.post(
            "/v1/rank", json=call.body, headers=self.headers, catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(f"HTTP {response.status_code}: {response.text}")
                return
            try:
                self.checker.check(call.body, response.json())
            except (ValueError, WrongAnswerError) as error:
                response.failure(str(error))
