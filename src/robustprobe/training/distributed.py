"""One process, or several started by torchrun: rank, device, and sums over all processes."""

import atexit
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, distributed

from robustprobe.core.device import find_device


class Processes(ABC):
    """This process among those that share the work of a run."""

    rank: int
    world: int
    device: torch.device

    @abstractmethod
    def summed(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until all processes have come to this call."""

    @final
    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    @final
    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace gradients by their sums over all processes. A parameter without a gradient counts as 0."""
        if self.world == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        whole = self.summed(torch.cat([g.flatten() for g in gradients]))
        for parameter, part in zip(parameters, whole.split([g.numel() for g in gradients]), strict=True):
            parameter.grad = part.view_as(parameter)


@final
class SingleProcess(Processes):
    """The only process of a run."""

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

    On GPUs each process takes the GPU of its local rank.
    """

    def __init__(self, device: str) -> None:
        self.device = find_device(device)
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            self.device = find_device(f"cuda:{os.environ['LOCAL_RANK']}")
            torch.cuda.set_device(self.device)
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if on_gpu else "gloo", device_id=self.device if on_gpu else None)
            if on_gpu:
                # NCCL warns where a process ends without it.
                atexit.register(distributed.destroy_process_group)
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()

    def summed(self, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    def wait(self) -> None:
        distributed.barrier()


def find_processes(device: str) -> Processes:
    """The processes that torchrun started, or this process alone.

    Raises:
        UserError: no such device on this machine, or fewer GPUs than processes.
    """
    return ProcessGroup(device) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else SingleProcess(device)
