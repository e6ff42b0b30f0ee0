"""Names that ``chash concepts name`` proposes; imported only when it is asked to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from concepthash.cli.extras import needs
from concepthash.cli.output import Output
from concepthash.errors import NothingFound, Skipped
from concepthash.explain import read_annotations, score_parts
from concepthash.explain.naming import (
    VOCABULARY,
    ProposedName,
    looked_at,
    names_from_parts,
    names_from_words,
    read_words,
)
from concepthash.images import find_images
from concepthash.runtime.hasher import Hasher


@dataclass(frozen=True)
class Parts:
    """Part annotations to propose names from: see ``chash explain --parts``."""

    file: Path
    data: Path | None
    split: str

    def propose(self, hasher: Hasher, skipped: Skipped, output: Output) -> tuple[ProposedName, ...]:
        """A name for each concept.

        Raises:
            DataError: if the annotations cannot be used.
        """
        scores = score_parts(
            hasher,
            read_annotations(self.file, data=self.data),
            split=self.split,
            skipped=skipped,
            progress=_watch(output, "reading maps"),
        )
        return names_from_parts(scores)


@dataclass(frozen=True)
class Clip:
    """Photos and words to propose names from, through the CLIP of the backbone.

    Args:
        weights: see :func:`concepthash.learn.naming.word_fit`.
        photos: a folder, or one photo.
        sample: photos to look at, evenly spread.
        vocabulary: a file of words; None for our own.
    """

    weights: str
    photos: Path
    sample: int
    vocabulary: Path | None

    def propose(self, hasher: Hasher, skipped: Skipped, output: Output) -> tuple[ProposedName, ...]:
        """A name for each concept.

        Raises:
            UsageError: if the backbone is no CLIP image tower.
            BackendError: without torch or open_clip.
            WeightsError: if the weights are not on this machine.
            DataError: if the vocabulary cannot be used, or no photo read.
            NothingFound: if there are no photos.
        """
        with needs("train"):
            import torch

            from concepthash.learn.naming import word_fit

        torch.set_num_threads(hasher.threads)
        words = VOCABULARY if self.vocabulary is None else read_words(self.vocabulary)
        found = list(find_images([self.photos], skipped))
        if not found:
            raise NothingFound("no photos to look at", where=self.photos, hint="--photos FOLDER")
        count = min(self.sample, len(found))
        chosen = [found[n * len(found) // count] for n in range(count)]
        progress = _watch(output, "looking at photos")
        windows = looked_at(hasher, chosen, skipped=skipped, progress=progress)
        backbone = hasher.bundle.manifest.backbone
        fit = word_fit(windows, words, backbone=backbone, weights=self.weights)
        return names_from_words(fit, words)


def _watch(output: Output, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: output.progress(stage, done, total)
