"""Fixtures for all tests: a real S3 server on this machine, and nothing that reaches beyond it."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest


def pytest_unconfigure() -> None:
    """Nothing that tests left behind keeps the interpreter from ending: no thread, no child, no exit handler."""
    faulthandler.dump_traceback_later(120, exit=True, file=sys.__stderr__)


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Ctrl-C as in the foreground, here and in children: what a shell starts in the background ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _loopback_without_proxy() -> Iterator[None]:
    """A proxy of the environment must not stand between tests and their own servers."""
    names = ("NO_PROXY", "no_proxy")
    before = {name: os.environ.get(name) for name in names}
    for name in names:
        os.environ[name] = ",".join(filter(None, [before[name], "127.0.0.1", "localhost"]))
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def s3_server(_loopback_without_proxy: None) -> Iterator[str]:
    """Endpoint of a moto server, one for the whole session."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str) -> dict[str, Any]:
    """A fresh bucket.

    Keys: `endpoint_url`, `bucket`, `url` ("s3://bucket"), `storage` (options for fsspec), `client` (boto3).
    """
    import boto3

    storage = {
        "key": "testing",
        "secret": "testing",
        "client_kwargs": {"endpoint_url": s3_server, "region_name": "us-east-1"},
    }
    client = boto3.client(
        "s3", aws_access_key_id="testing", aws_secret_access_key="testing", **storage["client_kwargs"]
    )
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    return {
        "endpoint_url": s3_server,
        "bucket": bucket,
        "url": f"s3://{bucket}",
        "storage": storage,
        "client": client,
    }
