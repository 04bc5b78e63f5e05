"""Where videos come from."""

from __future__ import annotations

from pydantic import Field

from pipeline.section import Section, StorageOptions, Url


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
