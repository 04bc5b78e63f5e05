"""One run at a time: alive, dead, silent and stolen leases; no clock is compared with another."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import pytest

from pipeline import children
from pipeline.run.lease import FILE, RENEW_S, STALE_S, Lease, OutputBusy, Process


class Files(dict):
    def read(self, path):
        return self.get(path)

    def write(self, path, data):
        self[path] = data

    def remove(self, path):
        self.pop(path, None)


class Time:
    def __init__(self):
        self.now, self.on_sleep = 0.0, lambda: None

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.on_sleep()


ELSEWHERE = Process("another-machine", 7, "1")


@pytest.fixture
def files():
    return Files()


@pytest.fixture
def time():
    return Time()


def lease(files, time, run_id, process=None):
    return Lease(files, run_id, clock=time.clock, sleep=time.sleep, process=process)


def test_one_after_the_other(files, time):
    for run_id in ("a", "b"):
        mine = lease(files, time, run_id)
        mine.acquire()
        assert FILE in files
        mine.release()
        assert FILE not in files


def test_a_live_holder_on_this_machine_is_seen_at_once(files, time):
    lease(files, time, "a").acquire()
    before = time.now
    with pytest.raises(OutputBusy, match=f"run \\(a, process {os.getpid()}"):
        lease(files, time, "b").acquire()
    assert time.now == before


def test_a_dead_holder_on_this_machine_is_seen_at_once(files, time):
    child = children.run(
        [
            sys.executable,
            "-c",
            "from pipeline.run.lease import Process as P; p = P.this(); print(p.host, p.pid, p.started)",
        ],
        check=True,
    )
    host, pid, started = child.stdout.split()
    lease(files, time, "a", Process(host, int(pid), started)).acquire()
    before = time.now
    lease(files, time, "b").acquire()
    assert time.now - before < 1


def test_a_number_that_another_process_now_has_is_a_dead_holder(files, time):
    lease(files, time, "a", Process(Process.this().host, os.getpid(), "0")).acquire()
    lease(files, time, "b").acquire()


def test_a_live_holder_elsewhere_is_seen_when_it_renews(files, time):
    other = lease(files, time, "a", ELSEWHERE)
    other.acquire()
    time.on_sleep = other.renew
    before = time.now
    with pytest.raises(OutputBusy, match="another-machine"):
        lease(files, time, "b").acquire()
    assert time.now - before <= RENEW_S + STALE_S / 20 + 1


def test_a_silent_holder_elsewhere_loses_it(files, time):
    lease(files, time, "a", ELSEWHERE).acquire()
    before = time.now
    mine = lease(files, time, "b")
    mine.acquire()
    assert STALE_S <= time.now - before <= STALE_S + 5
    time.now += RENEW_S
    mine.renew()


def test_a_holder_that_was_suspended_notices(files, time):
    slow = lease(files, time, "a", ELSEWHERE)
    slow.acquire()
    lease(files, time, "b").acquire()
    time.now += RENEW_S
    with pytest.raises(OutputBusy):
        slow.renew()
    slow.release()
    assert b'"b"' in files[FILE]


def test_a_holder_that_was_suspended_until_the_other_had_finished_notices(files, time):
    """What it knows of the output is from before: it must not take the free lease again."""
    slow = lease(files, time, "a", ELSEWHERE)
    slow.acquire()
    other = lease(files, time, "b")
    other.acquire()
    other.release()
    with pytest.raises(OutputBusy, match="another run has had this output"):
        slow.check()
    time.now += RENEW_S
    for ask in (slow.renew, slow.check):
        with pytest.raises(OutputBusy):
            ask()
    assert FILE not in files


@pytest.mark.parametrize("clock", ["monotonic", "wall"])
def test_a_holder_that_was_suspended_while_it_renewed_notices(files, time, monkeypatch, clock):
    """Between looking and writing: it has written over the lease of another, which may have answered much by then."""
    slow, other = lease(files, time, "a", ELSEWHERE), lease(files, time, "b")
    write, wall_s = files.write, 0.0
    monkeypatch.setattr("pipeline.run.lease.time.time", lambda: wall_s)
    slow.acquire()
    time.now += RENEW_S

    def after_a_suspension(path, data):
        nonlocal wall_s
        monkeypatch.setattr(files, "write", write)
        other._write()
        if clock == "monotonic":
            time.now += 2 * STALE_S
        wall_s += 2 * STALE_S
        write(path, data)

    monkeypatch.setattr(files, "write", after_a_suspension)
    with pytest.raises(OutputBusy, match="another run may have had"):
        slow.renew()
    with pytest.raises(OutputBusy):
        slow.check()
    slow.release()
    assert FILE not in files
    with pytest.raises(OutputBusy):
        other.check()


def test_a_slow_store_alone_loses_nothing(files, time, monkeypatch):
    """Nobody can have taken it while it was fresh, or in the moment between a look and a quick write."""
    mine = lease(files, time, "a")
    mine.acquire()
    write = files.write
    for read_s, write_s in ((0.0, STALE_S - RENEW_S - 1), (2 * STALE_S, 1.0)):
        time.now += RENEW_S
        monkeypatch.setattr(files, "read", lambda path, s=read_s: setattr(time, "now", time.now + s) or files.get(path))
        monkeypatch.setattr(
            files, "write", lambda path, data, s=write_s: setattr(time, "now", time.now + s) or write(path, data)
        )
        mine.renew()
        mine.check()


def test_threads_that_renew_at_once_write_once(files, time, monkeypatch):
    mine = lease(files, time, "a")
    mine.acquire()
    time.now += RENEW_S
    read, written = files.read, []

    def slowly(path):
        sleep(0.05)
        return read(path)

    monkeypatch.setattr(files, "read", slowly)
    monkeypatch.setattr(files, "write", lambda path, data: written.append(data))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: mine.renew(), range(4)))
    assert len(written) == 1


def test_two_at_the_same_moment(files, time):
    first, second = lease(files, time, "a"), lease(files, time, "b", ELSEWHERE)
    time.on_sleep = lambda: (setattr(time, "on_sleep", lambda: None), second._write())
    with pytest.raises(OutputBusy):
        first.acquire()


def test_it_is_kept_while_a_block_works(files, time, monkeypatch):
    monkeypatch.setattr("pipeline.run.lease.RENEW_S", 0.0)
    with lease(files, time, "a", ELSEWHERE).kept() as check:
        check()
        first = files[FILE]
        for _ in range(10_000):  # another thread renews it
            if files[FILE] != first:
                break
            sleep(0.01)
        assert files[FILE] != first
    assert FILE not in files


@pytest.mark.parametrize("left", [b'{"run_id": "b", "token": "of b"}', None])
def test_what_is_kept_may_be_lost(files, time, left):
    """Another run has it, or had it and is gone again."""
    with lease(files, time, "a", ELSEWHERE).kept() as check:
        files.pop(FILE)
        if left:
            files[FILE] = left
        with pytest.raises(OutputBusy):
            check()
    assert files.get(FILE) == left


def test_the_thread_that_keeps_it_does_not_take_it_again(files, time, monkeypatch):
    """Nor does it matter that only the thread saw the loss: who asks next is told."""
    monkeypatch.setattr("pipeline.run.lease.RENEW_S", 0.0)
    mine = lease(files, time, "a", ELSEWHERE)
    with mine.kept():
        with mine._lock:
            files.clear()
        for _ in range(10_000):
            if mine._lost:
                break
            sleep(0.01)
        with pytest.raises(OutputBusy, match="another run has had this output"):
            mine.renew()
        assert FILE not in files


def test_rubbish_in_the_file_is_no_lease(files, time):
    files[FILE] = b"{ half a line"
    lease(files, time, "a").acquire()
