"""The Jobs API of a running Ray cluster: find it, show the token, start a job, follow its log to the end.

Every way this can go wrong ends in one readable line. Knows nothing of configurations.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.run.cluster import KNOCK_S, ClusterError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"

#: Where an address is looked for, first to last. Ray's own client lets the environment win over an argument.
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS", "RAY_ADDRESS")

#: Whose log lines would stand among ours, and from which level on they may. Of files above 10 MiB, as the embedded
#: model's trained part, Ray only advises to leave them out; what cannot be uploaded is an error of its own.
_TALKATIVE = {
    "ray._private.runtime_env.packaging": logging.ERROR,
    "ray.dashboard.modules.dashboard_sdk": logging.WARNING,
    "ray.dashboard.modules.job.sdk": logging.WARNING,
}

#: A cluster that does not answer for so long while its job is followed is given up; the job may still run.
LOST_S = 60.0
AGAIN_S = 1.0


@dataclass(frozen=True)
class JobEnd:
    """How a job ended.

    Attributes:
        status: SUCCEEDED, FAILED or STOPPED.
        exit_code: of its process; None when it never ran or was killed with its node.
        message: Ray's own explanation.
    """

    status: str
    exit_code: int | None
    message: str


def dashboard_address(asked: str | None) -> str:
    """URL of the dashboard, which serves the Jobs API.

    Args:
        asked: as on the command line; None: from the environment, else this machine's default port.

    Raises:
        ClusterError: the address is of another kind.
    """
    found = next(((os.environ[name], name) for name in ADDRESS_VARIABLES if os.environ.get(name)), ("", ""))
    address, source = (asked, "--address") if asked else found
    if not address or address in ("auto", "local"):
        return DEFAULT_ADDRESS
    if address.startswith("ray://"):
        raise ClusterError(
            f"{source}: {address} is a Ray Client address, jobs go to the dashboard",
            "for example --address http://HEAD:8265",
        )
    return (address if "://" in address else f"http://{address}").rstrip("/")


def token() -> tuple[str, str] | None:
    """The token for the cluster and where it was found, looked for where Ray does; None if there is none.

    Raises:
        ClusterError: RAY_AUTH_TOKEN_PATH names a file that cannot be read.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None
    if os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return os.environ["RAY_AUTH_TOKEN"].strip(), "RAY_AUTH_TOKEN"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        if not named:
            return None
        raise ClusterError(
            f"RAY_AUTH_TOKEN_PATH: {path} cannot be read: {error}", "name a file with the token"
        ) from None
    return (found, str(path)) if found else None


