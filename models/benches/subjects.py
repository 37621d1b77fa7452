"""What a shape is measured on: a model directory and its slates. Knows no provider and no clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.benches.providers import Setting, context_megabytes
from models.benches.random_models import save_random_model
from models.benches.shapes import SHAPES, Shape
from models.benches.slates import GradedJob, demo_slates, graded_jobs, random_slates
from models.benches.turns import Slate
from models.checkpoint import load_model_directory

DEMO = "C"
DEMO_MODEL = Path("models/demo")
LEAST_CACHE_MB = 256
# Patterns of "provider dtype" that are measured only when `--skip` is given: they compile for
# minutes, take minutes a slate, or would not fit 24 GB beside the others.
SLOW = ("fairslate fp32", "fairslate-*", "hf-naive *", "hf-shared fp32", "ort-*")
LEFT_OUT = {"B": SLOW, "C": ("fairslate-compiled *",), "D": SLOW, "L": (*SLOW, "vllm *")}
# Transformers expands a context to every candidate: so many megabytes of it at a time, counted in
# fp32. At 0.6 B 16 and 32 candidates of 64 are equally fast, 8 and 64 slower.
MOST_EXPANDED_MB = 1024


@dataclass(frozen=True, slots=True)
class Subject:
    """A shape's model and slates. graded: requests with grades, of the demo alone."""

    name: str
    setting: Setting
    shape: Shape | None
    graded: Sequence[GradedJob] = ()

    def slates(self, warm: bool) -> Iterator[Slate]:
        """Other ones warm than cold, each time the same."""
        if self.shape is None:
            return demo_slates(self.graded)
        return random_slates(self.shape, seed=17 + warm, warm=warm)


def prepare(name: str, scratch: Path, threads: int) -> Subject:
    """Makes the random model, or takes the demo, whose shape is that of its data's test split."""
    if name == DEMO:
        directory = load_model_directory(DEMO_MODEL)
        setting = Setting(directory, scratch, 768, LEAST_CACHE_MB, threads)
        return Subject(
            name, setting, None, graded_jobs(directory, DEMO_MODEL / "onet_jobs", "test")
        )
    shape = SHAPES[name]
    directory = load_model_directory(save_random_model(scratch / "model", shape), verify=False)
    longest = shape.context_tokens[1] + shape.candidate_tokens[1]
    held = context_megabytes(shape.config, longest)
    cache_mb = max(LEAST_CACHE_MB, 2 * held)
    rows = even_rows(shape.candidates, max(1, MOST_EXPANDED_MB // held))
    return Subject(name, Setting(directory, scratch, longest, cache_mb, threads, rows), shape)


def even_rows(candidates: int, most: int) -> int:
    """Candidates of one batch where at most so many fit, all batches but the last alike."""
    batches = -(-candidates // most)
    return -(-candidates // batches)
