"""The JSON that is spoken: what a request may ask, and what each answer holds.

The schemas of OpenAPI are made of these types, so their docstrings are its descriptions.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType, field

from concepthash.runtime.answers import Query
from concepthash.runtime.arguments import LARGEST_ID, LARGEST_WEIGHT
from concepthash.serve.limits import Status
from concepthash.serve.thumbnails import View

LARGEST_DISTANCE = 512 * LARGEST_WEIGHT

Id: TypeAlias = Annotated[int, Meta(ge=0, le=LARGEST_ID, description="Of an image of the gallery")]
Text: TypeAlias = Annotated[str, Meta(max_length=4096)]
Code: TypeAlias = Annotated[
    str, Meta(pattern="^[0-9a-fA-F]*$", max_length=128, description="A code in hexadecimal")
]
Radius: TypeAlias = Annotated[
    int, Meta(ge=0, le=LARGEST_DISTANCE, description="The largest distance of a hit")
]
Weight: TypeAlias = Annotated[int, Meta(ge=0, le=LARGEST_WEIGHT)]
Concepts: TypeAlias = Annotated[
    Text | Annotated[list[Text | int], Meta(max_length=512)],
    Meta(description="Concepts that count, by number or name: 0,2 or a list"),
]
Weights: TypeAlias = Annotated[
    Text | Annotated[list[Weight], Meta(max_length=512)],
    Meta(description="A weight for each concept: 2,1,0,1 or a list"),
]
Labels: TypeAlias = Annotated[
    list[Text],
    Meta(max_length=256, description="Only images with one of these; empty for those without one"),
]


# What a request may ask


class Asking(Struct, forbid_unknown_fields=True):
    """Options of a request, of whatever kind."""


class Nothing(Asking):
    """No options."""


class QueryAsking(Asking):
    """What to look for: an image, or the id or the code of one; and how."""

    id: Id | None = None
    code: Code | None = None
    k: Annotated[int, Meta(ge=1, le=1000, description="Hits at most")] = 10
    radius: Radius | None = None
    concepts: Concepts | None = None
    weights: Weights | None = None
    labels: Labels | None = None


class ExplainAsking(Asking):
    """What to explain: an image or the id of one, and perhaps another to compare it with."""

    id: Id | None = None
    other: Id | None = None
    format: Literal["json", "png", "html"] = "json"


class ItemsAsking(Asking):
    """Which images to list."""

    label: Annotated[Text, Meta(description="Only of this label; empty for without one")] | None = (
        None
    )
    after: Annotated[int, Meta(ge=-1, le=LARGEST_ID, description="Only larger ids")] = -1
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class ThumbnailAsking(Asking):
    """How to show an image."""

    size: Annotated[int, Meta(ge=16, le=1024, description="Of its longer side")] = 224
    view: Annotated[View, Meta(description="crop is the square that the network sees")] = "crop"


# What answers hold

Missing: TypeAlias = (
    Annotated[
        list[str],
        Meta(description="Shards that gave no answer; absent if all did"),
    ]
    | UnsetType
)


class Limits(Struct):
    """What a request may hold at most."""

    upload_bytes: int
    pixels: int
    k: int


class Info(Struct, tag_field="schema", tag="chash.info/1"):
    """What this server serves."""

    version: str
    gallery: str
    images: int
    bits: int
    concepts: list[str]
    sub_bits: int
    model: str
    fingerprint: str
    backend: str
    resize: int
    side: int
    limits: Limits
    heat: list[list[int]]
    colours: list[list[int]]
    token: bool


class Label(Struct):
    """A label, null for none, and how many images have it."""

    label: str | None
    images: int


class LabelList(Struct, tag_field="schema", tag="chash.labels/1"):
    """All labels."""

    labels: list[Label]
    missing_shards: Missing = UNSET


class SubCode(Struct):
    """The bits of a concept, and how far the network was from the other value of each."""

    name: str
    bits: str
    margins: list[float]


class Hashed(Struct, tag_field="schema", tag="chash.hash/1"):
    """The code of an image."""

    code: str
    concepts: list[SubCode]
    backend: str


class QueryAnswer(Struct, tag_field="schema", tag="chash.query/1"):
    """One query and its hits, nearest first."""

    queries: list[Query]
    backend: str
    gallery: str
    model: str
    concept_names: tuple[str, ...]
    search: str
    skipped: list[str] = []
    missing_shards: Missing = UNSET


class ExplainedConcept(Struct):
    """Where a concept looked: its map over the crop, largest value 1, and the place of that."""

    concept: int
    name: str
    bits: str
    margins: list[float]
    peak: list[float]
    map: list[list[float]]


class Explained(Struct):
    """An image as the network sees it."""

    name: str
    code: str
    shape: list[int]
    concepts: list[ExplainedConcept]


class ComparedConcept(Struct):
    """In what bits two images differ."""

    concept: int
    name: str
    distance: int
    agree: float
    differing: list[int]


class Compared(Struct):
    """Two images, concept by concept."""

    distance: int
    per_concept: list[int]
    concepts: list[ComparedConcept]


class ExplainAnswer(Struct, tag_field="schema", tag="chash.explain/1"):
    """One image explained, or two and how they differ."""

    image: Explained
    other: Explained | None = None
    comparison: Compared | None = None


class ListedItem(Struct):
    """An image of the gallery."""

    id: int
    path: str
    label: str | None


class ItemList(Struct, tag_field="schema", tag="chash.items/1"):
    """Images in the order of their ids; ``next`` is the ``after`` of the rest, null at the end."""

    items: list[ListedItem]
    next: int | None
    total: int
    missing_shards: Missing = UNSET


class Item(Struct, tag_field="schema", tag="chash.item/1"):
    """An image of the gallery, and its code."""

    id: int
    path: str
    label: str | None
    code: str


class Health(Struct, tag_field="schema", tag="chash.health/1"):
    """Whether it answers: ``ok`` and ``degraded`` do; ``reason`` is what is wrong."""

    status: Status
    reason: str | None


class Trouble(Struct):
    """What went wrong, in which part of the request, and what to do."""

    what: str
    where: str | None
    hint: str | None = field(name="try")
    status: int


class Failure(Struct, tag_field="schema", tag="chash.error/1"):
    """A request that was not answered as asked."""

    error: Trouble
