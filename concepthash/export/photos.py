"""The photos an export is calibrated and checked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from concepthash.datasets import Dataset, Split
from concepthash.decode import decode_batches
from concepthash.demo import sample_birds
from concepthash.errors import DataError, Skipped
from concepthash.images import Pixels, Preprocess, Source, find_images
from concepthash.learn.report import Reporter
from concepthash.rankings import Labels

UNSEEN = 256
"""Test photos on which bits are compared for information."""


@dataclass(frozen=True)
class Photos:
    """Prepared photos and their labels, ``(n, H, W, 3)`` uint8 and ``(n,)``."""

    pixels: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.pixels)


class PhotoSource:
    """Where the photos come from: a data set, a folder, or drawn birds if there is neither.

    Args:
        preprocess: of the model.
        skipped: photos that could not be read are added here.
        tell: told how far it is.
        data: the data of the training.
        folder: photos to use instead; a label is the name of the folder a photo lies in.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        skipped: Skipped,
        tell: Reporter,
        *,
        data: Dataset | None = None,
        folder: Path | None = None,
    ) -> None:
        self._preprocess, self._skipped, self._tell = preprocess, skipped, tell
        self._sources: list[Source]
        self._test: list[Path] = []
        self.drawn = data is None and folder is None
        if folder is not None:
            found = list(find_images([folder], skipped))
            if not found:
                raise DataError(
                    "no photos there", where=folder, hint=f"ls {folder}, or another --calibrate"
                )
            self._sources, names = [*found], [path.parent.name for path in found]
            self.where: object = folder
        elif data is not None:
            self._sources, names = [*_paths(data, data.train)], list(map(str, data.train.labels))
            self._test = _paths(data, data.test)
            self.where = data.root
        else:
            birds, names = sample_birds(preprocess.resize)
            self._sources = [*birds]
            self.where = "drawn birds"
        self._labels = np.unique(names, return_inverse=True)[1] if names else np.empty(0, int)

    def sample(self, count: int) -> Photos:
        """Up to ``count`` photos, spread over the whole, two by two: neighbours share a class.

        Raises:
            DataError: if not two of them can be read.
        """
        photos = self._read(_spread_pairs(len(self._sources), count), "preparing photos")
        if len(photos) < 2:
            raise DataError(
                "the photos cannot be read, so the export cannot be checked",
                where=self.where,
                hint="bring them back, or give others: --calibrate FOLDER; "
                f"the first: {self._skipped.items[0].reason if self._skipped else 'no photo'}",
            )
        return photos

    def unseen(self) -> Pixels:
        """Photos of the test split, :data:`UNSEEN` at most; none where there is no such split."""
        chosen = _spread_pairs(len(self._test), UNSEEN)
        return self._pixels([self._test[i] for i in chosen], "preparing test photos")[0]

    def birds(self) -> Pixels:
        """Drawn birds, which every machine has."""
        return self._pixels([*sample_birds(self._preprocess.resize)[0]], "drawing birds")[0]

    def calibration(self, count: int, *, besides: int) -> Pixels:
        """Up to ``count`` photos, those of a sample of ``besides`` only if there are no others."""
        sampled = set(_spread_pairs(len(self._sources), besides))
        rest = [i for i in range(len(self._sources)) if i not in sampled]
        chosen = [rest[i] for i in np.random.default_rng(0).permutation(len(rest))]
        chosen = [*chosen, *sorted(sampled)][:count]
        return self._read(sorted(chosen), "preparing photos to calibrate on").pixels

    def _read(self, positions: Sequence[int], stage: str) -> Photos:
        pixels, kept = self._pixels([self._sources[i] for i in positions], stage)
        return Photos(pixels, self._labels[[positions[i] for i in kept]])

    def _pixels(self, sources: Sequence[Source], stage: str) -> tuple[Pixels, list[int]]:
        side = self._preprocess.crop
        batches: list[Pixels] = [np.empty((0, side, side, 3), np.uint8)]
        kept: list[int] = []
        for batch in decode_batches(sources, self._preprocess):
            for position, error in batch.failed:
                self._skipped.add(sources[position], error.what)
            kept.extend(batch.positions)
            batches.append(batch.pixels)
            self._tell.progress(stage, len(kept), len(sources))
        return np.concatenate(batches), kept


def _paths(data: Dataset, split: Split) -> list[Path]:
    return [data.root / path for path in split.paths]


def _spread_pairs(count: int, sample: int) -> list[int]:
    """Up to ``sample`` positions spread over ``count``, two by two: neighbours share a class."""
    starts = np.linspace(0, max(count - 2, 0), max(sample // 2, 1)).round().astype(int)
    chosen = np.unique(np.concatenate([starts, starts + 1]))
    return [int(position) for position in chosen if position < count]
