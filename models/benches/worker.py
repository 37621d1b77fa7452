"""One provider in a process of its own, scoring what it is handed. Knows no rounds and no rows.

A specification comes as the argument, slates and answers as lines of JSON; the clock runs from
token ids to floats. `models.benches.turns` is the other end.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from models.allocator import keep_freed_memory
from models.benches.memory import peak_mb, reset_peak, resident_mb
from models.engines.base import ScoreJob
from models.prompt import block_hashes

Score = Callable[[ScoreJob], list[float]]
LIMIT_SIZE = 4096
TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}


def main() -> None:
    """Loads the provider, says so, then answers line by line until the input ends."""
    answers = _take_standard_output()
    spec = json.loads(sys.argv[1])
    importlib.import_module(NEEDED[spec["kind"]])
    before = resident_mb()
    keep_freed_memory()  # as our engines do: peers on torch gain a tenth
    score = BUILDERS[spec["kind"]](spec)
    loaded = resident_mb()
    _write(answers, {"loaded_mb": loaded - before})
    for line in sys.stdin:
        _write(answers, _answer(score, json.loads(line), spec["block_size"], loaded))


def _answer(score: Score, message: Any, block_size: int, loaded: float) -> dict[str, Any]:
    """Times one slate. An error becomes the answer: other providers go on."""
    context = tuple(message["context"])
    candidates = tuple(map(tuple, message["candidates"]))
    job = ScoreJob(context, block_hashes(context, block_size), candidates)
    gc.collect()
    gc.freeze()  # as a service that is warm: no pauses to walk what stays
    reset_peak()
    started = time.perf_counter()
    try:
        logits = score(job)
    except Exception as error:  # peers' errors share no root
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_mb": peak_mb() - loaded, "logits": logits}


def _fairslate(spec: Mapping[str, Any]) -> Score:
    from models.checkpoint import load_model_directory
    from models.engines.fairslate import FairslateEngine

    directory = load_model_directory(Path(spec["model"]), verify=False)
    engine = FairslateEngine(
        directory,
        spec["cache_mb"] << 20,
        spec["threads"],
        dtype=TORCH_NAMES[spec["dtype"]],
        backend=spec["backend"],
    )
    return lambda job: list(engine.score([job])[0].raw_logits)


def _compiled(spec: Mapping[str, Any]) -> Score:
    import torch

    from models.benches.compiled import compiled_runner
    from models.checkpoint import load_model_directory
    from models.engines.fairslate import RunnerEngine

    torch.set_num_threads(spec["threads"])
    directory = load_model_directory(Path(spec["model"]), verify=False)
    runner = compiled_runner(directory, spec["cache_mb"] << 20, TORCH_NAMES[spec["dtype"]])
    engine = RunnerEngine(runner)
    return lambda job: list(engine.score([job])[0].raw_logits)


def _transformers(spec: Mapping[str, Any]) -> Score:
    import torch

    from models.benches.peers import TransformersPeer, load_transformers

    torch.set_num_threads(spec["threads"])
    model = load_transformers(Path(spec["model"]), getattr(torch, TORCH_NAMES[spec["dtype"]]))
    labels, rows = tuple(spec["labels"]), spec["rows"]
    return TransformersPeer(model, labels, torch.device("cpu"), spec["share"], rows).score


def _onnx(spec: Mapping[str, Any]) -> Score:
    from models.engines.onnx import OnnxScorer

    graphs = Path(spec["graphs"]) / spec["dtype"]
    scorer = OnnxScorer(graphs, spec["cache_mb"] << 20, spec["threads"], spec["share"])
    return scorer.raw_logits


def _vllm(spec: Mapping[str, Any]) -> Score:
    from models.engines.vllm import VllmScorer

    cache_gib = -(-spec["cache_mb"] // 1024)
    labels = tuple(spec["labels"])
    return VllmScorer(Path(spec["model"]), labels, spec["longest"], cache_gib).raw_logits


def _product(spec: Mapping[str, Any]) -> Score:
    """No scorer, but the limit of all: one square product of the type."""
    import torch

    torch.set_num_threads(spec["threads"])
    a, b = (_square(torch, spec["dtype"]) for _ in range(2))
    multiply = torch._int_mm if spec["dtype"] == "int8" else torch.mm

    def score(job: ScoreJob) -> list[float]:
        multiply(a, b)
        return []

    return score


def _square(torch: Any, dtype: str) -> Any:
    shape = (LIMIT_SIZE, LIMIT_SIZE)
    if dtype == "int8":
        return torch.randint(-127, 128, shape, dtype=torch.int8)
    return torch.randn(shape).to(getattr(torch, TORCH_NAMES[dtype]))


BUILDERS: dict[str, Callable[[Mapping[str, Any]], Score]] = {
    "fairslate": _fairslate,
    "compiled": _compiled,
    "transformers": _transformers,
    "onnx": _onnx,
    "vllm": _vllm,
    "product": _product,
}


# Imported before memory is counted: what a library takes is no weight.
NEEDED = {
    "fairslate": "models.engines.fairslate",
    "compiled": "models.benches.compiled",
    "transformers": "models.benches.peers",
    "onnx": "models.engines.onnx",
    "vllm": "models.engines.vllm",
    "product": "torch",
}


def _take_standard_output() -> TextIO:
    """Libraries print what they like: it goes to standard error, the answers alone to the pipe."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _write(answers: TextIO, message: Mapping[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
