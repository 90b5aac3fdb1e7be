"""Several processes that train one network: each takes its share of a batch, and all together do what one would do.

Means over workers are differentiable, so that batch statistics and losses are those of the whole batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """This process's place among those that train together; alone unless told otherwise."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This worker's equal part of a batch, whose length is a multiple of `count`."""
        size = len(items) // self.count
        return list(items[self.rank * size : (self.rank + 1) * size])

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over all workers, differentiable."""
        if self.count == 1:
            return tensor
        averaged: Tensor = _Mean.apply(tensor, self.count)  # type: ignore[no-untyped-call]
        return averaged

    def divisor(self, count: Tensor) -> Tensor:
        """What each worker divides its sum by, so that their mean is the sum of all over the count () of all."""
        return self.mean(count.float()).clamp(min=1 / self.count)

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all workers, in place, in one exchange."""
        if self.count > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            distributed.all_reduce(flat)
            pieces = torch.split(flat / self.count, [tensor.numel() for tensor in tensors])
            for tensor, piece in zip(tensors, pieces, strict=True):
                tensor.copy_(piece.view_as(tensor))

    def any(self, flag: bool, device: torch.device) -> bool:
        """True for all workers if it is for one."""
        if self.count == 1:
            return flag
        flags = torch.tensor(float(flag), device=device)
        distributed.all_reduce(flags)
        return bool(flags > 0)

    def wait(self) -> None:
        """Until every worker has come here."""
        if self.count > 1:
            distributed.barrier()


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, count: int) -> Tensor:
        ctx.count = count
        total = tensor.detach().clone()
        distributed.all_reduce(total)
        return total / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # Every worker's loss counts 1 / count, and so does its part in the mean; gradients are averaged at the end.
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total / ctx.count, None


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics are those of all workers' samples; torch's own does it on CUDA only."""

    def __init__(self, norm: nn.BatchNorm2d, workers: Workers) -> None:
        super().__init__(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        self.load_state_dict(norm.state_dict())
        self.workers = workers

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        wide = x.float()  # (B, C, H, W)
        samples = wide.new_tensor([wide.numel() / self.num_features])
        total = self.workers.mean(torch.cat([wide.sum((0, 2, 3)), samples]))  # (C + 1,)
        mean = total[:-1] / total[-1]
        centred = wide - mean[:, None, None]
        variance = self.workers.mean(centred.square().sum((0, 2, 3))) / total[-1]  # (C,)
        self._remember(mean.detach(), variance.detach(), total[-1].detach() * self.workers.count)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, samples: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * samples / (samples - 1), self.momentum)


def share_statistics(network: nn.Module, workers: Workers) -> None:
    """Let every batch norm below `network` see the samples of all workers."""
    if workers.count == 1:
        return
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, SharedBatchNorm(child, workers))
        else:
            share_statistics(child, workers)
