"""Views of the training photos after the frozen blocks: mode ``parts`` encodes each only once.

The blocks that do not learn are most of the network, and give the same for the same pixels. With a
few augmented views of a photo, taken in turn, an epoch costs only the blocks that learn.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from concepthash.learn.parts import PartEncoder
from concepthash.learn.photos import TrainingPhotos
from concepthash.learn.report import Reporter

BATCH = 32


class EncodedViews(Dataset[tuple[Tensor, Tensor]]):
    """Labelled patches of each (view, position), as :class:`TrainingPhotos` has photos.

    Args:
        patches: ``(V, n, N, D)`` float16, V views of n photos.
        labels: ``(n,)`` int64.
    """

    def __init__(self, patches: Tensor, labels: Tensor) -> None:
        self.patches = patches
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        view, position = key
        return self.patches[view, position].float(), self.labels[position]


def encode_views(
    encoder: PartEncoder,
    photos: TrainingPhotos,
    *,
    views: int,
    workers: int,
    reporter: Reporter,
) -> EncodedViews:
    """Encode the first ``views`` views of every photo; the encoder's device does it."""
    keys = list(product(range(views), range(len(photos))))
    loader = DataLoader(photos, batch_size=BATCH, sampler=keys, num_workers=workers)
    shape = (len(keys), encoder.grid[0] * encoder.grid[1], encoder.dim)
    patches = torch.empty(shape, dtype=torch.float16)
    done = 0
    with torch.no_grad():
        for images, _ in loader:
            found = encoder.patches(images.to(encoder.mean.device))
            patches[done : done + len(found)] = found.cpu()
            done += len(found)
            reporter.progress("encoding views", done, len(keys))
    return EncodedViews(patches.unflatten(0, (views, len(photos))), photos.labels)
