"""What a card says of the model that another was made from."""

from __future__ import annotations

from dataclasses import replace

from compress.stages.lineage import card_after, lineage_after
from models.card import ModelCard


def test_what_was_measured_of_other_weights_is_not_said_of_these(tiny_card: ModelCard) -> None:
    measured = {name: {"valid": 1} for name in ("train", "test", "embed_items", "label_mass")}
    measured["quantize"] = {"layers": 1}
    before = replace(tiny_card, metrics=measured)
    after = card_after(before, "digest", {"stage": "prune"}, prune={"kept": 2})
    assert after.metrics == {"train": {"valid": 1}, "prune": {"kept": 2}}


def test_every_stage_names_its_own_parent(tiny_card: ModelCard) -> None:
    first = card_after(tiny_card, "a", {"stage": "train"})
    assert lineage_after(first, "b", {"stage": "calibrate"}) == {
        "stages": [{"stage": "train", "parent": "a"}, {"stage": "calibrate", "parent": "b"}],
        "parent": "b",
    }
