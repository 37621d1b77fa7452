"""Encoders as teacher: log-odds of any texts from what lies on disk. Knows no training.

A teacher directory holds the encoder's config.json and tokenizer.json, the words' vectors that all
parts share, one safetensors a part, teacher.json with weights and digests, and scorer.json, by
which `compress.measure.scorers` finds this module.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from compress.data.requests import Request
from compress.encoders.encoder import CONFIG_NAME, TOKENIZER_NAME, Encoder, EncoderConfig
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.pair_slates import Chunks, SpecialTokens, joint_logits, tower_vectors
from compress.stages.passes import WIDE, pass_dtype
from compress.stages.stage import AUTO, device_of
from models.card import file_digest
from models.errors import ModelDirectoryError
from models.narrowing import narrowed
from models.saved_tensors import save_tensors

TEACHER_NAME = "teacher.json"
WORDS = "encoder.embeddings.word_embeddings.weight"
ROWS_AT_ONCE = 256
LARGEST_EXPONENT = 709.0  # above it the exponential overflows
JOB_TO_MEMBERS = "job_to_members"


def encoder_tokenizer(directory: Path) -> Tokenizer:
    """The encoder's tokenizer without the padding and cutting that its file may ask for.

    Raises ModelDirectoryError where there is none.
    """
    if not (directory / TOKENIZER_NAME).is_file():
        raise ModelDirectoryError(
            f"{directory} holds no {TOKENIZER_NAME}; name the folder of a BERT encoder"
        )
    tokenizer = Tokenizer.from_file(str(directory / TOKENIZER_NAME))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def save_teacher(
    out: Path,
    encoder: Path,
    parts: Mapping[str, PairEncoder],
    weights: Mapping[str, float],
    notes: Mapping[str, object],
) -> None:
    """Writes a teacher directory in fp16; the parts' words are those of the encoder, untrained.

    weights: by part, its share of the teacher's log-odds. teacher.json comes last but for what
    names its digest: a directory whose writing was cut off does not load.
    """
    stored = {name: _stored(part) for name, part in parts.items()}
    out.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_NAME, TOKENIZER_NAME):
        shutil.copyfile(encoder / name, out / name)
    shared = [part.pop(WORDS) for part in stored.values()]
    assert all(torch.equal(words, shared[0]) for words in shared)
    for name, tensors in ({"words": {WORDS: shared[0]}} | stored).items():
        save_tensors(tensors, out / f"{name}.safetensors")
    names = [CONFIG_NAME, TOKENIZER_NAME, *(f"{name}.safetensors" for name in ("words", *stored))]
    files = {name: _digest(out / name) for name in names}
    content = {"weights": dict(weights), "files": files, **notes}
    (out / TEACHER_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    numbers = [shared[0].numel(), *(x.numel() for part in stored.values() for x in part.values())]
    named = {"module": __name__, "parameters": sum(numbers), "digest": _digest(out / TEACHER_NAME)}
    (out / "scorer.json").write_text(json.dumps(named) + "\n", encoding="utf-8")


def _stored(model: PairEncoder) -> dict[str, Tensor]:
    return narrowed({name: x.cpu() for name, x in model.state_dict().items()}, torch.float16)


def open_scorer(directory: Path) -> EncoderTeacher:
    """The teacher as `compress.measure.scorers` asks for it."""
    return EncoderTeacher.load(directory)


@dataclass(frozen=True)
class EncoderTeacher:
    """The weighted mean of its parts' logits; a ranking teacher of a distillation."""

    parts: Mapping[str, PairEncoder]
    weights: Mapping[str, float]
    tokenizer: Tokenizer
    digest: str
    device: torch.device
    lineage: Sequence[Mapping[str, Any]] = ()  # how it was made, stage by stage
    cpu_passes: str = WIDE

    @classmethod
    def load(
        cls, directory: Path, device: torch.device | None = None, cpu_passes: str = WIDE
    ) -> EncoderTeacher:
        """Without a device on a GPU where there is one.

        Raises ModelDirectoryError for a directory that is incomplete or was changed.
        """
        path = directory / TEACHER_NAME
        if not path.is_file():
            raise ModelDirectoryError(f"{directory} holds no {TEACHER_NAME}; train it to the end")
        content = path.read_bytes()
        stated = json.loads(content)
        for name, digest in stated["files"].items():
            if _digest(directory / name) != digest:
                raise ModelDirectoryError(
                    f"{directory / name} was changed; train the teacher again"
                )
        device = device or device_of(AUTO)
        parts = {part: _load_part(directory, part).to(device) for part in stated["weights"]}
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        tokenizer, lineage = encoder_tokenizer(directory), stated.get("lineage", {})
        stages = lineage.get("stages", ())
        return cls(parts, stated["weights"], tokenizer, digest, device, stages, cpu_passes)

    def raw_logits(self, requests: Sequence[Request]) -> list[list[float]]:
        """Log-odds of every request's candidates, in order."""
        contexts, slates = [r.context for r in requests], [r.candidates for r in requests]
        return [values.tolist() for values in self.label_log_odds(contexts, slates)]

    def probability(self, raw_logit: float) -> float:
        """Of relevance; the teacher is trained on log-odds, and not calibrated further."""
        return 1 / (1 + math.exp(min(-raw_logit, LARGEST_EXPONENT)))

    def label_log_odds(
        self,
        prefixes: Sequence[str],
        candidates: Sequence[Sequence[str]],
        prompt: str | None = None,
    ) -> list[npt.NDArray[np.float32]]:
        """log P(relevant) / P(not) of every prefix's candidates, in order.

        prompt "job_to_members" says that prefixes are jobs and candidates members; else the
        prefixes are members.
        """
        return [
            self._slate(prefix, slate, prompt == JOB_TO_MEMBERS)
            for prefix, slate in zip(prefixes, candidates, strict=True)
        ]

    @torch.inference_mode()
    def _slate(self, prefix: str, slate: Sequence[str], inverted: bool) -> npt.NDArray[np.float32]:
        encodings = self.tokenizer.encode_batch([prefix, *slate], add_special_tokens=False)
        context, *others = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        contexts = [context] * len(others)
        members, postings = (others, contexts) if inverted else (contexts, others)
        score = {"joint": self._joint, "towers": self._towers}
        total = sum(
            weight * score[part](self.parts[part], members, postings)
            for part, weight in self.weights.items()
        )
        assert isinstance(total, Tensor)
        return total.float().cpu().numpy()

    def _joint(self, model: PairEncoder, members: list[_Ids], postings: list[_Ids]) -> Tensor:
        special = SpecialTokens.of(self.tokenizer)
        firsts = [special.open(ids) for ids in members]
        seconds = [special.close(ids) for ids in postings]
        chunks = Chunks.pack(firsts, seconds, ROWS_AT_ONCE)
        return joint_logits(model, chunks, self.device, self.dtype, 0.0)

    def _towers(self, model: PairEncoder, members: list[_Ids], postings: list[_Ids]) -> Tensor:
        special = SpecialTokens.of(self.tokenizer)
        texts = {id(ids): special.open(ids) for ids in (*members, *postings)}  # each text once
        places = {key: place for place, key in enumerate(texts)}
        chunks = Chunks.pack(list(texts.values()), None, ROWS_AT_ONCE)
        vectors = tower_vectors(model, chunks, self.device, self.dtype, 0.0)
        first, second = (vectors[[places[id(ids)] for ids in side]] for side in (members, postings))
        return model.compare(first, second)

    @property
    def dtype(self) -> torch.dtype:
        """Of a pass."""
        return pass_dtype(self.device, self.cpu_passes)


_Ids = npt.NDArray[np.int64]


def _load_part(directory: Path, part: str) -> PairEncoder:
    model = PairEncoder(Encoder(EncoderConfig.load(directory / CONFIG_NAME)), joint=part == "joint")
    stored = load_file(directory / "words.safetensors") | load_file(
        directory / f"{part}.safetensors"
    )
    try:
        model.load_state_dict({name: x.float() for name, x in stored.items()})
    except RuntimeError as error:
        raise ModelDirectoryError(
            f"{directory}: {part} does not fit ({error}); train the teacher again"
        ) from error
    return model.eval().requires_grad_(False)


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise ModelDirectoryError(f"{path} cannot be read ({error}); train it again") from error
