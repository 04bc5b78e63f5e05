"""The output folder as a run sees it: checked before anything, files read and written whole, parts listed."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from luvc.errors import ConfigError
from pipeline.config import RunConfig
from pipeline.events import EventLog

MANIFEST_FILE = "manifest/manifest.parquet"
PROBE_FILE = ".writable"


class OutputError(ConfigError):
    """The output folder cannot be written."""


class Folder:
    """One output folder on any store.

    Args:
        root: its URL.
        storage: options for fsspec.
    """

    def __init__(self, root: str, storage: dict[str, Any]) -> None:
        self._url = root.rstrip("/")
        self._fs, self._root = fsspec.core.url_to_fs(self._url, use_listings_cache=False, **storage)

    @staticmethod
    def of(config: RunConfig) -> Folder:
        return Folder(config.output.path, config.output.storage)

    def url(self, path: str) -> str:
        return posixpath.join(self._url, path)

    @property
    def local(self) -> Path | None:
        """The folder on this machine's disk, or None."""
        return Path(self._root) if "file" in _protocols(self._fs) else None

    @contextmanager
    def writable(self) -> Iterator[None]:
        """Check that files can be written here; a folder that is still empty at the end is removed again.

        Raises:
            OutputError: it cannot be written.
        """
        new = self._missing_folders()
        try:
            self.write(PROBE_FILE, b"")
            self.remove(PROBE_FILE)
        except Exception as error:
            self._remove_empty(new)
            raise OutputError(
                f"output.path {self._url} cannot be written: {type(error).__name__}: {error}",
                "check the path, its permissions and output.storage",
            ) from error
        try:
            yield
        finally:
            self._remove_empty(new)

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file, or nothing."""
        from pipeline.storage import write_atomic

        write_atomic(self.url(path), data)

    def read(self, path: str) -> bytes | None:
        """The file's bytes; None if there is none."""
        try:
            return self._fs.cat_file(self._full(path))
        except FileNotFoundError:
            return None

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._full(path))

    def parts(self, folder: str) -> list[str]:
        """Part files below a folder, whole ones only, sorted."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(self._full(folder))
        except FileNotFoundError:
            return []
        return sorted(
            path for path in found if posixpath.basename(path).startswith("part-") and path.endswith(".parquet")
        )

    def open(self, path: str) -> IO[bytes]:
        """A file of `parts`, for reading."""
        return self._fs.open(path, "rb")

    def has_manifest(self) -> bool:
        return bool(self._fs.exists(self._full(MANIFEST_FILE)))

    def read_manifest(self) -> pa.Table:
        with self.open(self._full(MANIFEST_FILE)) as file:
            return pq.read_table(file)

    def write_manifest(self, table: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        self.write(MANIFEST_FILE, buffer.getvalue())

    def event_log(self, run_id: str) -> EventLog:
        path = f"runs/{run_id}/events.jsonl"
        if self.local:
            return EventLog(run_id, path=self.local / path)
        return EventLog(run_id, put=lambda data: self.write(path, data))

    def _full(self, path: str) -> str:
        return posixpath.join(self._root, path)

    def _missing_folders(self) -> list[Path]:
        """Folders that a first write will make, innermost first."""
        if not self.local:
            return []
        return [folder for folder in (self.local, *self.local.parents) if not folder.exists()]

    @staticmethod
    def _remove_empty(folders: list[Path]) -> None:
        with suppress(OSError):
            for folder in folders:
                folder.rmdir()


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
