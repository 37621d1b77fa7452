"""The teacher cache: what it keeps, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.distillation.teacher_cache import (
    CachedTeacher,
    CacheIdentity,
    TeacherCacheError,
    cache_label_log_odds,
    kept_outcomes,
    read_cache,
    write_cache,
)
from compress.distillation.teachers import LogOdds

IDENTITY = CacheIdentity("teacher", "tokenizer", "prompt", "data")
SLATES = [("a", ("x", "y")), ("b", ("x", "z", "w")), ("a", ("x", "y"))]


class _Teacher:
    """Says something of its own for every pair, and how often it was asked."""

    digest = "teacher"

    def __init__(self) -> None:
        self.asked = 0

    def label_log_odds(
        self,
        prefixes: Sequence[str],
        candidates: Sequence[Sequence[str]],
        prompt: str | None = None,
    ) -> list[LogOdds]:
        self.asked += len(prefixes)
        return [
            np.array([ord(prefix) * 7 + ord(text) for text in slate], dtype=np.float32)
            for prefix, slate in zip(prefixes, candidates, strict=True)
        ]


def test_cached_answers_are_the_teachers(tmp_path: Path) -> None:
    teacher, path = _Teacher(), tmp_path / "cache"
    cache_label_log_odds(path, IDENTITY, teacher, SLATES)
    asked, cached = teacher.asked, CachedTeacher(path, IDENTITY)
    prefixes, candidates = ["b", "a"], [["w", "z"], ["y"]]
    expected = teacher.label_log_odds(prefixes, candidates)
    for ours, theirs in zip(cached.label_log_odds(prefixes, candidates), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert teacher.asked == asked + len(prefixes)


def test_an_unknown_pair_is_refused_or_asked_for(tmp_path: Path) -> None:
    teacher, path = _Teacher(), tmp_path / "cache"
    cache_label_log_odds(path, IDENTITY, teacher, SLATES)
    with pytest.raises(TeacherCacheError, match="holds no answer"):
        CachedTeacher(path, IDENTITY).label_log_odds(["c"], [["x"]])
    answer = CachedTeacher(path, IDENTITY, teacher).label_log_odds(["c"], [["x"]])[0]
    np.testing.assert_array_equal(answer, teacher.label_log_odds(["c"], [["x"]])[0])


@pytest.mark.parametrize("part", ["teacher", "tokenizer", "prompt", "data"])
def test_a_cache_of_something_else_is_refused(tmp_path: Path, part: str) -> None:
    write_cache(tmp_path / "cache", IDENTITY, {"x": torch.zeros(3)})
    changed: dict[str, Any] = {part: "another"}
    with pytest.raises(TeacherCacheError, match=f"its {part} is"):
        read_cache(tmp_path / "cache", replace(IDENTITY, **changed))


def _flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def _cut(content: bytes) -> bytes:
    return content[:-1]


@pytest.mark.parametrize("damage", [_flip, _cut])
def test_a_damaged_cache_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "cache"
    write_cache(path, IDENTITY, {"x": torch.arange(3.0)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TeacherCacheError, match="remove it"):
        read_cache(path, IDENTITY)


def test_a_cut_off_writing_leaves_the_old_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache"
    write_cache(path, IDENTITY, {"x": torch.zeros(3)})

    def full(_: object, beside: Path, *__: object) -> None:
        beside.touch()
        raise OSError("no space left on device")

    monkeypatch.setattr("compress.distillation.teacher_cache.save_tensors", full)
    with pytest.raises(OSError, match="no space"):
        write_cache(path, IDENTITY, {"x": torch.ones(3)})
    assert read_cache(path, IDENTITY)["x"].sum() == 0
    assert list(tmp_path.iterdir()) == [path]


def test_kept_outcomes_and_their_rest_are_the_whole() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(5, 200)
    kept = kept_outcomes(logits, 16)
    held = kept["log_probabilities"].exp().sum(-1) + kept["rest"].exp()
    torch.testing.assert_close(held, torch.ones(5))
    log_p = logits.log_softmax(-1)
    torch.testing.assert_close(
        kept["log_probabilities"], log_p.gather(1, kept["outcomes"].long()), rtol=0, atol=0
    )


def test_of_a_small_vocabulary_all_outcomes_are_kept() -> None:
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    kept = kept_outcomes(logits, 64)
    assert kept["outcomes"].sort(1).values.tolist() == [list(range(20))] * 3
    assert kept["rest"].exp().tolist() == [0.0] * 3
