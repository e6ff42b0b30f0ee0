"""Views of the training photos after the frozen blocks: mode ``parts`` encodes each only once.

The blocks that do not learn are most of the network, and give the same for the same pixels. With
some augmented views of a photo, taken in turn, an epoch costs only the blocks that learn; and of a
view only the patches that a concept looks at are kept, a quarter to a half of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from concepthash.learn.parts import PartEncoder, own_patches
from concepthash.learn.photos import TrainingPhotos
from concepthash.learn.report import Reporter
from concepthash.learn.team import ALONE, Team

BATCH = 32

View = tuple[Tensor, Tensor, Tensor]
"""Patches ``(n, D)`` float16, their weights ``(n, M)`` float32, the label ``()`` int64."""


class EncodedViews(Dataset[View]):
    """What :meth:`PartEncoder.read` takes, and a label, of each (view, position).

    Args:
        views: patches and weights of view 0 of each photo, then of view 1, and so on.
        labels: ``(n,)`` int64, of the photos.
    """

    def __init__(self, views: Sequence[tuple[Tensor, Tensor]], labels: Tensor) -> None:
        self.views = views
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> View:
        view, position = key
        patches, weights = self.views[view * len(self) + position]
        return patches, weights, self.labels[position]


def collate_views(batch: Sequence[View]) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Patches ``(B, N, D)`` and weights ``(B, M, N)``, float32, and labels ``(B,)``.

    N is the most that a view of the batch has; others are filled up with patches of weight 0.
    """
    patches = pad_sequence([patches for patches, _, _ in batch], batch_first=True)
    weights = pad_sequence([weights for _, weights, _ in batch], batch_first=True)
    labels = torch.stack([label for _, _, label in batch])
    return (patches.float(), weights.transpose(1, 2)), labels


def encode_views(
    encoder: PartEncoder,
    photos: TrainingPhotos,
    *,
    views: int,
    workers: int,
    budget: int,
    reporter: Reporter,
    team: Team = ALONE,
) -> EncodedViews | None:
    """The first ``views`` views of every photo; the encoder's device computes them.

    Processes take the batches in turn and give them to each other, so that all have the same views.

    Args:
        encoder: its maps found.
        photos: give the pixels of a view.
        views: V.
        workers: processes that augment.
        budget: bytes they may take; None as soon as they look like taking more.
        reporter: told how far it is.
        team: the processes.
    """
    keys = list(product(range(views), range(len(photos))))
    batches = [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
    loader = DataLoader(
        photos,
        batch_sampler=batches[team.rank :: team.size],
        num_workers=workers,
        generator=torch.Generator(),  # not the network's random state
    )
    kept: list[tuple[Tensor, Tensor]] = []
    used = 0
    mine = iter(loader)
    for _ in range(0, len(batches), team.size):
        found = next(mine, None)
        for batch in team.gather([] if found is None else _encode(encoder, found[0])):
            kept += batch
            used += sum(part.nbytes for view in batch for part in view)
            if used > budget * max(len(kept) / len(keys), 0.05):
                return None
        reporter.progress("encoding views", len(kept), len(keys))
    return EncodedViews(kept, photos.labels)


@torch.no_grad()
def _encode(encoder: PartEncoder, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Patches and weights of each view of a batch."""
    patches = encoder.tokens(images.to(encoder.mean.device))[:, encoder.prefix_tokens :]
    weights = own_patches(*encoder.part_maps(patches)).transpose(1, 2)
    views = []
    for some, shares in zip(patches, weights, strict=True):
        own = shares.amax(dim=-1) > 0
        views.append((some[own].half().cpu(), shares[own].float().cpu()))
    return views
