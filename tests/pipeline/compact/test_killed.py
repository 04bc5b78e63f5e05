"""Compaction killed after any change of the store: nothing is lost or doubled."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.compact import compact
from tests.pipeline.compact.places import FAILED, UNITS, Place

WRITE_LOCAL = storage._write_local


class Killed(BaseException):
    """Stands for SIGKILL."""


class Axe:
    """Kills after a change of the store, and lets no other call through: a process that is gone does nothing more.

    A kill after a call that only reads leaves the store as the change before left it.
    """

    CHANGES = {"pipe_file", "rm_file"}

    def __init__(self, after: int) -> None:
        self._left = after
        self._lock = threading.Lock()
        self.fallen = False

    def retry(self, call: Callable[[], Any]) -> Any:
        return self._through(call, bool(self.CHANGES.intersection(call.__code__.co_names)))

    def write_local(self, path: Path, data: bytes) -> None:
        self._through(functools.partial(WRITE_LOCAL, path, data), True)

    def _through(self, call: Callable[[], Any], changes: bool) -> Any:
        with self._lock:
            if self.fallen:
                raise Killed
            done = call()
            self._left -= changes
            if self._left <= 0:
                self.fallen = True
                raise Killed
            return done


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Place], bool]:
    """Compact, killed after so many changes of the store; whether it came to that."""

    def go(changes: int, place: Place) -> bool:
        axe = Axe(changes)
        with monkeypatch.context() as patched:
            patched.setattr(storage, "retry", axe.retry)
            patched.setattr(storage, "_write_local", axe.write_local)
            try:
                compact(place.url, place.options)
            except Killed:
                return True
        return False

    return go


def test_killed_after_any_change_of_the_store(new_place, three, killed_after):
    expected = new_place(three).rows("results")
    doubled = 0
    for changes in itertools.count(1):
        place = new_place(three)
        if not killed_after(changes, place):
            break
        assert place.rows("results") == expected
        assert place.done() == UNITS - FAILED
        doubled += place.plain_rows("results") > len(expected)
        compact(place.url, place.options)
        assert place.rows("results") == expected
        assert place.plain_rows("results") == len(expected)
        assert len(place.files("results")) == 1
    # The lease is written, the new file, three are deleted, then the lease.
    assert changes == 7
    assert doubled == 3, "killed after the write, and with one and two files deleted"


def test_killed_again_and_again_it_still_gets_there(new_place, three, killed_after):
    """The one that cleans up is killed, too."""
    place = new_place(three)
    expected = place.rows("results")
    for changes in itertools.count(2):
        if not killed_after(changes, place):
            break
        assert place.rows("results") == expected
    assert place.plain_rows("results") == len(expected)
    assert len(place.files("results")) == 1
