"""Training photos: decoded once where memory permits, augmented by torchvision, seeded per photo.

An augmentation depends on (seed, view, photo) alone, so neither the number of workers or processes
nor a resumed run changes what the network sees.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from concepthash.decode import usable_cpus
from concepthash.errors import DataError, ImageError, Skipped
from concepthash.files import list_command
from concepthash.images import open_rgb, resized_size
from concepthash.learn.config import DataConfig, TrainConfig
from concepthash.learn.report import Reporter
from concepthash.learn.team import ALONE, Team

CACHE_SCALE = 1.5
"""Photos are kept with a short side of at most this many times the test-time resize: enough for a
random crop to be enlarged little, at a fraction of a camera image's memory."""


def decode_training(path: Path, short_side: int) -> Tensor:
    """One photo as ``(3, H, W)`` uint8, its short side at most ``short_side``."""
    image = open_rgb(path, short_side=short_side)
    if min(image.size) > short_side:
        image = image.resize(resized_size(image.size, short_side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def augmentation(config: TrainConfig, crop: int) -> v2.Transform:
    """Random resized crop (bicubic), flip, TrivialAugment where configured; uint8 in and out."""
    steps: list[v2.Transform] = [
        v2.RandomResizedCrop(
            crop,
            scale=(config.crop_scale, 1.0),
            interpolation=v2.InterpolationMode.BICUBIC,
            antialias=True,
        ),
        v2.RandomHorizontalFlip(),
    ]
    if config.augment == "trivial":
        steps.append(v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR))
    return v2.Compose(steps)


class TrainingPhotos(Dataset[tuple[Tensor, Tensor]]):
    """Labelled photos, augmented anew for each (view, position).

    Args:
        photos: ``(3, H, W)`` uint8 each, or the path of one that is not kept in memory.
        labels: ``(n,)`` int64.
    """

    def __init__(
        self,
        photos: Sequence[Tensor | Path],
        labels: npt.NDArray[np.int64],
        *,
        transform: v2.Transform,
        short_side: int,
        seed: int,
    ) -> None:
        self.photos = photos
        self.labels = torch.from_numpy(labels)
        self.transform = transform
        self.short_side = short_side
        self.seed = seed

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        view, position = key
        photo = self.photos[position]
        if isinstance(photo, Path):
            photo = decode_training(photo, self.short_side)
        with torch.random.fork_rng(devices=[]):
            seed = np.random.SeedSequence((self.seed, view, position)).generate_state(1)
            torch.default_generator.manual_seed(int(seed[0]))  # the GPU's stays as it is
            pixels = self.transform(photo)
        return pixels.permute(1, 2, 0).contiguous(), self.labels[position]


class EpochSampler(Sampler[tuple[int, int]]):
    """A new seeded order each epoch, as keys (view, position).

    Args:
        count: of photos.
        seed: of the order.
        views: taken in turn, one an epoch; 0: each epoch has a view of its own.
    """

    def __init__(self, count: int, seed: int, *, views: int = 0) -> None:
        self.count = count
        self.seed = seed
        self.views = views
        self.epoch = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        view = self.epoch % self.views if self.views else self.epoch
        return iter([(view, int(i)) for i in order])


def read_photos(
    root: Path,
    paths: Sequence[str],
    labels: npt.NDArray[np.int64],
    *,
    data: DataConfig,
    train: TrainConfig,
    skipped: Skipped,
    reporter: Reporter,
) -> TrainingPhotos:
    """Decode every photo once: the readable ones become the data set, the others are listed.

    Raises:
        DataError: if fewer than two photos can be read, or one cannot and ``data.strict``.
    """
    short_side = round(CACHE_SCALE * data.resize)
    budget = data.cache_mb * 2**20
    lock = threading.Lock()

    def read(path: str) -> Tensor | Path | ImageError:
        nonlocal budget
        try:
            photo = decode_training(root / path, short_side)
        except ImageError as error:
            return error
        with lock:
            if photo.numel() > budget:
                return root / path
            budget -= photo.numel()
        return photo

    photos: list[Tensor | Path] = []
    kept: list[int] = []
    with ThreadPoolExecutor(usable_cpus()) as pool:
        for position, result in enumerate(pool.map(read, paths)):
            reporter.progress("reading photos", position + 1, len(paths))
            if isinstance(result, ImageError):
                if data.strict:
                    pool.shutdown(cancel_futures=True)
                    raise DataError(result.what, where=result.where, hint="mend or remove the file")
                skipped.add(paths[position], result.what)
            else:
                photos.append(result)
                kept.append(position)
    if len(photos) < 2:
        raise DataError(
            "fewer than two training photos can be read",
            where=root,
            hint=list_command(root / paths[0]),
        )
    uncached = sum(isinstance(p, Path) for p in photos)
    if uncached:
        reporter.note(
            f"data: {uncached} of {len(photos)} photos do not fit in memory "
            f"(data.cache_mb = {data.cache_mb}) and are decoded each epoch"
        )
    return TrainingPhotos(
        photos,
        labels[kept],
        transform=augmentation(train, data.crop),
        short_side=short_side,
        seed=train.seed,
    )


class SharedBatches(Sampler[list[tuple[int, int]]]):
    """This process's share of each batch of an epoch; an incomplete last batch is left out.

    Every process draws the same order and takes a stretch of each batch, so a batch is the same
    whatever the number of processes, and shares differ by one photo at most.

    Args:
        sampler: the order of an epoch.
        batch_size: photos of a batch in all processes together.
        team: the processes.

    Raises:
        DataError: if there are fewer photos than processes.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int, team: Team = ALONE) -> None:
        self.sampler = sampler
        self.photos = len(sampler)
        self.size = min(batch_size, self.photos)
        if self.size < team.size:
            raise DataError(
                f"{team.size} processes cannot share {self.photos} training photos",
                hint="fewer processes",
            )
        self._mine = team.stretch(self.size)

    @property
    def share(self) -> int:
        """How many photos of a batch are this process's."""
        return len(self._mine)

    def __len__(self) -> int:
        return self.photos // self.size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        keys = list(self.sampler)
        starts = range(0, len(self) * self.size, self.size)
        return iter([[keys[start + i] for i in self._mine] for start in starts])


def training_loader(
    photos: Dataset[Any],
    batches: SharedBatches,
    *,
    workers: int,
    collate: Callable[[Any], Any] | None = None,
    seed: int,
) -> DataLoader[Any]:
    """Batches of what ``photos`` holds, and ``(B,)`` labels."""
    return DataLoader(
        photos,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(seed),  # not the network's random state
    )
