"""What the settings name is opened, and refused where it is something else."""

from __future__ import annotations

import pytest

from models.errors import ModelDirectoryError
from service.base.config import Settings
from service.process.served_models import open_ranker, open_reasoner


def test_a_ranker_is_no_reasoner() -> None:
    with pytest.raises(ModelDirectoryError, match=r"FAIRSLATE_REASONER=models/demo is no reasoner"):
        open_reasoner(Settings(reasoner="models/demo"))
    assert open_reasoner(Settings(reasoner="")) is None


def test_a_reasoner_is_no_ranker() -> None:
    with pytest.raises(ModelDirectoryError, match=r"FAIRSLATE_MODEL=models/demo_reason writes"):
        open_ranker(Settings(model="models/demo_reason"))
    assert open_ranker(Settings(model="models/demo")).card.name == "fairslate-demo"
