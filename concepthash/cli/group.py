"""What surrounds every verb: imported when called, errors become three lines and an exit code."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

from concepthash.errors import ConceptHashError

INTERRUPTED = 130
BROKEN_PIPE = 141  # what a shell reports of a program that was ended by SIGPIPE

# Typer carries its own copy of click or uses the installed one, by version; its errors are told
# apart through a class that Typer exports.
_CLICK_ERRORS: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)


def with_examples(summary: str, examples: Sequence[str]) -> str:
    """Help text: a summary, then examples as they are typed."""
    return "\n".join([summary, "", "\b", "Examples:", *(f"  {line}" for line in examples)])


class VerbGroup(TyperGroup):
    """Verbs that are imported when called; the one place where errors leave the program.

    Each verb has a module of its name with ``command`` and ``EXAMPLES``.
    """

    verbs: ClassVar[Mapping[str, str]] = {}
    """Name -> summary."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all verbs, in the order of the help."""
        return list(self.verbs)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One verb, built from its module; None if there is none of this name."""
        if cmd_name not in self.verbs:
            near = difflib.get_close_matches(cmd_name, self.verbs, n=1)
            if near and not ctx.resilient_parsing:
                ctx.fail(f"No such command {cmd_name!r}. Did you mean {near[0]!r}?")
            return None
        module = import_module(f"concepthash.cli.{cmd_name}")
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        text = with_examples(self.verbs[cmd_name], module.EXAMPLES)
        single.command(cmd_name, help=text)(module.command)
        command = typer.main.get_command(single)
        command.name = cmd_name
        return command

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

    def invoke(self, ctx: Any) -> Any:
        """Run the verb and turn whatever it raises into an exit code.

        Raises:
            typer.Exit: with that code.
        """
        try:
            value = super().invoke(ctx)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, _CLICK_ERRORS):
            raise
        except BrokenPipeError:
            _mute_stdout()
            raise typer.Exit(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            _say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except ConceptHashError as error:
            raise typer.Exit(_explain(error)) from None
        except Exception as error:
            raise typer.Exit(_unexpected(error)) from None
        return value


def _explain(error: ConceptHashError) -> int:
    if _debugging():
        _traceback()
    lines = [f"{_red('error:')} {error.what}"]
    if error.where is not None:
        lines.append(f"where: {error.where}")
    if error.hint is not None:
        lines.append(f"try: {error.hint}")
    _say("\n".join(lines))
    return error.exit_code


def _unexpected(error: Exception) -> int:
    if _debugging():
        _traceback()
    else:
        text = next(iter(str(error).splitlines()), "")
        _say(f"{_red('error:')} {type(error).__name__}: {text} (CHASH_DEBUG=1 shows the traceback)")
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
