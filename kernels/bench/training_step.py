"""Times a whole decoder's training step: `python -m kernels.bench.training_step --provider ours`.

A step is forward, backward and AdamW on random tokens, bf16, random weights of a real shape. One
provider a process, since Liger patches classes. Knows nothing of data, schedules or convergence.
"""

from __future__ import annotations

import argparse
import fcntl
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from kernels.catalogue.shapes import LLAMA32_1B, QWEN3_06B, ModelShape
from kernels.kept import machine
from kernels.kept.records import recording

SHAPES = {shape.name: shape for shape in (QWEN3_06B, LLAMA32_1B)}
SMOKE = ModelShape("smoke", 64, 96, 4, 2, 16, 300, 2)
GIGABYTE = 1e9


def configuration(shape: ModelShape, layers: int) -> Any:
    """The transformers configuration of a shape; both families tie their embeddings here."""
    from transformers import LlamaConfig, Qwen3Config

    family = LlamaConfig if shape.name.startswith("Llama") else Qwen3Config
    return family(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        tie_word_embeddings=True,
        use_cache=False,
    )


def build(provider: str, shape: ModelShape, layers: int, device: torch.device) -> nn.Module:
    """The model as a provider trains it. Raises ImportError where Liger is not installed."""
    from transformers import AutoModelForCausalLM

    if provider == "liger":
        from liger_kernel.transformers import (  # type: ignore[import-not-found]
            apply_liger_kernel_to_llama,
            apply_liger_kernel_to_qwen3,
        )

        apply_liger_kernel_to_llama()
        apply_liger_kernel_to_qwen3()
    with torch.device(device):
        config = configuration(shape, layers)
        model: nn.Module = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    model.train()
    if provider == "ours":
        from kernels.patch import patch

        print(patch(model))
    if provider == "torch.compile":
        compile_parts(model)
    return model


def compile_parts(model: Any) -> None:
    """Each layer and the loss: all of the time that compiling the whole could save, in seconds."""
    for layer in model.model.layers:
        layer.compile(dynamic=False)
    model.model.norm.compile(dynamic=False)
    model.loss_function = torch.compile(model.loss_function, dynamic=False)


def step_of(model: nn.Module, tokens: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Forward, backward and update, without waiting for the device."""
    fused = tokens.is_cuda
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=fused)

    def step() -> torch.Tensor:
        loss: torch.Tensor = model(input_ids=tokens, labels=tokens).loss
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def seconds_of(step: Callable[[], object], steps: int, device: torch.device) -> list[float]:
    """Each step's time from start to end on the device."""
    taken = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return taken


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One row: tokens/s of the median step, peak memory of a step, and the last loss."""
    shape = SMOKE if options.model == "smoke" else SHAPES[options.model]
    torch.manual_seed(0)
    started = time.perf_counter()
    model = build(options.provider, shape, options.layers or shape.layers, device)
    size = (options.batch, options.length)
    step = step_of(model, torch.randint(shape.vocabulary, size, device=device))
    row = {
        "provider": options.provider,
        "model": shape.name,
        "layers": options.layers or shape.layers,
        "batch": options.batch,
        "length": options.length,
    }
    lock = options.lock.open("w") if options.lock else None
    if lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until this process ends
    try:
        seconds_of(step, options.warm, device)
        ready = time.perf_counter() - started
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        taken = seconds_of(step, options.steps, device)
        figures: dict[str, Any] = {
            "tokens_per_s": round(options.batch * options.length / median(taken)),
            "step_ms": round(median(taken) * 1e3, 2),
            "fastest_ms": round(min(taken) * 1e3, 2),
            "slowest_ms": round(max(taken) * 1e3, 2),
            "peak_gb": round(_peak(device) / GIGABYTE, 3),
            "ready_s": round(ready, 1),
            "loss": round(float(step()), 4),
            "note": "",
        }
    except torch.OutOfMemoryError:
        names = (
            "tokens_per_s",
            "step_ms",
            "fastest_ms",
            "slowest_ms",
            "peak_gb",
            "ready_s",
            "loss",
        )
        figures = dict.fromkeys(names, "") | {"note": "out of memory"}
    return row | figures


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def main() -> None:
    """Appends one row for one provider and model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    providers = ("eager", "torch.compile", "liger", "ours")
    parser.add_argument("--provider", choices=providers, required=True)
    parser.add_argument("--model", choices=[*SHAPES, "smoke"], default=QWEN3_06B.name)
    parser.add_argument("--layers", type=int, default=0, help="0: as many as the model has")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--warm", type=int, default=3, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", default="-", help="file of JSON lines, - for standard output")
    parser.add_argument("--csv", type=Path, default=None, help="file the row is appended to")
    parser.add_argument("--lock", type=Path, help="file that only one process at a time may hold")
    parser.add_argument("--memory", type=float, default=1.0, help="share of the GPU it may take")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(options.memory)
    with recording(options.json, options.csv) as file:
        file.write(measure(options, device) | machine.description(device))


if __name__ == "__main__":
    main()
