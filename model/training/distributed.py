"""Training in several processes, one a device, as torchrun starts them.

Every process draws the same whole batch and computes its own part of it, so that the order of the data, checkpoints
and what a seed means do not depend on their number. What they exchange: logits and penalties, one number an image, from
which each computes the loss of the whole batch; the sum of their gradients; and when to stop.
"""

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from model.gan.layers import GROUP


@dataclass(frozen=True)
class Ranks:
    """This process among `size` of them. One that is alone exchanges nothing: each method gives back what it got."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that reports, judges and writes."""
        return self.rank == 0

    def check(self, batch: int) -> None:
        """Raises ValueError unless each part of a batch is made of whole groups of minibatch_stddev."""
        if self.size > 1 and batch % (self.size * GROUP):
            raise ValueError(
                f"with {self.size} processes batch must be a multiple of {self.size * GROUP}, "
                f"{GROUP} images for each, not {batch}"
            )

    def part(self, whole: Tensor) -> Tensor:
        """(B, ...), the same in every process -> (B / size, ...), the part of this one."""
        return whole if self.size == 1 else whole.chunk(self.size)[self.rank]

    def whole(self, part: Tensor) -> Tensor:
        """(B / size, ...) -> (B, ...), the parts of all. Only the own part carries gradients: of a loss of the whole
        batch each process so gets the exact derivative by its own images, and their sum is the whole gradient.
        """
        if self.size == 1:
            return part
        parts = [torch.empty_like(part, requires_grad=False) for _ in range(self.size)]
        dist.all_gather(parts, part.detach().contiguous())
        parts[self.rank] = part
        return torch.cat(parts)

    def add_up(self, gradients: Sequence[Tensor]) -> None:
        """Replace gradients by their sum over the processes, bit for bit the same in each.

        DistributedDataParallel would not do. It expects of each forward pass one backward pass that reaches all
        parameters: here D's is frozen in G's step, and passes of D for logits and penalty share a backward. It also
        takes means of losses that know their own part only, which is wrong for the relativistic average. What it
        would gain, exchange during the backward pass, is little: see docs/scaling.md.
        """
        if self.size == 1:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        pieces = flat.split([gradient.numel() for gradient in gradients])
        views = [piece.view_as(gradient) for piece, gradient in zip(pieces, gradients, strict=True)]
        torch._foreach_copy_(list(gradients), views)

    def most(self, value: float) -> float:
        """The largest value of all processes. Exchanged between hosts, so that none waits for its device."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return shared.item()


def join(device: torch.device) -> Ranks:
    """Join the processes that torchrun started, if it did, by its variables RANK, LOCAL_RANK and WORLD_SIZE; for good,
    since a group that was left cannot be joined again.

    On cuda each process takes the device of its LOCAL_RANK. Raises ValueError for a device with a number there.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Ranks()
    if device.type == "cuda":
        if device != torch.device("cuda"):
            raise ValueError(f"with {size} processes device must be cuda, not {device}: each takes its own")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return Ranks(dist.get_rank(), size)
