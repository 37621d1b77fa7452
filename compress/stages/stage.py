"""What all stages share: their contract, options and lineage. Knows no training."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import torch

from compress.stages.option_values import wrong_name, wrong_number, wrong_value
from models.allocator import keep_freed_memory
from models.config import DecoderConfig
from models.errors import FairslateError

Options = TypeVar("Options")

CPU, CUDA, AUTO = "cpu", "cuda", "auto"
DEVICES = (CPU, CUDA, AUTO)
ON_CPU = torch.device(CPU)
TEACHER, SOURCE = "teacher", "source"  # what a recipe calls the two that it starts from
MOST_WORKERS = 14  # more hand batches over no faster


class RecipeError(FairslateError):
    """A recipe or a stage's command line is wrong."""

    status = HTTPStatus.BAD_REQUEST
    code = "invalid_recipe"


class GateError(FairslateError):
    """A stage's result is outside what the recipe allows; nothing was published."""

    code = "gate_failed"


class StageError(FairslateError):
    """A stage cannot go on for a reason outside the recipe, such as a full disk."""

    code = "stage_failed"


@dataclass(frozen=True, slots=True)
class StageInput:
    """Where a stage reads, writes and trains. `out` does not exist yet; `work` outlives a kill.

    data_files: digests of the data as the stage finds them, to tell whether they change meanwhile.
    """

    source: Path | None  # model directory of the stage before
    data: Path
    out: Path
    work: Path
    seed: int
    threads: int
    teacher: Path | None = None  # what the recipe's `teacher` wrote or names
    earlier: Mapping[str, Path] = field(default_factory=dict)  # finished stages, by name
    device: torch.device = ON_CPU  # of training loops; what is measured stays on the CPU
    data_files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.data_files:
            object.__setattr__(self, "data_files", file_digests(self.data))

    @property
    def workers(self) -> int:
        """Processes that make batches while a GPU trains; beside a CPU they would only disturb."""
        if self.device.type == CPU:
            return 0
        return max(1, min(MOST_WORKERS, (os.cpu_count() or 1) - self.threads))


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of a model, as far as cost depends on it. config: its own, where it is known before."""

    parameters: int
    embeddings: int  # parameters of them that a token only looks up
    hidden: int
    layers: int
    bytes_per_parameter: float = 4.0
    attention: int = 0  # parameters of all layers' attention, and of their MLPs
    mlp: int = 0
    config: DecoderConfig | None = None

    @property
    def body(self) -> int:
        """Parameters by which every token is multiplied."""
        return self.parameters - self.embeddings

    @property
    def size(self) -> int:
        """Bytes of its weights on disk."""
        return int(self.parameters * self.bytes_per_parameter)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stage will do. `tokens` and `operations` (floating point) are of all its steps.

    wide, narrow: operations of them in an encoder's passes, in fp32 and in bfloat16. memory: the
    most bytes at once, beyond what an idle process takes. shape: of what it writes, None where it
    is not known before. ranks: whether gates will score requests with it.
    """

    steps: int = 0
    tokens: int = 0
    operations: float = 0.0
    memory: float = 0.0
    shape: Shape | None = None
    ranks: bool = True
    wide: float = 0.0
    narrow: float = 0.0


@dataclass(frozen=True, slots=True)
class Incoming:
    """What is known of what a stage will be given, before any starts.

    shape: of the model that it starts from, None without one. prompts, heads: that model's, none
    where they are not known. taught: whether there is a teacher; by_model: and that is a model
    directory. origin: the given directory whose tokenizer and kind of output that model has, None
    for one made anew; origins: of teacher, source and stages before, by name.
    """

    data: Path
    shape: Shape | None = None
    prompts: Sequence[str] = ()
    heads: Sequence[str] = ()
    taught: bool = False
    by_model: bool = False
    origin: Path | None = None
    origins: Mapping[str, Path | None] = field(default_factory=dict)


