"""What a simulated GPU's steps cost, from its data sheet and the model's shape. Knows no scheduler.

One step of continuous batching takes c0 + c1 extend + c2 extend * context + c3 batch + c4 KV tokens
read. c0, c1, c2 and c4 follow from peak rates times two efficiencies; the efficiencies, the launch
overhead and c3 are the only fitted numbers: set once, on the fig1 suite, they hold for all.
"""

from __future__ import annotations

from dataclasses import dataclass

COMPUTE_EFFICIENCY = 0.45  # of peak FLOP/s, reached by prefill
READ_EFFICIENCY = 0.80  # of peak bytes/s, reached by decode
LAUNCH_MS = 3.0  # of every step, whatever is in it
SEQUENCE_MS = 0.02  # c3: sampling and bookkeeping of one sequence in one step
MEMORY_SHARE = 0.88  # of the device's memory, for weights and KV


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder in 16-bit weights: parameters in billions, KV in bytes per token."""

    name: str
    billions: float
    layers: int
    width: int
    kv_bytes: int


@dataclass(frozen=True, slots=True)
class Device:
    """Peak dense 16-bit TFLOP/s, memory bandwidth in GB/s and memory in GB."""

    name: str
    teraflops: float
    bandwidth: float
    memory: float


@dataclass(frozen=True, slots=True)
class Engine:
    """One worker: step costs in milliseconds, KV pool in tokens, and how it batches."""

    name: str
    step_ms: float  # c0
    extend_ms: float  # c1, per extend token
    attention_ms: float  # c2, per extend token and token of its context
    sequence_ms: float  # c3, per running sequence
    read_ms: float  # c4, per KV token read
    kv_tokens: int
    block_tokens: int
    max_running: int = 256
    prefill_tokens: int = 16_384  # an admit pass stops once it has this many to compute
    admit_every: int = 10  # decode steps between admit passes
    claim_tokens: int = 10**9  # extend and output tokens claimed in one pass

    def prefill_ms(self, extend: int, attended: int) -> float:
        """One step over `extend` tokens; `attended` sums the context length over them."""
        return self.step_ms + self.extend_ms * extend + self.attention_ms * attended

    def decode_ms(self, steps: int, sequence_steps: int, tokens_read: int) -> float:
        """`steps` decode steps: sequences and KV tokens read are summed over the steps."""
        busy = self.sequence_ms * sequence_steps + self.read_ms * tokens_read
        return self.step_ms * steps + busy


# A small scoring model: no output, a latency budget for each batch.
RANKER = Engine(
    name="ranker at 50,000 tokens/s",
    step_ms=4.0,
    extend_ms=0.02,
    attention_ms=0.0,
    sequence_ms=0.0,
    read_ms=0.0,
    kv_tokens=131_072,
    block_tokens=16,
    prefill_tokens=4_096,
    claim_tokens=8_192,
)
LLAMA_3B = Model("Llama-3.2-3B", 3.21, 28, 3072, 114_688)
LLAMA_8B = Model("Llama-3.1-8B", 8.03, 32, 4096, 131_072)
LLAMA2_7B = Model("Llama-2-7B", 6.74, 32, 4096, 524_288)
A10 = Device("A10", 125, 600, 24)
A100 = Device("A100-80GB", 312, 2039, 80)


def engine(device: Device, model: Model, block_tokens: int, kv_tokens: int = 0) -> Engine:
    """An engine of one device; `kv_tokens` overrides what its memory would hold."""
    weights = 2 * model.billions
    flops_per_ms = device.teraflops * 1e9 * COMPUTE_EFFICIENCY
    bytes_per_ms = device.bandwidth * 1e6 * READ_EFFICIENCY
    room = (device.memory * MEMORY_SHARE - weights) * 1e9 / model.kv_bytes
    tokens = kv_tokens or int(room)
    return Engine(
        name=f"{device.name} {model.name}",
        step_ms=LAUNCH_MS + weights * 1e9 / bytes_per_ms,
        extend_ms=2e9 * model.billions / flops_per_ms,
        attention_ms=4 * model.layers * model.width / flops_per_ms,
        sequence_ms=SEQUENCE_MS,
        read_ms=model.kv_bytes / bytes_per_ms,
        kv_tokens=tokens - tokens % block_tokens,
        block_tokens=block_tokens,
    )
