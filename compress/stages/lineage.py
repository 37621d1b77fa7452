"""What a model's card says of the model that it was made from. Knows no stage and no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.card import ModelCard

# Metrics that say nothing of a model of other weights.
OF_THE_WEIGHTS = ("test", "label_mass", "embed_items", "quantize")


def card_after(
    card: ModelCard, parent: str, entry: Mapping[str, Any], **measured: Any
) -> ModelCard:
    """Of a model of other weights than that of `card`, whose digest is `parent`, made by the stage
    of `entry`.

    What the other one reached on `test`, its layers' rounding errors, and the item encoder beside
    it stay with the other one.
    """
    kept = {name: value for name, value in card.metrics.items() if name not in OF_THE_WEIGHTS}
    return replace(card, lineage=lineage_after(card, parent, entry), metrics={**kept, **measured})


def lineage_after(card: ModelCard, parent: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """That of `card`, whose digest is `parent`, and the stage of `entry`, which names it too."""
    stages = [*card.lineage.get("stages", []), {**entry, "parent": parent}]
    return {"stages": stages, "parent": parent}
