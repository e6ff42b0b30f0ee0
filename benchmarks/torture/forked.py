"""Thousands of runs of the command line: in forked children that have everything loaded already.

A child has little memory and little time, and a crash or a hang ends that case alone.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.torture.report import ROOT
from concepthash.decode import usable_cpus

CHILDREN = usable_cpus()
MEMORY = 3 << 30
"""Address space that a child may take beyond what it has at its start."""
SECONDS = 20.0

_PRELOADED = (
    "concepthash.cli.main", "concepthash.cli.index", "concepthash.cli.query",
    "concepthash.cli.inspect", "concepthash.cli.answers", "concepthash.cli.concepts",
    "concepthash.cli.dedupe", "concepthash.cli.knn_graph", "concepthash.cli.explain",
    "concepthash.runtime.sharded", "concepthash.runtime.galleries",
    "concepthash.cli.index_parts.verify", "concepthash.cli.index_parts.repair",
    "concepthash.runtime", "concepthash.runtime.indexing", "concepthash.runtime.repair",
    "concepthash.runtime.interchange", "concepthash.runtime.session", "concepthash.evaluation",
    "concepthash.runtime.tensorrt", "onnxruntime", "PIL.ImageFile", "pyarrow.parquet",
)  # fmt: skip


@dataclass
class Verb:
    """One run of a verb: its exit code and what it wrote, the folder of the case named ``@``."""

    line: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def wrong(self) -> str | None:
        """What is wrong with how it ended, whatever its answer; None if nothing."""
        if "Traceback" in self.err or "CHASH_DEBUG=1" in self.err:
            return f"an error nobody expected: {self.err.strip()[-300:]}"
        if self.code in (0, 3):
            return None
        if self.code not in (1, 2, 4, 5, 6, 7):
            return f"exit code {self.code}: {self.err.strip()[-300:]}"
        lines = self.err.strip().splitlines()
        if not any(line.startswith("where: ") for line in lines):
            return f"exit {self.code} without where: {self.err.strip()[-300:]}"
        if not any(line.startswith("try: ") for line in lines):
            return f"exit {self.code} without try: {self.err.strip()[-300:]}"
        return None

    def json(self) -> Any:
        """What it printed; None if that is no JSON."""
        try:
            return json.loads(self.out)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"chash {' '.join(self.line)}"


@dataclass
class Ended:
    """What became of a case: its verbs, and how the child ended."""

    name: str
    verbs: list[Verb] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ended: str = ""
    seconds: float = 0.0


Run = Callable[..., Verb]
"""``run("query", photo, ...)``: the command line, in the child."""
Work = Callable[[Path, Run, Callable[[str], None]], None]
"""What a case does in a folder of its own; it notes what else is wrong."""


def preload(*more: str) -> None:
    """Import what the children need, so that each has it at once.

    Args:
        more: modules beside the usual ones.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # a child has none of its parent's threads
    sys.path.insert(0, str(ROOT / "tests"))
    for name in (*_PRELOADED, *more):
        try:
            import_module(name)
        except ImportError:
            continue  # an extra that is not installed


def forked(
    cases: Iterable[tuple[str, Work]], folder: Path, *, seconds: float = SECONDS
) -> Iterator[Ended]:
    """Do each case in a child of its own, some at once; what became of each as it ends."""
    under_way: dict[int, tuple[str, Path, float]] = {}
    waiting = iter(enumerate(cases))
    more = True
    while more or under_way:
        while more and len(under_way) < CHILDREN:
            number, case = next(waiting, (0, None))
            if case is None:
                more = False
                break
            place = folder / f"case-{number}"
            place.mkdir()
            under_way[_start(case[1], place)] = (case[0], place, time.monotonic())
        done, status = os.waitpid(-1, os.WNOHANG)
        if done:
            name, place, began = under_way.pop(done)
            yield _ended(name, place, status, time.monotonic() - began)
            continue
        for child, (_, _, began) in under_way.items():
            if time.monotonic() - began > seconds:
                os.kill(child, signal.SIGKILL)
        if under_way:
            time.sleep(0.001)


def _start(work: Work, place: Path) -> int:
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        _be_poor()
        with (place / "errors").open("w") as errors:
            os.dup2(errors.fileno(), 2)
            faulthandler.enable(errors)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            os.chdir(place)
            said = (place / "said").open("w")
            here = str(place.resolve())

            def tell(kind: str, **values: object) -> None:
                text = json.dumps({"kind": kind, **values})
                said.write(text.replace(here, "@") + "\n")
                said.flush()

            def run(*line: object) -> Verb:
                words = tuple(map(str, line))
                done = _run(words)
                tell("verb", line=words, code=done.code, out=done.out, err=done.err)
                return Verb(words, done.code, done.out.replace(here, "@"), done.err)

            work(place, run, lambda text: tell("note", text=text))
            code = 0
    except BaseException as error:
        import traceback

        with (place / "said").open("a") as said:
            text = "".join(traceback.format_exception(error))[-600:]
            said.write(json.dumps({"kind": "note", "text": f"the case itself: {text}"}) + "\n")
    finally:
        os._exit(code)


def _be_poor() -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in [name for name in os.environ if name.startswith("CHASH_")]:
        del os.environ[name]


def _run(words: tuple[str, ...]) -> Verb:
    from concepthash.cli.main import run
    from concepthash.cli.output import Output

    Output.json_asked = Output.answered = False
    sys.argv = ["chash", *words]
    out, err = io.StringIO(), io.StringIO()
    code = 70
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException as error:
            err.write(f"Traceback: {error!r}")
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join(5)
    return Verb(words, code, out.getvalue(), err.getvalue())


def _ended(name: str, place: Path, status: int, seconds: float) -> Ended:
    found = Ended(name, seconds=seconds)
    said = place / "said"
    for line in said.read_text(errors="replace").splitlines() if said.exists() else ():
        values = json.loads(line)
        if values.pop("kind") == "note":
            found.notes.append(values["text"])
        else:
            found.verbs.append(Verb(tuple(values.pop("line")), **values))
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        found.ended = f"hung, and was killed after {seconds:.0f} s"
    elif code:
        tail = (place / "errors").read_text(errors="replace").strip()[-500:]
        found.ended = f"ended with {code}: {tail}"
    import shutil

    shutil.rmtree(place, ignore_errors=True)
    return found
