"""The watcher of the scale measurement counts the CPU of a process and of what it starts."""

from __future__ import annotations

import subprocess
import sys
import threading

from benchmarks import scale

#: Burns 0.3 s of CPU in itself and in a child, says so, and waits.
BURN = """
import subprocess, sys, time
def burn():
    while time.process_time() < 0.3: pass
if sys.argv[1:]:
    burn(); print("done", flush=True); sys.stdin.read()
else:
    child = subprocess.Popen([sys.executable, "-c", sys.orig_argv[2], "child"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline(); burn(); print("done", flush=True); sys.stdin.read(); child.stdin.close(); child.wait()
"""


def test_cpu_of_a_process_and_its_children_is_counted(monkeypatch):
    monkeypatch.setattr(scale, "LOOK_S", 0.02)
    process = subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    burned, looked = threading.Event(), threading.Event()

    def look(watch: scale.Watch) -> None:
        if burned.is_set():
            looked.set()

    with scale.Watch(process.pid, look) as watch:
        assert process.stdout.readline() == b"done\n"
        burned.set()
        looked.clear()
        assert looked.wait(30)
        figures = watch.figures()
        process.stdin.close()
        process.wait()
    assert figures["cpu_s"] >= 0.25, "its own"
    assert figures["all_cpu_s"] >= figures["cpu_s"] + 0.25, "and its child's"
    assert figures["resident_bytes"] > 1_000_000
