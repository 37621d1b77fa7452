"""Writes answers with a decoder, token by token over a cache of keys and values.

Knows nothing of training or of what the tokens mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.decoders.sequences import SequenceBatch
from models.decoder import Decoder


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn; temperature 0 takes the likeliest token."""

    end: int  # token that ends an answer, and is part of it
    new_tokens: int
    temperature: float = 0.0


@torch.no_grad()
def write_answers(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """One answer a prompt, of at most `new_tokens`."""
    batch = SequenceBatch.pack(prompts, [()] * len(prompts))
    held = _KeyValues(decoder, batch, sampling.new_tokens)
    last = batch.lengths.cumsum(0) - 1
    states = decoder(batch.token_ids, batch.positions, _Prefill(held, batch), rows=last)
    answers: list[list[int]] = [[] for _ in prompts]
    for step in range(sampling.new_tokens):
        logits = decoder.model.norm(states) @ decoder.output_embedding.T
        chosen = _choose(logits, sampling, generator)
        for answer, token in zip(answers, chosen.tolist(), strict=True):
            if not answer or answer[-1] != sampling.end:
                answer.append(token)
        if all(answer[-1] == sampling.end for answer in answers):
            break
        positions = batch.lengths + step
        states = decoder(chosen, positions, _Step(held, positions))
    return answers


def _choose(logits: Tensor, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    if sampling.temperature == 0:
        return logits.argmax(-1)
    shares = (logits / sampling.temperature).softmax(-1)
    # A generator draws on the CPU, so that every device writes from the same seed.
    drawn = torch.multinomial(shares.cpu(), 1, generator=generator)
    return drawn.flatten().to(logits.device)


class _KeyValues:
    """(layers, B, room, kv_heads, head_dim): a place for every position of every sequence."""

    def __init__(self, decoder: Decoder, batch: SequenceBatch, new_tokens: int) -> None:
        count, length = batch.shape
        config = decoder.config
        places = (config.num_hidden_layers, count, length + new_tokens)
        shape = (*places, config.num_key_value_heads, config.head_dim)
        like = decoder.output_embedding
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)


class _Prefill:
    """Causal attention over the prompts, whose keys and values are kept."""

    def __init__(self, held: _KeyValues, batch: SequenceBatch) -> None:
        self._held, self._batch = held, batch

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups, length = q.shape[1] // k.shape[1], self._batch.shape[1]
        q, k, v = (self._batch.grid(x) for x in (q, k, v))
        self._held.keys[layer, :, :length], self._held.values[layer, :, :length] = k, v
        keys, values = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
        queries, keys, values = (x.transpose(1, 2) for x in (q, keys, values))
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return mixed.transpose(1, 2).flatten(0, 1)[self._batch.slots]


class _Step:
    """One new token a sequence, at its own position."""

    def __init__(self, held: _KeyValues, positions: Tensor) -> None:
        self._held, self._positions = held, positions
        self._room = int(positions.max()) + 1
        self._visible = torch.arange(self._room) <= positions[:, None]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups, rows = q.shape[1] // k.shape[1], torch.arange(len(q))
        self._held.keys[layer][rows, self._positions] = k
        self._held.values[layer][rows, self._positions] = v
        keys, values = (
            x[layer, :, : self._room].repeat_interleave(groups, 2).transpose(1, 2)
            for x in (self._held.keys, self._held.values)
        )
        mixed = F.scaled_dot_product_attention(
            q.unsqueeze(2), keys, values, attn_mask=self._visible[:, None, None]
        )
        return mixed.squeeze(2)
