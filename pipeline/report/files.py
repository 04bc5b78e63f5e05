"""Reads and writes the files of one output folder: Parquet tables, event logs, small files.

Knows fsspec and pyarrow, and the layout of the output folder; nothing of what the numbers mean.
"""

from __future__ import annotations

import os
import posixpath
import uuid
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.dataset as ds


@dataclass(frozen=True)
class Output:
    """An output folder on any file system.

    Args:
        fs: the fsspec file system.
        root: path of the folder on it, without the protocol.
    """

    fs: Any
    root: str

    @staticmethod
    def at(url: str, storage_options: dict[str, Any] | None = None) -> Output:
        """The output folder at `url`; nothing is created and nothing cached is trusted."""
        fs, root = fsspec.core.url_to_fs(url, **(storage_options or {}))
        fs.invalidate_cache()
        return Output(fs, root.rstrip("/"))

    def path(self, *parts: str) -> str:
        return posixpath.join(self.root, *parts)

    def parts(self, folder: str) -> list[str]:
        """Paths of the `*.parquet` files below `folder`, sorted; files still being written are left out."""
        try:
            found = self.fs.find(self.path(folder))
        except FileNotFoundError:
            return []
        names = ((path, posixpath.basename(path)) for path in found)
        return sorted(path for path, name in names if name.endswith(".parquet") and name[0] not in "._")

    def table(self, folder: str, schema: pa.Schema, columns: list[str], where: ds.Expression | None = None) -> pa.Table:
        """`columns` of all Parquet files below `folder`; a column that older files lack is null."""
        paths = self.parts(folder)
        if not paths:
            return pa.schema([schema.field(name) for name in columns]).empty_table()
        dataset = ds.dataset(paths, schema=schema, format="parquet", filesystem=self.fs)
        return dataset.to_table(columns=columns, filter=where)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly below `folder`, sorted."""
        try:
            entries = self.fs.ls(self.path(folder), detail=True)
        except FileNotFoundError:
            return []
        return sorted(posixpath.basename(e["name"].rstrip("/")) for e in entries if e["type"] == "directory")

    def read_text(self, *parts: str) -> str | None:
        """The file's text, or None if there is no such file."""
        try:
            data = self.fs.cat_file(self.path(*parts))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return bytes(data).decode("utf-8", errors="replace")

    def write(self, data: bytes, *parts: str) -> None:
        """Put a whole file in place: readers see the old one or the new one, never a half."""
        path = self.path(*parts)
        self.fs.makedirs(posixpath.dirname(path), exist_ok=True)
        if "file" not in _protocols(self.fs):  # an object store shows an object when it is complete
            self.fs.pipe_file(path, data)
            return
        aside = posixpath.join(posixpath.dirname(path), f".{posixpath.basename(path)}.{uuid.uuid4().hex}.tmp")
        self.fs.pipe_file(aside, data)
        os.replace(aside, path)


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
