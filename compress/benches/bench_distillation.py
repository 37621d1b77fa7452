"""Memory and time of one distillation loss with its gradients. Knows nothing of models.

    python -m compress.benches.bench_distillation chunked|plain [--tokens N] [--threads N]

Each way runs in a process of its own. Prints {seconds, peak_mb, loss, gradients}: the peak is
resident memory above what the operands take, in MB; gradients are norms, for comparison. Operands
are random.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.linear_distillation import linear_distillation

VOCABULARY, HIDDEN, TOKENS = 151_936, 1_024, 1_024  # Qwen3-0.6B's
ROUNDS = 3


def measured(way: str, tokens: int, threads: int) -> dict[str, Any]:
    """Runs one way in a new process."""
    options = ["--tokens", str(tokens), "--threads", str(threads)]
    command = [sys.executable, "-m", "compress.benches.bench_distillation", way, *options]
    answer: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    return answer


def plain(student: Tensor, weight: Tensor, teacher: Tensor, teacher_weight: Tensor) -> Tensor:
    """Forward KL through all logits, as one writes it."""
    with torch.no_grad():
        target = (teacher @ teacher_weight.T).log_softmax(1)
    logits = (student @ weight.T).log_softmax(1)
    return F.kl_div(logits, target, reduction="batchmean", log_target=True)


def chunked(student: Tensor, weight: Tensor, teacher: Tensor, teacher_weight: Tensor) -> Tensor:
    """The same through a chunk of logits at a time."""
    return linear_distillation(student, weight, teacher, teacher_weight, kind="forward_kl")


WAYS = {"plain": plain, "chunked": chunked}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m compress.benches.bench_distillation")
    parser.add_argument("way", choices=sorted(WAYS))
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    random = torch.Generator().manual_seed(0)
    operands = [
        torch.randn(rows, HIDDEN, generator=random) * 0.05
        for rows in (options.tokens, VOCABULARY) * 2
    ]
    held, seconds = _resident_mb(), []
    for _ in range(ROUNDS):
        wanted = [operand.requires_grad_() for operand in operands[:2]]
        begin = time.perf_counter()
        loss = WAYS[options.way](*operands)
        gradients = torch.autograd.grad(loss, wanted)
        seconds.append(time.perf_counter() - begin)
    print(
        json.dumps(
            {
                "seconds": sorted(seconds)[ROUNDS // 2],
                "peak_mb": _resident_mb() - held,
                "loss": float(loss.detach()),
                "gradients": [float(gradient.double().norm()) for gradient in gradients],
            }
        )
    )


def _resident_mb() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
