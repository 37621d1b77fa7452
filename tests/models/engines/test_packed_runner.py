"""The torch runner in narrow types, in passes of its own size, and with the same bits always."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from models.engines.cpu_probe import DTYPES
from tests.models.engines.native import (
    CONFIGS,
    PLAIN,
    drawn_jobs,
    job,
    logits,
    random_decoder,
    torch_engine,
)

# Largest difference measured over CONFIGS times two; logits spread by 0.7 to 2.3.
TOLERANCES = {"bfloat16": 0.13, "int8": 0.41}

# How far company may move a logit where nobody asked for `deterministic`: models/native/README.md
# publishes it. The largest measured over CONFIGS are 2e-6, 0.005 and 1e-6.
COMPANY_BOUNDS = {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.02}


@pytest.mark.parametrize("name", ["plain", "odd widths", "every head its own keys"])
@pytest.mark.parametrize("dtype", COMPANY_BOUNDS)
def test_company_moves_a_score_within_the_published_bound(name: str, dtype: str) -> None:
    jobs, bound = drawn_jobs(), COMPANY_BOUNDS[dtype]
    engine = torch_engine(random_decoder(CONFIGS[name]), dtype)
    together = logits(engine, jobs)
    assert logits(engine, jobs) == pytest.approx(together, abs=bound, rel=0)  # warm
    cold = torch_engine(random_decoder(CONFIGS[name]), dtype, cache_bytes=0)
    singles = [job(slate.context_ids, [ids]) for slate in jobs for ids in slate.candidates]
    alone = [logit for single in singles for logit in logits(cold, [single])]
    assert alone == pytest.approx(together, abs=bound, rel=0)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_narrow_layers_score_as_wide_ones(name: str, dtype: str) -> None:
    decoder = random_decoder(CONFIGS[name])
    want = logits(torch_engine(deepcopy(decoder)), drawn_jobs())
    got = logits(torch_engine(decoder, dtype), drawn_jobs())
    assert torch.tensor(want).std() > 0.7
    assert got == pytest.approx(want, abs=TOLERANCES[dtype], rel=0)
    assert got != want


@pytest.mark.parametrize("dtype", DTYPES)
def test_deterministic_bits_are_the_same_in_any_company(dtype: str) -> None:
    jobs = drawn_jobs()
    engine = torch_engine(random_decoder(PLAIN), dtype, deterministic=True)
    together = logits(engine, jobs)
    assert logits(engine, jobs) == together
    fresh = torch_engine(random_decoder(PLAIN), dtype, cache_bytes=0, deterministic=True)
    singles = [job(slate.context_ids, [ids]) for slate in jobs for ids in slate.candidates]
    assert [logit for single in singles for logit in logits(fresh, [single])] == together


def test_work_beyond_one_pass_is_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    want = logits(torch_engine(random_decoder(PLAIN)), drawn_jobs())
    for most in (1, 40, 100):
        for module in ("packed_runner", "contexts"):
            monkeypatch.setattr(f"models.engines.{module}.PASS_TOKENS", most)
        got = logits(torch_engine(random_decoder(PLAIN)), drawn_jobs())
        assert got == pytest.approx(want, abs=1e-5, rel=0)
