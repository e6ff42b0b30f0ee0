"""Settings: flag, then ``CHASH_*``, then ``--config FILE``, then ``chash.toml``, then default.

A file has the sections of a training run ([data], [model], [guidance], [loss], [train]) and a table
for each other verb ([index], [query], [export], [eval], [dedupe], [knn-graph]) whose keys are that
verb's options.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import typer

from concepthash.errors import UsageError

if TYPE_CHECKING:
    from concepthash.learn.config import Config

Sections: TypeAlias = dict[str, dict[str, Any]]
"""Settings by section."""

PROJECT_FILE = Path("chash.toml")
RUN_SECTIONS = ("data", "model", "guidance", "loss", "train")
VERB_TABLES = (
    "index",
    "query",
    "export",
    "bench",
    "eval",
    "dedupe",
    "knn-graph",
    "explain",
    "serve",
    "concepts",
    "atlas",
)

# Not settings: they make sense in one call only.
_ONE_CALL = frozenset({"config", "as_json", "help"})


def read_settings(named: Path | None) -> list[tuple[Path, dict[str, Any]]]:
    """The files that apply, weakest first, each with its tables.

    Raises:
        UsageError: if one cannot be read, or has a table that nothing knows.
    """
    files = [PROJECT_FILE] if PROJECT_FILE.is_file() else []
    if named is not None:
        files.append(named)
    return [(path, _read(path)) for path in files]


def use_verb_table(ctx: typer.Context, named: Path | None) -> Path | None:
    """Let the verb's table in the settings files stand in for options that were not given.

    Raises:
        UsageError: for a key that is no option of the verb.
    """
    if ctx.resilient_parsing:
        return named
    verb = ctx.info_name or ""
    options = {p.name or "" for p in ctx.command.params if p.param_type_name == "option"}
    options -= _ONE_CALL
    values: dict[str, Any] = {}
    for path, tables in read_settings(named):
        for key, value in tables.get(verb, {}).items():
            name = key.replace("-", "_")
            if name not in options:
                raise _unknown(key, options, f"setting in [{verb}]", path)
            values[name] = value
    ctx.default_map = values
    return named


def run_config(
    base: Config,
    *,
    named: Path | None,
    environment: Sections,
    assignments: Iterable[str],
    flags: Sections,
) -> Config:
    """The configuration of a run: ``base``, the files, the environment, ``--set``, flags.

    Args:
        base: what the rest is laid over.
        named: the file of ``--config``.
        environment: settings from ``CHASH_*``.
        assignments: ``section.key=value``, the value in TOML.
        flags: settings from the command line.

    Raises:
        UsageError: for an unknown section or key, or a value of the wrong type.
    """
    config = base
    for path, tables in read_settings(named):
        config = config.updated({k: v for k, v in tables.items() if k in RUN_SECTIONS}, where=path)
    config = config.updated(environment, where="environment")
    given: Sections = {}
    for text in assignments:  # checked together, for one may need another
        for section, values in _assignment(text).items():
            given.setdefault(section, {}).update(values)
    where = "--set " + " --set ".join(assignments)
    config = config.updated(given, where=where)
    return config.updated(flags, where="command line")


def by_origin(ctx: typer.Context, homes: dict[str, tuple[str, str]]) -> tuple[Sections, Sections]:
    """The options that were given, as settings: those of the environment, those of the line.

    Args:
        ctx: of the verb.
        homes: option -> the section and key it sets.
    """
    environment: Sections = {}
    flags: Sections = {}
    for option, (section, key) in homes.items():
        value, source = ctx.params[option], ctx.get_parameter_source(option)
        if value is None or (isinstance(value, (list, tuple)) and not value) or source is None:
            continue
        origin = environment if source.name == "ENVIRONMENT" else flags
        origin.setdefault(section, {})[key] = value
    return environment, flags


def as_toml(values: Sections) -> str:
    """A configuration as a file that ``--config`` reads; None is left out."""
    lines: list[str] = []
    for section, settings in values.items():
        lines += ["", f"[{section}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in settings.items() if value is not None]
    return "\n".join(lines[1:])


def _read(path: Path) -> dict[str, Any]:
    from concepthash.learn.config import read_toml

    tables = read_toml(path)
    known = {*RUN_SECTIONS, *VERB_TABLES}
    for name, table in tables.items():
        if name not in known:
            raise _unknown(name, known, "section", path)
        if not isinstance(table, dict):
            raise UsageError(f"[{name}] is a table of settings", where=path)
    return tables


def _unknown(key: str, known: Iterable[str], what: str, where: Path) -> UsageError:
    import difflib

    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(sorted(known))}"
    return UsageError(f"unknown {what}: {key!r}", where=where, hint=hint)


def _assignment(text: str) -> dict[str, Any]:
    import tomllib

    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise UsageError(
            "an assignment is section.key=value",
            where=f"--set {text}",
            hint="--set loss.diversity=1.0",
        )
    try:
        return tomllib.loads(f"{key}={value}")
    except tomllib.TOMLDecodeError:
        pass
    try:  # a bare word is text
        return tomllib.loads(f"{key}={_toml(value.strip())}")
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not TOML: {error}", where=f"--set {text}") from None


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        escaped = "".join(_escape(c) for c in value)
        return f'"{escaped}"'
    return repr(value)


def _escape(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    code = ord(character)
    return f"\\u{code:04x}" if code < 32 or code == 127 else character
