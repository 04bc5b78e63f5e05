"""Whatever a child does, waiting for it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline import children
from pipeline.children import Child, run
from tests.processes import ends

SLEEP = "import time; time.sleep(600)"
#: A grandchild holds its parent's stdout after the parent is gone.
PARENT = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True)"


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_what_it_reads_and_says():
    code = "import sys; print(sys.stdin.read().upper()); print('no', file=sys.stderr); sys.exit(3)"
    done = run(python(code), text="abc")
    assert (done.returncode, done.stdout, done.stderr) == (3, "ABC\n", "no\n")


def test_a_late_child_is_killed_with_its_own_children():
    child = Child(python(f"{PARENT}; {SLEEP}"))
    until = time.monotonic() + 60
    while not child.stdout.endswith("\n"):
        assert time.monotonic() < until
        time.sleep(0.02)
    with pytest.raises(subprocess.TimeoutExpired) as late:
        child.wait(0.1)
    assert ends(int(late.value.stdout))


def test_a_grandchild_that_keeps_the_output_open_delays_nobody():
    child = Child(python(PARENT))
    assert child.wait(60) == 0  # with a pipe, reading to its end would wait for the grandchild
    os.kill(int(child.stdout), signal.SIGKILL)


def test_a_child_that_cannot_be_killed_is_left_behind(monkeypatch):
    monkeypatch.setattr(children, "PATIENCE_S", 0.1)
    child = Child(python(SLEEP))
    with monkeypatch.context() as deaf:
        deaf.setattr(children, "kill_group", lambda process: None)
        assert not child.kill()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.1)
        assert child.process.poll() is None
    assert child.kill()
