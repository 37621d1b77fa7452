"""Stage: a tokenizer of recorded requests and a wired decoder that has learned nothing yet.

Run alone: python -m compress.students.start --data DIR --out DIR --options JSON
For data that are requests and items alone; a `distill` stage on requests teaches it. Knows no loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress.data.requests import load_requests
from compress.data.tokenizer import train_tokenizer
from compress.decoders.sizes import HEAD_DIM, decoder_config
from compress.decoders.wiring import wire
from compress.stages.costs import shape_of
from compress.stages.stage import (
    Cost,
    RecipeError,
    Shape,
    StageInput,
    StageKind,
    lineage_entry,
    new_card,
    parse_options,
    prepare_process,
    run_alone,
)
from models.checkpoint import save_model_directory
from models.decoder import Decoder
from models.directory import TOKENIZER_NAME


@dataclass(frozen=True, slots=True)
class StartOptions:
    """Recipe options; vocab_size in tokens, the rest is the decoder's shape."""

    name: str = "fairslate-ranker"
    version: str = "1"
    vocab_size: int = 4096
    hidden_size: int = 128
    intermediate_size: int = 256
    layers: int = 2
    heads: int = 2
    kv_heads: int = 2

    def __post_init__(self) -> None:
        width = self.heads * HEAD_DIM  # of what the wiring compares; half a side, signs twice
        if self.heads % 2 or min(self.hidden_size, self.intermediate_size) < width:
            raise RecipeError(
                f"start: {self.heads} heads are wired as pairs of {HEAD_DIM} each; take an even "
                f"number, and hidden_size and intermediate_size of at least {width}"
            )


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes the model directory."""
    options = parse_options(StartOptions, raw_options)
    prepare_process(stage)
    tokenizer = train_tokenizer(_texts(stage.data), options.vocab_size)
    path = stage.work / TOKENIZER_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    decoder = Decoder(decoder_config(options, tokenizer.get_vocab_size()))
    wire(decoder)
    card = new_card(options.name, options.version)
    card = replace(card, lineage={"stages": [lineage_entry("start", stage, options)]})
    save_model_directory(stage.out, decoder, path, card)


def _texts(data: Path) -> Iterator[str]:
    """Every text of `train` as often as it is shown: common words become whole tokens."""
    for request in load_requests(data, "train"):
        yield request.context
        yield from request.candidates


def cost(options: StartOptions, shape: Shape | None) -> Cost:
    """No steps."""
    return Cost(shape=shape_of(decoder_config(options, options.vocab_size)))


STAGE = StageKind(run, StartOptions, cost)

if __name__ == "__main__":
    run_alone("start", run)
