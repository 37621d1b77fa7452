"""Changes of a trained encoder come back within half a step of each row's largest."""

from __future__ import annotations

from pathlib import Path

import torch

from compress.encoders.encoder import load_encoder
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.teacher_changes import read_changes, write_changes
from tests.compress.small_encoders import write_encoder


def test_what_comes_back_is_near_by_the_size_of_the_change(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    torch.manual_seed(0)
    trained = PairEncoder(load_encoder(encoder), joint=True)
    trained.encoder.embeddings["word_embeddings"].requires_grad_(False)
    with torch.no_grad():
        for weight in trained.parameters():
            if weight.requires_grad:
                weight.add_(1e-3 * torch.randn_like(weight))
    write_changes(tmp_path / "joint.npz", trained, load_encoder(encoder))
    restored = read_changes(tmp_path / "joint.npz", load_encoder(encoder), joint=True)
    start = dict(PairEncoder(load_encoder(encoder), joint=True).named_parameters())
    for name, weight in trained.named_parameters():
        back = dict(restored.named_parameters())[name]
        if weight.ndim < 2:
            torch.testing.assert_close(back, weight, atol=1e-7, rtol=1e-6)
            continue
        origin = start[name] if name.startswith("encoder.") else torch.zeros(())
        largest = (weight - origin).abs().amax(1, keepdim=True)
        assert ((back - weight).abs() <= largest / 254 + 1e-6).all()
    assert not torch.equal(restored.hidden.weight, torch.zeros_like(restored.hidden.weight))
