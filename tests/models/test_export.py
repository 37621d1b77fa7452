"""Exported graphs score as the native engine does, whoever shares the call, warm or cold."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import export
from models.checkpoint import ModelDirectory
from models.config import DecoderConfig
from models.decoder import Decoder
from models.engines.base import ScoreJob
from models.engines.fairslate import RunnerEngine
from models.engines.onnx import TOKENS_PER_CALL, OnnxScorer, _batches
from models.engines.packed_runner import PackedRunner
from models.errors import ExportError
from models.export_decoder import candidate_graph
from models.export_weights import WeightFile
from models.head_card import HeadOutputs
from models.prompt import block_hashes

CACHE = 1 << 20
CONTEXT = tuple(range(40, 77))
CANDIDATES = ((5, 9, 14), (7,), tuple(range(90, 121)), (9, 5, 14))
JOB = ScoreJob(CONTEXT, block_hashes(CONTEXT, 16), CANDIDATES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_directory: ModelDirectory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "tiny"
    export.export(tiny_directory, out)
    return out


@pytest.fixture(scope="module")
def truth(tiny_directory: ModelDirectory) -> tuple[float, ...]:
    engine = RunnerEngine(PackedRunner.from_directory(tiny_directory, CACHE))
    return engine.score([JOB])[0].raw_logits


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 2e-5), ("int8", 1.6)])
def test_graphs_score_as_the_engine(
    exported: Path, truth: tuple[float, ...], share: bool, precision: str, bound: float
) -> None:
    scorer = OnnxScorer(exported / precision, CACHE, share=share)
    for _ in ("cold", "warm"):
        assert scorer.raw_logits(JOB) == pytest.approx(truth, abs=bound)


def test_an_evicted_context_is_computed_again(exported: Path, truth: tuple[float, ...]) -> None:
    scorer = OnnxScorer(exported / "fp32", cache_bytes=1)
    for _ in range(2):
        assert scorer.raw_logits(JOB) == pytest.approx(truth, abs=2e-5)


def test_both_graphs_read_the_same_weights(exported: Path) -> None:
    places = []
    for name in ("context", "candidates"):
        graph = onnx.load(exported / "int8" / f"{name}.onnx", load_external_data=False).graph
        places.append(
            {t.name: t.external_data[1].value for t in graph.initializer if t.external_data}
        )
    shared = places[0].keys() & places[1].keys()
    assert len(shared) > len(places[0]) / 2
    assert {name: places[0][name] for name in shared} == {n: places[1][n] for n in shared}
    weights = [name for name in places[1] if name.endswith("proj.int8")]
    assert len(weights) == 2 * 7


def test_the_notes_say_what_was_measured(exported: Path, tiny_directory: ModelDirectory) -> None:
    notes = json.loads((exported / "export.json").read_text("utf-8"))
    assert notes["digest"] == tiny_directory.digest
    assert 0 < notes["against_native_fp32"]["fp32"]["max_abs_logit"] < 5e-5
    assert notes["against_native_fp32"]["int8"]["max_abs_dp"] < 0.5
    assert tiny_directory.digest in (exported / "README.md").read_text("utf-8")


def test_nothing_is_overwritten(exported: Path, tiny_directory: ModelDirectory) -> None:
    with pytest.raises(ExportError, match="exists"):
        export.export(tiny_directory, exported)


def test_what_others_have_beside_is_left_alone(
    tmp_path: Path, tiny_directory: ModelDirectory
) -> None:
    mine, theirs = tmp_path / "tiny.writing" / "mine", tmp_path / f"tiny.{os.getpid()}.writing"
    for folder in (mine, theirs):
        folder.mkdir(parents=True)
    with pytest.raises(ExportError, match="File exists"):
        export.export(tiny_directory, tmp_path / "tiny")
    assert mine.is_dir()
    assert theirs.is_dir()


def test_two_exports_of_one_name_do_not_take_each_others_files(
    tmp_path: Path, tiny_directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins while the first writes its notes, and ends before it."""
    out, write_notes = tmp_path / "tiny", export._write_notes

    def second_between(*given: Any) -> None:
        monkeypatch.setattr(export, "_write_notes", write_notes)
        monkeypatch.setattr(os, "getpid", lambda: 1)
        export.export(tiny_directory, out)
        write_notes(*given)

    monkeypatch.setattr(export, "_write_notes", second_between)
    with pytest.raises(ExportError, match="not empty"):
        export.export(tiny_directory, out)
    assert {path.name for path in out.iterdir()} == {"fp32", "int8", "export.json", "README.md"}
    assert list(tmp_path.iterdir()) == [out]


