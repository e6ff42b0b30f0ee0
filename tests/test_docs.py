"""What the documentation says is so: its commands, links, figures, and what is made of code."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import pytest
import typer

from concepthash.cli.app import app
from concepthash.errors import UsageError
from concepthash.formats import FORMATS
from concepthash.runtime.backends import BACKENDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXPORT = ROOT / "docs" / "export.md"

_GROUP = typer.main.get_command(app)
# Typer carries its own copy of click or uses the installed one, by version.
_CLICK_ERROR = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
_SEPARATORS = {"|", "&&", ";", ">", "||"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str) -> Iterator[str]:
    """The lines of code blocks, fenced or indented, continued ones joined; of fenced only shell."""
    fence: str | None = None
    pending = ""
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fence = line.strip().strip("`") or "text" if fence is None else None
            continue
        shell = fence in ("sh", "bash", "console") or (fence is None and line.startswith("    "))
        if not shell:
            continue
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        yield (pending + line).strip()
        pending = ""


def spans(text: str) -> Iterator[str]:
    """The code spans of running text that are commands; an option named last gets a value."""
    for span in re.findall(r"`(chash [^`]+)`", text):
        words = span.split()
        yield " ".join([*words, *(["VALUE"] if words[-1].startswith("--") else [])])


def commands(text: str) -> Iterator[list[str]]:
    """The words after ``chash`` of each command, which may stand in a pipe or after variables."""
    for line in [*blocks(text), *spans(text)]:
        if not re.search(r"\bchash ", line):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
        lexer.whitespace_split = True
        words = list(lexer)
        for first, word in enumerate(words):
            before = words[first - 1] if first else ";"
            if word != "chash" or not (before in _SEPARATORS or "=" in before):
                continue
            rest = words[first + 1 :]
            ends = [n for n, other in enumerate(rest) if other in _SEPARATORS]
            yield rest[: min(ends, default=len(rest))]


def understand(words: list[str]) -> None:
    """Parse a command as ``chash`` would, without values being checked or anything being run.

    Raises:
        UsageError: for a verb that does not exist.
        ClickException: for an option that does not exist, or lacks its value.
    """
    context = _GROUP.make_context("chash", ["--version"], resilient_parsing=True)
    context.resilient_parsing = False
    if words[0].startswith("-"):
        _GROUP.make_parser(context).parse_args(list(words))
        return
    _, command, rest = _GROUP.resolve_command(context, list(words))
    command.make_parser(type(context)(command, parent=context)).parse_args(list(rest))


EVERY = [(name_of(page), words) for page in PAGES for words in commands(page.read_text("utf-8"))]


def test_commands__are_found_in_the_pages() -> None:
    assert len(EVERY) > 100
    assert ("README.md", ["query", "-", "--format", "jsonl"]) in EVERY  # behind a pipe
    assert {"train", "eval", "export", "bench", "index", "query"} <= {w[0] for _, w in EVERY}


@pytest.mark.parametrize(
    ("page", "words"), EVERY, ids=[f"{page}: {' '.join(words)}" for page, words in EVERY]
)
def test_command__has_a_verb_and_options_that_exist(page: str, words: list[str]) -> None:
    try:
        understand(words)
    except (UsageError, _CLICK_ERROR) as error:
        pytest.fail(f"{page}: chash {' '.join(words)}: {error}")


@pytest.mark.parametrize(
    "words", [["qurey", "a.jpg"], ["query", "--top-k", "3"], ["index", "verify", "--top", "3"]]
)
def test_command__of_a_wrong_page_is_refused(words: list[str]) -> None:
    with pytest.raises((UsageError, _CLICK_ERROR)):
        understand(words)


def test_export_of_a_bundle__needs_neither_torch_nor_onnx() -> None:
    code = (
        "import sys, concepthash.export.bundle\n"
        "print(sorted({'torch', 'onnx', 'onnxscript', 'timm'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ +(.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_link__leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_relative_to(ROOT), f"{target} leads out of the repository"
        assert file.exists(), f"no {target}"
        if anchor:
            assert anchor in anchors(file), f"no heading {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_figure__has_its_file_of_results(page: Path) -> None:
    text = page.read_text("utf-8")
    named = set(re.findall(r"benchmarks/results/([\w.-]+\.json)", text))
    if "| JSON in `benchmarks/results` |" in text:  # a table whose last column names them
        named |= set(re.findall(r"`([\w.-]+\.json)` \|$", text, re.MULTILINE))
    missing = [name for name in sorted(named) if not (ROOT / "benchmarks/results" / name).is_file()]
    assert not missing


def table(head: str, rows: list[tuple[str, ...]]) -> str:
    cells = [tuple(head.split(",")), ("---",) * (head.count(",") + 1), *rows]
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in cells)


def formats_table() -> str:
    """Every format."""
    rows = [
        (f"`{f.name}`", f.text, f"`concepthash[{f.extra}]`" if f.extra else "", f.where)
        for f in FORMATS.values()
    ]
    return table("`--format`,for,more to install,made", rows)


def files_table() -> str:
    """Every artefact."""
    rows = []
    for form in FORMATS.values():
        for precision, file in form.files.items():
            graph = form.graphs[precision] if form.engine else ""
            made = f"`{graph}`" if graph else ""
            rows.append((f"`{form.name}`", f"`{precision}`", f"`{file}`", made))
    return table("`--format`,`--precision`,file in the bundle,an engine of", rows)


def backends_table() -> str:
    """Every back end."""
    rows = [
        (f"`{b.name}`", ", ".join(b.formats), ", ".join(b.devices), f"`{b.install}`")
        for b in BACKENDS.values()
    ]
    return table("`--backend`,runs artefacts of,on,install", rows)


def limits_table() -> str:
    """The limits of the gate."""
    from concepthash.limits import LIMITS

    def cells(name: str) -> tuple[str, ...]:
        limits = LIMITS[name]  # type: ignore[index]
        margin = "any" if limits.margin is None else f"{limits.margin:g}"
        overlap = f"{limits.overlap:g}" if limits.overlap else "any"
        return f"`{name}`", f"{limits.bits:.1%}", margin, overlap, f"{limits.map:g}"

    head = "precision,`bits`: flipped at most,`margin`: \\|logit\\| of a flipped bit at most,"
    head += "`overlap` of the first 10 hits at least,`map`: lost at most"
    return table(head, [cells(name) for name in LIMITS])


@pytest.mark.parametrize(
    "made",
    [formats_table, files_table, backends_table, limits_table],
    ids=lambda made: made.__name__,
)
def test_table__is_the_one_of_the_code(made: object) -> None:
    assert callable(made)
    name = made.__name__
    found = re.search(
        rf"<!-- {name} of tests/test_docs.py -->\n(.*?)\n<!-- end -->",
        EXPORT.read_text("utf-8"),
        re.DOTALL,
    )
    assert found, f"{name_of(EXPORT)} has no place for {name}"
    wanted = made()
    assert found[1] == wanted, f"put this into {name_of(EXPORT)}:\n{wanted}"


def renewed(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page that a module in docs/ writes."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    page = import_module(name).page()
    assert isinstance(page, str)
    return page


def test_cli_reference__is_what_the_verbs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = renewed("cli_reference", monkeypatch)
    assert wanted == (ROOT / "docs/cli.md").read_text("utf-8"), "run: python docs/renew.py"


def test_benchmark_page__is_what_the_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = renewed("benchmark_page", monkeypatch)
    assert wanted == (ROOT / "docs/benchmarks.md").read_text("utf-8"), "run: python docs/renew.py"


def test_scale_page__has_the_tables_that_the_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = renewed("scale_page", monkeypatch)
    assert wanted == (ROOT / "docs/scale.md").read_text("utf-8"), "run: python docs/renew.py"


def test_benchmark_page__has_every_file_and_its_command() -> None:
    text = (ROOT / "docs/benchmarks.md").read_text("utf-8")
    for file in (ROOT / "benchmarks/results").glob("*.json"):
        assert f"`benchmarks/results/{file.name}`" in text
        assert f"    {json.loads(file.read_text('utf-8'))['command']}\n" in text


def test_nav__lists_every_page() -> None:
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    listed = [page for group in config["nav"] for pages in group.values() for page in pages]
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages)


class Fetched(HTMLParser):
    """What a browser fetches by itself when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") in ("canonical", "next", "prev"):
            return
        names = ("src", "srcset", "poster", "data", *(["href"] if tag == "link" else []))
        self.found += [value for name in names if (value := values.get(name))]


def test_fetched__knows_what_a_page_loads() -> None:
    page = Fetched()
    page.feed('<a href="https://a.org"></a><script src="https://b.org/x.js"></script>')
    page.feed('<link rel=stylesheet href="//c.org/x.css"><link rel=next href="https://d.org">')
    assert page.found == ["https://b.org/x.js", "//c.org/x.css"]


def test_site__builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout + result.stderr == ""
    assert not list(tmp_path.rglob("*.py"))
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 30
    for file in pages:
        page = Fetched()
        page.feed(file.read_text("utf-8"))
        assert page.found
        assert not [url for url in page.found if re.match(r"(?:\w+:)?//", url)], file
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text("utf-8"))
