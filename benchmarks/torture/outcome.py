"""What must be so after a command was disturbed, and after it was run again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.torture.campaigns import Campaign
from benchmarks.torture.forks import Ended
from benchmarks.torture.states import Rows, leftovers, parts, rows
from concepthash.runtime.galleries import open_gallery


@dataclass(frozen=True)
class Undisturbed:
    """What a campaign's command does when it is let alone.

    Args:
        before, after: the images of its result.
        file: the bytes of what it writes beside it.
        seconds: how long it takes.
    """

    before: Rows
    after: Rows
    file: bytes | None
    seconds: float

    @property
    def contents(self) -> set[str]:
        """Digests of what is there in the end."""
        return {row.sha256 for row in self.after}


def undisturbed(campaign: Campaign, case: Path, run: Callable[[], Ended]) -> Undisturbed:
    """Run a campaign's command once, in a folder of its own.

    Raises:
        RuntimeError: if even that does not work.
    """
    before, _ = rows(case / campaign.result, campaign.right)
    ended = run()
    after, wrong = look(case, campaign)
    if ended.code or wrong:
        raise RuntimeError(f"{campaign.name}, undisturbed: {ended} {wrong[:3]}")
    file = (case / campaign.file).read_bytes() if campaign.file else None
    return Undisturbed(before, after, file, ended.seconds)


def disturbed(
    campaign: Campaign, case: Path, normal: Undisturbed, held: Rows
) -> tuple[Rows, list[str]]:
    """The images after a command was disturbed, and what is wrong with that.

    Args:
        held: those before it.
    """
    now, wrong = look(case, campaign)
    if campaign.mends:  # half repaired, it may still be damaged
        now, wrong = {row: id for row, id in now.items() if row in normal.before}, []
    return now, [*wrong, *_against(now, held, normal, campaign)]


def look(case: Path, campaign: Campaign) -> tuple[Rows, list[str]]:
    """The images of a campaign's result, and what is wrong with it."""
    try:
        return rows(case / campaign.result, campaign.right)
    except Exception as error:  # whatever it is, it is what broke
        return {}, [f"it cannot be read: {type(error).__name__}: {error}"]


def _against(now: Rows, held: Rows, normal: Undisturbed, campaign: Campaign) -> Iterator[str]:
    """What must not be there, and what is missing."""
    strange = [row.path for row in now if row not in normal.after and row not in normal.before]
    if strange:
        yield f"{strange[0]} was never to be"
    if campaign.whole and now and set(now) != set(normal.after):
        yield f"{len(now)} of {len(normal.after)} images are there"
    if campaign.replaces and any(now.get(row) != id for row, id in held.items()):
        return  # emptied, on purpose
    if campaign.mends and not now:
        return  # it cannot be opened
    yield from _renumbered(now, held)
    contents = {row.sha256 for row in now}
    kept = normal.contents
    for row in held:
        lost = row.sha256 in kept and row.sha256 not in contents
        if row not in now and (row in normal.after or lost):
            yield f"{row.path} was committed and is gone"
            return


def _renumbered(now: Rows, held: Rows) -> Iterator[str]:
    for row, id in held.items():
        if now.get(row, id) != id:
            yield f"the id of {row.path} was {id} and is {now[row]}"
            return


def _hashed(ended: Ended, held: Rows, normal: Undisturbed) -> Iterator[str]:
    """Whether the last run hashed what was committed already."""
    report = json.loads(ended.out) if ended.out else {}
    if "hashed" in report:
        needed = len(normal.contents - {row.sha256 for row in held})
        if report["hashed"] != needed:
            yield f"{report['hashed']} photos were hashed, {needed} were not committed"


def finished(
    campaign: Campaign, case: Path, normal: Undisturbed, held: Rows, ended: Ended
) -> list[str]:
    """What is wrong after the run that nothing disturbed any more.

    Args:
        held: the images before it.
        ended: how it ended.
    """
    now, wrong = look(case, campaign)
    if ended.code != (campaign.again if set(held) == set(normal.after) else 0):
        wrong.append(f"the next run ended with {ended.code}: {ended.err[-300:]}")
        return wrong
    if set(now) != set(normal.after):
        wrong.append(f"{len(set(now) ^ set(normal.after))} rows are not as undisturbed")
    if campaign.file and (case / campaign.file).read_bytes() != normal.file:
        wrong.append(f"{campaign.file} is not as undisturbed")
    if not campaign.replaces:
        wrong += _renumbered(now, held)
        wrong += _hashed(ended, held, normal)
    if parts(case / campaign.result):  # what was replaced is for the next writer to delete
        open_gallery(case / campaign.result, write=True).close()
    left = leftovers(case / campaign.result, case, allowed=campaign.allowed)
    return [*wrong, *(f"left over: {name}" for name in left[:3])]


def copy(source: Path, target: Path) -> None:
    """Galleries are copied; photos are linked: nothing writes to them."""
    shutil.copytree(
        source,
        target,
        copy_function=lambda a, b: os.link(a, b) if a.endswith(".png") else shutil.copy2(a, b),
    )
