"""Scripts and schedules outside Kubernetes: valid shell, valid units, and commands that exist."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from pipeline import children, cli

INFRA = Path(__file__).parents[2] / "infra"
SLURM = INFRA / "slurm" / "nightly.sbatch"


def parsed(command: str) -> object:
    """The arguments of a `luvc` command, or an error."""
    return cli._parser().parse_args(shlex.split(command))


def test_the_slurm_script_is_valid_shell():
    assert children.run(["bash", "-n", str(SLURM)]).returncode == 0
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = children.run([str(shellcheck), str(SLURM)])
    assert done.stdout == ""
    assert done.returncode == 0


def test_the_python_inside_the_slurm_script_is_valid():
    inside = re.search(r"<<'EOF'\n(.*?)\nEOF\n", SLURM.read_text(), re.S)
    assert inside
    compile(inside[1], str(SLURM), "exec")


def test_slurm_options_stand_before_the_first_command():
    lines = SLURM.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert options
    assert max(options) < first


def test_cron_lines_have_a_time_and_a_command_that_exists():
    jobs = [line for line in (INFRA / "cron" / "crontab").read_text().splitlines() if re.match(r"[\d*]", line)]
    assert len(jobs) == 3
    for line in jobs:
        time, command = line.split(None, 5)[:5], line.split(None, 5)[5]
        assert all(re.fullmatch(r"[\d*/,-]+", field) for field in time)
        assert not re.search(r"(?<!\\)%", command), "cron takes a bare % for a line's end"
        arguments = re.search(r'"\$LUVC" (.*?) >>', command)
        assert arguments
        assert parsed(arguments[1]).command in (cli._submit, cli._compact)  # type: ignore[attr-defined]


def test_the_service_calls_a_command_that_exists():
    text = (INFRA / "cron" / "luvc-nightly.service").read_text()
    start = re.search(r"^ExecStart=\S*/luvc (.*)$", text, re.M)
    assert start
    assert parsed(start[1]).command is cli._submit  # type: ignore[attr-defined]
    assert f"SuccessExitStatus={cli.EXIT_FAILED}" in text
    assert f"RestartPreventExitStatus={cli.EXIT_CONFIG} {cli.EXIT_QUALITY}\n" in text


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_takes_the_units(tmp_path):
    for name in ("luvc-nightly.service", "luvc-nightly.timer"):
        text = (INFRA / "cron" / name).read_text().replace("/opt/luvc/.venv/bin/luvc", "/bin/true")
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / "luvc-nightly.service"), str(tmp_path / "luvc-nightly.timer")]
    done = children.run(["systemd-analyze", "verify", *units])
    assert "luvc-nightly" not in done.stderr
