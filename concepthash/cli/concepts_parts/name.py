"""``chash concepts name``: what the concepts of a bundle are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concepthash.cli import options
from concepthash.cli.explain_parts import SPLITS
from concepthash.cli.locate import check_bundle
from concepthash.cli.options import check_threads, setting, switch
from concepthash.cli.output import Output, skipped_json
from concepthash.errors import Skipped, UsageError
from concepthash.names import check_names, default_names, find_concept

if TYPE_CHECKING:
    from concepthash.bundle import Bundle
    from concepthash.cli.concepts_parts.propose import Clip, Parts
    from concepthash.explain.naming import ProposedName
    from concepthash.runtime.hasher import Hasher

EXAMPLES = (
    'chash concepts name cub.chb --set 0=head --set 2="left wing"',
    "chash concepts name cub.chb --reset",
    "chash concepts name cub.chb --parts CUB_200_2011          a proposal",
    "chash concepts name cub.chb --parts CUB_200_2011 --apply  and keep it",
    "chash concepts name cub.chb --clip auto --photos photos/",
)


@dataclass(frozen=True)
class Naming:
    """Names before and after, and what they were proposed from."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    proposal: Sequence[ProposedName] | None = None

    def lines(self) -> list[str]:
        """A table of both, with the evidence of a proposal."""
        from concepthash.explain.tables import aligned

        rows = [["concept", "before", "after"]]
        rows += [
            [str(m), *pair] for m, pair in enumerate(zip(self.before, self.after, strict=True))
        ]
        if self.proposal is not None:
            rows[0] += ["evidence", "confidence"]
            for row, found in zip(rows[1:], self.proposal, strict=True):
                words = [f"{word} {value:.2f}" for word, value in found.evidence.items()]
                row += [", ".join(words) or "-", f"{found.confidence:.2f}"]
        return list(aligned(rows, left=4))

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        proposal = None if self.proposal is None else [own.to_json() for own in self.proposal]
        return {"before": list(self.before), "after": list(self.after), "proposal": proposal}


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle.", metavar="BUNDLE")],
    names: Annotated[
        list[str] | None,
        switch("--set", text="Call a concept so: NUMBER=NAME; may be repeated."),
    ] = None,
    reset: Annotated[bool, switch("--reset", text="Go back to numbers.")] = False,
    parts: Annotated[
        Path | None,
        switch("--parts", text="Propose names from part annotations: part_locs.csv or its folder."),
    ] = None,
    data: Annotated[
        Path | None, setting("--data", text="With --parts: folder the photos' paths start from.")
    ] = None,
    split: Annotated[
        str, switch("--split", text="With --parts: test, train or all.", values=SPLITS)
    ] = "test",
    clip: Annotated[
        str | None,
        switch("--clip", text="Propose names from CLIP: weights, a folder, a tag, or auto."),
    ] = None,
    photos: Annotated[
        Path | None, switch("--photos", text="With --clip: photos to look at.")
    ] = None,
    vocabulary: Annotated[
        Path | None, switch("--vocabulary", text="With --clip: words to choose from, one a line.")
    ] = None,
    sample: Annotated[
        int, switch("--sample", text="With --clip: photos looked at, evenly spread.")
    ] = 100,
    apply: Annotated[bool, switch("--apply", text="Keep what is proposed.")] = False,
    dry_run: options.DryRun = False,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Name the concepts of a bundle, by hand or from evidence."""
    output = Output(as_json=as_json)
    check_threads(threads)
    _check_sources({"--set": names, "--reset": reset, "--parts": parts, "--clip": clip})
    proposing = parts is not None or clip is not None
    if proposing and apply and dry_run:
        raise UsageError(
            "--apply writes and --dry-run does not", where="--apply", hint="leave one of them out"
        )

    from concepthash.bundle import Bundle, rename_concepts

    opened = Bundle.open(check_bundle(bundle))
    before, proposal, skipped = opened.manifest.concept_names, None, Skipped()
    if proposing:
        evidence = _evidence(parts, data, split, clip, photos, vocabulary, sample)
        with output.only_results():
            hasher = _hasher(opened, device, threads, batch_size, output)
            proposal = evidence.propose(hasher, skipped, output)
        after = tuple(own.name for own in proposal)
    else:
        after = default_names(len(before)) if reset else _set(before, names or [])
    written = apply if proposing else not dry_run
    if written:
        rename_concepts(opened, after)
    naming = Naming(before, after, proposal)
    output.result(
        "\n".join([f"{bundle}: {'written' if written else 'not written'}", *naming.lines()]),
        lambda: {
            "schema": "chash.names/1",
            "bundle": str(bundle),
            **naming.to_json(),
            "written": written,
            "skipped": skipped_json(skipped),
        },
    )
    weak = [str(own.concept) for own in proposal or () if own.confidence < 0.5]
    if weak:
        output.note(f"less than half of the evidence speaks for the names of: {', '.join(weak)}")
    if proposing and not written:
        output.note("a proposal: --apply keeps it, --set NUMBER=NAME keeps a name of your own")
    output.skips(skipped, record="the --json report")


def _check_sources(given: Mapping[str, object]) -> None:
    """Refuse none, and more than one."""
    named = [option for option, value in given.items() if value not in (None, False, [])]
    if len(named) != 1:
        what = f"{' and '.join(named)} exclude each other" if named else "no name was given"
        raise UsageError(what, where=", ".join(named or given), hint="--set 0=head")


def _set(names: Sequence[str], pairs: Sequence[str]) -> tuple[str, ...]:
    """The names with those of ``NUMBER=NAME`` in place of the old ones."""
    hint = "--set 0=head"
    new: dict[int, str] = {}
    for pair in pairs:
        word, equals, name = pair.partition("=")
        if not equals:
            raise UsageError(f"{pair!r} is not NUMBER=NAME", where="--set", hint=hint)
        concept = find_concept(word, names, where="--set", hint=hint)
        if concept in new:
            raise UsageError(f"concept {concept} is named twice", where="--set", hint=hint)
        new[concept] = name
    return check_names([new.get(m, name) for m, name in enumerate(names)], where="--set")


def _evidence(
    parts: Path | None,
    data: Path | None,
    split: str,
    clip: str | None,
    photos: Path | None,
    vocabulary: Path | None,
    sample: int,
) -> Clip | Parts:
    """What names are proposed from.

    Raises:
        UsageError: if CLIP has no photos, or an option is out of range.
    """
    from concepthash.cli.concepts_parts.propose import Clip, Parts

    if parts is not None:
        if split not in SPLITS:
            raise UsageError(f"unknown split {split!r}", where="--split", hint=", ".join(SPLITS))
        return Parts(parts, data, split)
    if photos is None:
        raise UsageError("CLIP needs photos to look at", where="--photos", hint="--photos FOLDER")
    if sample < 1:
        raise UsageError(f"{sample} photos are no sample", where="--sample", hint="--sample 100")
    return Clip(clip or "", photos, sample, vocabulary)


def _hasher(
    bundle: Bundle,
    device: str | None,
    threads: int | None,
    batch_size: int | None,
    output: Output,
) -> Hasher:
    from concepthash.runtime.hasher import Hasher

    hasher = Hasher(bundle, device=device or "auto", threads=threads, batch_size=batch_size)
    if hasher.note:
        output.note(hasher.note)
    return hasher
