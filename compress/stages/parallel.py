"""What a process is among those that `torchrun` started. Knows no models and no losses.

Without torchrun there is one process, rank 0, and every function here does nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from compress.stages.stage import RecipeError

Row = TypeVar("Row")
Answer = TypeVar("Answer")


def join() -> None:
    """Meets the other processes, where torchrun says that there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        # A recipe may train on the CPU of a machine that has GPUs.
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def leave() -> None:
    """Lets the other processes go."""
    if dist.is_initialized():
        dist.destroy_process_group()


def end(code: int) -> NoReturn:
    """Ends this process with the code.

    Threads of gloo live on after `leave`. One that asks for the interpreter while Python ends
    aborts the process, so a process that torchrun started ends without Python's own ending.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def meet() -> None:
    """Returns when every process has come as far; `first` keeps the first one from nothing."""
    if dist.is_initialized():
        dist.barrier()


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(rows: Sequence[Row]) -> Sequence[Row]:
    """This process' part of a step's rows, an equal one so that the mean of means is the mean.

    Raises RecipeError when the rows do not divide.
    """
    if len(rows) % world():
        raise RecipeError(
            f"{len(rows)} rows of a step do not divide among {world()} processes; choose a multiple"
        )
    return rows[rank() :: world()]


def first(function: Callable[[], Answer]) -> Answer:
    """Calls it on rank 0 alone; every process gets its answer, or raises what it raised."""
    if not dist.is_initialized():
        return function()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = function()
        except Exception as error:
            box[1] = error
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    answer: Answer = box[0]
    return answer
