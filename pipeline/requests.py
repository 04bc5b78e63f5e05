"""Counts the requests this process makes to stores other than local disks, as stores price them.

Counted are calls that came to an end; what a store's client tried again by itself is not seen. Knows fsspec's cache of
blocks, through which files are read piece by piece, and nothing else.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from fsspec.caching import BlockCache, register_cache


@dataclass(frozen=True)
class Requests:
    """Writes are PUT and LIST, reads are GET and HEAD: stores have one price for each kind."""

    writes: int = 0
    reads: int = 0

    def since(self, before: Requests) -> Requests:
        return Requests(self.writes - before.writes, self.reads - before.reads)


class _Counter:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.so_far = Requests()


_counter = _Counter()


def requests() -> Requests:
    """What this process asked of stores since it began."""
    return _counter.so_far


def count(writes: int = 0, reads: int = 0) -> None:
    """Add to the count; safe from any thread."""
    with _counter.lock:
        now = _counter.so_far
        _counter.so_far = Requests(now.writes + writes, now.reads + reads)


class CountedBlocks(BlockCache):
    """fsspec's cache of blocks; each block it fetches is a request."""

    name = "luvc-blocks"

    def _fetch_block(self, block_number: int) -> bytes:
        count(reads=1)
        block: bytes = super()._fetch_block(block_number)
        return block


register_cache(CountedBlocks, clobber=True)
