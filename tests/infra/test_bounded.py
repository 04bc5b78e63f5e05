"""`.ci/bounded`: a suite that hangs ends, says where it stood, and leaves nothing behind."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import children
from tests.processes import ends

ROOT = Path(__file__).parents[2]


def bounded(seconds: float, code: str) -> tuple[int, str]:
    done = children.run([sys.executable, str(ROOT / ".ci" / "bounded"), str(seconds), sys.executable, "-c", code])
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_it_passes_on_what_the_command_says_and_its_exit_code():
    assert bounded(100, "import sys; print('out'); sys.exit(3)") == (3, "out\n")
    assert bounded(100, "import os; os.kill(os.getpid(), 9)") == (137, "")


def test_a_late_command_says_where_it_stands_and_takes_everything_along():
    code = (
        "import faulthandler, subprocess, sys, time; faulthandler.enable()\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "print(subprocess.Popen(sleep, start_new_session=True).pid, flush=True)\n"
        "def test_that_hangs(): time.sleep(600)\n"
        "test_that_hangs()\n"
    )
    code, said = bounded(3, code)
    assert code == 124
    assert "not done within 3 s" in said
    assert "in test_that_hangs" in said
    assert ends(int(said.split()[0]))


def test_code_that_never_returns_to_the_interpreter_ends_the_run(tmp_path):
    """The settings of pyproject.toml, with shorter times."""
    (tmp_path / "test_stuck.py").write_text(
        "import ctypes, signal\n"
        "def test_stuck():\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n"
        "    ctypes.PyDLL(None).sleep(600)\n"  # as a PyDLL it keeps the interpreter's lock
    )
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    command += ["--rootdir", str(tmp_path), "--timeout", "1", "-o", "faulthandler_timeout=3", str(tmp_path)]
    done = children.run(command)
    assert done.returncode == 1
    assert "in test_stuck" in done.stderr
