"""What surrounds every verb: imported when called, errors become three lines and an exit code."""

from __future__ import annotations

import difflib
import errno
import json
import keyword
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import typer
from typer.core import TyperGroup

from concepthash.cli.options import named
from concepthash.cli.output import Output, printable, writing_results
from concepthash.errors import ConceptHashError, UsageError

ERROR_SCHEMA = "chash.error/1"

INTERRUPTED = 130
BROKEN_PIPE = 141  # what a shell reports of a program that was ended by SIGPIPE

_NEAR = 0.75
"""Likeness from which on another option is suggested: --tops is --top, --explain is not --split."""
_WRITTEN = (("--out", "-o"), ("--explain",))
"""Options that say where results are written."""

# Typer carries its own copy of click or uses the installed one, by version; its errors are told
# apart through a class that Typer exports, and through their names.
_CLICK_ERRORS: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)


def with_examples(summary: str, examples: Sequence[str]) -> str:
    """Help text: a summary, then examples as they are typed."""
    return "\n".join([summary, "", "\b", "Examples:", *(f"  {line}" for line in examples)])


class VerbGroup(TyperGroup):
    """Verbs that are imported when called; the one place where errors leave the program.

    Each verb has a module of its name with ``command`` and ``EXAMPLES``. A verb may have parts,
    each a verb of two words with a module in the package of ``parts``; what follows the verb and
    is no part's name goes to the verb itself.
    """

    verbs: ClassVar[Mapping[str, str]] = {}
    """Name -> summary."""
    parts: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Verb -> name -> summary."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all verbs, in the order of the help."""
        return list(self.verbs)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb, or the part of a verb, that the arguments begin with, and the rest of them."""
        if len(args) > 1 and args[1] in self.parts.get(args[0], {}):
            return f"{args[0]} {args[1]}", self._part(args[0], args[1]), args[2:]
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One verb, built from its module; None if there is none of this name."""
        if cmd_name not in self.verbs:
            if ctx.resilient_parsing:
                return None
            near = difflib.get_close_matches(cmd_name, self.verbs, n=1)
            raise UsageError(
                f"no such verb: {cmd_name}",
                where="chash",
                hint=f"chash {near[0]}" if near else "chash -h lists the verbs",
            )
        module = import_module(f"concepthash.cli.{_module(cmd_name)}")
        text = with_examples(self.verbs[cmd_name], module.EXAMPLES)
        parts = self.parts.get(cmd_name, {})
        if parts:
            width = max(map(len, parts))
            lines = [f"  {cmd_name} {name:<{width}}  {text}" for name, text in parts.items()]
            text = "\n".join([text, "", "\b", "Parts, each with a --help of its own:", *lines])
        return _built(cmd_name, text, module.command)

    def _part(self, verb: str, name: str) -> Any:
        module = import_module(f"concepthash.cli.{verb}_parts.{_module(name)}")
        text = with_examples(self.parts[verb][name], module.EXAMPLES)
        return _built(f"{verb} {name}", text, module.command)

    def get_help_option(self, ctx: Any) -> Any:
        """The option ``-h``, with a default."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False  # or Typer loads pydantic to validate that nothing was given
        return option

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of verbs, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.verbs.items()))

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """The context of the whole line; what is wrong in it is told as any error."""
        Output.json_asked, Output.answered = _json_named(), False
        try:
            return super().make_context(info_name, args, parent, **extra)
        except _CLICK_ERRORS as error:
            if _asks_for_help(error):
                raise
            raise typer.Exit(_explain(_usage(error, None))) from None

    def invoke(self, ctx: Any) -> Any:
        """Run the verb and turn whatever it raises into an exit code.

        Raises:
            typer.Exit: with that code.
        """
        try:
            _check_named()
            value = super().invoke(ctx)
            with writing_results():
                sys.stdout.flush()
        except (typer.Exit, typer.Abort):
            raise
        except _CLICK_ERRORS as error:
            raise typer.Exit(_explain(_usage(error, ctx))) from None
        except BrokenPipeError:
            _mute_stdout()
            raise typer.Exit(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            _say("interrupted")
            _tell_json("interrupted", None, None, INTERRUPTED)
            raise typer.Exit(INTERRUPTED) from None
        except ConceptHashError as error:
            code = _explain(error)
            if error.where == "stdout":
                _mute_stdout()
            raise typer.Exit(code) from None
        except OSError as error:
            known = _of_files(error)
            raise typer.Exit(_explain(known) if known else _unexpected(error)) from None
        except Exception as error:
            raise typer.Exit(_unexpected(error)) from None
        return value


def _module(name: str) -> str:
    """The module of a verb: ``knn-graph`` is in ``knn_graph``, ``import`` in ``import_``."""
    return f"{name}_" if keyword.iskeyword(name) else name.replace("-", "_")


def _built(name: str, text: str, function: Any) -> Any:
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name, help=text)(function)
    command = typer.main.get_command(single)
    command.name = name
    return command


def _explain(error: ConceptHashError) -> int:
    if _debugging():
        _traceback()
    where = None if error.where is None else named(error.where)
    lines = [f"{_red('error:')} {printable(error.what)}"]
    if where is not None:
        lines.append(f"where: {printable(where)}")
    if error.hint is not None:
        lines.append(f"try: {printable(error.hint)}")
    _say("\n".join(lines))
    _tell_json(error.what, where, error.hint, error.exit_code)
    return error.exit_code


def end(error: ConceptHashError) -> NoReturn:
    """Tell of an error and end the process at once, from whatever thread, as it stands.

    For what would end it anyway, and without a word.
    """
    with redirect_stdout(sys.__stdout__):  # libraries may be kept off it just now
        code = _explain(error)
    sys.stderr.flush()
    os._exit(code)


def _of_files(error: OSError) -> ConceptHashError | None:
    """A file that is missing, closed to us or does not fit, in our words; None for other errors."""
    path = None if error.filename is None else Path(os.fsdecode(error.filename))
    folder = None if path is None else path.parent
    if path is not None and path.suffix == ".tmp":  # a name of ours for what is being written
        path = folder
    place = "" if folder is None else f" {shlex.quote(str(folder))}"
    there = folder is not None and folder.exists()
    hints = {
        **dict.fromkeys((errno.EACCES, errno.EPERM), f"ls -la{place}"),
        **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), f"df -h{place}"),
        **dict.fromkeys((errno.ENOTDIR, errno.EISDIR), f"ls -l{place}"),
        errno.ENOENT: f"ls{place}" if there else f"mkdir -p{place}",
        errno.EROFS: "write to another folder",
    }
    if error.errno not in hints or (path is None and error.errno != errno.ENOSPC):
        return None
    what = error.strerror or "the system refuses"
    return ConceptHashError(what[0].lower() + what[1:], where=path, hint=hints[error.errno])


def _json_named() -> bool:
    """Whether the arguments ask for JSON, as far as can be told before they are understood."""
    words = sys.argv[1:]
    form = any(pair == ("--format", "json") for pair in pairwise(words))
    return form or "--json" in words or "--format=json" in words


def _tell_json(what: str, where: str | None, hint: str | None, code: int) -> None:
    """Under --json, the error as one object on stdout, unless the result is there already."""
    if not Output.json_asked or Output.answered:
        return
    error = {"what": what, "where": where, "try": hint, "exit_code": code}
    try:
        print(json.dumps({"schema": ERROR_SCHEMA, "error": error}), flush=True)
    except OSError:
        _mute_stdout()


def _asks_for_help(error: Exception) -> bool:
    """Whether it is a line without arguments, whose answer is the help."""
    return type(error).__name__ == "NoArgsIsHelpError"


def _usage(error: Any, ctx: Any) -> UsageError:
    """A line that could not be understood, in our words."""
    place = getattr(error, "ctx", None)
    verb = getattr(ctx, "invoked_subcommand", None)
    command = place.command_path if place else f"chash {verb}" if verb else "chash"
    param, option = getattr(error, "param", None), getattr(error, "option_name", None)
    what = (error.message or error.format_message()).rstrip(".")
    near: list[str] = []
    if option is not None and type(error).__name__ == "NoSuchOption":
        what = f"no such option: {option}"
        near = _near_options(option, place)
    elif param is not None and param.param_type_name == "option":
        option = max(param.opts, key=len)
        given = _given(param.opts)
        if given is not None:
            what = f"{given!r} does not fit: {what.partition(', unable')[0]}"
    return UsageError(
        what[0].lower() + what[1:],
        where=command if option is None or near else f"{command} {option}",
        hint=f"{near[0]}; {command} -h lists all" if near else f"{command} -h",
    )


def _given(options: Sequence[str]) -> str | None:
    """The value that the line has for an option; None if it comes from elsewhere."""
    words = sys.argv[1:]
    apart = (value for name, value in pairwise(words) if name in options)
    joined = (word.partition("=")[2] for word in words if word.partition("=")[0] in options)
    return next(chain(apart, joined), None)


def _check_named() -> None:
    """Refuse ``--out ""``, as of a variable that is not set: it would mean the current folder.

    Raises:
        UsageError: with the option.
    """
    for option in _WRITTEN:
        if _given(option) == "":
            raise UsageError("a place without a name", where=option[0], hint=f"{option[0]} NAME")


def _near_options(wrong: str, place: Any) -> list[str]:
    """The options of a command that one may have meant, the nearest first."""
    if place is None:
        return []
    known = [
        name for param in place.command.params for name in (*param.opts, *param.secondary_opts)
    ]
    longer = [name for name in known if len(wrong) > 3 and name.startswith(wrong)]
    return longer or difflib.get_close_matches(wrong, known, n=1, cutoff=_NEAR)


def _unexpected(error: Exception) -> int:
    if _debugging():
        _traceback()
    else:
        text = next(iter(str(error).splitlines()), "")
        _say(f"{_red('error:')} {type(error).__name__}: {text} (CHASH_DEBUG=1 shows the traceback)")
    _tell_json(f"{type(error).__name__}: {error}", None, "CHASH_DEBUG=1 shows the traceback", 1)
    return 1


def _debugging() -> bool:
    return os.environ.get("CHASH_DEBUG", "0") not in ("", "0")


def _traceback() -> None:
    import traceback

    traceback.print_exc()


def _red(text: str) -> str:
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return f"\x1b[31m{text}\x1b[0m" if coloured else text


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _mute_stdout() -> None:
    # Python flushes stdout once more at exit, which would complain about the same pipe.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
