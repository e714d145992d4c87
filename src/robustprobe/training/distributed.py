"""One process, or many under torchrun by Lightning Fabric: who does which share, and how sums are made."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from robustprobe.core.device import find_device
from robustprobe.core.errors import UserError


class Processes(ABC):
    """This process among those that share the work."""

    rank: int
    world: int
    device: torch.device

    @abstractmethod
    def summed(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""

    @abstractmethod
    def wait(self) -> None:
        """Until all processes are here."""

    @final
    @property
    def leads(self) -> bool:
        """Whether this process writes and shows."""
        return self.rank == 0

    @final
    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Add up gradients over all processes, as one vector. A parameter without one counts as 0."""
        if self.world == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        whole = self.summed(torch.cat([g.flatten() for g in gradients]))
        for parameter, part in zip(parameters, whole.split([g.numel() for g in gradients]), strict=True):
            parameter.grad = part.view_as(parameter)


@final
class SingleProcess(Processes):
    """A single process."""

    rank, world = 0, 1

    def __init__(self, device: str) -> None:
        self.device = find_device(device)

    def summed(self, values: Tensor) -> Tensor:
        return values

    def wait(self) -> None:
        pass


@final
class ProcessGroup(Processes):
    """Processes that torchrun started, joined by Lightning Fabric: NCCL between GPUs, gloo between CPUs."""

    def __init__(self, device: str) -> None:
        try:
            from lightning_fabric import Fabric
        except ImportError as error:
            raise UserError(
                "several processes need Lightning Fabric; install the extra: pip install 'robustprobe[train]'."
            ) from error
        cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
        nodes = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
        self.fabric: Any = Fabric(
            accelerator="cuda" if cuda else "cpu",
            devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            num_nodes=nodes,
            strategy="ddp",
        )
        self.fabric.launch()
        self.rank, self.world, self.device = self.fabric.global_rank, self.fabric.world_size, self.fabric.device

    def summed(self, values: Tensor) -> Tensor:
        found: Tensor = self.fabric.all_reduce(values, reduce_op="sum")
        return found

    def wait(self) -> None:
        self.fabric.barrier()


def find_processes(device: str) -> Processes:
    """All processes where torchrun started several, else this one.

    Raises:
        UserError: no such device, or several processes without the extra `train`.
    """
    return ProcessGroup(device) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else SingleProcess(device)
