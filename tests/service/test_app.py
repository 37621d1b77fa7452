"""BentoML's part in a server: what it records of requests."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("disabled", "recording"), [("", False), ("false", True)])
def test_spans_are_recorded_only_for_who_asks(disabled: str, recording: bool) -> None:
    program = (
        "import service.app\n"
        "from bentoml._internal.configuration.containers import BentoMLContainer\n"
        "tracer = BentoMLContainer.tracer_provider.get().get_tracer('test')\n"
        "print(tracer.start_span('span').is_recording())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OTEL_SDK_DISABLED"}
    environment |= {"OTEL_SDK_DISABLED": disabled} if disabled else {}
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == f"{recording}\n"
