"""What runs on a machine of the cluster: a worker that reads, digests and hashes.

It gets its bundle and the digests of the gallery through Ray's object store, works with the same
:class:`concepthash.runtime.engine.LocalEngine` as the plain command, and answers in rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from concepthash.bundle import MANIFEST, Bundle
from concepthash.errors import BackendError, ConceptHashError, MismatchError
from concepthash.runtime.engine import LocalEngine, Outcome, Photo
from concepthash.runtime.entries import Entry, IndexReport, valid_text
from concepthash.runtime.hasher import Hasher
from concepthash.runtime.sources import Place

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Settings:
    """How a worker opens its hasher; as :class:`concepthash.runtime.hasher.Hasher`.

    Args:
        threads: by default as many as the worker has CPUs.
    """

    device: str = "auto"
    threads: int | None = None
    batch_size: int | None = None
    backend: str = "auto"
    precision: str | None = None


@dataclass(frozen=True)
class Shipped:
    """A bundle as content, for machines that do not see its folder.

    Args:
        name: of its folder or file.
        files: name -> content; of a lone ONNX file only that.
        fingerprint: what it must turn out to be.
    """

    name: str
    files: Mapping[str, bytes]
    fingerprint: str

    @classmethod
    def of(cls, bundle: Bundle) -> Shipped:
        """The content of a bundle, compared with its digests."""
        fingerprint = bundle.manifest.fingerprint
        if bundle.alone:
            files = {bundle.path.name: bundle.path.read_bytes()}
        else:
            bundle.verify()
            names = (MANIFEST, *bundle.manifest.files)
            files = {name: (bundle.path / name).read_bytes() for name in names}
        return cls(bundle.path.resolve().name, files, fingerprint)

    def unpack(self, folder: Path) -> Bundle:
        """Write it into ``folder`` and open it.

        Raises:
            BundleError: if it did not arrive whole.
            MismatchError: if it is another one.
        """
        alone = MANIFEST not in self.files
        place = folder if alone else folder / self.name
        place.mkdir(exist_ok=True)
        for name, content in self.files.items():
            (place / name).write_bytes(content)
        bundle = Bundle.open(folder / self.name)
        bundle.verify()
        if bundle.manifest.fingerprint != self.fingerprint:
            raise MismatchError("another bundle arrived than was sent", where=self.name)
        return bundle


@dataclass(frozen=True)
class Contents:
    """Digests to be looked up among, in arrays that every worker of a machine shares.

    Args:
        heads: ``(n,)`` uint64, the first eight bytes of each, ascending.
        digests: ``(n, 32)`` uint8, aligned with them.
    """

    heads: npt.NDArray[np.uint64]
    digests: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, digests: npt.NDArray[np.uint8]) -> Contents:
        """Those of ``(n, 32)`` uint8, in any order."""
        heads = np.ascontiguousarray(digests[:, :8]).view(">u8").ravel().astype(np.uint64)
        order = np.argsort(heads, kind="stable")
        return cls(heads[order], digests[order])

    def __contains__(self, digest: str) -> bool:
        wanted = bytes.fromhex(digest)
        head = np.uint64(int.from_bytes(wanted[:8]))
        first, last = (int(np.searchsorted(self.heads, head, side)) for side in ("left", "right"))
        return any(self.digests[row].tobytes() == wanted for row in range(first, last))


class Worker:
    """What an actor of the pool runs: a hasher, opened once; photos in, rows out.

    An error that no photo is to blame for is a row too, so that it reaches the user as it is.

    Args:
        refs: of :class:`Shipped` and :class:`Contents` in the object store.
        settings: of the hasher.
    """

    def __init__(self, refs: list[Any], settings: Settings) -> None:
        import ray

        self._fatal: ConceptHashError | None = None
        shipped, self._contents = ray.get(refs)
        self._node: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        try:
            with TemporaryDirectory(prefix="chash-bundle-") as folder:
                self._hasher = Hasher(
                    shipped.unpack(Path(folder)),
                    device=settings.device,
                    threads=settings.threads,
                    batch_size=settings.batch_size,
                    backend=settings.backend,
                    precision=settings.precision,
                )
            self._engine = LocalEngine(self._hasher)
        except ConceptHashError as error:
            self._fatal = error

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """A row for each photo of ``table``, as :class:`_Rows` writes them."""
        if self._fatal is not None:
            return _failure(self._fatal)
        jobs = [
            Photo(Entry(Path(), id=number), None, Place(os.fsdecode(file), row, column))
            for number, file, row, column in zip(
                *(table.column(name).to_pylist() for name in ("number", "file", "row", "column")),
                strict=True,
            )
        ]
        rows = _Rows(self._contents)
        try:
            self._engine.process(jobs, rows)
        except ConceptHashError as error:
            return _failure(error)
        except Exception as error:  # or Ray would tell of it with all its own frames
            return _failure(BackendError(f"a worker failed: {type(error).__name__}: {error}"))
        return rows.table(backend=self._hasher.backend, node=self._node)


class _Rows:
    """A worker's desk (:class:`concepthash.runtime.engine.Desk`): outcomes become rows."""

    dry = False

    def __init__(self, contents: Contents) -> None:
        self.report = IndexReport()
        self._contents = contents
        self._outcomes: list[Outcome] = []
        self._hashed: set[str] = set()

    def has(self, digest: str) -> bool:
        """Whether the gallery had a content when the run began, or these photos had it before."""
        return digest in self._hashed or digest in self._contents

    def contents(self) -> npt.NDArray[np.uint8]:
        """As :meth:`concepthash.runtime.engine.Desk.contents`."""
        return self._contents.digests

    def take(self, outcome: Outcome) -> bool:
        """Keep an outcome for :meth:`table`."""
        if outcome.digest is not None and outcome.code is not None:
            self._hashed.add(outcome.digest)
        self._outcomes.append(outcome)
        return True

    def table(self, **about: Any) -> pyarrow.Table:
        """The rows: number, digest, code, reason; the first has what there is to say of all."""
        import pyarrow

        waits = asdict(self.report.waits)
        told = json.dumps({**about, "hashed": self.report.hashed, "waits": waits})
        rows = self._outcomes
        return pyarrow.table(
            {
                "number": pyarrow.array([o.photo.entry.id for o in rows], pyarrow.int64()),
                "digest": pyarrow.array([o.digest for o in rows], pyarrow.string()),
                "code": pyarrow.array(
                    [None if o.code is None else o.code.tobytes() for o in rows], pyarrow.binary()
                ),
                "reason": pyarrow.array(
                    [None if o.reason is None else valid_text(o.reason) for o in rows],
                    pyarrow.string(),
                ),
                "about": pyarrow.array([told] + [None] * (len(rows) - 1), pyarrow.string()),
            }
        )


def _failure(error: ConceptHashError) -> pyarrow.Table:
    """An error as a row."""
    import pyarrow

    what = {"kind": type(error).__name__, "what": error.what, "where": error.where}
    told = json.dumps({"fatal": {**what, "hint": error.hint}})
    text = pyarrow.array([None], pyarrow.string())
    return pyarrow.table(
        {
            "number": pyarrow.array([-1], pyarrow.int64()),
            "digest": text,
            "code": pyarrow.array([None], pyarrow.binary()),
            "reason": text,
            "about": pyarrow.array([told], pyarrow.string()),
        }
    )
