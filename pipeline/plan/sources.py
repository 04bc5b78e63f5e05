"""Lists what to plan: files of a directory or glob, one file, or the rows of an input manifest.

Opens no video. Order is deterministic: sorted names, or the order of a manifest's rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from luvc.errors import ConfigError, LuvcError
from pipeline.errors import SourceMissing, StorageError
from pipeline.plan.item import Item
from pipeline.section import Section, StorageOptions, Url
from pipeline.storage import FileInfo, is_glob, list_files, stat

#: What counts as a video in a directory. A glob or a manifest names its files itself.
VIDEO_EXTENSIONS = frozenset(
    (".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".asf", ".mpg", ".mpeg")
) | {".vob", ".ts", ".mts", ".m2ts", ".mxf", ".ogv", ".ogg"}


class InputSource(Section):
    """One entry of `inputs`.

    Attributes:
        path: a directory, a glob, one file, or a manifest (.jsonl .csv .parquet); any fsspec URL.
        recursive: whether a directory's subdirectories are searched too.
        storage: options for fsspec; never written to any output.
    """

    path: Url
    recursive: bool = True
    storage: StorageOptions = Field(default_factory=dict)


def list_items(source: InputSource, key: str = "inputs.path") -> Iterator[Item]:
    """Items of one source.

    Args:
        source: where to look.
        key: full name of where the path was given, for messages.

    Raises:
        ConfigError: nothing there, no video among the files, or a bad row in a manifest.
    """
    # Reading a configuration imports this module, and should not wait for pyarrow.
    from pipeline.plan.item_files import MANIFEST_READERS, read_items

    path, options = source.path, source.storage
    if _extension(path) in MANIFEST_READERS and not is_glob(path):
        yield from read_items(path, options, key)
        return
    single = _stat_or_none(path, source, key)
    if single is not None:
        yield Item(path, single, storage=options)
        return
    try:
        files = list_files(path, options, source.recursive)
    except StorageError:
        raise  # the store's trouble is not the configuration's: trying again helps
    except Exception as error:
        raise ConfigError(f"{key}: {path} cannot be listed: {type(error).__name__}: {error}") from error
    if not files:
        raise ConfigError(f"{key}: {path}: no such file, folder or match", "check the path; nothing was planned")
    videos = files if is_glob(path) else [file for file in files if _extension(file.url) in VIDEO_EXTENSIONS]
    if not videos:
        raise ConfigError(
            f"{key}: {path} holds {len(files)} files, none with a video's extension",
            f"name them by a glob such as {path.rstrip('/')}/* if they are videos",
        )
    for file in videos:
        yield Item(file.url, file, storage=options)


def _stat_or_none(path: str, source: InputSource, key: str) -> FileInfo | None:
    """The file at `path`; None if it is a folder, a glob or nothing."""
    try:
        return stat(path, source.storage)
    except SourceMissing:
        return None
    except LuvcError as error:
        raise ConfigError(f"{key}: {error.message}", error.hint) from error


def _extension(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return "." + name.rsplit(".", 1)[-1].lower() if "." in name else ""


def storage_of(inputs: Sequence[InputSource], uri: str) -> dict[str, Any]:
    """The storage options for a video: those of the input it most likely came from.

    An input manifest may name videos anywhere on its store, so without a common path the protocol decides.
    """
    same = [source for source in inputs if _protocol(source.path) == _protocol(uri)]
    return dict(max(same, key=lambda source: _shared(source.path, uri)).storage) if same else {}


def _shared(one: str, other: str) -> int:
    """Leading path components that two URLs share."""
    pairs = enumerate(zip(one.split("/"), other.split("/"), strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(one.count("/"), other.count("/")) + 1)


def _protocol(url: str) -> str:
    return url.split("://", 1)[0] if "://" in url else "file"
