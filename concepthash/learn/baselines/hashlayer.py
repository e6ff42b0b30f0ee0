"""One linear hash layer on frozen features, trained alike for every loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from concepthash.learn.baselines.classifiers import scaling
from concepthash.learn.baselines.losses import HashLoss
from concepthash.learn.baselines.method import Encode, Training, Vectors


@dataclass(frozen=True)
class Schedule:
    """How a hash layer is optimised: AdamW, cosine from ``lr`` to 0, all views as examples.

    Rate and decay are the defaults of ``chash train``, the steps the best of a few on folds of the
    CUB-20 train split (``benchmarks.baselines``).
    """

    steps: int = 1000
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.05


@dataclass(frozen=True)
class HashLayer:
    """A trained layer, an :class:`Encode`; features are centred and scaled before it."""

    layer: nn.Module
    mean: Vectors
    scale: np.float32

    def __call__(self, features: Vectors) -> Vectors:
        """``(n, D)`` to ``(n, K)``."""
        with torch.inference_mode():
            logits = self.layer(torch.from_numpy((features - self.mean) / self.scale))
        out: Vectors = logits.numpy()
        return out


@dataclass(frozen=True)
class HashLayerFit:
    """Trains ``Linear(D, K)``, or that and a BatchNorm, under a loss; a ``method.Fit``.

    Args:
        loss_of: the loss for (training, bits, seed).
        batch_norm: end in a BatchNorm; the linear layer then has no bias.
        schedule: one for all methods.
    """

    loss_of: Callable[[Training, int, int], HashLoss]
    batch_norm: bool = False
    schedule: Schedule = Schedule()

    def __call__(self, training: Training, *, bits: int, seed: int) -> Encode:
        """The trained layer; the caller's random state stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            layer = _layer(training.views.shape[-1], bits, self.batch_norm)
            return _train(layer, self.loss_of(training, bits, seed), training, self.schedule)


def _layer(dim: int, bits: int, batch_norm: bool) -> nn.Module:
    linear = nn.Linear(dim, bits, bias=not batch_norm)
    return nn.Sequential(linear, nn.BatchNorm1d(bits)) if batch_norm else linear


def _train(layer: nn.Module, loss: HashLoss, training: Training, schedule: Schedule) -> HashLayer:
    features, numbers = training.rows
    mean, scale = scaling(features)
    x, labels = torch.from_numpy((features - mean) / scale), torch.from_numpy(numbers)
    learned = [*layer.parameters(), *loss.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=schedule.lr, weight_decay=schedule.weight_decay)
    for step, chosen in enumerate(_batches(len(x), schedule)):
        progress = step / schedule.steps
        optimizer.param_groups[0]["lr"] = schedule.lr * (1 + math.cos(math.pi * progress)) / 2
        optimizer.zero_grad()
        loss(layer(x[chosen]), labels[chosen], progress).backward()
        optimizer.step()
    return HashLayer(layer.eval(), mean, scale)


def _batches(count: int, schedule: Schedule) -> Iterator[Tensor]:
    """Rows of each step: passes over all of them in new orders, incomplete batches left out."""
    size = min(schedule.batch_size, count)
    left = schedule.steps
    while left:
        order = torch.randperm(count)[: count // size * size].view(-1, size)[:left]
        left -= len(order)
        yield from order
