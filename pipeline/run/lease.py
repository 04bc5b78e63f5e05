"""One run at a time on one output folder: a small file that its holder renews.

Two runs on one output would answer the same units twice. A holder that was killed cannot clean up, so a lease is void
when its process is gone (same machine) or when nobody has renewed it for a while (any machine). That while is measured
here, by looking twice: clocks of different machines are never compared. A holder that was suspended finds the lease
with another, or gone because the other is done already; what it knows of the output is old then, and it must stop.
Knows nothing of Ray; reading, writing and time are given.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from luvc.errors import LuvcError

FILE = "run.lease.json"
RENEW_S = 10.0
STALE_S = 60.0
#: A run that has just taken the lease has written nothing yet: it looks again, plans, and starts its workers.
SETTLED_S = 5.0


class OutputBusy(LuvcError):
    """Another run writes to this output."""


class Store(Protocol):
    """The files of an output folder, as far as a lease needs them."""

    def read(self, path: str) -> bytes | None: ...

    def write(self, path: str, data: bytes) -> None: ...

    def remove(self, path: str) -> None: ...


@dataclass(frozen=True)
class Process:
    """A process, recognisable from another one on the same machine."""

    host: str
    pid: int
    started: str

    @staticmethod
    def this() -> Process:
        return Process(_host(), os.getpid(), _start_time(os.getpid()))

    def is_gone(self) -> bool | None:
        """Whether it has ended; None when it lives on a machine that cannot be asked."""
        if self.host != _host():
            return None
        return _start_time(self.pid) != self.started


def _host() -> str:
    # Containers may share host name and process numbers; boot id and pid namespace tell them apart.
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "|".join(parts)


def _start_time(pid: int) -> str:
    """Something that two processes with the same number do not share; "" when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return "" if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"


class Lease:
    """Take it, renew it now and then, ask before every write whether it is still there, release it.

    Threads may share one.

    Args:
        store: the output folder.
        run_id: who asks.
        say: told while waiting to see whether another holder is alive.
        clock, sleep, process: replaced in tests.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        say: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        process: Process | None = None,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._say = say
        self._clock = clock
        self._sleep = sleep
        self._process = process or Process.this()
        self._token = uuid.uuid4().hex
        self._renewals = 0
        self._renewed = 0.0
        self._renewed_wall = 0.0
        self._lost: OutputBusy | None = None
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """Take the lease, if need be after watching another holder for `STALE_S` seconds.

        Raises:
            OutputBusy: another run holds it.
        """
        other = self._read()
        if other is not None:
            gone = _is_gone(other)
            if gone is False:
                raise _busy(other)
            if gone is None:
                self._watch(other)
        self._write()
        # Two runs may have found it free at the same moment: the one that wrote last has it.
        self._sleep(0.2)
        self.check()

    def renew(self) -> None:
        """Call often; writes every `RENEW_S` seconds.

        Raises:
            OutputBusy: another run has, or has had, the lease, for example because this one was suspended.
        """
        with self._lock:
            if self._lost is not None:
                raise self._lost
            if self._clock() - self._renewed < RENEW_S:
                return
            before, before_wall = self._renewed, self._renewed_wall
            self._look()
            looked, looked_wall = self._clock(), time.time()
            self._write()
            # The wall clock, too: the monotonic one may stand still while a machine is suspended.
            since = max(self._renewed - before, self._renewed_wall - before_wall)
            if since > STALE_S and max(self._renewed - looked, self._renewed_wall - looked_wall) > SETTLED_S:
                # Suspended between the two: what was written over may have been another's lease.
                self._lost = OutputBusy("another run may have had this output in the meantime", "start again")
                raise self._lost

    def raise_if_lost(self) -> None:
        """As `renew`, without a look: what the thread of `kept` has found out.

        Raises:
            OutputBusy: as `renew`.
        """
        if self._lost is not None:
            raise self._lost

    def check(self) -> None:
        """Look at the file. Ask before each write to the output: however long this process slept, it learns so.

        Raises:
            OutputBusy: as `renew`.
        """
        with self._lock:
            self._look()

    @contextmanager
    def kept(self) -> Iterator[Callable[[], None]]:
        """Take it, renew it from a thread while the block works, release it.

        Yields:
            A function that raises OutputBusy if another run has, or has had, it in the meantime.

        Raises:
            OutputBusy: another run holds it.
        """
        self.acquire()
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(RENEW_S / 2):
                # Whoever works under the lease asks before each step whether it still has it.
                with suppress(LuvcError, OSError):
                    self.renew()

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield self.check
        finally:
            ended.set()
            thread.join()
            self.release()

    def release(self) -> None:
        """Give it back, unless another run has taken it."""
        mine = self._read()
        if mine and mine.get("token") == self._token:
            self._store.remove(FILE)

    def _watch(self, other: dict[str, Any]) -> None:
        """Return once the lease is void; a renewal in the meantime raises OutputBusy."""
        self._say(f"run {other.get('run_id')} holds this output; looking for a sign of life from it ...")
        until = self._clock() + STALE_S
        while self._clock() < until:
            self._sleep(min(1.0, STALE_S / 20))
            now = self._read()
            if now is None:
                return
            if now != other:
                raise _busy(now)

    def _look(self) -> None:
        if self._lost is None:
            now = self._read()
            if now is None:
                self._lost = OutputBusy("another run has had this output in the meantime", "start again")
            elif now.get("token") != self._token:
                self._lost = _busy(now)
        if self._lost is not None:
            raise self._lost

    def _read(self) -> dict[str, Any] | None:
        data = self._store.read(FILE)
        try:
            lease = json.loads(data) if data else None
        except ValueError:
            return None
        return lease if isinstance(lease, dict) else None

    def _write(self) -> None:
        self._renewals += 1
        lease = {"run_id": self._run_id, "token": self._token, "renewals": self._renewals}
        lease["process"] = {"host": self._process.host, "pid": self._process.pid, "started": self._process.started}
        self._store.write(FILE, json.dumps(lease).encode())
        self._renewed, self._renewed_wall = self._clock(), time.time()


def _is_gone(lease: dict[str, Any]) -> bool | None:
    try:
        return Process(**lease["process"]).is_gone()
    except (KeyError, TypeError):
        return None


def _busy(lease: dict[str, Any]) -> OutputBusy:
    process = lease.get("process") or {}
    where = f"process {process.get('pid')} on {str(process.get('host')).split('|')[0]}"
    return OutputBusy(
        f"another run ({lease.get('run_id')}, {where}) is writing to this output",
        "wait for it to end or stop it, or choose another output.path",
    )
