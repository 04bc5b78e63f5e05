"""Reads and writes the files of one output folder: Parquet tables, event logs, small files.

Knows the layout of the output folder and pyarrow; nothing of what the numbers mean.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline import storage
from pipeline.parts import is_part, read_live


@dataclass(frozen=True)
class Output:
    """An output folder.

    Args:
        url: of the folder.
        options: for fsspec.
        fs, root: its file system, and its path on it.
    """

    url: str
    options: dict[str, Any]
    fs: Any
    root: str

    @staticmethod
    def at(url: str, options: dict[str, Any] | None = None) -> Output:
        """The output folder at `url`; nothing is created."""
        fs, root = storage.filesystem(url, options)
        fs.invalidate_cache()
        return Output(url, options or {}, fs, root.rstrip("/"))

    def parts(self, folder: str) -> list[str]:
        """URLs of the part files below `folder`, sorted; files still being written are left out."""
        url = storage.join(self.url, folder)
        return [info.url for info in storage.list_files(url, self.options) if is_part(info.url)]

    def table(self, folder: str, schema: pa.Schema, columns: list[str], where: ds.Expression | None = None) -> pa.Table:
        """`columns` of all Parquet files below `folder`; a column that older files lack is null."""

        def opened(url: str) -> IO[bytes]:
            return storage.open_read(url, self.options)

        return read_live(lambda: self.parts(folder), opened, schema, columns, where)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly below `folder`, sorted."""
        try:
            entries = storage.retry(lambda: self.fs.ls(self._path(folder), detail=True))
        except FileNotFoundError:
            return []
        return sorted(posixpath.basename(e["name"].rstrip("/")) for e in entries if e["type"] == "directory")

    def read_text(self, *parts: str) -> str | None:
        """The file's text, or None if there is no such file."""
        try:
            data = storage.retry(lambda: self.fs.cat_file(self._path(*parts)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return bytes(data).decode("utf-8", errors="replace")

    def write(self, data: bytes, *parts: str) -> None:
        """Put a whole file in place: readers see the old one or the new one, never a half."""
        storage.write_atomic(storage.join(self.url, *parts), data, self.options)

    def remove(self, *parts: str) -> None:
        """Delete a file, if it is there."""
        storage.remove([storage.join(self.url, *parts)], self.options)

    def _path(self, *parts: str) -> str:
        return posixpath.join(self.root, *parts)