class Jobs:
    """Jobs of one cluster.

    Args:
        address: URL of its dashboard.

    Raises:
        ClusterError: nobody answers there, it is no Ray dashboard, or the token is missing or wrong.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        found = token()
        self._headers = {"Authorization": f"Bearer {found[0]}"} if found else {}
        self._knock(found[1] if found else None)
        from ray.job_submission import JobSubmissionClient

        for name, level in _TALKATIVE.items():
            logging.getLogger(name).setLevel(level)
        with _address_in_environment(address), self._readable():
            self._client = JobSubmissionClient(address, headers=self._headers)

    def _knock(self, token_from: str | None) -> None:
        """Ask for the version, with a deadline, which Ray's client does not have."""
        import requests

        try:
            answer = requests.get(f"{self.address}/api/version", headers=self._headers, timeout=KNOCK_S)
        except (requests.RequestException, ValueError) as error:
            cause = _innermost(error)
            raise ClusterError(
                f"no Ray cluster answers at {self.address}: {cause}",
                "is it running, and is this the address of its dashboard (port 8265 unless changed; `ray start --head` "
                "serves it on the head node alone unless --dashboard-host=0.0.0.0)? Give it by --address or "
                "RAY_DASHBOARD_ADDRESS",
            ) from error
        if answer.status_code in (401, 403):
            raise self._refused(answer.status_code, token_from)
        with suppress(ValueError, KeyError, TypeError):
            self.ray_version = str(answer.json()["ray_version"])
            return
        raise ClusterError(
            f"what answers at {self.address} is not a Ray dashboard (HTTP {answer.status_code})",
            "jobs go to the dashboard of the head node, for example --address http://HEAD:8265",
        )

    def _refused(self, status: int, token_from: str | None) -> ClusterError:
        if status == 401 and not token_from:
            what = "asks for a token, and there is none in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
        else:
            what = f"refuses the token from {token_from or 'this machine'}"
        return ClusterError(
            f"the Ray cluster at {self.address} {what}",
            "`ray get-auth-token` on the head node prints it; set RAY_AUTH_TOKEN, or save it in ~/.ray/auth_token",
        )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Errors of Ray's client as a line."""
        try:
            yield
        except Exception as error:
            text = str(error)
            if type(error).__name__ == "AuthenticationError":  # the token was changed after the first knock
                found = token()
                raise self._refused(401 if found is None else 403, found[1] if found else None) from error
            lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
            # The server sends its own trace; its last line says what was wrong.
            said = lines[-1] if "Traceback" in text else lines[0]
            raise ClusterError(f"the Ray cluster at {self.address}: {said.strip(' .')}") from error

    def runs_here(self) -> bool:
        """Whether the whole cluster is this machine, so that paths mean the same there.

        An address does not tell: a forwarded port of a remote cluster is on this machine, too.
        """
        import requests

        url, until = f"{self.address}/nodes?view=hostNameList", time.monotonic() + KNOCK_S
        names: set[str] = set()
        while not names and time.monotonic() < until:  # a head that has just started does not know itself yet
            with suppress(requests.RequestException, ValueError, KeyError, TypeError):
                answer = requests.get(url, headers=self._headers, timeout=KNOCK_S).json()
                names = set(answer["data"]["hostNameList"])
            time.sleep(0 if names else AGAIN_S)
        return names == {socket.gethostname()}

    def states(self) -> dict[str, Literal["running", "ended"]]:
        """All jobs that the cluster remembers, by name. Raises ClusterError."""
        with self._readable():
            listed = self._client.list_jobs()
        return {
            job.submission_id: "ended" if job.status.is_terminal() else "running" for job in listed if job.submission_id
        }

    def submit(
        self, command: list[str], job_id: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> None:
        """Upload what the job needs and start it. Raises ClusterError."""
        with self._readable():
            self._client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=job_id,
                runtime_env=dict(runtime_env),
                metadata=dict(metadata),
            )

    def follow(self, job_id: str, write: Callable[[str], None]) -> JobEnd:
        """Pass on the job's log as it grows, until the job ends.

        Raises:
            ClusterError: the cluster stopped answering; the job may still run.
        """
        return asyncio.run(self._follow(job_id, write))

    async def _follow(self, job_id: str, write: Callable[[str], None]) -> JobEnd:
        shown, answered = 0, time.monotonic()
        while True:
            seen = 0
            # A connection may break while the job goes on: ask again, and leave out what was shown.
            with suppress(Exception):
                async for text in self._client.tail_job_logs(job_id):
                    new = text[max(0, shown - seen) :]
                    seen += len(text)
                    if new:
                        write(new)
                        shown = seen
            try:
                info = await asyncio.to_thread(self._client.get_job_info, job_id)
            except Exception as error:
                if time.monotonic() - answered > LOST_S:
                    with self._readable():
                        raise error
            else:
                answered = time.monotonic()
                if info.status.is_terminal():
                    return JobEnd(info.status.value, info.driver_exit_code, info.message or "")
            await asyncio.sleep(AGAIN_S)


@contextmanager
def _address_in_environment(address: str) -> Iterator[None]:
    """Ray's client takes an address from the environment over the one it is given: agree with it."""
    name = "RAY_API_SERVER_ADDRESS"
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _innermost(error: BaseException) -> str:
    """The system's own words, without the layers of HTTP libraries around them."""
    seen: BaseException | None = error
    text = type(error).__name__
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            text = seen.strerror
        reason = getattr(seen.args[0], "reason", None) if seen.args else None
        seen = reason if isinstance(reason, BaseException) else seen.__cause__ or seen.__context__
    return text
