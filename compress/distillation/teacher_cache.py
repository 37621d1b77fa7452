"""Keeps what a teacher said, so that it is asked once. Knows no model and no loss.

A file is one safetensors with an identity and a checksum of its tensors in the header: it is read
back only for the very same teacher, tokenizer, prompt and data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compress.distillation.teachers import LogOdds, RankingTeacher
from models.errors import FairslateError
from models.saved_tensors import save_tensors

Slate = tuple[str, Sequence[str]]  # a prefix and its candidates


class TeacherCacheError(FairslateError):
    """A cache of another teacher or other data, a damaged one, or one that lacks what is asked."""

    status = HTTPStatus.BAD_REQUEST
    code = "teacher_cache_invalid"


@dataclass(frozen=True, slots=True)
class CacheIdentity:
    """What a cache holds answers of; every part is a digest or a name."""

    teacher: str
    tokenizer: str
    prompt: str
    data: str
    kept: int = 0  # outcomes a token, 0 for label log-odds


def write_cache(path: Path, identity: CacheIdentity, tensors: Mapping[str, Tensor]) -> None:
    """Written beside and renamed: a cut-off writing leaves no cache, or the old one.

    Raises OSError where that fails, and leaves nothing beside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"identity": json.dumps(asdict(identity)), "checksum": _checksum(tensors)}
    beside = path.with_suffix(".writing")
    try:
        save_tensors({name: x.contiguous() for name, x in tensors.items()}, beside, header)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def read_cache(path: Path, identity: CacheIdentity) -> dict[str, Tensor]:
    """Raises TeacherCacheError naming what differs, or that the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stated = CacheIdentity(**json.loads(header["identity"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TeacherCacheError(f"{path}: not a teacher cache ({error}); remove it") from error
    for part, ours in asdict(identity).items():
        if getattr(stated, part) != ours:
            raise TeacherCacheError(
                f"{path}: its {part} is {getattr(stated, part)}, not {ours}; remove it, and it "
                "is made again"
            )
    if _checksum(tensors) != header.get("checksum"):
        raise TeacherCacheError(f"{path}: differs from its checksum; remove it")
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].contiguous()
        digest.update(json.dumps([name, str(x.dtype), list(x.shape)]).encode())
        digest.update(x.view(torch.uint8).numpy().data if x.numel() else b"")
    return digest.hexdigest()


def text_digest(texts: Sequence[object]) -> str:
    """sha256 of anything that JSON can write, item by item."""
    digest = hashlib.sha256()
    for item in texts:
        digest.update(json.dumps(item).encode())
    return "sha256:" + digest.hexdigest()


class CachedTeacher:
    """Answers from a file what a teacher said about known pairs of texts.

    `teacher` None refuses pairs that the file lacks; otherwise they are asked for, but not kept.
    """

    def __init__(
        self, path: Path, identity: CacheIdentity, teacher: RankingTeacher | None = None
    ) -> None:
        tensors = read_cache(path, identity)
        self._path, self._identity, self._teacher = path, identity, teacher
        self._keys = tensors["pairs"].numpy()
        self._log_odds = tensors["log_odds"].numpy()

    @property
    def digest(self) -> str:
        return self._identity.teacher

    def label_log_odds(
        self,
        prefixes: Sequence[str],
        candidates: Sequence[Sequence[str]],
        prompt: str | None = None,
    ) -> list[LogOdds]:
        """Raises TeacherCacheError for a pair it does not hold."""
        return [
            self._slate(prefix, slate, prompt)
            for prefix, slate in zip(prefixes, candidates, strict=True)
        ]

    def _slate(self, prefix: str, slate: Sequence[str], prompt: str | None) -> LogOdds:
        keys = pair_keys(prefix, slate, prompt)
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        if (self._keys[places] == keys).all():
            return self._log_odds[places]  # type: ignore[no-any-return]
        if self._teacher is None:
            raise TeacherCacheError(
                f"{self._path}: holds no answer for a candidate of {prefix[:40]!r}; remove it, "
                "and it is made again from these data"
            )
        return self._teacher.label_log_odds([prefix], [slate], prompt)[0]


def cache_label_log_odds(
    path: Path,
    identity: CacheIdentity,
    teacher: RankingTeacher,
    slates: Sequence[Slate],
    prompt: str | None = None,
) -> None:
    """Asks the teacher about every pair once, and writes the answers."""
    keys, values = [], []
    for prefixes, candidates in _batches(slates):
        answers = teacher.label_log_odds(prefixes, candidates, prompt)
        for prefix, slate, answer in zip(prefixes, candidates, answers, strict=True):
            keys.append(pair_keys(prefix, slate, prompt))
            values.append(answer)
    pairs, first = np.unique(np.concatenate(keys), return_index=True)
    log_odds = np.concatenate(values).astype(np.float32)[first]
    tensors = {"pairs": torch.from_numpy(pairs), "log_odds": torch.from_numpy(log_odds)}
    write_cache(path, identity, tensors)


def _batches(
    slates: Sequence[Slate], size: int = 64
) -> Iterator[tuple[list[str], list[Sequence[str]]]]:
    for start in range(0, len(slates), size):
        part = slates[start : start + size]
        yield [prefix for prefix, _ in part], [candidates for _, candidates in part]


def pair_keys(
    prefix: str, slate: Sequence[str], prompt: str | None = None
) -> npt.NDArray[np.int64]:
    """63 bits a pair: of a million pairs two share a key once in 18 million times."""
    stem = hashlib.blake2b(json.dumps([prompt, prefix]).encode()).digest()
    digests = (hashlib.blake2b(stem + text.encode(), digest_size=8).digest() for text in slate)
    return np.array([int.from_bytes(digest) >> 1 for digest in digests], dtype=np.int64)


def kept_outcomes(logits: Tensor, kept: int) -> dict[str, Tensor]:
    """The likeliest outcomes of rows (N, V), all where there are fewer, and the mass of the rest.

    outcomes (N, k) int32, log_probabilities (N, k) float32, rest (N,) float32: the log of what the
    others have together, summed from themselves and not as 1 minus the kept.
    """
    log_p = logits.float().log_softmax(-1)
    scores, outcomes = log_p.topk(min(kept, log_p.shape[-1]))
    rest = log_p.scatter(1, outcomes, -torch.inf).logsumexp(-1)
    return {"outcomes": outcomes.int(), "log_probabilities": scores, "rest": rest}