def test_a_link_to_nothing_is_refused_before_anything_is_computed(
    tmp_path: Path, tiny_directory: ModelDirectory
) -> None:
    (tmp_path / "tiny").symlink_to(tmp_path / "nothing")
    with pytest.raises(ExportError, match="exists"):
        export.export(tiny_directory, tmp_path / "tiny")


def test_graphs_that_score_otherwise_are_refused(
    tmp_path: Path, tiny_directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {name: export.Agreement(np.nan, np.nan) for name in export.PRECISIONS}
    monkeypatch.setattr(export, "compare", lambda directory, out: wrong)
    with pytest.raises(ExportError, match="differs"):
        export.export(tiny_directory, tmp_path / "wrong")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_was_cut_off_leaves_nothing(
    tmp_path: Path, tiny_directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_write_notes", full)
    with pytest.raises(ExportError, match=r"No space left.*; make room"):
        export.export(tiny_directory, tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_its_notes(
    tmp_path: Path,
    tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["export", str(tiny_model_dir), "--onnx", str(out)])
    assert export.main() == 0
    assert json.loads(capsys.readouterr().out)["heads"] == {"score": {" yes": 1.0, " no": 0.0}}
    assert export.main() == 1
    assert "remove it" in capsys.readouterr().err


def test_heads_grade_their_own_outputs() -> None:
    heads = (HeadOutputs("click", (7, 9), (1.0, 0.0)), HeadOutputs("grade", (1, 2, 3), (0, 0.5, 1)))
    logits = np.array([[2.0, -1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 20.0, 0.0]])
    found = export.raw_logits(logits, heads)
    assert found[:, 0] == pytest.approx([3.0, 0.0])
    assert found[:, 1] == pytest.approx([0.0, 0.0], abs=1e-7)  # half of the gain on average
    assert export.raw_logits(np.array([[4.0]]), (HeadOutputs("one", (0,), (1.0,)),)) == 4


def test_batches_pad_little_and_fit() -> None:
    lengths = [TOKENS_PER_CALL, 3, 1, TOKENS_PER_CALL // 2, 3, TOKENS_PER_CALL + 1]
    batches = list(_batches(lengths))
    assert batches == [[2, 1, 4], [3], [0], [5]]


FAMILIES = {
    "qwen2": {"model_type": "qwen2", "attention_bias": True},
    "llama": {"model_type": "llama", "attention_bias": True, "output_bias": True, "mlp_bias": True},
    "mistral, three labels": {"model_type": "mistral", "num_labels": 3},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_written(family: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = DecoderConfig(200, 64, 96, 2, 4, 2, 16, **FAMILIES[family])  # type: ignore[arg-type]
    decoder = Decoder(config).eval().requires_grad_(False)
    rows = decoder.output_embedding[:3]
    weights = WeightFile(tmp_path / "weights.bin")
    onnx.save_model(candidate_graph(decoder, rows, weights, False), tmp_path / "candidates.onnx")
    scorer = OnnxScorer(tmp_path, CACHE, share=False)
    ids = CONTEXT + CANDIDATES[2]
    (found,) = scorer.label_logits(ScoreJob(CONTEXT, (), CANDIDATES[2:3]))
    assert found == pytest.approx(last_logits(decoder, ids, rows), abs=7e-6)


def last_logits(decoder: Decoder, ids: tuple[int, ...], rows: Tensor) -> list[float]:
    """One plain prompt through the decoder."""

    def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return mixed[0].transpose(0, 1)

    last = torch.tensor([len(ids) - 1])
    hidden = decoder(torch.tensor(ids), torch.arange(len(ids)), causal, last)
    return (decoder.model.norm(hidden) @ rows.T)[0].tolist()  # type: ignore[no-any-return]
