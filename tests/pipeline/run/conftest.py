"""One Ray for all tests of a session, small real videos, and a way to write configurations down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import RunConfig, parse_config
from pipeline.run.cluster import prepare_environment
from tests.clusters import TRIES
from tests.pipeline.run.videos import video


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A local Ray with four logical CPUs; starting one takes seconds, so tests share it."""
    prepare_environment()
    import ray

    if ray.is_initialized():  # by the other folder of tests that uses this fixture
        yield ray.get_runtime_context().gcs_address
        return
    for left in reversed(range(TRIES)):
        try:
            ray.init(
                address="local",
                num_cpus=4,
                object_store_memory=300 * 1024**2,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
            break
        except Exception:
            ray.shutdown()
            if not left:
                raise
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight clips."""
    folder = tmp_path_factory.mktemp("videos")
    for index in range(8):
        video(folder / f"v{index}.mp4", seed=index)
    return folder


class Bench:
    """Writes configurations for one output folder and reads what a run left there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out"

    def config(self, inputs: object, prompts: object = "Describe this.", **sections: object) -> RunConfig:
        return parse_config(self.values(inputs, prompts, **sections))

    def values(self, inputs: object, prompts: object = "Describe this.", **sections: dict) -> dict:
        run = {"engine": "fake", "heartbeat_s": 1, "ray_address": "local"} | sections.pop("run", {})
        return {
            "name": "test",
            "inputs": [{"path": str(inputs)}] if isinstance(inputs, (str, Path)) else inputs,
            "prompts": prompts,
            "sampling": {"mode": "count", "frames": 2},
            "output": {"path": str(self.output)},
            "quality": {"units": 0},
            "run": run,
        } | sections

    def items(self, rows: list[dict]) -> Path:
        """An input manifest."""
        path = self.folder / "items.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def table(self, kind: str) -> pa.Table:
        parts = sorted((self.output / kind).glob("*.parquet"))
        return pa.concat_tables([pq.read_table(part) for part in parts]) if parts else pa.table({"unit_id": []})

    def planned(self) -> set[str]:
        return set(self.table("manifest")["unit_id"].to_pylist())

    def done(self) -> list[str]:
        return self.table("results")["unit_id"].to_pylist()

    def failures(self) -> list[dict]:
        return self.table("failures").to_pylist()

    def assert_each_unit_once(self, prompts: int = 1) -> None:
        """Every planned unit is in results (once a prompt) or in failures, never in both, never twice."""
        done, failed = self.done(), [row["unit_id"] for row in self.failures()]
        assert len(failed) == len(set(failed))
        assert not set(done) & set(failed)
        assert set(done) | set(failed) == self.planned()
        assert all(done.count(unit) == prompts for unit in set(done))

    def events(self, kind: str | None = None) -> list[dict]:
        logs = sorted((self.output / "runs").glob("*/events.jsonl"))
        events = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
        return [event for event in events if kind in (None, event["event"])]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
