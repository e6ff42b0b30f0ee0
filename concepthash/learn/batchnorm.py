"""BatchNorm over the photos of all processes; torch's SyncBatchNorm refuses CPU tensors."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Total(torch.autograd.Function):
    """The sum of a tensor over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class SharedBatchNorm(nn.BatchNorm1d):
    """:class:`torch.nn.BatchNorm1d` whose batch is that of all processes together.

    Mean and variance are of the whole batch, in two passes as a process alone takes them, however
    it is shared out; the gradient passes through both. Evaluation is BatchNorm1d's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, K)`` to ``(B, K)``; every process calls it at the same time."""
        if not self.training:
            return super().forward(x)
        values = x if x.dtype == torch.float64 else x.float()
        with torch.autocast(x.device.type, enabled=False):
            sums = _total(torch.cat([values.sum(dim=0), values.new_tensor([len(values)])]))
            count = sums[-1].detach()
            mean = sums[:-1] / count
            centred = values - mean
            variance = _total(centred.square().sum(dim=0)) / count
            normal = centred * (variance + self.eps).rsqrt() * self.weight + self.bias
        self._remember(mean.detach(), (variance * count / (count - 1)).detach())
        return normal.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        for running, now in ((self.running_mean, mean), (self.running_var, variance)):
            running.mul_(1 - self.momentum).add_(now, alpha=self.momentum)


def _total(value: Tensor) -> Tensor:
    total: Tensor = _Total.apply(value)
    return total


def share_batch_norms(module: nn.Module) -> None:
    """Put a :class:`SharedBatchNorm` in the place of every BatchNorm1d, names and values kept."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm1d:
                norm = SharedBatchNorm(child.num_features, child.eps, child.momentum)
                norm.to(child.weight).load_state_dict(child.state_dict())
                setattr(parent, name, norm)
