"""Runs `luvc` in a process of its own and dies where it is told to. Not a test.

    python -m tests.faults.driver POINT ARGUMENTS...

POINT names a moment: `none`, `before-rename` (the second results part is on disk under its temporary name),
`before-report` (all parts are written).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pipeline.report
from pipeline import cli, storage
from pipeline.run import cluster


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    point, arguments = sys.argv[1], sys.argv[2:]
    # The tests' Ray runs on this machine with this checkout on its path; shipping it would take seconds each time.
    cluster._runtime_env = lambda: None
    if point == "before-rename":
        replace, parts = os.replace, []

        def replace_or_die(source: str | Path, target: str | Path) -> None:
            if "/results/" in str(target):
                parts.append(target)
                if len(parts) == 2:
                    die()
            replace(source, target)

        storage.os.replace = replace_or_die  # type: ignore[attr-defined]
    if point == "before-report":
        pipeline.report.build_report = die  # type: ignore[assignment]
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
