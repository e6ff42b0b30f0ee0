"""``chash query --explain DIR``: a page and a contact sheet a query, and an index of many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from concepthash.cli.explain_files import write_file
from concepthash.cli.output import Output, printable
from concepthash.errors import ImageError

if TYPE_CHECKING:
    from concepthash.cli.answers import Answers
    from concepthash.cli.asked import Asked
    from concepthash.runtime.galleries import AnyGallery
    from concepthash.runtime.hasher import Hasher

INDEX = "index.html"


def page_names(queries: int) -> Iterator[str]:
    """The files that are written for so many photos: of one, or of each and their index."""
    if queries > 1:
        yield INDEX
    for stem in _stems(queries):
        yield f"{stem}.html"
        yield f"{stem}.png"


def _stems(queries: int) -> list[str]:
    if queries == 1:
        return ["hits"]
    return [f"hits-{number:0{max(len(str(queries)), 3)}}" for number in range(1, queries + 1)]


def write_pages(
    folder: Path,
    answers: Answers,
    gallery: AnyGallery,
    hasher: Hasher,
    asked: Asked,
    output: Output,
) -> list[Path]:
    """Write why each query found what it found; the pages, the index of many first.

    Photos of hits that cannot be read are said so on their page and counted on stderr: the answers
    stand without them.

    Raises:
        ConceptHashError: if a file cannot be written.
    """
    from concepthash.explain.explanation import explain_image
    from concepthash.explain.hits import HitExplainer
    from concepthash.explain.hitspage import index_page

    explainer = HitExplainer(hasher, gallery)
    asked_for = len(answers.queries) + len(answers.skipped)
    pages, listed = [], []
    missing: dict[str, str] = {}
    for stem, query in zip(_stems(asked_for), answers.queries, strict=False):
        path = str(query.path)
        try:
            photo = explain_image(hasher, path)
        except ImageError as error:  # it is gone since it was hashed
            missing[path] = error.what
            continue
        shown = explainer.explain(photo, query.hits, concepts=asked.concepts, weights=asked.weights)
        missing.update((one.hit.path, one.problem) for one in shown.hits if one.photo is None)
        write_file(folder, f"{stem}.png", shown.figure())
        pages.append(write_file(folder, f"{stem}.html", shown.html()))
        listed.append((path, pages[-1].name, len(query.hits)))
        output.progress("explaining", len(pages), len(answers.queries))
    if asked_for > 1 and pages:
        title = f"{len(listed)} queries in {answers.gallery}"
        pages.insert(0, write_file(folder, INDEX, index_page(title, listed)))
    if missing:
        first, problem = next(iter(missing.items()))
        count = "a photo" if len(missing) == 1 else f"{len(missing)} photos"
        output.note(f"{count} cannot be shown: {printable(first)}: {printable(problem)}")
    return pages
