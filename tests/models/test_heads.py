"""The label head against the full vocabulary's logits."""

from __future__ import annotations

import torch

from models.decoder import Decoder
from models.heads import LabelHead


def test_raw_logit_is_yes_minus_no_of_the_full_output(tiny_decoder: Decoder) -> None:
    hidden = torch.randn(5, tiny_decoder.config.hidden_size, generator=torch.Generator())
    logits = tiny_decoder.model.norm(hidden) @ tiny_decoder.output_embedding.T
    got = LabelHead.from_decoder(tiny_decoder, (17, 4)).raw_logits(hidden)
    torch.testing.assert_close(got, logits[:, 17] - logits[:, 4], atol=1.1e-5, rtol=0)
