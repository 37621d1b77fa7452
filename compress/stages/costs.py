"""What training steps and passes cost, from the sizes of things. Knows no recipe and runs none."""

from __future__ import annotations

from dataclasses import replace

import torch

from compress.stages.passes import NARROW
from compress.stages.stage import Cost, Shape
from models.config import DecoderConfig

TRAINED = 3  # passes' worth of operations: forward, and two products backward
KEPT = 16  # activations of hidden size that a layer keeps for the backward pass
FLOAT = 4  # bytes
CONTEXT_TOKENS, CANDIDATE_TOKENS = 80, 64  # of a member and a posting, in 8,192 words
# Of an encoder's pair and of one text, and how many occupations a world of the demo's data has.
PAIR_TOKENS, TEXT_TOKENS, OCCUPATIONS = 160, 80, 582


def shape_of(config: DecoderConfig, bytes_per_parameter: float = 4.0) -> Shape:
    """Of a decoder."""
    sizes = {
        name: int(torch.tensor(shape).prod()) for name, shape in config.weight_shapes().items()
    }
    embeddings = sum(size for name, size in sizes.items() if "embed_tokens" in name)
    return Shape(
        sum(sizes.values()),
        embeddings,
        config.hidden_size,
        config.num_hidden_layers,
        bytes_per_parameter,
        attention=sum(size for name, size in sizes.items() if ".self_attn." in name),
        mlp=sum(size for name, size in sizes.items() if ".mlp." in name),
        config=config,
    )


def training_cost(
    steps: int, tokens: int, shape: Shape, teachers: int = 0, again: bool = False
) -> Cost:
    """Steps of the whole model with AdamW; `tokens` of one step; `teachers` of the same size.

    again: passes are done once more for their gradients.
    """
    activations = tokens * shape.hidden * shape.layers * KEPT
    memory = FLOAT * (4 * shape.parameters + activations)  # weights, gradients and two moments
    operations = 2.0 * steps * tokens * shape.body * (TRAINED + teachers + again)
    return Cost(steps, steps * tokens, operations, memory, shape)


def pass_cost(tokens: int, shape: Shape) -> Cost:
    """One forward pass over so many tokens, a few at a time."""
    operations = 2.0 * tokens * shape.body
    return Cost(1, tokens, operations, FLOAT * shape.parameters, shape)


def together(shape: Shape, *parts: Cost) -> Cost:
    """What one stage does part after part, and the shape that it writes in the end."""
    return Cost(
        sum(part.steps for part in parts),
        sum(part.tokens for part in parts),
        sum(part.operations for part in parts),
        max(part.memory for part in parts),
        shape,
        wide=sum(part.wide for part in parts),
        narrow=sum(part.narrow for part in parts),
    )


def in_passes(cost: Cost, passes: str) -> Cost:
    """All of it in an encoder's passes of this kind (compress.stages.passes)."""
    if passes == NARROW:
        return replace(cost, narrow=cost.operations)
    return replace(cost, wide=cost.operations)
