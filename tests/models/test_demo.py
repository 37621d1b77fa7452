"""The shipped ranker: its size, its peers, and how well it ranks unseen occupations."""

from __future__ import annotations

import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from compress.data.requests import Request, halves, load_requests
from compress.measure.evaluation import evaluate
from compress.measure.metrics import auc
from compress.measure.scorers import DirectoryScorer, scored_by
from models.calibration import Calibration, fit_platt
from models.checkpoint import ModelDirectory, load_model_directory

DEMO = Path(__file__).parents[2] / "models" / "demo"
BM25_GAUC = 0.756  # on `test`, from the data's own table
VLLM_HEAD_SIZES = {32, 64, 80, 96, 112, 128, 160, 192, 224, 256}  # of its CPU attention backend


@pytest.fixture(scope="module")
def demo() -> ModelDirectory:
    return load_model_directory(DEMO)


def test_it_is_small_and_its_heads_are_of_a_common_size(demo: ModelDirectory) -> None:
    size = sum(path.stat().st_size for path in DEMO.iterdir() if path.is_file())
    assert size <= 16_000_000
    assert demo.config.head_dim in VLLM_HEAD_SIZES


def test_plain_transformers_scores_alike(demo: ModelDirectory) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    request = load_requests(DEMO / "onet_jobs", "valid")[0]
    (ours,) = DirectoryScorer(demo).raw_logits([request])
    labels = [tokenizer.convert_tokens_to_ids(label) for label in ("<yes>", "<no>")]
    for text, raw_logit in list(zip(request.candidates, ours, strict=True))[:4]:
        prompt = f"<member>{request.context}<candidate_job>{text}<match>"
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            yes, no = model(input_ids=ids).logits[0, -1, labels].tolist()
        assert yes - no == pytest.approx(raw_logit, abs=1e-3)


def test_it_ranks_members_for_a_job_too(demo: ModelDirectory) -> None:
    """Each posting against a member of its own occupation and members of every other one."""
    by_occupation = {r.group: r for r in load_requests(DEMO / "onet_jobs", "test")}
    requests = list(by_occupation.values())[:24]
    members = tuple(request.context for request in requests)
    postings = [request.candidates[request.grades.index(4)] for request in requests]
    inverted = [Request(str(i), text, members, ()) for i, text in enumerate(postings)]
    scores = np.array(DirectoryScorer(demo, "job_to_members").raw_logits(inverted))
    aucs = [auc(row, np.arange(len(row)) == own) for own, row in enumerate(scores)]
    assert np.mean(aucs) > 0.9


def test_it_beats_bm25_on_unseen_occupations(demo: ModelDirectory) -> None:
    requests = load_requests(DEMO / "onet_jobs", "test")[::16]
    gauc = np.nanmean(
        [auc(item.scores, item.labels) for item in scored_by(DirectoryScorer(demo), requests)]
    )
    assert gauc > BM25_GAUC


def test_a_copy_without_the_data_loads(tmp_path: Path) -> None:
    for path in DEMO.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    assert load_model_directory(tmp_path).card.metrics is not None


@pytest.mark.long
def test_the_cards_quality_is_what_the_evaluation_measures(demo: ModelDirectory) -> None:
    requests = load_requests(DEMO / "onet_jobs", "test")
    report = evaluate(DirectoryScorer(demo), requests, resamples=2)
    for name in ("gauc", "auc", "ndcg@10", "ece", "logloss"):
        stated = demo.card.metrics["test"][name]["value"]
        assert report[name]["value"] == pytest.approx(stated, abs=1e-5)


@pytest.mark.long
def test_it_is_calibrated_on_the_half_of_valid_that_selected_nothing(demo: ModelDirectory) -> None:
    _, held_out = halves(load_requests(DEMO / "onet_jobs", "valid"))
    logits = list(chain.from_iterable(DirectoryScorer(demo).raw_logits(held_out)))
    labels = [int(label) for request in held_out for label in request.relevant]
    fitted = fit_platt(logits, labels)
    shipped = demo.card.calibration
    assert isinstance(shipped, Calibration)
    assert fitted.scale == pytest.approx(shipped.scale, abs=1e-4)
    assert fitted.shift == pytest.approx(shipped.shift, abs=1e-4)
