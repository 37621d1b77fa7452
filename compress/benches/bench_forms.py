"""Size and quality of one model in every quantized form. Knows nothing of the methods' insides.

    python -m compress.benches.bench_forms MODEL --data DIR --out FILE

Scores the selecting half of `valid` as each form is served, by method, beside the model in fp32:
int8 arithmetic for w8a8, fp32 with the stored weights for w4a16.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.data.requests import Request, halves, load_requests
from compress.measure.intervals import Scored, values
from compress.measure.metrics import kendall_tau
from compress.quantization import quantize
from compress.stages.stage import StageInput, directory_digest
from models.checkpoint import ModelDirectory, load_model_directory
from models.engines.base import ScoreJob
from models.engines.fairslate import FairslateEngine

CACHE_BYTES = 64 << 20
METRICS = ("gauc", "ndcg@10", "logloss", "ece")
FORMS: dict[str, dict[str, Any]] = {
    "w8a8 rtn": {"method": "rtn"},
    "w8a8 gptq": {"method": "gptq"},
    "w8a8 quantease": {"method": "quantease"},
    "w8a8 smoothquant+": {"method": "quantease", "smooth": 0.8},
    "w4a16 rtn": {"scheme": "w4a16", "method": "rtn"},
    "w4a16 gptq": {"scheme": "w4a16", "method": "gptq"},
    "w4a16 quantease": {"scheme": "w4a16", "method": "quantease"},
    "w4a16 quantease, 0.5 % outliers": {"scheme": "w4a16", "outlier_share": 0.005},
    "w4a16 smoothquant+": {"scheme": "w4a16", "smooth": 0.5},
}


def rows(model: Path, data: Path, work: Path, slates: int, every: int) -> Iterator[dict[str, Any]]:
    """fp32 first, then every form; tau is the mean over requests, of scores against fp32's."""
    requests = halves(load_requests(data, "valid"))[0][::every]
    directory = load_model_directory(model)
    plain = _scores(directory, requests, "float32")
    yield _row("fp32", directory, requests, plain, plain)
    for name, options in FORMS.items():
        out = work / "form"
        shutil.rmtree(out, ignore_errors=True)
        stage = StageInput(model, data, out, work / "state", 1, torch.get_num_threads())
        quantize.run(stage, options | {"slates": slates})
        found = load_model_directory(out)
        dtype = "int8" if name.startswith("w8a8") else "float32"
        row = _row(name, found, requests, _scores(found, requests, dtype), plain)
        layers = found.card.metrics["quantize"]["layers"]
        yield row | {"layer_error": float(np.mean(list(layers.values())))}


def _row(
    name: str,
    directory: ModelDirectory,
    requests: Sequence[Request],
    scores: Sequence[np.ndarray],
    plain: Sequence[np.ndarray],
) -> dict[str, Any]:
    scored = [Scored(request, own) for request, own in zip(requests, scores, strict=True)]
    found = values(scored)
    pairs = list(zip(plain, scores, strict=True))
    return {
        "form": name,
        "bytes": (directory.path / "model.safetensors").stat().st_size,
        **{metric: float(found[metric]) for metric in METRICS},
        "tau": float(np.mean([kendall_tau(one, two) for one, two in pairs])),
        "largest_difference": float(max(np.abs(one - two).max() for one, two in pairs)),
    }


def _scores(directory: ModelDirectory, requests: Sequence[Request], dtype: str) -> list[np.ndarray]:
    """Calibrated probabilities by request."""
    engine = FairslateEngine(directory, CACHE_BYTES, dtype=dtype, backend="auto")
    calibrate = next(iter(directory.card.scoring_heads.values())).calibration.calibrate
    prompt, found = directory.prompt, []
    for request in requests:
        ids = prompt.encode_context(request.context).ids
        candidates = tuple(one.ids for one in prompt.encode_candidates(request.candidates))
        job = ScoreJob(ids, prompt.block_hashes(ids, directory.card.block_size), candidates)
        (scores,) = engine.score([job])
        found.append(np.array([calibrate(logit) for logit in scores.of_head(0)]))
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m compress.benches.bench_forms")
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--slates", type=int, default=64, help="of calibration")
    parser.add_argument("--every", type=int, default=1, help="scores each n-th request alone")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    digest, found = load_model_directory(given.model).digest, []
    with tempfile.TemporaryDirectory() as work:
        for row in rows(given.model, given.data, Path(work), given.slates, given.every):
            print(json.dumps(row), file=sys.stderr)
            found.append(row)
    report = {
        "model": digest,
        "data": directory_digest(given.data),
        "split": "valid, the selecting half",
        "every": given.every,
        "calibration_slates": given.slates,
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "rows": found,
    }
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
