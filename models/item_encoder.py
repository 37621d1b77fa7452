"""Turns candidates' text into the few vectors that a ranker reads in its place (MixLM).

The ranker itself reads the text once, alone; what its layers made of it goes through one hidden
layer to vectors of embedding width (arXiv 2512.07846 trains a whole encoder; here the ranker stays
as it is, so one model serves texts and vectors). Knows no catalogue and no training.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kernels.multi_item_attention import multi_item_attention
from models.catalogue import reader_digest
from models.catalogue_file import content_digest
from models.decoder import Decoder
from models.directory import ModelDirectory
from models.errors import CatalogueError
from models.narrowing import narrowed
from models.packing import PackedBatch, PrefixGroup, TokenIds, pack
from models.saved_tensors import save_tensors

ENCODER_PATH = Path("item_encoder") / "encoder.safetensors"  # a folder that no loader looks into
FORMAT = "fairslate-item-encoder-1"
POOLS = 4  # states of one width that `item_features` joins


class ItemEncoder(nn.Module):
    """Vectors from features: the mean embedding, and what a layer of `inner` units adds to it."""

    center: Tensor
    spread: Tensor

    def __init__(self, hidden: int, vectors: int, inner: int) -> None:
        super().__init__()
        features = POOLS * hidden + 1
        self.hidden, self.vectors = hidden, vectors
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.direct = nn.Linear(features, vectors * hidden)
        self.inner = nn.Linear(features, inner)
        self.outer = nn.Linear(inner, vectors * hidden, bias=False)
        for layer in (self.direct, self.outer):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.direct.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(items, features) as `item_features` says to (items, vectors, hidden)."""
        normal = (features - self.center) / self.spread
        change = self.direct(normal) + self.outer(F.gelu(self.inner(normal)))
        added: Tensor = change.unflatten(1, (self.vectors, -1)) * self.spread[: self.hidden]
        return features[:, None, : self.hidden] + added

    @torch.no_grad()
    def normalise(self, features: Tensor) -> None:
        """Takes mean and spread of each feature from examples."""
        self.center = features.mean(0)
        self.spread = features.std(0).clamp(min=1e-6)


@torch.no_grad()
def item_features(decoder: Decoder, items: Sequence[TokenIds]) -> Tensor:
    """(items, POOLS * hidden + 1): what the layers make of each item, template included.

    Means over its tokens of the embeddings, of what the last layer reads and of what it writes; the
    last token's state; the logarithm of the length.
    """
    batch = pack([PrefixGroup(0, list(items))])
    x = embedded = decoder.model.embed_tokens(batch.token_ids)
    read, attention = x, _Alone(batch, decoder)
    for layer, block in enumerate(decoder.model.layers):
        read, x = x, block(x, layer, batch.positions, decoder.rotary, attention)
    lengths = torch.tensor([len(item) for item in items])
    pools = [_means(states, lengths) for states in (embedded, read, x)]
    return torch.cat([*pools, x[batch.last_tokens], lengths[:, None].log()], 1)


def save_item_encoder(
    path: Path, encoder: ItemEncoder, directory: ModelDirectory, prompt: str
) -> None:
    """Writes it in float16, for this model and prompt, with a digest of all that the file holds."""
    weights = narrowed(encoder.state_dict(), torch.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "format": FORMAT,
        "reader": reader_digest(directory.card, prompt),
        "prompt": prompt,
        "vectors": str(encoder.vectors),
    }
    beside = path.with_name(path.name + ".writing")
    save_tensors(weights, beside, metadata)
    save_tensors(weights, beside, metadata | {"digest": encoder_digest(beside)})
    beside.replace(path)


def load_item_encoder(path: Path, directory: ModelDirectory) -> tuple[ItemEncoder, str]:
    """The encoder and its prompt. Raises CatalogueError when it is damaged or another model's.

    The card of its model does not name it, so it states its digest itself; one written before
    encoders did so is believed.
    """
    try:
        with safe_open(path, framework="pt") as tensors:
            metadata = tensors.metadata() or {}
            names = tensors.keys()
            weights = {name: tensors.get_tensor(name).float() for name in names}
        if metadata.get("format") != FORMAT:
            raise ValueError("another format")
        inner, vectors = len(weights["inner.weight"]), int(metadata["vectors"])
        encoder = ItemEncoder(directory.config.hidden_size, vectors, inner)
        prompt, reader = metadata["prompt"], metadata["reader"]
        own = reader_digest(directory.card, prompt)
        changed = "digest" in metadata and metadata["digest"] != encoder_digest(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CatalogueError(f"{path}: is no item encoder ({error!r}); {_HOW_TO_TRAIN}") from error
    if changed:
        raise CatalogueError(f"{path}: was changed after it was written; {_HOW_TO_TRAIN}")
    if reader != own:
        raise CatalogueError(
            f"{path}: was trained for a model of digest {reader[:16]}, not for {directory.path} of "
            f"{own[:16]}; {_HOW_TO_TRAIN}"
        )
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise CatalogueError(f"{path}: is no item encoder ({error}); {_HOW_TO_TRAIN}") from error
    return encoder.eval().requires_grad_(False), prompt


def carry_item_encoder(source: Path, target: Path) -> None:
    """Copies what lies beside the model of `source`, if anything does, to one of the same weights,
    tokenizer and prompts, by which it was trained as well.
    """
    if (source / ENCODER_PATH).exists():
        shutil.copytree(source / ENCODER_PATH.parent, target / ENCODER_PATH.parent)


def encoder_digest(path: Path) -> str:
    """Names an encoder exactly, in whatever order its file lists what it holds."""
    return content_digest(path)


_HOW_TO_TRAIN = (
    "train one: python -m compress.items.embed_items --source MODEL --data DIR --out DIR"
)


class _Alone:
    """The decoder's Attention: every item sees itself and nothing else."""

    def __init__(self, batch: PackedBatch, decoder: Decoder) -> None:
        self._layout = batch.layout
        config = decoder.config
        self._nothing = torch.empty(0, config.num_key_value_heads, config.head_dim)

    def __call__(self, _layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return multi_item_attention(q, k, v, self._nothing, self._nothing, self._layout)


def _means(states: Tensor, lengths: Tensor) -> Tensor:
    """(items, hidden) of (T, hidden)."""
    sums = torch.segment_reduce(states, "sum", lengths=lengths)
    return sums / lengths[:, None]
