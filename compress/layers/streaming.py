"""Streams calibration slates through a decoder, half a layer at a time, and sums layer inputs.

Hidden states wait on disk between halves, so memory holds one batch and second moments, whatever
the number of samples. The last layer is summed at answer tokens, the only ones that are read there.
Knows no method that uses the moments.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.decoders.slates import SlateAttention, SlateBatch
from compress.decoders.wiring import layers_of
from compress.layers.gram import Gram, Moments
from models.decoder import Decoder
from models.errors import FairslateError

ATTENTION, MLP = "self_attn", "mlp"
SPARE_BYTES = 256 << 20
FOLDER = "hidden"  # in the working folder; no two streams are there at once


class DiskFullError(FairslateError):
    """The hidden states of the calibration slates do not fit on the disk."""

    code = "disk_full"


@dataclass(frozen=True, slots=True)
class Half:
    """Attention or MLP of one layer, with its norm and residual."""

    layer: int
    part: str  # ATTENTION or MLP

    def linear(self, decoder: Decoder, name: str) -> nn.Linear:
        """One of its products, such as "o_proj"."""
        found: nn.Linear = getattr(getattr(layers_of(decoder)[self.layer], self.part), name)
        return found

    def __call__(self, decoder: Decoder, x: Tensor, batch: SlateBatch) -> Tensor:
        """Hidden states (T, hidden) behind it."""
        block = layers_of(decoder)[self.layer]
        if self.part == MLP:
            return x + block.mlp(block.post_attention_layernorm(x))  # type: ignore[no-any-return]
        normed, attention = block.input_layernorm(x), SlateAttention(batch)
        places = batch.positions, decoder.rotary
        return x + block.self_attn(normed, self.layer, *places, attention)  # type: ignore[no-any-return]


def halves_of(decoder: Decoder) -> list[Half]:
    """In the order in which they run."""
    layers = range(decoder.config.num_hidden_layers)
    return [Half(layer, part) for layer in layers for part in (ATTENTION, MLP)]


@dataclass(frozen=True, slots=True)
class LayerInputs:
    """moments: of one product's inputs. largest: (p,) max|X_j| of the same rows."""

    moments: Moments
    largest: Tensor


class _Sums:
    def __init__(self, width: int) -> None:
        self._gram = Gram(width)
        self._largest = torch.zeros(width)

    def add(self, rows: Tensor, dense: Tensor | None) -> None:
        self._gram.add(rows, dense)
        self._largest = torch.maximum(self._largest, rows.abs().amax(0))

    def inputs(self) -> LayerInputs:
        return LayerInputs(self._gram.moments(least_samples=len(self._largest)), self._largest)


class Streams:
    """The same slates inside one decoder, or two of the same shape: the changed and the dense one.

    Use as a context; what lies on disk goes with it. A kill leaves it to the next one to remove.
    Raises DiskFullError.
    """

    def __init__(
        self,
        slates: Iterable[SlateBatch],
        work: Path,
        changed: Decoder,
        dense: Decoder | None = None,
    ) -> None:
        self._decoders = [changed] if dense is None else [changed, dense]
        self._folder = work / FOLDER
        self.close()
        self._folder.mkdir(parents=True)
        self._count = 0
        try:
            for batch in slates:
                self._start(batch)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the hidden states."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def inputs(self, half: Half, names: Sequence[str]) -> Mapping[str, LayerInputs]:
        """Of products of a half that nobody advanced past.

        Raises CalibrationDataError for values that are not finite and for fewer rows than inputs.
        """
        first = self._decoders[0]
        sums = {name: _Sums(half.linear(first, name).in_features) for name in names}
        for number, batch in self._batches():
            changed, *dense = (
                self._captured(place, half, names, number, batch)
                for place in range(len(self._decoders))
            )
            for name, one in sums.items():
                one.add(changed[name], dense[0][name] if dense else None)
        return {name: one.inputs() for name, one in sums.items()}

    @torch.inference_mode()
    def advance(self, half: Half) -> None:
        """Takes all slates through a half with the weights it has now."""
        for number, batch in self._batches():
            for place, decoder in enumerate(self._decoders):
                x = self._hidden(place, number)
                _write(half(decoder, x, batch), self._path(place, number))

    def _start(self, batch: SlateBatch) -> None:
        self._refuse_full_disk(batch)
        _write(astuple(batch), self._folder / f"batch-{self._count}.pt")
        for place, decoder in enumerate(self._decoders):
            x = decoder.model.embed_tokens(batch.token_ids).detach()
            _write(x, self._path(place, self._count))
        self._count += 1

    def _refuse_full_disk(self, batch: SlateBatch) -> None:
        width = self._decoders[0].config.hidden_size * len(self._decoders)
        needed = len(batch.token_ids) * width * 4 + SPARE_BYTES
        if shutil.disk_usage(self._folder).free < needed:
            raise DiskFullError(
                f"{self._folder}: {needed >> 20} MB are needed for the next slates; free some or "
                "calibrate on fewer"
            )

    def _batches(self) -> Iterator[tuple[int, SlateBatch]]:
        for number in range(self._count):
            parts = torch.load(self._folder / f"batch-{number}.pt", weights_only=True)
            yield number, SlateBatch(*parts)

    def _hidden(self, place: int, number: int) -> Tensor:
        x: Tensor = torch.load(self._path(place, number), weights_only=True)
        return x

    def _path(self, place: int, number: int) -> Path:
        return self._folder / f"hidden-{place}-{number}.pt"

    @torch.inference_mode()
    def _captured(
        self, place: int, half: Half, names: Sequence[str], number: int, batch: SlateBatch
    ) -> dict[str, Tensor]:
        """Inputs (rows, p) of the products in one batch."""
        decoder = self._decoders[place]
        linears = {name: half.linear(decoder, name) for name in names}
        with _watched(linears) as found, suppress(_AllSeenError):
            half(decoder, self._hidden(place, number), batch)
        last = half.layer == decoder.config.num_hidden_layers - 1
        whole = ("k_proj", "v_proj") if last else names
        return {name: x if name in whole else x[batch.answers] for name, x in found.items()}


def _write(content: Any, path: Path) -> None:
    try:
        torch.save(content, path)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
        said = str(error).splitlines()[0]
        raise DiskFullError(
            f"{path}: cannot be written ({said}); make room, or calibrate on fewer, and give the "
            "same command again"
        ) from error


class _AllSeenError(Exception):
    """Ends a half as soon as all products that are watched have been reached."""


@contextmanager
def _watched(linears: Mapping[str, nn.Linear]) -> Iterator[dict[str, Tensor]]:
    """Fills a dictionary with the inputs of products as they run."""
    found: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found[name] = inputs[0]
            if len(found) == len(linears):
                raise _AllSeenError

        return keep

    with ExitStack() as stack:
        for name, linear in linears.items():
            stack.callback(linear.register_forward_pre_hook(keeper(name)).remove)
        yield found
