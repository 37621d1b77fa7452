"""What an engine says of itself beside its scores. Knows nothing of jobs, queues or answers.

It rides with the first result of a batch, so that whoever asks the API knows what computes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from service.jobs.payload_bytes import PayloadError


@dataclass(frozen=True, slots=True)
class EngineReport:
    """description: the arithmetic it chose and why. label_mass: of candidates sampled lately."""

    worker: str
    description: Mapping[str, str] = field(default_factory=dict)
    label_mass: tuple[float, ...] = ()  # share of probability on the labels, 0 to 1


def encode_report(report: EngineReport) -> bytes:
    """Inverse of `decode_report`."""
    content = [report.worker, dict(report.description), report.label_mass]
    return json.dumps(content, separators=(",", ":")).encode()


def decode_report(payload: bytes) -> EngineReport:
    """Raises PayloadError when the bytes are no report."""
    try:
        worker, description, label_mass = json.loads(payload)
        return EngineReport(worker, dict(description), tuple(map(float, label_mass)))
    except (ValueError, TypeError) as error:
        raise PayloadError(
            f"an engine's report cannot be read ({error}); drain the pool before an upgrade"
        ) from error
