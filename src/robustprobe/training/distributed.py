"""One process, or many under torchrun: which share each one does, and sums over all of them."""

import atexit
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, distributed

from robustprobe.core.device import find_device


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
    """Processes that torchrun started, joined by `torch.distributed`: NCCL between GPUs, gloo between CPUs.

    On GPUs each process works on that of its number on its machine.
    """

    def __init__(self, device: str) -> None:
        self.device = find_device(device)
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(self.device)
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if on_gpu else "gloo", device_id=self.device if on_gpu else None)
            if on_gpu:
                # NCCL warns of resources that were not given back.
                atexit.register(distributed.destroy_process_group)
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()

    def summed(self, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    def wait(self) -> None:
        distributed.barrier()


def find_processes(device: str) -> Processes:
    """All processes where torchrun started several, else this one.

    Raises:
        UserError: no such device on this machine.
    """
    return ProcessGroup(device) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else SingleProcess(device)
