"""``chash completion``: the script that a shell loads, and what that script asks back.

Typer's own completion loads pydantic at every start of ``chash``, knows no verbs of two words, and
offers no file names beside words. Here a script hands over the words of the line so far; the answer
has a line a candidate, and a line ``:`` if file names fit too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import typer

from concepthash.cli.output import Output
from concepthash.errors import UsageError

EXAMPLES = (
    "source <(chash completion bash)     in ~/.bashrc",
    "source <(chash completion zsh)      in ~/.zshrc, after compinit",
    "chash completion fish > ~/.config/fish/completions/chash.fish",
)

FILES = ":"
"""The line that stands for file names; no candidate is it."""

_BASH = """\
_chash() {
    local line files=
    COMPREPLY=()
    while IFS= read -r line; do
        if [ "$line" = : ]; then files=1; else COMPREPLY+=("$line"); fi
    done < <("$1" completion bash -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    [ -n "$files" ] || compopt +o default 2>/dev/null
    case ${COMPREPLY[0]} in *[=:]) compopt -o nospace 2>/dev/null ;; esac
}
complete -o default -F _chash chash
"""
_ZSH = """\
#compdef chash
_chash() {
    local line files=
    local -a found
    while IFS= read -r line; do
        if [[ $line == : ]]; then files=1; else found+=("$line"); fi
    done < <("${words[1]}" completion zsh -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    compset -P '--*='
    (( $#found )) && _describe -V chash found
    [[ -n $files ]] && _files
}
if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then _chash "$@"; else compdef _chash chash; fi
"""
_FISH = """\
function __chash_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    for line in ($words[1] completion fish -- $words[2..-1] "$word" 2>/dev/null)
        if test "$line" = :
            __fish_complete_path "$word"
        else
            echo $line
        end
    end
end
complete -c chash -f -a '(__chash_complete)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


class Candidate(NamedTuple):
    """One word that could stand there, and what it means, where there is something to say."""

    word: str
    text: str = ""


def command(
    shell: Annotated[
        str,
        typer.Argument(
            help="bash, zsh or fish.", metavar="SHELL", autocompletion=lambda: list(SCRIPTS)
        ),
    ],
    words: Annotated[list[str] | None, typer.Argument(hidden=True, metavar="WORD")] = None,
) -> None:
    """Print what lets bash, zsh or fish complete chash."""
    if shell not in SCRIPTS:
        raise UsageError(
            f"no completion for {shell!r}", where="SHELL", hint="chash completion bash, zsh or fish"
        )
    output = Output()
    if words is None:
        output.line(SCRIPTS[shell], end="")
        return
    found, files = complete(words)
    for candidate in found:
        output.line(_line(candidate, shell, words[-1]))
    if files:
        output.line(FILES)


def complete(words: Sequence[str]) -> tuple[list[Candidate], bool]:
    """What the last of ``words`` can become, and whether it can be the name of a file.

    Args:
        words: those after ``chash``, up to the cursor; the last may be empty.
    """
    from concepthash.cli.app import PARTS, VERBS, app

    *before, word = words
    group: Any = typer.main.get_command(app)
    context = group.make_context("chash", ["completion"], resilient_parsing=True)
    if not before:
        return _starting(word, _options(group) if word.startswith("-") else VERBS), False
    if before[0] not in VERBS:
        return [], False
    _, verb, rest = group.resolve_command(context, before)
    found, files = _within(verb, type(context)(verb, parent=context), rest, word)
    if len(before) == 1 and not word.startswith("-"):
        found = [*_starting(word, PARTS.get(before[0], {})), *found]
    return found, files


def _within(
    verb: Any, context: Any, before: Sequence[str], word: str
) -> tuple[list[Candidate], bool]:
    """The same of one verb; ``before`` are the words between it and ``word``."""
    taking = {name: p for p in verb.params for name in p.opts if not getattr(p, "is_flag", False)}
    given = [w for w in before if w != "="]  # bash hands over --name=value as three words
    place, waiting, verbatim = 0, None, False
    for w in given:
        if waiting is not None:
            waiting = None
        elif w == "--":
            verbatim = True
        elif verbatim or not w.startswith("-"):
            place += 1
        else:
            waiting = taking.get(w)
    if waiting is not None:
        return _values(waiting, context, "" if word == "=" else word)
    name, equals, value = word.partition("=")
    if equals and name in taking and not verbatim:
        return _values(taking[name], context, value)
    if word.startswith("-") and not verbatim:
        return _starting(word, _options(verb, given)), False
    places = [p for p in verb.params if p.param_type_name == "argument" and not p.hidden]
    if not places or (place >= len(places) and places[-1].nargs == 1):
        return [], False
    return _values(places[min(place, len(places) - 1)], context, word)


def _options(verb: Any, given: Sequence[str] = ()) -> dict[str, str]:
    """The names of the options that can still be given; short ones are short enough to type."""
    params = [p for p in verb.params if p.param_type_name == "option" and not p.hidden]
    free = [p for p in params if getattr(p, "multiple", False) or not set(p.opts) & set(given)]
    names = {name: p.help or "" for p in free for name in p.opts if name.startswith("--")}
    return {**names, "--help": "Show the help."}


def _values(param: Any, context: Any, word: str) -> tuple[list[Candidate], bool]:
    """Values of an option or an argument: those it has, or else files, unless it is a number."""
    done, comma, last = word.rpartition(",")
    known = [item.value for item in param.shell_complete(context, last)]
    if known or param.shell_complete(context, ""):
        return [Candidate(f"{done}{comma}{value}") for value in known], False
    name, _ = param.get_help_record(context)
    return [], not name.endswith((" <int>", " <float>"))


def _starting(word: str, names: dict[str, str]) -> list[Candidate]:
    return [Candidate(name, text) for name, text in names.items() if name.startswith(word)]


def _line(candidate: Candidate, shell: str, word: str) -> str:
    if shell == "bash":
        return candidate.word
    if shell == "zsh":
        escaped = candidate.word.replace(":", "\\:")
        return f"{escaped}:{candidate.text}" if candidate.text else escaped
    name, equals, _ = word.partition("=")  # fish replaces --name=value as one word
    whole = f"{name}=" if equals and name.startswith("--") else ""
    return f"{whole}{candidate.word}\t{candidate.text}"
