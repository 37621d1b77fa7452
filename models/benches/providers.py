"""Whom the benchmark asks: ours in every arithmetic that runs here, and the peers. Knows no clock.

fairslate-torch     ours operation by operation, where the C++ decoder does not run
fairslate-compiled  the same with its layers under `torch.compile`
hf-naive     transformers, every candidate with its whole context, one padded batch
hf-shared    transformers, the context once and kept, expanded to the padded candidates
vllm         vLLM's CPU build with prefix caching, settings in `models.engines.vllm`
ort-pairs    ONNX Runtime, every pair of context and candidate one by one
ort-shared   ONNX Runtime with the context graph and candidate graph of `models.export`
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from models.benches.turns import Spec
from models.config import DecoderConfig
from models.directory import ModelDirectory
from models.engines.cpu_probe import available
from models.export import write_graphs

VLLM_PYTHON = Path(".venv-vllm/bin/python")
SHORT_NAMES = {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"}
# Of ours, who computes: the name's suffix.
SUFFIXES = {"native": "", "torch": "-torch"}


@dataclass(frozen=True, slots=True)
class Setting:
    """What all providers of a shape share.

    longest: tokens of the longest prompt. scratch: where exports may be written. rows: the most
    candidates transformers takes at once, None for all.
    """

    directory: ModelDirectory
    scratch: Path
    longest: int
    cache_mb: int
    threads: int
    rows: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """For every builder."""
        return {
            "model": str(self.directory.path),
            "labels": self.directory.prompt.label_ids,
            "block_size": self.directory.card.block_size,
            "cache_mb": self.cache_mb,
            "threads": self.threads,
            "longest": self.longest,
            "rows": self.rows,
        }


def ours(setting: Setting) -> Iterator[Spec]:
    """Every dtype and backend that runs this model here."""
    for option in available(setting.directory.config, setting.directory.card.block_size):
        if option.runs:
            name, dtype = f"fairslate{SUFFIXES[option.backend]}", SHORT_NAMES[option.dtype]
            options = setting.options | {"backend": option.backend}
            yield Spec(name, dtype, "fairslate", options)
            if option.backend == "torch":
                yield Spec("fairslate-compiled", dtype, "compiled", setting.options)


def transformers_peers(setting: Setting) -> Iterator[Spec]:
    """Both ways in bf16, the shared one also in fp32."""
    for name, dtype in (("hf-naive", "bf16"), ("hf-shared", "bf16"), ("hf-shared", "fp32")):
        options = setting.options | {"share": name == "hf-shared"}
        yield Spec(name, dtype, "transformers", options)


def vllm_peers(setting: Setting) -> Iterator[Spec]:
    """In its own environment; nothing where `make vllm-env` has not been run."""
    if VLLM_PYTHON.exists():
        yield Spec("vllm", "bf16", "vllm", setting.options, str(VLLM_PYTHON))
    else:
        print("vllm is left out: run `make vllm-env` first", file=sys.stderr)


def onnx_peers(setting: Setting) -> Iterator[Spec]:
    """Reads exports that are made when the first of them starts."""
    graphs = setting.scratch / "onnx"
    options = setting.options | {"graphs": str(graphs)}
    for name, dtype in (("ort-pairs", "int8"), ("ort-shared", "int8"), ("ort-shared", "fp32")):
        export = partial(_export_once, setting.directory, graphs / dtype, dtype == "int8")
        own = options | {"share": name == "ort-shared"}
        yield Spec(name, dtype, "onnx", own, prepare=export)


def _export_once(directory: ModelDirectory, graphs: Path, int8: bool) -> None:
    if not graphs.exists():
        write_graphs(directory, graphs, int8=int8)


def limits(setting: Setting) -> Iterator[Spec]:
    """The square products that all are measured against."""
    for dtype in ("int8", "bf16", "fp32"):
        yield Spec("limit", dtype, "product", setting.options)


PEERS: dict[str, Callable[[Setting], Iterator[Spec]]] = {
    "hf": transformers_peers,
    "vllm": vllm_peers,
    "ort": onnx_peers,
}


def context_megabytes(config: DecoderConfig, tokens: int) -> int:
    """Keys and values of one context in fp32, rounded up."""
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return -(-values * tokens * 4 // 2**20)
