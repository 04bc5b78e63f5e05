"""A run's output with small files, on a disk and in S3."""

from __future__ import annotations

import functools
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import compact as compaction
from pipeline import storage
from pipeline.run.lease import Lease, Process
from tests.pipeline.compact.places import Place, fill


@pytest.fixture(autouse=True)
def _quick_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holders count as dead once they let go: these tests kill compactions and go on in the same process."""
    dead = Process(Process.this().host, 2**22 + 1, "1")
    monkeypatch.setattr(compaction, "Lease", functools.partial(Lease, process=dead, sleep=lambda _: None))


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("dated"), part_rows=12, partitions=True)


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("flat"), part_rows=4)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files to join and nothing else."""
    folder = fill(tmp_path_factory.mktemp("three"), part_rows=24)
    for kind in ("failures", "metrics"):
        shutil.rmtree(folder / kind)
    return folder


@pytest.fixture
def on_disk(tmp_path: Path) -> Callable[[Path], Place]:
    """Copies a folder."""

    def place(source: Path) -> Place:
        return Place(str(shutil.copytree(source, tmp_path / "out")), {})

    return place


@pytest.fixture(params=["disk", "s3"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Path], Place]:
    """Copies a folder to a new place on a disk or in S3."""
    number = itertools.count()

    def place(source: Path) -> Place:
        if request.param == "disk":
            return Place(str(shutil.copytree(source, tmp_path / f"place-{next(number)}")), {})
        s3 = request.getfixturevalue("s3")
        made = Place(f"{s3['url']}/place-{next(number)}", s3["storage"])
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            storage.write_atomic(f"{made.url}/{file.relative_to(source)}", file.read_bytes(), made.options)
        return made

    return place
