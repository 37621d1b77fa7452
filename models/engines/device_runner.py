"""The runner of a GPU: contexts in pages, whole passes as CUDA graphs, one per bucket of tokens.

A context's missing tokens travel in the same pass as the candidates that follow it: in every layer
their keys and values reach the pages before attention reads them.
Knows nothing of queues, tenants, text or calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.base.dispatch import choose_backend
from kernels.paged_attention import tile_tokens
from models.checkpoint import ModelDirectory, load_decoder
from models.config import DecoderConfig
from models.decoder import Decoder
from models.engines.base import CacheEvents
from models.engines.cuda_graphs import GraphPool
from models.engines.device_decoder import DeviceDecoder, PassOutputs, refuse_other_heads
from models.engines.group_plan import plan_group
from models.engines.paged_cache import PagedCache, PageShape
from models.engines.pass_inputs import PassShape, fill_inputs
from models.engines.passes import PassPlanner, PassSize, Segment
from models.engines.precision import choose_precision
from models.engines.runner import ContextGroup, GroupScores
from models.engines.staging import Staging
from models.errors import DeviceUnavailableError
from models.head_card import HeadOutputs

# Steps stay within an eighth of the size, and at the rows of a GPU's matrix tile.
TOKEN_BUCKETS = (
    *(64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024),
    *range(1152, 2049, 128),
    *range(2304, 4097, 256),
    *range(4608, 8193, 512),
)


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """How a model is run; without graphs, CUDA or Triton passes run operator by operator.

    precision: one of `models.engines.precision.NAMES`.
    max_context_tokens: longer contexts are refused; as much memory is spare beside the cache.
    """

    device: str = "cuda"
    precision: str = "bf16"
    backend: str = "auto"
    graphs: bool = True
    token_buckets: tuple[int, ...] = TOKEN_BUCKETS
    max_context_tokens: int = 4096


class DeviceRunner:
    """Runner on one device; see `models.engines.runner.Runner` for what it promises."""

    def __init__(
        self,
        decoder: Decoder,
        heads: Sequence[HeadOutputs],
        block_size: int,
        cache_bytes: int,
        settings: DeviceSettings,
        vectors: Tensor | None = None,
    ) -> None:
        refuse_other_heads(decoder.config)
        device = torch.device(settings.device)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise DeviceUnavailableError(
                f"torch {torch.__version__} finds no CUDA device here; take the device cpu, or a "
                "CUDA build of torch on a machine with a GPU"
            )
        self._block_size = block_size
        self._head_count = len(heads)
        self.precision = choose_precision(
            settings.precision, decoder.config, device, settings.backend
        )
        arithmetic, most = self.precision.arithmetic, settings.token_buckets[-1]
        self._decoder = DeviceDecoder(decoder, heads, arithmetic, device, most, vectors)
        self._stored_tokens = 0 if vectors is None else len(vectors)
        self._cache = PagedCache(
            PageShape.of(decoder.config, block_size),
            cache_bytes,
            -(-settings.max_context_tokens // block_size),
            arithmetic.dtype,
            device,
        )
        self._shapes = [
            pass_shape(tokens, decoder.config, arithmetic.dtype, self._cache.spare_pages)
            for tokens in settings.token_buckets
        ]
        self._staging = Staging(self._shapes, device)
        graphs = settings.graphs and device.type == "cuda"
        triton = choose_backend(settings.backend, self._cache.keys) == "triton"
        self._passes = self._prepare(GraphPool(device) if graphs and triton else None)

    @classmethod
    def from_directory(
        cls,
        directory: ModelDirectory,
        cache_bytes: int,
        settings: DeviceSettings,
        vectors: Tensor | None = None,
    ) -> DeviceRunner:
        """Loads the weights; ModelDirectoryError as `load_decoder` says.

        vectors: (tokens, hidden), a catalogue's; they are copied to the device.
        """
        heads, block_size = directory.prompt.heads, directory.card.block_size
        return cls(load_decoder(directory), heads, block_size, cache_bytes, settings, vectors)

    @property
    def block_size(self) -> int:
        return self._block_size

    @property
    def config(self) -> DecoderConfig:
        return self._decoder.config

    @property
    def stored_tokens(self) -> int:
        return self._stored_tokens

    @property
    def description(self) -> Mapping[str, str]:
        precision = self.precision
        return {"dtype": precision.name, "backend": "device", "reason": precision.reason}

    @torch.inference_mode()
    def run(self, groups: Sequence[ContextGroup]) -> list[GroupScores]:
        planner = PassPlanner(self._shapes[-1].limits, self._launch)
        with self._cache.reservation([group.chain for group in groups]) as reservation:
            try:
                cached = [plan_group(one, planner, reservation, self._block_size) for one in groups]
                planner.flush()
            finally:
                logits = iter(self._staging.collect())
        rows = zip(*[logits] * self._head_count, strict=True)
        return [
            GroupScores(count, [next(rows) for _ in group.candidates])
            for group, count in zip(groups, cached, strict=True)
        ]

    def drain_label_mass(self) -> tuple[float, ...]:
        return self._decoder.label_mass.drain()

    def drain_cache_events(self) -> CacheEvents:
        return self._cache.drain_events()

    def _launch(self, segments: Sequence[Segment], size: PassSize) -> None:
        """Starts one pass; what it answers is collected later."""
        shape = next(shape for shape in self._shapes if size.fits(shape.limits))
        inputs = self._staging.host_inputs(shape)
        scored = fill_inputs(inputs, segments, self._block_size)
        self._staging.send(shape)
        outputs = self._passes[shape]()
        self._staging.receive(outputs.logits[:scored].flatten())
        self._decoder.label_mass.observe(outputs.hidden[:scored])

    @torch.inference_mode()
    def _prepare(self, pool: GraphPool | None) -> dict[PassShape, Callable[[], PassOutputs]]:
        """The pass of every bucket, largest first: its memory serves the smaller ones."""
        passes: dict[PassShape, Callable[[], PassOutputs]] = {}
        for shape in reversed(self._shapes):
            inputs = self._staging.device_inputs[shape]
            run = partial(self._decoder, inputs, self._cache.keys, self._cache.values)
            passes[shape] = run if pool is None else pool.capture(run)
        return passes


def pass_shape(tokens: int, config: DecoderConfig, dtype: torch.dtype, pages: int) -> PassShape:
    """The bucket of `tokens`: it also holds an eighth as many scored items and 1/32 as groups.

    Shorter candidates or more contexts than that take the next larger bucket. One bucket a token
    count keeps the number of graphs, and the time to capture them, small. Rows come in sixteens:
    kernels are compiled anew for sizes that are no multiple.
    """
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    return PassShape(
        tokens=tokens,
        items=16 * -(-tokens // 128),
        groups=max(8, tokens // 32),
        pages=pages + tokens,
        tile_tokens=tile_tokens(tokens, heads, kv_heads, dtype),
    )
