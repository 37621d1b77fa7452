"""Candidates that hold stored vectors, mixed with texts, in every runner and every arithmetic.

Most tests store the model's own embeddings: a slate must then score as the same slate of text does,
bit for bit, whichever of its tokens are stored ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.multi_item_attention import multi_item_attention
from models.decoder import Decoder
from models.engines.base import ScoreJob
from models.engines.cpu_probe import DTYPES
from models.engines.device_runner import DeviceRunner, DeviceSettings
from models.engines.fairslate import RunnerEngine
from models.errors import TokenOutOfVocabularyError
from models.heads import ScoringHeads
from models.packing import PrefixGroup, pack
from tests.models.engines.native import (
    BLOCK,
    CONFIGS,
    LABELS,
    NARROW_AND_WIDE,
    PLAIN,
    VOCABULARY,
    TokenIds,
    drawn,
    drawn_jobs,
    job,
    logits,
    native_engine,
    needs_native,
    random_decoder,
    torch_engine,
)

ON_CPU = DeviceSettings("cpu", "fp32", token_buckets=(64, 192, 640), max_context_tokens=640)
MakeEngine = Callable[[Decoder, torch.Tensor], RunnerEngine]


def native(dtype: str) -> MakeEngine:
    return lambda decoder, vectors: native_engine(decoder, dtype, vectors=vectors)


def packed(dtype: str, deterministic: bool = False) -> MakeEngine:
    return lambda decoder, vectors: torch_engine(
        decoder, dtype, deterministic=deterministic, vectors=vectors
    )


def device(decoder: Decoder, vectors: torch.Tensor) -> RunnerEngine:
    return RunnerEngine(DeviceRunner(decoder, LABELS, BLOCK, 1 << 22, ON_CPU, vectors))


ENGINES = [
    *(
        pytest.param(native(str(case.values[0])), marks=case.marks, id=f"native {case.values[0]}")
        for case in NARROW_AND_WIDE
    ),
    *(pytest.param(packed(dtype), id=f"torch {dtype}") for dtype in DTYPES),
    pytest.param(device, id="device"),
]


def bf16_decoder(name: str = "plain") -> Decoder:
    """Its embeddings lose nothing when they are stored."""
    decoder = random_decoder(CONFIGS[name])
    weight = decoder.model.embed_tokens.weight
    weight.copy_(weight.bfloat16())
    return decoder


def twins(decoder: Decoder) -> torch.Tensor:
    """The embeddings from last to first: a token and `stored` of it look up the same vector."""
    return decoder.model.embed_tokens.weight.bfloat16().flip(0)


def stored(token: int) -> int:
    return 2 * VOCABULARY - 1 - token


def with_stored(text: ScoreJob, seed: int, share: float) -> ScoreJob:
    """Some tokens of the candidates exchanged for their twins."""
    rng = random.Random(seed)
    swapped = [
        tuple(stored(token) if rng.random() < share else token for token in ids)
        for ids in text.candidates
    ]
    return replace(text, candidates=tuple(swapped))


@pytest.mark.parametrize("make", ENGINES)
def test_a_stored_token_scores_as_the_token_it_was_made_of(make: MakeEngine) -> None:
    decoder = bf16_decoder()
    engine = make(decoder, twins(decoder))
    engine.score(drawn_jobs())  # on torch, cold and warm are not the same bits
    want = logits(engine, drawn_jobs())
    assert torch.tensor(want).std() > 0.5
    for share in (0.3, 1.0):
        mixed = [with_stored(text, 3, share) for text in drawn_jobs()]
        assert logits(engine, mixed) == want


@needs_native
@pytest.mark.parametrize("name", ["odd widths", "biased"])
def test_odd_widths_have_room_for_stored_tokens(name: str) -> None:
    decoder = bf16_decoder(name)
    engine = native_engine(decoder, vectors=twins(decoder))
    mixed = [with_stored(text, 4, 0.5) for text in drawn_jobs()]
    assert logits(engine, mixed) == logits(engine, drawn_jobs())


CANDIDATES = st.lists(
    st.lists(st.integers(0, 2 * VOCABULARY - 1), min_size=1, max_size=20), min_size=1, max_size=8
)


@needs_native
@pytest.mark.parametrize("dtype", NARROW_AND_WIDE)
def test_mixed_slates_have_the_same_bits_in_any_company(dtype: str) -> None:
    decoder = bf16_decoder()
    context = drawn(random.Random(1), 40)
    alone = native_engine(decoder, dtype, cache_bytes=0, vectors=twins(decoder))
    warm = native_engine(decoder, dtype, vectors=twins(decoder))

    @settings(max_examples=25, deadline=None)
    @given(CANDIDATES, st.randoms(use_true_random=False))
    def check(drawn_candidates: list[list[int]], order: random.Random) -> None:
        candidates = [tuple(ids) for ids in drawn_candidates]
        singles = [logits(alone, [job(context, [ids])])[0] for ids in candidates]
        slots = list(range(len(candidates)))
        order.shuffle(slots)
        cut = order.randrange(len(slots) + 1)
        slates = [
            job(context, [candidates[i] for i in part]) for part in (slots[:cut], slots[cut:])
        ]
        assert logits(warm, slates) == [singles[i] for i in slots]
        as_text = [job(context, [tuple(min(t, stored(t)) for t in ids)]) for ids in candidates]
        assert [logits(warm, [one])[0] for one in as_text] == singles

    check()


def truth(decoder: Decoder, vectors: torch.Tensor, slate: ScoreJob) -> list[float]:
    """Every candidate alone behind its context, in one row, through the plain decoder."""
    table = torch.cat([decoder.model.embed_tokens.weight, vectors.float()])
    return [_plain_logit(decoder, table, slate.context_ids + ids) for ids in slate.candidates]


def _plain_logit(decoder: Decoder, table: torch.Tensor, ids: TokenIds) -> float:
    batch = pack([PrefixGroup(0, [ids])])
    config = decoder.config
    none = torch.empty(0, config.num_key_value_heads, config.head_dim)

    def attention(_: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return multi_item_attention(q, k, v, none, none, batch.layout)

    x = table[list(ids)]
    for layer, block in enumerate(decoder.model.layers):
        x = block(x, layer, batch.positions, decoder.rotary, attention)
    return float(ScoringHeads.of(decoder, LABELS).raw_logits(x[-1:])[0, 0])


# Largest difference measured times two; logits spread by 1.1.
TOLERANCES = {"float32": 1e-5, "bfloat16": 0.13, "int8": 0.41}


def foreign_case() -> tuple[Decoder, torch.Tensor, list[ScoreJob]]:
    """Vectors that are nobody's embedding, alone and several in a row, beside texts."""
    decoder = random_decoder(PLAIN)
    vectors = (0.3 * torch.randn(7, 64, generator=torch.Generator().manual_seed(2))).bfloat16()
    rng = random.Random(9)
    pairs = [(drawn(rng, 1), drawn(rng, 1)) for _ in range(7)]
    slate: Sequence[TokenIds] = [
        *((*head, VOCABULARY + row, *tail) for row, (head, tail) in enumerate(pairs)),
        (5, *range(VOCABULARY, VOCABULARY + 4), 9),
        drawn(rng, 24),
    ]
    return decoder, vectors, [job(drawn(rng, 50), slate), job(drawn(rng, 7), slate[:3])]


