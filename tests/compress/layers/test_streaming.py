"""Layer inputs of streamed slates are those of whole passes, and samples leave no trace in RAM."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compress.decoders.slates import SlateAttention, SlateBatch
from compress.decoders.wiring import layers_of
from compress.layers import streaming
from compress.layers.calibration_slates import CalibrationOptions, calibration_slates
from compress.layers.gram import CalibrationDataError
from compress.layers.streaming import ATTENTION, MLP, DiskFullError, Half, Streams, halves_of
from models.decoder import Decoder
from models.directory import ModelDirectory
from tests.compress.slate_data import write_slates
from tests.full_disk import no_file_above

OPTIONS = CalibrationOptions(slates=12, candidates=10)


@pytest.fixture(scope="module")
def slates(
    tmp_path_factory: pytest.TempPathFactory, tiny_directory: ModelDirectory
) -> list[SlateBatch]:
    data = write_slates(tmp_path_factory.mktemp("slates") / "data")
    return list(calibration_slates(tiny_directory, data, OPTIONS, seed=1))


def inputs_of_whole_passes(
    decoder: Decoder, slates: list[SlateBatch], layer: int, part: str, name: str
) -> Tensor:
    found: list[Tensor] = []
    linear = getattr(getattr(layers_of(decoder)[layer], part), name)
    hook = linear.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    for one in slates:
        decoder(one.token_ids, one.positions, SlateAttention(one))
    hook.remove()
    last = layer == decoder.config.num_hidden_layers - 1
    answers = [x[one.answers] for x, one in zip(found, slates, strict=True)]
    return torch.cat(answers if last else found).double()


@pytest.mark.parametrize(
    ("layer", "part", "name"),
    [
        (0, ATTENTION, "o_proj"),
        (0, MLP, "down_proj"),
        (1, ATTENTION, "o_proj"),
        (1, MLP, "up_proj"),
    ],
)
def test_moments_are_those_of_whole_passes(
    tmp_path: Path,
    tiny_decoder: Decoder,
    slates: list[SlateBatch],
    layer: int,
    part: str,
    name: str,
) -> None:
    with Streams(slates, tmp_path, tiny_decoder) as streams:
        for half in halves_of(tiny_decoder):
            if half == Half(layer, part):
                inputs = streams.inputs(half, [name])[name]
                break
            streams.advance(half)
    rows = inputs_of_whole_passes(tiny_decoder, slates, layer, part, name)
    assert inputs.moments.samples == len(rows)
    torch.testing.assert_close(inputs.moments.hessian, rows.T @ rows, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(inputs.largest.double(), rows.abs().amax(0), rtol=1e-5, atol=1e-6)
    assert not list(tmp_path.iterdir())


def test_a_changed_and_a_dense_decoder_give_cross_moments(
    tmp_path: Path, tiny_decoder: Decoder, slates: list[SlateBatch]
) -> None:
    changed = copy.deepcopy(tiny_decoder)
    layers_of(changed)[0].self_attn.o_proj.weight[:, ::2] = 0
    half, name = Half(0, MLP), "down_proj"
    with Streams(slates, tmp_path, changed, tiny_decoder) as streams:
        streams.advance(Half(0, ATTENTION))
        moments = streams.inputs(half, [name])[name].moments
    rows, dense = (
        inputs_of_whole_passes(decoder, slates, 0, MLP, name) for decoder in (changed, tiny_decoder)
    )
    torch.testing.assert_close(moments.cross, rows.T @ dense, rtol=1e-5, atol=1e-4)


def test_no_batch_outlives_its_turn(
    tmp_path: Path, tiny_decoder: Decoder, slates: list[SlateBatch]
) -> None:
    seen: list[weakref.ref[Tensor]] = []

    def drawn() -> Iterator[SlateBatch]:
        for one in slates * 3:
            assert not any(reference() is not None for reference in seen[:-1])
            fresh = copy.deepcopy(one)
            seen.append(weakref.ref(fresh.token_ids))
            yield fresh

    with Streams(drawn(), tmp_path, tiny_decoder):
        assert len(seen) == 9


def test_too_few_samples_and_nan_are_refused(
    tmp_path: Path, tiny_decoder: Decoder, slates: list[SlateBatch]
) -> None:
    with (
        Streams(slates[:1], tmp_path, tiny_decoder) as streams,
        pytest.raises(CalibrationDataError, match="rows are fewer than 96; give more text"),
    ):
        streams.inputs(Half(1, MLP), ["down_proj"])
    broken = copy.deepcopy(tiny_decoder)
    broken.model.embed_tokens.weight[int(slates[0].token_ids[3])] = float("nan")
    with (
        Streams(slates, tmp_path, broken) as streams,
        pytest.raises(CalibrationDataError, match="NaN or infinity"),
    ):
        streams.inputs(Half(0, ATTENTION), ["q_proj"])


def test_a_full_disk_is_noticed_before_anything_is_computed(
    tmp_path: Path,
    tiny_decoder: Decoder,
    slates: list[SlateBatch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "SPARE_BYTES", 1 << 60)
    with pytest.raises(DiskFullError, match="calibrate on fewer"):
        Streams(slates, tmp_path, tiny_decoder)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_is_said_and_left_empty(
    tmp_path: Path, tiny_decoder: Decoder, slates: list[SlateBatch]
) -> None:
    full = pytest.raises(DiskFullError, match=r"batch-0\.pt: cannot be written .*; make room")
    with no_file_above(20_000), full:
        Streams(slates, tmp_path, tiny_decoder)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_removed_first(
    tmp_path: Path, tiny_decoder: Decoder, slates: list[SlateBatch]
) -> None:
    killed = Streams(slates, tmp_path, tiny_decoder)
    written = sorted(tmp_path.rglob("*"))
    (written[0] / "more.pt").touch()
    again = Streams(slates, tmp_path, tiny_decoder)
    assert sorted(tmp_path.rglob("*")) == written
    assert killed is not again


def test_generated_slates_calibrate_in_both_directions(
    small_data: Path, tiny_directory: ModelDirectory
) -> None:
    options = CalibrationOptions(50, 6, split="generated")
    batches, again = (
        list(calibration_slates(tiny_directory, small_data, options, seed=1)) for _ in range(2)
    )
    assert sum(len(batch.answers) for batch in batches) == 50 * 6
    openers = {int(batch.token_ids[0]) for batch in batches}
    prompts = tiny_directory.card.prompts
    assert len(prompts) == len(openers) == 2
    assert openers == {tiny_directory.prompt.encode_context("x", name).ids[0] for name in prompts}
    pairs = zip(batches, again, strict=True)
    assert all(torch.equal(one.token_ids, two.token_ids) for one, two in pairs)


@pytest.mark.parametrize(
    "options",
    [CalibrationOptions(17), CalibrationOptions(0), CalibrationOptions(0, split="generated")],
)
def test_slates_that_are_not_there_are_refused(
    tmp_path: Path, tiny_directory: ModelDirectory, options: CalibrationOptions
) -> None:
    data = write_slates(tmp_path / "data")
    with pytest.raises(CalibrationDataError, match="ask for"):
        next(calibration_slates(tiny_directory, data, options, seed=1))
    unseen = CalibrationOptions(1, split="test")
    with pytest.raises(CalibrationDataError, match="test stays unseen"):
        next(calibration_slates(tiny_directory, data, unseen, seed=1))
