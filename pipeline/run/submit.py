"""A run as a job of a running Ray cluster: checked here, sent, followed, and ended with the run's own exit code.

Two small uploads: this package as it is here (kept by the cluster as long as it does not change) and the configuration.
Nothing secret goes into the command line or the metadata of the job, which Ray shows to everyone.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from luvc.errors import ConfigError
from pipeline.run.jobs_api import JobEnd, Jobs, dashboard_address
from pipeline.run.parcel import Parcel, leads_nowhere, pack, shared_folders

CONFIG = "luvc.yaml"

#: A job that is stopped writes what it has finished; Ray kills it after 3 s unless told to wait.
STOP_WAIT_S = 60

#: Never from here to there: the cluster has its own.
_OWN_TOKEN = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

EXIT_OTHER = 1
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Submission:
    """What `luvc submit` was asked for.

    Attributes:
        config: the YAML file.
        overrides: as given to `--set`.
        address: of the dashboard; None: from the environment, else this machine's.
        job_id: name of the job; None: the run's name and the time.
        wait: follow the job to its end.
        installed: the nodes have this package; send the configuration only.
        env: names of environment variables that go along.
        run_arguments: more arguments of `luvc run`.
    """

    config: str
    overrides: Sequence[str] = ()
    address: str | None = None
    job_id: str | None = None
    wait: bool = True
    installed: bool = False
    env: Sequence[str] = ()
    run_arguments: Sequence[str] = ()


def _err(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a command line speaks


def _out(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def submit(asked: Submission, say: Callable[[str], None] = _err, write: Callable[[str], None] = _out) -> int:
    """Send a run to a cluster; returns its exit code, or 0 when it is not waited for.

    Args:
        say: told what happens, in lines for a person.
        write: gets the job's log as it grows.

    Raises:
        ConfigError: the configuration is wrong, or its paths mean nothing on the cluster.
        ClusterError: no cluster answers, or it does not let us in.
    """
    parcel = pack(asked.config, asked.overrides)
    env = _env(asked.env)
    jobs = Jobs(dashboard_address(asked.address))
    parcel = _placed(parcel, jobs.runs_here(), say)
    missing = [name for name in parcel.variables if name not in env]
    if missing:
        say(f"the nodes must have these variables, or --env must send them: {', '.join(missing)}")
    job_id, running = _job_id(jobs, asked.job_id, parcel.config.name)
    if running:
        say(f"job {job_id} is already running on {jobs.address}")
    else:
        _start(jobs, asked, parcel, env, job_id)
        say(f"job {job_id} submitted to {jobs.address}; output {parcel.output}")
    if not asked.wait:
        say(how_to_go_on(jobs.address, job_id))
        return 0
    return _followed(jobs, job_id, say, write)


def _job_id(jobs: Jobs, asked: str | None, name: str) -> tuple[str, bool]:
    """The job's name, and whether that job is running already.

    A name that was used goes on as NAME-2, NAME-3: so a scheduler may give one name a night and try as often as it
    likes, and never starts a second job beside a running one.
    """
    if asked is None:
        return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}", False
    states = jobs.states()
    job_id, number = asked, 1
    while states.get(job_id) == "ended":
        number += 1
        job_id = f"{asked}-{number}"
    return job_id, job_id in states


def _start(jobs: Jobs, asked: Submission, parcel: Parcel, env: dict[str, str], job_id: str) -> None:
    command = ["python", "-m", "pipeline.cli", "run", CONFIG, *asked.run_arguments]
    metadata = {"luvc_name": parcel.config.name, "luvc_config_hash": parcel.config.config_hash}
    with tempfile.TemporaryDirectory(prefix="luvc-submit-") as folder:
        path = Path(folder, CONFIG)
        path.touch(mode=0o600)
        path.write_text(parcel.text(), encoding="utf-8")
        jobs.submit(command, job_id, runtime_env(folder, parcel, env, asked.installed), metadata)


def runtime_env(folder: str, parcel: Parcel, env: dict[str, str], installed: bool) -> dict[str, Any]:
    """The job's runtime environment: `folder` with the configuration, this package, variables."""
    made: dict[str, Any] = {
        "working_dir": folder,
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **env},
    }
    if not installed:
        import luvc
        import pipeline

        made["py_modules"] = [str(Path(str(module.__file__)).parent) for module in (luvc, pipeline)]
        made["excludes"] = ["__pycache__", "*.pyc"]
        if parcel.config.model.id != "luvc-demo":
            made["excludes"] += ["/embedded/trained.safetensors"]
    return made


def _env(names: Sequence[str]) -> dict[str, str]:
    for name in names:
        if name in _OWN_TOKEN:
            raise ConfigError(f"--env {name}: the token of a cluster does not travel", "its nodes have it already")
        if name not in os.environ:
            raise ConfigError(f"--env {name}: this environment variable is not set")
    return {name: os.environ[name] for name in names}


def _placed(parcel: Parcel, here: bool, say: Callable[[str], None]) -> Parcel:
    """Paths as the nodes will understand them. Raises ConfigError for those that lead nowhere."""
    if here:
        return parcel.with_values({path.key: path.absolute for path in parcel.local_paths if path.relative})
    wrong = leads_nowhere(parcel.local_paths)
    if wrong:
        raise wrong
    for line in shared_folders(parcel.local_paths):
        say(f"note: {line}")
    return parcel


def _followed(jobs: Jobs, job_id: str, say: Callable[[str], None], write: Callable[[str], None]) -> int:
    try:
        end = jobs.follow(job_id, write)
    except KeyboardInterrupt:
        say(f"\nno longer following; job {job_id} goes on\n{how_to_go_on(jobs.address, job_id)}")
        return EXIT_INTERRUPTED
    code = exit_code(end)
    if code not in (0, 2, 3, 4):
        say(explain(end, job_id))
    return code


def exit_code(end: JobEnd) -> int:
    """The run's exit code. Ray calls a job FAILED whatever its code is, also when the run finished (3 and 4)."""
    if end.status == "SUCCEEDED":
        return 0
    return end.exit_code if end.status == "FAILED" and end.exit_code in (2, 3, 4) else EXIT_OTHER


def explain(end: JobEnd, job_id: str) -> str:
    """What to do about a job that did not finish, in a line."""
    if end.status == "STOPPED":
        return f"job {job_id} was stopped; submit it again to continue"
    if end.exit_code == 127:
        return f"job {job_id}: no `python` on the head node's PATH; start Ray from the environment it is installed in"
    if end.exit_code in (137, -9):
        return f"job {job_id} was killed, most often for want of memory on the head node; submit it again to continue"
    if end.exit_code is None:
        said = next((line.strip() for line in end.message.splitlines() if line.strip()), "no reason given")
        return f"job {job_id} did not run to its end: {said}; submit it again to continue"
    return f"job {job_id} ended with exit code {end.exit_code}; submit it again to continue"


def how_to_go_on(address: str, job_id: str) -> str:
    """Commands to follow and stop a job."""
    where = f"--address {address} {job_id}"
    return f"follow:  ray job logs --follow {where}\nstop:    ray job stop {where}"
