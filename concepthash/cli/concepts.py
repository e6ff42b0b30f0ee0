"""``chash concepts``: the concepts of a bundle, their names, and what they sort images into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concepthash.cli import options
from concepthash.cli.hashing import chosen_model
from concepthash.cli.options import setting, switch
from concepthash.cli.output import Output, printable
from concepthash.cli.query import bundle_of
from concepthash.cli.stores import open_gallery
from concepthash.errors import UsageError

if TYPE_CHECKING:
    from concepthash.bundle import Bundle, Manifest
    from concepthash.explain.prototypes import ConceptValues, Prototype

EXAMPLES = (
    "chash concepts                      of the newest bundle here",
    "chash concepts cub.chb --gallery cub.chg --top 4",
    'chash concepts name cub.chb --set 0=head --set 2="left wing"',
)
_CLASSES_SHOWN = 3
_BITS_SHOWN = 32


def command(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            help="A bundle, or an ONNX file of one; by default the newest here.", metavar="BUNDLE"
        ),
    ] = None,
    gallery: Annotated[
        Path | None,
        setting(
            "--gallery",
            "-g",
            text="Show the images that share a sub-code in this gallery.",
            parser=options.path,
        ),
    ] = None,
    top: Annotated[int, switch("--top", "-k", text="Sub-codes a concept, the most frequent.")] = 8,
    examples: Annotated[int, switch("--examples", text="Photos a sub-code in the JSON.")] = 3,
    as_json: options.Json = False,
) -> None:
    """Show the concepts of a bundle."""
    output = Output(as_json=as_json)
    for option, number in (("--top", top), ("--examples", examples)):
        if number < 1:
            raise UsageError(f"{number} cannot be shown", where=option, hint=f"{option} 8")

    if gallery is None:
        shown, values = _named(bundle, output), None
    else:
        from concepthash.explain.prototypes import gallery_prototypes

        with open_gallery(gallery) as opened:
            shown = bundle_of(opened, output, named=bundle)
            values = gallery_prototypes(opened, top=top, examples=examples)
    manifest = shown.manifest
    output.result(
        "\n".join(_lines(manifest, values)),
        lambda: {
            "schema": "chash.concepts/1",
            "bundle": str(shown.path),
            "fingerprint": manifest.fingerprint,
            "bits": manifest.bits,
            "gallery": None if gallery is None else str(gallery),
            "concepts": list(_facts(manifest, values)),
        },
    )


def _named(path: Path | None, output: Output) -> Bundle:
    from concepthash.bundle import Bundle

    return Bundle.open(chosen_model(path, output, "chash concepts NAME.chb"))


def _facts(manifest: Manifest, values: Sequence[ConceptValues] | None) -> Iterator[dict[str, Any]]:
    alone = _alone(manifest)
    for concept, name in enumerate(manifest.concept_names):
        bits = manifest.layout.concept_slice(concept)
        yield {
            "concept": concept,
            "name": name,
            "bits": [bits.start, bits.stop],
            "map": alone[concept],
            "values": None if values is None else values[concept].to_json(),
        }


def _alone(manifest: Manifest) -> list[float | None]:
    """The mAP of each sub-code alone, where the training measured it."""
    measured = manifest.metrics.get("per_concept_map")
    if isinstance(measured, list) and len(measured) == manifest.concepts:
        return measured
    return [None] * manifest.concepts


def _lines(manifest: Manifest, values: Sequence[ConceptValues] | None) -> Iterator[str]:
    from concepthash.explain.tables import aligned

    yield f"{manifest.name}: {manifest.bits} bits of {manifest.concepts} concepts"
    rows = [["concept", "name", "bits", "mAP alone"]]
    for concept, alone in enumerate(_alone(manifest)):
        bits = manifest.layout.concept_slice(concept)
        figure = "-" if alone is None else f"{alone:.4f}"
        name = manifest.concept_names[concept]
        rows.append([str(concept), name, f"{bits.start}-{bits.stop - 1}", figure])
    yield from aligned(rows, left=3)
    for found in values or ():
        yield ""
        yield from _value_lines(found, manifest.concept_names[found.concept])


def _value_lines(found: ConceptValues, name: str) -> Iterator[str]:
    from concepthash.explain.tables import aligned

    possible = f"{2**found.sub_bits:,}" if found.sub_bits <= _BITS_SHOWN else f"2^{found.sub_bits}"
    yield (
        f"{found.concept} {name}: {found.used:,} of {possible} sub-codes in use, "
        f"entropy {found.entropy:.2f} of {found.sub_bits} bits"
    )
    rows = [["sub-code", "images", "share", "purity", "classes", "example"]]
    rows += [_row(prototype) for prototype in found.prototypes]
    yield from aligned(rows, left=6)


def _row(prototype: Prototype) -> list[str]:
    bits = prototype.bits
    code = bits if len(bits) <= _BITS_SHOWN else f"{prototype.value:#x}"
    classes = [f"{label} {count}" for label, count in prototype.labels.items()]
    more = [f"and {len(classes) - _CLASSES_SHOWN} more"] if len(classes) > _CLASSES_SHOWN else []
    purity = "-" if prototype.purity is None else f"{prototype.purity:.2f}"
    mixture = ", ".join([*classes[:_CLASSES_SHOWN], *more]) or "-"
    example = prototype.images[0] if prototype.images else "-"
    figures = [f"{prototype.count:>6}", f"{prototype.share:.2f}", purity]
    return [code, *figures, printable(mixture), printable(example)]
