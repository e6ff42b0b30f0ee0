"""The page ``cli.md``: every verb, as the command line itself describes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from concepthash.cli.app import CODES, EXAMPLES, PARTS, VERBS, app

HEAD = """\
# Command line

<!-- Written by docs/renew.py from the verbs themselves. -->

Results go to stdout, everything else to stderr; with `--json` stdout holds one object, an error
too. {codes}

An option comes from the flag, else from its variable, else from `--config FILE`, else from
`chash.toml` in the current folder, else it has its default. `chash --version` prints the version,
`--help` after any verb what stands here. `CHASH_DEBUG=1` shows the traceback of an error.
"""


def page() -> str:
    """The page as Markdown."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("chash", ["doctor"], resilient_parsing=True)
    lines = [HEAD.format(codes=CODES), *_examples(EXAMPLES)]
    lines += ["| verb | |", "|---|---|"]
    lines += [f"| [`{name}`](#chash-{name}) | {text} |" for name, text in VERBS.items()]
    for name in VERBS:
        _, command, _ = group.resolve_command(context, [name])
        lines += ["", f"## chash {name}", "", *_verb(command, context)]
        for part in PARTS.get(name, {}):
            _, command, _ = group.resolve_command(context, [name, part])
            lines += ["", f"### chash {name} {part}", "", *_verb(command, context)]
    return "\n".join(lines) + "\n"


def _verb(command: Any, parent: Any) -> Iterator[str]:
    context = type(parent)(command, parent=parent)
    summary, _, rest = command.help.partition("\n")
    examples = rest.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    yield summary
    yield ""
    yield from _examples(line.strip() for line in examples)
    shown = [p for p in command.params if not p.hidden]
    places = [p for p in shown if p.param_type_name == "argument"]
    if places:
        yield from ["| argument | |", "|---|---|"]
        for place in places:
            yield f"| `{place.metavar}` | {_cell(place.help)}{_required(place)} |"
        yield ""
    yield from ["| option | | variable | default |", "|---|---|---|---|"]
    for option in shown:
        if option.param_type_name == "option":
            names, value = _head(option, context)
            variable = f"`{option.envvar}`" if option.envvar else ""
            default = f"`{option.default}`" if option.default not in (None, False) else ""
            text = _cell(option.help) + _required(option)
            cells = [f"`{f'{names} {value}'.strip()}`", text, variable, default]
            yield f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"


def _examples(lines: Any) -> Iterator[str]:
    """As a block of commands; what an example says about itself becomes a comment."""
    rows = [re.split(r" {2,}", line, maxsplit=1) for line in lines]
    width = max(len(row[0]) for row in rows if len(row) > 1) if any(r[1:] for r in rows) else 0
    yield "```sh"
    for command, *text in rows:
        yield f"{command:<{width}}  # {text[0]}" if text else command
    yield from ["```", ""]


def _head(option: Any, context: Any) -> tuple[str, str]:
    """The names of an option, and what kind of value it takes; none of a flag."""
    head = option.get_help_record(context)[0]
    if option.metavar:
        return head.removesuffix(f" {option.metavar}"), option.metavar
    names, _, kind = head.rstrip(">").partition(" <")
    many = re.fullmatch(r"list\[(\w+)\]", kind)
    kind = many[1].lower() if many else kind
    return names, _KINDS.get(kind, kind) + ("..." if many else "")


_KINDS = {"str": "TEXT", "int": "N", "float": "X", "path": "PATH"}


def _required(param: Any) -> str:
    return " Required." if param.required else ""


def _cell(text: str | None) -> str:
    return re.sub(r"([|<>])", r"\\\1", text or "")
