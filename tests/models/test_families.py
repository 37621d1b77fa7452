"""Every served family and variant against transformers' own forward pass, logit by logit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.card import ModelCard
from models.checkpoint import ModelDirectory, load_decoder, load_model_directory
from models.decoder import Decoder
from models.engines.base import ScoreJob
from models.engines.fairslate import FairslateEngine
from models.errors import ModelDirectoryError
from models.prompt import block_hashes
from tests.models.families import VARIANTS, random_model, store

# Measured 1.8e-5 at most over all variants; logits span -6 to 6.
TOLERANCE = 3.6e-5
TOKENS = 352


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The decoder's Attention for one plain sequence."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return mixed[0].transpose(0, 1)


def logits(decoder: Decoder, ids: Tensor) -> Tensor:
    hidden: Tensor = decoder.model.norm(decoder(ids, torch.arange(len(ids)), causal))
    return hidden @ decoder.output_embedding.T


def jobs() -> list[ScoreJob]:
    """Two contexts, one of them with candidates of several lengths."""
    draw = random.Random(5)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(400) for _ in range(count))

    contexts = [(tokens(200), [tokens(n) for n in (3, 40, 90)]), (tokens(31), [tokens(7)])]
    return [
        ScoreJob(context, block_hashes(context, 16), tuple(candidates))
        for context, candidates in contexts
    ]


@pytest.fixture(scope="module", params=VARIANTS)
def pair(
    request: pytest.FixtureRequest,
    tiny_tokenizer_path: Path,
    tiny_card: ModelCard,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, ModelDirectory]:
    """A model of transformers, and the directory that it was stored in."""
    model = random_model(*VARIANTS[request.param])
    path = store(model, tmp_path_factory.mktemp("family"), tiny_tokenizer_path, tiny_card)
    return model, load_model_directory(path)


def test_logits_are_those_of_transformers(pair: tuple[Any, ModelDirectory]) -> None:
    model, directory = pair
    ids = torch.randint(400, (TOKENS,), generator=torch.Generator().manual_seed(3))
    want = model(ids[None]).logits[0]
    torch.testing.assert_close(logits(load_decoder(directory), ids), want, atol=TOLERANCE, rtol=0)
    assert want.std() > 1


def test_slates_score_as_their_joined_texts_do(pair: tuple[Any, ModelDirectory]) -> None:
    model, directory = pair
    yes, no = directory.prompt.label_ids
    for job, answer in zip(jobs(), FairslateEngine(directory, 1 << 22).score(jobs()), strict=True):
        joined = [torch.tensor([job.context_ids + ids]) for ids in job.candidates]
        last = torch.stack([model(ids).logits[0, -1] for ids in joined])
        want = (last[:, yes] - last[:, no]).tolist()
        assert answer.raw_logits == pytest.approx(want, abs=TOLERANCE, rel=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shards_of_any_width_load_as_one_model(
    dtype: torch.dtype, tiny_tokenizer_path: Path, tiny_card: ModelCard, tmp_path: Path
) -> None:
    model = random_model(*VARIANTS["llama biased"]).to(dtype)
    path = store(model, tmp_path, tiny_tokenizer_path, tiny_card, max_shard_size="50KB")
    assert len(list(path.glob("model-*.safetensors"))) > 2
    loaded = load_decoder(load_model_directory(path)).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded[name], tensor.float()), name


def test_a_window_within_the_cards_limits_is_refused(
    tiny_tokenizer_path: Path, tiny_card: ModelCard, tmp_path: Path
) -> None:
    limits = tiny_card.truncation
    window = limits.max_context_tokens + limits.max_candidate_tokens
    exact = random_model("mistral", {"sliding_window": window})
    load_model_directory(store(exact, tmp_path / "exact", tiny_tokenizer_path, tiny_card))
    short = random_model("mistral", {"sliding_window": window - 1})
    store(short, tmp_path / "short", tiny_tokenizer_path, tiny_card)
    with pytest.raises(ModelDirectoryError, match=f"sliding_window {window - 1} is below"):
        load_model_directory(tmp_path / "short")
