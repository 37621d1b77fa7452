"""The encoder is transformers' BERT, in fp32 and nearly so in bf16, whatever the padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import BertModel

from compress.encoders.encoder import Encoder, load_encoder
from models.errors import ModelDirectoryError
from tests.compress.small_encoders import VOCABULARY, write_encoder


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


def _inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, len(VOCABULARY), (3, 16), generator=generator)
    lengths = torch.tensor([16, 9, 3])
    types = (torch.arange(16) >= 5).long().expand(3, -1)
    return ids, lengths, types


def test_it_computes_what_transformers_computes(directory: Path) -> None:
    ids, lengths, types = _inputs()
    real = torch.arange(16) < lengths[:, None]
    theirs = BertModel.from_pretrained(directory, add_pooling_layer=False).eval()
    with torch.inference_mode():
        ours = load_encoder(directory)(ids, lengths, types)
        expected = theirs(ids, attention_mask=real.long(), token_type_ids=types)
    assert (ours - expected.last_hidden_state)[real].abs().max() < 2e-5


def test_padding_changes_nothing(directory: Path) -> None:
    ids, lengths, types = _inputs()
    encoder = load_encoder(directory)
    with torch.inference_mode():
        together = encoder(ids, lengths, types)[2, :3]
        alone = encoder(ids[2:, :3], lengths[2:], types[2:, :3])[0]
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=1e-5)


def test_half_precision_trains_full_precision_weights(directory: Path) -> None:
    ids, lengths, types = _inputs()
    encoder = load_encoder(directory)
    low = encoder(ids, lengths, types, torch.bfloat16, dropout=0.1)
    assert low.dtype == torch.bfloat16
    low.float().square().sum().backward()
    gradients = {name: x.grad for name, x in encoder.named_parameters()}
    assert all(x is not None and x.dtype == torch.float32 for x in gradients.values())


def test_a_cpus_pass_in_bf16_is_near_and_attends_in_fp32(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, lengths, types = _inputs()
    encoder, dtypes, attend = load_encoder(directory), [], F.scaled_dot_product_attention

    def noted(q: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        dtypes.append(q.dtype)
        return attend(q, *rest, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    real = torch.arange(16) < lengths[:, None]
    with torch.inference_mode():
        wide = encoder(ids, lengths, types)[real]
        narrow = encoder(ids, lengths, types, torch.bfloat16)[real].float()
    assert {*dtypes} == {torch.float32}
    assert 0 < (narrow - wide).norm() / wide.norm() < 0.03


def test_other_architectures_and_missing_tensors_are_refused(
    directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelDirectoryError, match="cannot be read"):
        load_encoder(tmp_path)
    config = json.loads((directory / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "roberta"}))
    with pytest.raises(ModelDirectoryError, match="not a BERT"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    (tmp_path / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes())
    with pytest.raises(ModelDirectoryError, match=r"do not fit .*of one and the same"):
        load_encoder(tmp_path)


def test_its_names_are_hugging_faces(directory: Path) -> None:
    encoder = load_encoder(directory)
    assert isinstance(encoder, Encoder)
    theirs = BertModel.from_pretrained(directory, add_pooling_layer=False).state_dict()
    assert encoder.state_dict().keys() == theirs.keys()
