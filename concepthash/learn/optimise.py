"""What moves the parameters: the optimiser and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from concepthash.learn.config import TrainConfig


def learning_rate(epoch: float, config: TrainConfig) -> float:
    """Factor of the base rate at a fractional epoch: linear warm-up, then cosine to 0."""
    warmup = min(config.warmup_epochs, config.epochs / 2)
    if epoch < warmup:
        return (epoch + 0.01) / warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(config.epochs - warmup, 1e-9)))


def make_optimizer(trainee: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The configured optimiser over what is trained; no weight decay on vectors and scalars."""
    trained = [p for p in trainee.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.lr)
