"""Joins small part files of an output into files of the size that was asked for; without a row lost or doubled.

One step for each new file, and a kill between any two leaves an output that reads the same:

1. Small files of one folder are read until their rows fill a file.
2. The new file is written, whole or not at all. Its footer names those it replaces, which from then on do not count
   (`pipeline.parts`).
3. Those are deleted. What a killed compaction left of them is deleted first of all by the next one.

A file of at least half the size is left alone, and so is a small one that has no other to be joined with. The lease of
the output is held throughout, so no run writes meanwhile; readers need no lease. Knows nothing of Ray.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schemas, storage
from pipeline.config import PART_BYTES
from pipeline.errors import StorageError
from pipeline.parts import (
    ARROW_BYTES,
    MOST_ARROW_BYTES,
    READERS,
    Batch,
    compacted_name,
    encode,
    facts_of,
    is_compacted,
    is_part,
    replaced_by,
)
from pipeline.report.format import plural
from pipeline.run.folder import Folder
from pipeline.run.lease import Lease
from pipeline.storage import FileInfo

KINDS: Mapping[str, pa.Schema] = {
    "results": schemas.RESULTS,
    "failures": schemas.FAILURES,
    "metrics": schemas.METRICS,
    "quality": schemas.QUALITY,
}
#: A file smaller than this share of the size that was asked for is small.
SMALL = 0.5


@dataclass(frozen=True)
class Compacted:
    """What became of one kind of files.

    Attributes:
        kind: results, failures, metrics or quality.
        files, bytes: before and after.
    """

    kind: str
    files: tuple[int, int]
    bytes: tuple[int, int]

    def __str__(self) -> str:
        if self.files[0] == self.files[1]:
            return f"{self.kind}: {plural(self.files[0], 'file')}, nothing to join"
        before, after = (
            f"{plural(count, 'file')}, {size / 1e6:.2f} MB" for count, size in zip(self.files, self.bytes, strict=True)
        )
        return f"{self.kind}: {before} -> {after}"


def compact(
    url: str,
    options: dict[str, Any] | None = None,
    part_bytes: int = PART_BYTES,
    say: Callable[[str], None] = lambda text: None,
) -> list[Compacted]:
    """Compact an output folder; again and again does no harm.

    Args:
        url: the output folder.
        options: for fsspec.
        part_bytes: size of the files that are wanted.
        say: told while another holder of the lease is watched.

    Returns:
        One for each kind of files there is.

    Raises:
        pipeline.run.lease.OutputBusy: a run writes to this output.
        StorageError, OutputError: the store does not take it; what is done stays done.
    """
    folder = Folder(url, options)
    there = [kind for kind in KINDS if folder.parts(kind)]
    if not there:  # not even a lease is written into a folder that is no output
        return []
    with Lease(folder, "luvc compact", say).kept() as check:
        return [_Kind(url, options or {}, kind, part_bytes, check).compact() for kind in there]


@dataclass
class _Sources:
    """Files that were read and are to become one."""

    batch: Batch
    files: list[FileInfo] = field(default_factory=list)
    rows: int = 0
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Kind:
    """The files of one kind, in all their folders."""

    url: str
    options: dict[str, Any]
    kind: str
    part_bytes: int
    check: Callable[[], None]

    def compact(self) -> Compacted:
        before = self._list()
        for name, files in _by_folder(before).items():
            self._folder(name, self._without_replaced(files))
        after = self._list()
        return Compacted(self.kind, (len(before), len(after)), (_size(before), _size(after)))

    def _list(self) -> list[FileInfo]:
        files = storage.list_files(storage.join(self.url, self.kind), self.options)
        return [info for info in files if is_part(info.url)]

    def _without_replaced(self, files: Sequence[FileInfo]) -> list[FileInfo]:
        """Small files of a folder, once those are deleted that do not count any more."""
        made = [info.url for info in files if is_compacted(info.url)]
        with ThreadPoolExecutor(READERS) as pool:
            footers = dict(zip(made, pool.map(self._footer, made), strict=True))
        replaced = frozenset[str]().union(*(replaced_by(footer) for footer in footers.values()))
        gone = {info.url for info in files if posixpath.basename(info.url) in replaced}
        self._remove(sorted(gone))

        def is_small(info: FileInfo) -> bool:
            # Few bytes can be many rows, if they are alike.
            arrow_bytes = int(footers.get(info.url, {}).get(ARROW_BYTES, 0))
            return info.size_bytes < SMALL * self.part_bytes and arrow_bytes < SMALL * MOST_ARROW_BYTES

        return [info for info in files if info.url not in gone and is_small(info)]

    def _folder(self, folder: str, small: Sequence[FileInfo]) -> None:
        """Join the small files of a folder. By name, so by time: neighbours come from the same part of the plan."""
        if len(small) < 2:
            return
        sources = _Sources(Batch(self.part_bytes))
        for info, (table, footer) in self._read_ahead(small):
            sources.batch.add(table)
            sources.files.append(info)
            sources.rows += table.num_rows
            sources.facts |= facts_of(footer)
            if sources.batch.full:
                self._join(folder, sources)
                sources = _Sources(sources.batch)
        self._join(folder, sources)

    def _join(self, folder: str, sources: _Sources) -> None:
        """Write one file in place of others."""
        if len(sources.files) < 2:
            sources.batch.written(_size(sources.files))
            return
        names = sorted(posixpath.basename(info.url) for info in sources.files)
        table = sources.batch.table
        data = encode(table, sources.facts, names)
        if pq.read_metadata(io.BytesIO(data)).num_rows != sources.rows:
            raise StorageError(f"{folder}: the joined file lacks rows", "nothing was deleted; please report this")
        first = pc.min(table["run_id"]).as_py() or "unknown"
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
        url = storage.join(folder, compacted_name(first, digest))
        self.check()
        storage.write_atomic(url, data, self.options)
        if storage.stat(url, self.options).size_bytes != len(data):
            raise StorageError(f"{url}: is not what was written", "its sources are still there; try again")
        self._remove([info.url for info in sources.files])
        sources.batch.written(len(data))

    def _remove(self, urls: Sequence[str]) -> None:
        if urls:
            self.check()
            storage.remove(urls, self.options)

    def _read_ahead(
        self, files: Sequence[FileInfo]
    ) -> Iterator[tuple[FileInfo, tuple[pa.Table, Mapping[bytes, bytes]]]]:
        """Files with their rows, in order; at the same time are fetched so many as make a small file."""
        with ThreadPoolExecutor(READERS) as pool:
            for some in _cut(files, int(SMALL * self.part_bytes)):
                yield from zip(some, pool.map(self._read, some), strict=True)

    def _read(self, info: FileInfo) -> tuple[pa.Table, Mapping[bytes, bytes]]:
        try:
            file = pq.ParquetFile(io.BytesIO(storage.read_bytes(info.url, self.options)))
            return conform(file.read(), KINDS[self.kind]), file.metadata.metadata or {}
        except pa.ArrowException as error:
            raise StorageError(f"{info.url}: cannot be read: {error}", "move it away, and try again") from error

    def _footer(self, url: str) -> Mapping[bytes, bytes]:
        with storage.open_read(url, self.options) as file:
            return pq.read_metadata(file).metadata or {}


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of any version of a schema under the present one: columns they lack are null, others stay at the end.

    Raises:
        pyarrow.ArrowInvalid: a column cannot be what the schema says.
    """
    wide = pa.concat_tables([schema.empty_table(), table], promote_options="permissive")
    fields = [schema.field(name) if name in schema.names else wide.schema.field(name) for name in wide.schema.names]
    return wide.cast(pa.schema(fields, metadata=schema.metadata))


def _by_folder(files: Sequence[FileInfo]) -> dict[str, list[FileInfo]]:
    folders: dict[str, list[FileInfo]] = {}
    for info in files:
        folders.setdefault(posixpath.dirname(info.url), []).append(info)
    return folders


def _cut(files: Sequence[FileInfo], most_bytes: int) -> Iterator[list[FileInfo]]:
    """Runs of files that have at most so many bytes together; at least one file each."""
    some: list[FileInfo] = []
    left = most_bytes
    for info in files:
        if some and info.size_bytes > left:
            yield some
            some, left = [], most_bytes
        some.append(info)
        left -= info.size_bytes
    if some:
        yield some


def _size(files: Sequence[FileInfo]) -> int:
    return sum(info.size_bytes for info in files)
