"""How much an engine takes on, and what it has done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from concepthash.serve.batching import Counters

Status = Literal["ok", "degraded", "failing", "stopping"]
"""``degraded`` still answers, from an earlier state of the gallery or some of its shards;
``failing`` hashes nothing or finds nothing."""


@dataclass(frozen=True)
class Limits:
    """How much of anything a client may ask for, and all together."""

    upload_bytes: int = 16 << 20  # one photo, encoded
    pixels: int = 50_000_000  # one photo, and all that are decoded at once
    k: int = 1000  # hits of one query
    queue: int = 256  # searches that wait, and again as many photos
    waiting_bytes: int = 256 << 20  # all photos that wait, encoded
    batch: int = 64  # queries searched at once
    seconds: float = 10.0  # until a search must begin, until a photo must be done
    thumbnail_bytes: int = 32 << 20  # thumbnails kept in memory


@dataclass(frozen=True)
class Stats:
    """What an engine holds and has done.

    Args:
        images: in the gallery.
        searches, photos: searches and photos that wait or are worked on.
        photo_bytes: of those photos, encoded.
        searched, encoded: what the queues of the gallery and of the model have done.
        refused: photos turned away because too many wait.
        reloads: newer states of the gallery taken up.
        thumbnails: drawn.
        thumbnail_bytes: of the thumbnails kept.
        partial: searches answered without some shards.
        missing: shards that give no answer now.
    """

    images: int
    searches: int
    photos: int
    photo_bytes: int
    searched: Counters
    encoded: Counters
    refused: int
    reloads: int
    thumbnails: int
    thumbnail_bytes: int
    partial: int = 0
    missing: int = 0
