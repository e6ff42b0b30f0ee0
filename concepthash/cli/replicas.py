"""Who searches for ``chash query`` and ``chash serve``: this process, or replicas on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from concepthash.cli import options
from concepthash.cli.group import end
from concepthash.cli.options import check_engine, setting
from concepthash.errors import UsageError

if TYPE_CHECKING:
    from concepthash.runtime.galleries import AnyGallery
    from concepthash.serve.held import AnyHeld

Count = Annotated[
    int | None, setting("--replicas", text="With ray: processes that hold each shard; 1.")
]
Cpus = Annotated[
    float | None,
    setting("--cpus-per-replica", text="With ray: and that Ray reserves for each; 0."),
]
Timeout = Annotated[
    float | None,
    setting("--shard-timeout", text="With ray: seconds a shard has to answer, or is left out; 10."),
]


@dataclass(frozen=True)
class Replicas:
    """The options of replicas; None: as their help says."""

    address: str | None = None
    count: int | None = None
    cpus: float | None = None
    seconds: float | None = None

    def check(self, engine: str) -> None:
        """Refuse what cannot be, before anything is started.

        Raises:
            UsageError: naming the option.
        """
        check_engine(engine, self.address)
        for option, value, least in (
            ("--replicas", self.count, 1),
            ("--cpus-per-replica", self.cpus, 0),
            ("--shard-timeout", self.seconds, 0.1),
        ):
            if value is not None and engine != "ray":
                raise UsageError("only a cluster has replicas", where=option, hint="--engine ray")
            if value is not None and not least <= value <= 10_000:
                raise UsageError(
                    f"{value:g} is not between {least:g} and 10000",
                    where=option,
                    hint=f"{option} {max(least, 1):g}",
                )

    @contextmanager
    def serving(
        self, named: Path, opened: AnyGallery, *, lasting: bool, tell: Callable[[str], None]
    ) -> Iterator[AnyHeld]:
        """A gallery held by replicas, for as long as the block runs.

        Args:
            named: its folder; of the copy of a URL, each machine fetches one of its own.
            opened: the same, on this machine.
            lasting: whether other commands may use the replicas.
            tell: told a line while it takes long, and when a shard is lost and back.

        Raises:
            BackendError: if Ray is missing, no cluster answers, or no replica can be had.
        """
        from concepthash.cluster.start import connected

        with connected(self.address, lost=end):
            from concepthash.cluster.deploying import Gallery
            from concepthash.cluster.serving import serving

            with serving(
                Gallery(opened.path, opened.fingerprint, options.url_of(named)),
                lasting=lasting,
                replicas=self.count or 1,
                cpus=self.cpus or 0.0,
                seconds=self.seconds or 10.0,
                tell=tell,
            ) as held:
                yield held
