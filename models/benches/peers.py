"""Plain transformers scoring the same jobs, as a peer to measure against. Knows no engine of ours.

`naive` runs every candidate with its whole context, in one padded batch. `shared` runs the context
once, expands its keys and values to the batch, and runs the padded candidates behind it.

Weights keep `requires_grad`: without it torch.matmul takes the last column of a batch for as many
products and copies the output weights once a row, a third of the time at 27 M and nine tenths at
0.6 B.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from models.decoder import Decoder
from models.engines.base import ScoreJob
from models.packing import TokenIds


def transformers_model(decoder: Decoder, device: torch.device, dtype: torch.dtype) -> Any:
    """Qwen3ForCausalLM of transformers with the decoder's weights and PyTorch's attention."""
    fields = decoder.config.to_hugging_face()
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.load_state_dict(decoder.state_dict(), strict=decoder.config.tie_word_embeddings is False)
    model.tie_weights()
    return model.eval()


def load_transformers(path: Path, dtype: torch.dtype) -> Any:
    """The model directory as transformers reads it, on the CPU."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")
    return model.eval()


class TransformersPeer:
    """Raw logits of one job. `share` chooses between the two ways above.

    rows: the most candidates of one batch, None for all: a long context expanded to many rows, or
    attention masks of as many, may be more than memory holds.
    """

    def __init__(
        self,
        model: Any,
        label_ids: tuple[int, int],
        device: torch.device,
        share: bool,
        rows: int | None = None,
    ) -> None:
        self._model = model
        self._labels = list(label_ids)
        self._device = device
        self._share = share
        self._rows = rows
        self._held: tuple[TokenIds, Any] | None = None

    @torch.inference_mode()
    def score(self, job: ScoreJob) -> list[float]:
        """One logit a candidate. A shared context is kept for the next job with the same."""
        step = self._rows or len(job.candidates)
        parts = (job.candidates[at : at + step] for at in range(0, len(job.candidates), step))
        if not self._share:
            prompts = ([job.context_ids + ids for ids in part] for part in parts)
            return [logit for rows in prompts for logit in self._last_logits(rows)]
        keys_values, before = self._context(job.context_ids), len(job.context_ids)
        answers = []
        for part in parts:
            answers += self._last_logits(part, before, _expanded(keys_values, len(part)))
        return answers

    def _context(self, ids: TokenIds) -> Any:
        """Keys and values of the context."""
        if self._held is None or self._held[0] != ids:
            tokens = torch.tensor([ids], device=self._device)
            output = self._model(tokens, use_cache=True, logits_to_keep=1)
            self._held = (ids, output.past_key_values)
        return self._held[1]

    def _last_logits(
        self, rows: Sequence[TokenIds], before: int = 0, cache: Any = None
    ) -> list[float]:
        """Pads on the left, so that the last column holds every row's last token."""
        width = max(map(len, rows))
        padding = [width - len(row) for row in rows]
        ids = [[0] * count + list(row) for count, row in zip(padding, rows, strict=True)]
        pads = torch.tensor(padding, device=self._device)[:, None]
        columns = torch.arange(width, device=self._device)
        seen = torch.cat((pads.new_ones(len(rows), before), columns >= pads), dim=1)
        output = self._model(
            torch.tensor(ids, device=self._device),
            attention_mask=seen.long(),
            position_ids=before + (columns - pads).clamp(min=0),
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1, self._labels].float()
        return (logits[:, 0] - logits[:, 1]).tolist()


def _expanded(cache: Any, rows: int) -> Any:
    """The context's keys and values for each row; what a pass appends stays out of `cache`."""
    expanded = copy.copy(cache)
    expanded.layers = [copy.copy(layer) for layer in cache.layers]
    if rows > 1:
        expanded.batch_repeat_interleave(rows)
    return expanded
