"""The student: a wired decoder whose words come from an encoder, and its losses. Knows no files."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.decoders.losses import slate_loss
from compress.decoders.sizes import decoder_config
from compress.decoders.wiring import RESERVED, layers_of, norms_of, slow_dimensions, wire
from models.config import DecoderConfig
from models.decoder import Decoder

MATCH_SHARPNESS = 2.0


@dataclass(frozen=True, slots=True)
class StudentShape:
    """Sizes of the decoder; see models.config.DecoderConfig."""

    hidden_size: int = 256
    intermediate_size: int = 512
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2

    def config(self, vocab_size: int) -> DecoderConfig:
        """The Qwen3 config."""
        return decoder_config(self, vocab_size)


@torch.no_grad()
def student_of(shape: StudentShape, words: Tensor, first_word: int) -> Decoder:
    """A wired decoder that already knows `words` (vocab, hidden - RESERVED), widest parts first.

    Tokens before `first_word` are the template's and keep what the wiring gave them. The last
    layer's values are the words' first parts as they are, so that its products compare meanings.
    """
    decoder = Decoder(shape.config(len(words)))
    wire(decoder)
    decoder.model.embed_tokens.weight[first_word:, RESERVED:] = words[first_word:]
    last = layers_of(decoder)[-1].self_attn
    width = len(last.v_proj.weight)
    last.v_proj.weight.zero_()
    last.v_proj.weight[:, RESERVED : RESERVED + width] = torch.eye(width)
    for layer in range(1, shape.layers - 1):
        _look_for_like_words(decoder, layer)
    return decoder


def _look_for_like_words(decoder: Decoder, layer: int) -> None:
    """A layer between that changes nothing yet: its heads find words of like meaning."""
    attention, size = layers_of(decoder)[layer].self_attn, decoder.config.head_dim
    slow = slow_dimensions(decoder.config).nonzero().squeeze(1)
    groups = decoder.config.num_attention_heads // decoder.config.num_key_value_heads
    attention.q_proj.weight.zero_()
    attention.k_proj.weight.zero_()
    for head in range(decoder.config.num_attention_heads):
        kv_head = head // groups
        parts = RESERVED + kv_head * len(slow) + torch.arange(len(slow))
        attention.q_proj.weight[head * size + slow, parts] = 1
        attention.k_proj.weight[kv_head * size + slow, parts] = 1
    for norm in norms_of(attention):
        norm.weight[slow] = MATCH_SHARPNESS


@torch.no_grad()
def deepened(decoder: Decoder, shape: StudentShape) -> Decoder:
    """The same function with `shape.layers` layers; the new ones stand before the last."""
    taller = Decoder(shape.config(decoder.config.vocab_size))
    old, new = layers_of(decoder), layers_of(taller)
    taller.model.embed_tokens.load_state_dict(decoder.model.embed_tokens.state_dict())
    taller.model.norm.load_state_dict(decoder.model.norm.state_dict())
    for target, source in zip(new[: len(old) - 1], old[:-1], strict=True):
        target.load_state_dict(source.state_dict())
    new[-1].load_state_dict(old[-1].state_dict())
    for layer in range(len(old) - 1, shape.layers - 1):
        new[layer].self_attn.o_proj.weight.zero_()
        new[layer].mlp.down_proj.weight.zero_()
        _look_for_like_words(taller, layer)
    return taller


def student_loss(
    raw_logits: Tensor,
    teacher: Tensor,
    grades: Tensor | None,
    temperature: float,
    truth_share: float,
) -> Tensor:
    """The teacher's order and probabilities, and the truth where there is one.

    raw_logits, teacher, grades: (slates, candidates). (1 - s) [T KL(teacher || student) of each
    slate's softmax at temperature T + binary cross-entropy to sigmoid(teacher)] + s slate_loss.
    """
    targets = (teacher / temperature).softmax(dim=1)
    student = (raw_logits / temperature).log_softmax(dim=1)
    listwise = temperature * F.kl_div(student, targets, reduction="batchmean")
    imitation = listwise + F.binary_cross_entropy_with_logits(raw_logits, teacher.sigmoid())
    if grades is None:
        return imitation
    return (1 - truth_share) * imitation + truth_share * slate_loss(raw_logits, grades)
