"""Several processes as one training: what they share, gather and add up.

A launcher starts them; torch.distributed moves data between them, by gloo between CPUs and by NCCL
between GPUs. Process 0 is the main process: it alone reads settings, writes the run and talks. A
process alone is a team of one, to which every method gives back what it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from concepthash.errors import ConceptHashError, TrainingError
from concepthash.learn.launcher import place

T = TypeVar("T")


class ToldByMain(ConceptHashError):
    """An error that ends all processes and that the main one tells."""


class ProcessLost(TrainingError):
    """Another process of the training is gone, so this one cannot go on."""


@dataclass(frozen=True)
class Team:
    """The processes of one training.

    Args:
        rank: of this process, from 0.
        size: how many they are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Team:
        """Meet the processes that the launcher started beside this one; alone without one."""
        rank, size = place()
        if size > 1 and not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        return cls(rank, size)

    def leave(self) -> None:
        """Part; at exit, open connections would end the process in their own way."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this is the main process."""
        return self.rank == 0

    def stretch(self, count: int, unit: int = 1) -> range:
        """Which of ``count`` items in a row are this process's: whole units, about equally many.

        Work that goes by batches of ``unit`` has the same batches in a team of any size, hence the
        same bits.
        """
        units = -(-count // unit)
        first, after = (units * rank // self.size for rank in (self.rank, self.rank + 1))
        return range(min(first * unit, count), min(after * unit, count))

    def gather(self, value: T) -> list[T]:
        """The value of each process, by rank, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def collect(self, value: T) -> list[T]:
        """The value of each process, by rank, in the main process; nothing in the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.leads else None
        dist.gather_object(value, values)
        return values or []

    def lead(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in the main process, the only one that does it.

        Raises:
            ToldByMain: in the others, where the main process raises an error of ours.
        """
        if self.size == 1:
            return work()
        failed: ConceptHashError | None = None
        outcome: list[Any] = [None, None]
        if self.leads:
            try:
                outcome[0] = work()
            except ConceptHashError as error:
                failed, outcome[1] = error, error.what
        dist.broadcast_object_list(outcome)
        if failed is not None:
            raise failed
        if outcome[1] is not None:
            raise ToldByMain(outcome[1])
        value: T = outcome[0]
        return value

    def together(self, work: Callable[[], T]) -> T:
        """What ``work`` gives here; every process does it, and none goes on where one fails.

        Raises:
            ConceptHashError: in the main process, its own error or the first of the others.
            ToldByMain: in the others.
        """
        if self.size == 1:
            return work()
        failed: ConceptHashError | None = None
        try:
            value = work()
        except ConceptHashError as error:
            failed = error
        told = None if failed is None else (failed.what, failed.where, failed.hint)
        errors = [(rank, e) for rank, e in enumerate(self.gather(told)) if e is not None]
        if not errors:
            return value
        rank, (what, where, hint) = errors[0]
        if not self.leads:
            raise ToldByMain(what)
        if failed is not None:
            raise failed
        raise TrainingError(f"in process {rank} of the training: {what}", where=where, hint=hint)

    def share_module(self, module: nn.Module) -> None:
        """Make parameters and buffers those of the main process, on whatever device they are."""
        if self.size == 1:
            return
        with torch.no_grad():
            for tensor in chain(module.parameters(), module.buffers()):
                copy = tensor.detach().cpu().contiguous()
                dist.broadcast(copy, 0)
                tensor.copy_(copy)

    def total(self, value: Tensor) -> Tensor:
        """The sum over processes; no gradient passes."""
        if self.size == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value


ALONE = Team()


def is_loss(error: RuntimeError) -> bool:
    """Whether an error says that a process at the other end is gone."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