@pytest.mark.parametrize("make", ENGINES)
def test_vectors_that_no_token_has_score_as_the_plain_decoder_says(
    make: MakeEngine, request: pytest.FixtureRequest
) -> None:
    decoder, vectors, jobs = foreign_case()
    want = [logit for one in jobs for logit in truth(decoder, vectors, one)]
    got = logits(make(decoder, vectors), jobs)
    dtype = request.node.callspec.id.split()[-1]
    assert got == pytest.approx(want, abs=TOLERANCES.get(dtype, 1e-5), rel=0)
    assert len(set(got)) == len(got), "every vector is told from every other"


@pytest.mark.parametrize("make", ENGINES)
def test_tokens_are_counted_and_contexts_kept_as_for_texts(make: MakeEngine) -> None:
    decoder, vectors, (slate, _) = foreign_case()
    engine = make(decoder, vectors)
    (cold,), (warm,) = engine.score([slate]), engine.score([slate])
    assert (cold.cached_tokens, warm.cached_tokens) == (0, 50)
    assert cold.candidate_tokens == 7 * 3 + 6 + 24
    assert warm.extend_tokens == 7 * 3 + 6 + 24
    assert warm.raw_logits == pytest.approx(cold.raw_logits, abs=1e-5)


@pytest.mark.parametrize("make", ENGINES)
def test_tokens_behind_the_catalogue_are_refused_and_spoil_nothing(make: MakeEngine) -> None:
    decoder, vectors, jobs = foreign_case()
    engine = make(decoder, vectors)
    want = logits(engine, jobs)
    last = VOCABULARY + len(vectors) - 1
    for broken in (job((1, 2), [(3, last + 1)]), job((1, VOCABULARY), [(3,)])):
        with pytest.raises(TokenOutOfVocabularyError, match=f"{last}|{VOCABULARY - 1}"):
            engine.score([*jobs, broken])
    assert logits(engine, jobs) == pytest.approx(want, abs=1e-5)
