"""A cut decoder scores as the whole one with zeros, in transformers and in our engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from compress.pruning.slicing import LayerCut, SliceError, mask, sliced
from models.card import ModelCard
from models.checkpoint import load_decoder, load_model_directory, save_model_directory
from models.decoder import Decoder
from models.engines.base import ScoreJob
from models.engines.fairslate import FairslateEngine
from tests.models.engines.native import RUNS
from tests.models.families import VARIANTS, random_model, store

UNIFORM = (LayerCut(0, (1, *range(40, 87)), (1,)), LayerCut(1, tuple(range(48)), (0,)))
RAGGED = (LayerCut(0, tuple(range(7, 50)), (0, 1)), LayerCut(1, (5, 3, 80), (1,)))
FAMILIES = ("qwen3", "qwen3 biased", "qwen2", "llama biased", "mistral wide heads")


def both(name: str, path: Path, tokenizer: Path, card: ModelCard) -> Decoder:
    stored = store(random_model(*VARIANTS[name]), path, tokenizer, card)
    return load_decoder(load_model_directory(stored))


def masked(decoder: Decoder, cuts: tuple[LayerCut, ...]) -> Decoder:
    for cut in cuts:
        mask(decoder, cut)
    return decoder


def saved(decoder: Decoder, path: Path, tokenizer: Path, card: ModelCard) -> Path:
    save_model_directory(path, decoder, tokenizer, card)
    return path


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("cuts", [UNIFORM, RAGGED], ids=["uniform", "ragged"])
def test_sliced_scores_as_masked_in_transformers_and_in_our_engine(
    tmp_path: Path,
    tiny_tokenizer_path: Path,
    tiny_card: ModelCard,
    name: str,
    cuts: tuple[LayerCut, ...],
) -> None:
    decoder = both(name, tmp_path / "whole", tiny_tokenizer_path, tiny_card)
    small = saved(sliced(decoder, cuts), tmp_path / "small", tiny_tokenizer_path, tiny_card)
    full = saved(masked(decoder, cuts), tmp_path / "masked", tiny_tokenizer_path, tiny_card)
    ids = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(1))
    logits = [AutoModelForCausalLM.from_pretrained(path)(ids).logits for path in (small, full)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=2e-5)
    context, candidate = tuple(ids[0].tolist()), tuple(ids[1, :9].tolist())
    job = ScoreJob(context, ("a", "b", "c"), (candidate, candidate[3:]))
    ours = [
        FairslateEngine(load_model_directory(p), 1 << 20).score([job])[0] for p in (small, full)
    ]
    assert ours[0].raw_logits == pytest.approx(ours[1].raw_logits, abs=2e-5)
    assert small.joinpath("model.safetensors").stat().st_size < (
        full.joinpath("model.safetensors").stat().st_size
    )


def test_a_layer_without_a_cut_is_dropped(tiny_decoder: Decoder) -> None:
    (kept,) = sliced(tiny_decoder, [LayerCut.whole(tiny_decoder.config, 1)]).model.layers
    for name, tensor in tiny_decoder.model.layers[1].state_dict().items():
        assert torch.equal(kept.state_dict()[name], tensor)


def test_single_heads_leave_where_every_head_has_its_own_keys(
    tmp_path: Path, tiny_tokenizer_path: Path, tiny_card: ModelCard
) -> None:
    name = "llama every head its own keys"
    decoder = both(name, tmp_path / "whole", tiny_tokenizer_path, tiny_card)
    cuts = [replace(LayerCut.whole(decoder.config, layer), kv_groups=(0, 1, 3)) for layer in (0, 1)]
    config = sliced(decoder, cuts).config
    # Three heads do not divide 64, which transformers asks of a Llama: one is filled up with zeros.
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 4)
    config = sliced(decoder, [replace(cut, kv_groups=(0, 3)) for cut in cuts]).config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 2, 16)


@pytest.mark.parametrize(
    "changes", [{"neurons": ()}, {"neurons": (96,)}, {"kv_groups": (0, 0)}, {"layer": 2}]
)
def test_parts_that_are_not_there_are_refused(
    tiny_decoder: Decoder, changes: dict[str, object]
) -> None:
    cut = replace(LayerCut.whole(tiny_decoder.config, 0), **changes)  # type: ignore[arg-type]
    with pytest.raises(SliceError, match="must be some of"):
        sliced(tiny_decoder, [cut])
    with pytest.raises(SliceError, match="at least one"):
        sliced(tiny_decoder, [])


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("int8", 0.2)])
def test_our_cpp_leaves_the_zeros_out(
    tmp_path: Path, tiny_decoder: Decoder, tiny_tokenizer_path: Path, tiny_card: ModelCard,
    dtype: str, bound: float,
) -> None:  # fmt: skip
    if not RUNS[dtype]:
        pytest.skip("the C++ decoder does not run here")
    card = replace(tiny_card, block_size=16)
    small = saved(sliced(tiny_decoder, RAGGED), tmp_path / "small", tiny_tokenizer_path, card)
    job = ScoreJob(tuple(range(60, 97)), ("a", "b", "c"), ((5, 6, 7, 8), (9, 10)))
    native, plain = (
        FairslateEngine(load_model_directory(small), 1 << 20, dtype=dtype, backend=backend)
        for backend in ("native", "torch")
    )
    expected = plain.score([job])[0].raw_logits
    assert native.score([job])[0].raw_logits == pytest.approx(expected, abs=bound)