Stage = Callable[[StageInput, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class StageKind:
    """What a stage's module tells the pipeline, under the name STAGE.

    options: a frozen dataclass that refuses what is wrong when it is made, before anything starts.
    cost: of these options and the shape of the model that comes in, which is the teacher's where
    none comes before; None where it is negligible.
    named: of options, the stages or directories that they read beside what comes in.
    reads: of options, the files of the data folder that the stage reads.
    check: of options and what is known of what comes in: raises a FairslateError for what cannot
    work, before anything starts.
    writes: whether a model of these options writes; None where all of the stage's models rank.
    quality: of options, the directory written and the data: what gates compare of one that writes.
    starts: whether it needs a model directory to start from. makes: whether what it writes is one.
    prompts, heads: of a model that it makes anew.
    keeps: whether weights, tokenizer and prompts come out as they went in wherever an item encoder
    was trained for them, which then goes along. encodes: whether it trains one.
    """

    run: Stage
    options: type[Any]
    cost: Callable[[Any, Shape | None], Cost] | None = None
    named: Callable[[Any], Sequence[str]] | None = None
    reads: Callable[[Any], Sequence[str]] | None = None
    check: Callable[[Any, Incoming], None] | None = None
    writes: Callable[[Any], bool] | None = None
    quality: Callable[[Any, Path, Path], Mapping[str, float]] | None = None
    starts: bool = True
    makes: bool = True
    prompts: Sequence[str] = ()
    heads: Sequence[str] = ()
    keeps: bool = False
    encodes: bool = False

    def parse(self, raw: Mapping[str, Any]) -> Any:
        """The options; a class with a method `parse` reads its nested parts itself."""
        if hasattr(self.options, "parse"):
            return self.options.parse(raw)
        return parse_options(self.options, raw)

    def places(self, options: Any, data: Path, stages: Collection[str] = ()) -> list[Path]:
        """What options name by path: directories, where they name none of `stages`, and files of
        the data folder that its digest leaves out.
        """
        names = self.named(options) if self.named else ()
        files = self.reads(options) if self.reads else ()
        own = [data / name for name in files if not name.endswith(".gz")]
        return [*(Path(name) for name in names if name not in stages), *own]


def parse_options(kind: type[Options], raw: Mapping[str, Any]) -> Options:
    """Raises RecipeError for unknown or missing names and for values of another type."""
    if not isinstance(raw, Mapping):
        raise RecipeError(f"{kind.__name__}: options are {raw!r}; write them as name: value")
    if wrong := wrong_name(kind, raw) or wrong_value(kind, raw):
        raise RecipeError(f"{kind.__name__}: {wrong}")
    options = kind(**raw)
    # Last, because a stage's own refusal says more.
    if wrong := wrong_number(kind, raw):
        raise RecipeError(f"{kind.__name__}: {wrong}")
    return options


def device_of(asked: str) -> torch.device:
    """`auto` is a GPU where there is one; under torchrun each process has its own.

    Raises RecipeError for a name that is none and for a GPU that is not there.
    """
    if asked not in DEVICES:
        raise RecipeError(f"device is {asked!r}; use one of {', '.join(DEVICES)}")
    if asked == CPU or (asked == AUTO and not torch.cuda.is_available()):
        return torch.device(CPU)
    if not torch.cuda.is_available():
        raise RecipeError("device is cuda, but torch finds no GPU here; set it to auto or cpu")
    return torch.device(CUDA, int(os.environ.get("LOCAL_RANK", "0")))


def prepare_process(stage: StageInput) -> None:
    """Same threads and random state on every start, so a run repeats bit for bit."""
    keep_freed_memory()
    torch.set_num_threads(stage.threads)
    torch.manual_seed(stage.seed)
    if stage.device.type != CPU:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not outlive a fork
        torch.cuda.set_device(stage.device)
        torch.set_float32_matmul_precision("high")


def lineage_entry(stage: str, inputs: StageInput, options: object) -> dict[str, Any]:
    """What a card says of one stage: enough to run it again. Silent of a CPU, the usual device.

    Raises StageError where the data are no longer those that the stage began with.
    """
    assert is_dataclass(options)
    refuse_changed(inputs.data, inputs.data_files, inputs.work)
    elsewhere = {} if inputs.device.type == CPU else {"device": inputs.device.type}
    return {
        "stage": stage,
        "seed": inputs.seed,
        "threads": inputs.threads,
        "data": directory_digest(inputs.data),
        "options": {item.name: getattr(options, item.name) for item in fields(options)},
        "torch": torch.__version__,
        **elsewhere,
    }


def directory_digest(directory: Path) -> str:
    """sha256 over names and contents of the directory's gzipped files."""
    digest = hashlib.sha256()
    for name, content in file_digests(directory).items():
        digest.update(json.dumps([name, content]).encode())
    return "sha256:" + digest.hexdigest()


def file_digests(directory: Path) -> dict[str, str]:
    """sha256 of the directory's gzipped files, by name and in its order."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.glob("*.gz"))
    }


def refuse_changed(directory: Path, begun_with: Mapping[str, str], work: Path) -> None:
    """Raises StageError naming a file that is no longer what a stage found as it began.

    What it learnt until now lies in `work`, and nobody knows from which of the two.
    """
    found = file_digests(directory)
    for name in sorted(begun_with.keys() | found.keys()):
        if begun_with.get(name) != found.get(name):
            raise StageError(
                f"{directory / name} changed while the stage was at work; put it back as it was, "
                f"remove {work} and give the same command again, or keep it as it is, remove all "
                "of OUT.work and begin anew"
            )
