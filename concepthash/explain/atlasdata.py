"""An atlas of a gallery as it was made: rooms with crops, bits, the map, part scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from concepthash.codes import CodeLayout
from concepthash.explain.bitstats import Bit
from concepthash.explain.explanation import Explanation
from concepthash.explain.layout2d import CodeMap
from concepthash.explain.partscores import PartScores
from concepthash.explain.rooms import Room, Rooms
from concepthash.explain.tables import counted
from concepthash.images import Pixels
from concepthash.runtime.entries import Labels

SCHEMA = "chash.atlas/1"


@dataclass(frozen=True, eq=False)
class Crop:
    """What a concept looks at in one photo.

    Args:
        id: of the image in the gallery.
        path: of its file.
        label: its class; None if unknown.
        distance: bits of its sub-code from the middle of the room.
        corner: the left top corner of the window in the square that the network sees, pixels.
        side: of the window, pixels.
        pixels: ``(s, s, 3)`` uint8, s = ``side`` or smaller.
    """

    id: int
    path: str
    label: str | None
    distance: int
    corner: tuple[int, int]
    side: int
    pixels: Pixels

    @property
    def image(self) -> Image.Image:
        """The pixels as a Pillow image."""
        return Image.fromarray(self.pixels)

    def to_json(self) -> dict[str, Any]:
        """All but the pixels as plain values."""
        return {
            "id": self.id,
            "path": self.path,
            "label": self.label,
            "distance": self.distance,
            "window": [*self.corner, self.side],
        }


@dataclass(frozen=True, eq=False)
class ConceptAtlas:
    """One concept of an atlas.

    Args:
        name: of the concept.
        rooms: of its sub-codes.
        crops: of each room, spread over its images from the middle outwards.
        lost: how many photos each room would have shown besides, but could not be used.
        bits: see :class:`concepthash.explain.bitstats.Bit`.
    """

    name: str
    rooms: Rooms
    crops: tuple[tuple[Crop, ...], ...]
    lost: tuple[int, ...]
    bits: tuple[Bit, ...]

    @property
    def redundancy(self) -> float:
        """Bits that are told more than once: the sum of the bits' entropies beyond the value's.

        With few images it is too large: a value that is seen once seems to be predicted by any bit.
        """
        return max(sum(bit.entropy for bit in self.bits) - self.rooms.entropy, 0.0)

    def to_json(self) -> dict[str, Any]:
        """All but pixels as plain values."""
        rooms = self.rooms
        return {
            "concept": rooms.concept,
            "name": self.name,
            "values": rooms.used,
            "entropy": rooms.entropy,
            "redundancy": self.redundancy,
            "radius": rooms.radius,
            "images_in_no_room": rooms.elsewhere,
            "rooms": [
                _room_json(room, crops, lost)
                for room, crops, lost in zip(rooms.rooms, self.crops, self.lost, strict=True)
            ],
            "bits": [asdict(bit) for bit in self.bits],
        }


@dataclass(frozen=True, eq=False)
class Atlas:
    """What the concepts of a model sort the images of a gallery into. Notebooks show it.

    Args:
        title: of the page.
        gallery: its path.
        model: the name of the bundle.
        fingerprint: of the code space.
        layout: how a code's bits are shared.
        labels: of the images, ids ascending; rooms and map are in the same order.
        concepts: one a concept.
        photos: a few photos with where each concept looks.
        map: of a sample of the codes; None without scikit-learn, or of an empty gallery.
        parts: agreement with annotated parts, if it was measured.
        examples: photos a room shows at most.
    """

    title: str
    gallery: str
    model: str
    fingerprint: str
    layout: CodeLayout
    labels: Labels
    concepts: tuple[ConceptAtlas, ...]
    photos: tuple[Explanation, ...]
    map: CodeMap | None
    parts: PartScores | None
    examples: int

    def __len__(self) -> int:
        return len(self.labels.ids)

    def __repr__(self) -> str:
        rooms = sum(len(concept.rooms.rooms) for concept in self.concepts)
        return f"Atlas({self.gallery}, {counted(len(self), 'image')}, {counted(rooms, 'room')})"

    def html(self) -> str:
        """One self-contained page, which says the same without its script."""
        from concepthash.explain.atlaspage import atlas_page

        return atlas_page(self)

    def to_json(self) -> dict[str, Any]:
        """Schema ``chash.atlas/1``: all but pixels and places as plain values."""
        return {
            "schema": SCHEMA,
            "title": self.title,
            "gallery": self.gallery,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "images": len(self),
            "labelled": int((self.labels.numbers >= 0).sum()),
            "labels": len(self.labels.names),
            "bits": self.layout.bits,
            "sub_bits": self.layout.sub_bits,
            "examples": self.examples,
            "concepts": [concept.to_json() for concept in self.concepts],
            "map": self.map
            and {
                "images": len(self.map.rows),
                "points": len(self.map.places),
                "stress": self.map.stress,
            },
            "parts": self.parts and self.parts.to_json(),
        }

    def _repr_html_(self) -> str:
        from concepthash.explain.page import text

        # In a frame of its own: the styles of a notebook and of the page leave each other alone.
        page = text(self.title), self.html().replace("&", "&amp;").replace('"', "&quot;")
        return (
            f'<iframe title="{page[0]}" srcdoc="{page[1]}" sandbox="allow-scripts"'
            ' style="width: 100%; height: 80vh; border: 0"></iframe>'
        )


def _room_json(room: Room, crops: tuple[Crop, ...], lost: int) -> dict[str, Any]:
    return {
        **asdict(room),
        "labels": dict(room.labels),
        "near": [{"room": number, "distance": distance} for number, distance in room.near],
        "crops": [crop.to_json() for crop in crops],
        "lost": lost,
    }
