"""A model in training, whole in one process or sharded over those of torchrun by FSDP2.

Sharded, each process keeps its part of every parameter, gradient and optimizer moment; a step
gathers the parameters and scatters the gradients' mean. Knows no schedule and no files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

Loss = Callable[[int], Tensor]


class Whole:
    """All of the model in this process."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss) -> None:
        self._model, self._optimizer = model, optimizer
        self.loss = loss

    def mean(self, loss: Tensor) -> float:
        """The loss of the step's rows."""
        return loss.item()

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on bit for bit."""
        return {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Puts a state back."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def finish(self) -> None:
        """Leaves plain parameters in the model."""


class Sharded:
    """A part of the model in each process; the same interface.

    The optimizer's parameters are exchanged for their shards in place, so it must be new.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss) -> None:
        self._model, self._optimizer = model, optimizer
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        device = next(model.parameters()).device.type
        mesh = init_device_mesh(device, (dist.get_world_size(),))
        self._module = _Step(model, loss)
        fully_shard(self._module, mesh=mesh)
        shards = dict(model.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [shards[names[id(parameter)]] for parameter in group["params"]]

    def loss(self, step: int) -> Tensor:
        """Of this process' share of the rows."""
        loss: Tensor = self._module(step)
        return loss

    def mean(self, loss: Tensor) -> float:
        """Over all processes, whose shares are equal."""
        total = loss.detach().clone()
        dist.all_reduce(total)
        return total.item() / dist.get_world_size()

    def state(self) -> dict[str, Any]:
        """Gathered whole, on every process."""
        whole = StateDictOptions(full_state_dict=True)
        model, optimizer = get_state_dict(self._model, self._optimizer, options=whole)
        return {"model": model, "optimizer": optimizer}

    def load(self, state: dict[str, Any]) -> None:
        """Each process takes its part of a whole state."""
        set_state_dict(
            self._model,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=StateDictOptions(full_state_dict=True),
        )

    def finish(self) -> None:
        """Gathers every parameter back into the model."""
        for module in self._model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if isinstance(parameter, DTensor):
                    whole = nn.Parameter(parameter.full_tensor(), parameter.requires_grad)
                    module.register_parameter(name, whole)


class _Step(nn.Module):
    """The unit that is sharded: its forward pass is a step's loss, with parameters gathered."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, step: int) -> Tensor:
        return self._loss(step)
