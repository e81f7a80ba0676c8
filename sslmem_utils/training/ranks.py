"""Several processes that share one training, started by torchrun: gloo on CPUs, NCCL on GPUs.

    # one machine, two processes
    torchrun --standalone --nproc-per-node 2 -m sslmem_utils train cifar10 --encoder resnet18 ...
    # two machines of four GPUs; run on both, with --node-rank 0 on host1 and 1 on the other
    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 4 --master-addr host1 --master-port 29500 \
        -m sslmem_utils train imagenet --encoder resnet50 ...

Every rank must see the same data and the same store (a shared file system on several machines); rank 0 alone writes.
`batch` is that of all ranks together, losses compare embeddings of all ranks, and views are those of one process, so
that the result is the one of a single process up to rounding. Batch norm is the exception under gloo, where each rank
takes its own statistics (NCCL synchronises them); encoders and heads with the option norm "group" or "layer" have none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import SpecError
from ..specs import ComputeSpec


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that share a training."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def share(self, x: Tensor) -> Tensor:
        """This rank's part of a tensor's last axis."""
        return x.chunk(self.size, -1)[self.rank] if self.size > 1 else x

    def mean(self, x: Tensor) -> Tensor:
        """The mean of `x` over all ranks."""
        if self.size > 1:
            dist.all_reduce(x)
            x /= self.size
        return x

    def agree(self, flag: bool) -> bool:
        """What the first rank says; all ranks wait for it."""
        said = [flag]
        if self.size > 1:
            dist.broadcast_object_list(said, src=0)
        return bool(said[0])


ALONE = Ranks()


def here() -> int:
    """How many processes torchrun started (1 without it)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def speaks() -> bool:
    """Whether this process is the one of those that torchrun started which reports progress."""
    return os.environ.get("RANK", "0") == "0"


def join(compute: ComputeSpec) -> Ranks:
    """This process among those of `compute`, connected to them; SpecError when torchrun started another number."""
    if compute.processes != here():
        raise SpecError(
            f"the spec asks for {compute.processes} processes, found {here()}; start it with torchrun --nproc-per-node "
            f"{compute.processes}, or set compute.processes to {here()}."
        )
    if compute.processes == 1:
        return ALONE
    if not dist.is_initialized():
        if compute.device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if compute.device == "cuda" else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave() -> bool:
    """End the shared part: from here on this process works alone. Whether it is the first, which goes on."""
    first = speaks()
    if dist.is_initialized():
        dist.destroy_process_group()
    os.environ["WORLD_SIZE"] = "1"
    return first
