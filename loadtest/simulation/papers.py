"""The gate's settings as the papers have them, where ours differ. Knows no workload."""

from __future__ import annotations

from service.gate.settings import GateSettings

QUANTUM = 2_000  # Q of fig7
OVERTAKES = 64
# One refill a quantum, and an output token that costs two of the input and takes the room of one.
PAPERS = GateSettings(quantum=QUANTUM, quantum_parts=1, output_weight=2, output_room=1)
