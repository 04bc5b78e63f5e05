"""The output folder as a run sees it: checked before anything, files read and written whole, parts listed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.errors import SourceMissing
from pipeline.events import EventLog
from pipeline.parts import is_part
from pipeline.plan import headers, manifest


class Folder:
    """One output folder on any store.

    Args:
        root: its URL.
        options: for fsspec.
    """

    def __init__(self, root: str, options: dict[str, Any] | None = None) -> None:
        self._root = root.rstrip("/") or "/"
        self._options = options or {}

    @staticmethod
    def of(config: RunConfig) -> Folder:
        return Folder(config.output.path, config.output.storage)

    def url(self, path: str) -> str:
        return storage.join(self._root, path)

    @contextmanager
    def writable(self) -> Iterator[None]:
        """Check that files can be written here; folders that are made and stay empty are removed at the end.

        Raises:
            OutputError: it cannot be written.
        """
        storage.check_writable(self._root, self._options)
        made = []
        if storage.is_local(self._root):
            root = Path(self._root.removeprefix("file://"))
            made = [folder for folder in (root, *root.parents) if not folder.exists()]
        try:
            yield
        finally:
            with suppress(OSError):
                for folder in made:
                    folder.rmdir()

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file, or nothing. Raises OutputError or StorageError."""
        storage.write_atomic(self.url(path), data, self._options)

    def read(self, path: str) -> bytes | None:
        """The file's bytes; None if there is none."""
        try:
            return storage.read_bytes(self.url(path), self._options)
        except SourceMissing:
            return None

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        storage.remove([self.url(path)], self._options)

    def parts(self, folder: str) -> list[str]:
        """URLs of the part files below a folder, sorted; what a killed writer left behind is not among them."""
        return [info.url for info in storage.list_files(self.url(folder), self._options) if is_part(info.url)]

    def open(self, url: str) -> IO[bytes]:
        """One of `parts`, for reading."""
        return storage.open_read(url, self._options)

    def read_manifest(self) -> pa.Table | None:
        """The manifest; None if there is none."""
        try:
            return manifest.read_manifest(self._root, self._options)
        except SourceMissing:
            return None

    def write_manifest(self, table: pa.Table) -> None:
        """Replace the manifest."""
        manifest.write_manifest(table, self._root, self._options)

    def read_probes(self) -> pa.Table | None:
        """Facts of files that the last plan left; None if there are none."""
        return headers.read_probes(self._root, self._options)

    def write_probes(self, table: pa.Table) -> None:
        """Replace them."""
        headers.write_probes(table, self._root, self._options)

    def run_without_report(self) -> bool:
        """Whether the newest run ended before its report was written."""
        files = [info.url.rsplit("/", 2)[1:] for info in storage.list_files(self.url("runs"), self._options)]
        newest = max((run_id for run_id, _ in files), default=None)
        return newest is not None and [newest, "report.html"] not in files

    def event_log(self, run_id: str) -> EventLog:
        """The log of a run below this folder."""
        url = self.url(f"runs/{run_id}/events.jsonl")
        if storage.is_local(url):
            return EventLog(run_id, path=Path(url.removeprefix("file://")))
        return EventLog(run_id, put=lambda data: storage.write_atomic(url, data, self._options))
