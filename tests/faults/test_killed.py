"""The driver is interrupted or killed at every point that matters; another run continues.

The drivers are processes of their own; they share the session's Ray, as jobs share a cluster.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
import yaml

from pipeline.children import Child

PATIENCE_S = 120.0


class Driver:
    """`luvc run` in another process."""

    def __init__(self, bench, ray_address, inputs, prompts="[fake:latency=0.1]", point="none", **sections):
        run = {"ray_address": ray_address} | sections.pop("run", {})
        path = bench.folder / "run.yaml"
        path.write_text(yaml.safe_dump(bench.values(inputs, prompts, run=run, **sections)))
        command = [sys.executable, "-m", "tests.faults.driver", point, "run", str(path)]
        self.child = Child(command, env={**os.environ, "PYTHONUNBUFFERED": "1"})

    def wait(self) -> tuple[int, str]:
        code = self.child.wait(PATIENCE_S)
        return code, self.child.stdout + self.child.stderr

    def signal_when(self, number, condition) -> tuple[int, str]:
        until = time.monotonic() + PATIENCE_S
        while not condition():
            if self.child.process.poll() is not None or time.monotonic() > until:
                self.child.kill()
                pytest.fail(f"the driver was too quick or too slow:\n{self.child.stdout}{self.child.stderr}")
            time.sleep(0.02)
        self.child.process.send_signal(number)
        return self.wait()


def small_parts(bench):
    return {"path": str(bench.output), "part_units": 2}


def test_killed_between_data_and_rename_then_interrupted_then_finished(bench, videos, ray_address):
    output, prompts = small_parts(bench), {"a": "[fake:latency=0.5]", "b": "Why?"}

    def driver(in_flight_units, point="none"):
        run = {"in_flight_units": in_flight_units, "heartbeat_s": 0.2}
        return Driver(bench, ray_address, videos, prompts, point=point, output=output, run=run)

    code, text = driver(8, point="before-rename").wait()
    assert code == -signal.SIGKILL, text
    assert [path.name for path in (bench.output / "results").iterdir() if path.name.endswith(".tmp")]
    assert len(set(bench.done())) == 2

    killed = {beat["run_id"] for beat in bench.events("heartbeat")}
    code, text = driver(1).signal_when(
        signal.SIGTERM,
        lambda: any(beat["done"] > 2 and beat["run_id"] not in killed for beat in bench.events("heartbeat")),
    )
    assert code == 1, text
    assert "6 units to do, 2 already done" in text
    assert "SIGTERM: writing what is finished" in text
    assert "interrupted: " in text
    assert 2 < len(set(bench.done())) < 8
    assert bench.events("run_finished")[-1]["outcome"] == "interrupted"
    assert (bench.output / "report.html").exists()

    code, text = driver(8).wait()
    assert code == 0, text
    bench.assert_each_unit_once(prompts=2)

    code, text = driver(8).wait()
    assert (code, "nothing to do: 8 done, 0 failed" in text) == (0, True), text


def test_killed_between_the_last_part_and_the_report(bench, videos, ray_address):
    code, _ = Driver(bench, ray_address, videos, point="before-report").wait()
    assert code == -signal.SIGKILL
    bench.assert_each_unit_once()
    assert not (bench.output / "report.html").exists()
    code, text = Driver(bench, ray_address, videos).wait()
    assert (code, "nothing to do" in text) == (0, True), text
    assert (bench.output / "report.html").exists()
