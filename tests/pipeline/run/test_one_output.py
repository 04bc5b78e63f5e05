"""Two runs and one output: real Ray, the fake engine; a run that was evicted writes no more."""

from __future__ import annotations

import time

import pytest

from pipeline.run import folder as folders
from pipeline.run import job
from pipeline.run.feed import PipelineFailed
from pipeline.run.job import run
from pipeline.run.lease import FILE, Lease, OutputBusy

pytestmark = pytest.mark.usefixtures("ray_address")


def quiet(text: str) -> None:
    """Stands for a person who does not read."""


def test_two_runs_on_one_output(bench, videos):
    config = bench.config(videos)
    first = Lease(folders.Folder.of(config), "first")
    first.acquire()
    with pytest.raises(OutputBusy, match=r"another run \(first, process"):
        run(config, say=quiet)
    assert not (bench.output / "manifest").exists()
    first.release()
    assert run(config, say=quiet).done == 8


@pytest.mark.parametrize("left", [b'{"run_id": "b", "token": "of b"}', None], ids=["busy", "gone again"])
def test_a_run_that_lost_its_output_writes_no_more(bench, videos, monkeypatch, left):
    """As after a suspension, during which another run came, and perhaps went."""
    config = bench.config(videos)
    folder, take = folders.Folder.of(config), job._Job._take

    def lose(self, outcomes):
        take(self, outcomes)
        folder.remove(FILE)
        if left:
            folder.write(FILE, left)

    said = []
    with monkeypatch.context() as patched:
        patched.setattr(job._Job, "_take", lose)
        with pytest.raises(OutputBusy):
            run(config, say=said.append)
    assert said[-1] == "another run has had this output; what is not written yet is left to it"
    assert not (bench.output / "results").exists()
    assert not (bench.output / "report.html").exists()
    assert [(end["outcome"], end["done"], end["left"]) for end in bench.events("run_finished")] == [("aborted", 0, 8)]
    assert folder.read(FILE) == left, "another's lease stays"
    folder.remove(FILE)
    assert run(config, say=quiet).done == 8
    bench.assert_each_unit_once()


def test_whatever_ends_a_run_that_lost_its_output_it_writes_no_more(bench, videos, monkeypatch):
    """Not at the first full part, nor when something else went wrong at the same time."""
    config = bench.config(videos, output={"path": str(bench.output), "part_units": 2})
    folder, take, wrote = folders.Folder.of(config), job._Job._take, []

    def lose_and_fail(self, outcomes):
        folder.remove(FILE)
        monkeypatch.setattr(folders.Folder, "write", lambda self, path, data: wrote.append(path))
        try:
            take(self, outcomes)
        except OutputBusy:
            raise PipelineFailed("the pipeline broke") from None

    monkeypatch.setattr(job._Job, "_take", lose_and_fail)
    monkeypatch.setattr(job, "build_report", lambda *args: wrote.append("report.html"))
    with pytest.raises((PipelineFailed, OutputBusy)):
        run(config, say=quiet)
    assert wrote == []
    assert not (bench.output / "results").exists()


def test_a_run_that_lost_its_output_before_it_began_opens_no_log(bench, videos, monkeypatch):
    config = bench.config(videos)
    folder, read_ledger = folders.Folder.of(config), job.read_ledger

    def lose(*args):
        ledger = read_ledger(*args)
        folder.remove(FILE)
        return ledger

    monkeypatch.setattr(job, "read_ledger", lose)
    with pytest.raises(OutputBusy, match="another run has had this output"):
        run(config, say=quiet)
    assert not (bench.output / "runs").exists()
    assert folder.read(FILE) is None


def test_the_output_is_kept_while_nothing_is_answered_yet(bench, videos, monkeypatch):
    monkeypatch.setattr("pipeline.run.lease.RENEW_S", 0.02)
    config = bench.config(videos)
    folder, read_ledger, seen = folders.Folder.of(config), job.read_ledger, set()

    def slowly(*args):
        for _ in range(1000):
            seen.add(folder.read(FILE))
            if len(seen) > 3:
                break
            time.sleep(0.01)
        return read_ledger(*args)

    monkeypatch.setattr(job, "read_ledger", slowly)
    assert run(config, say=quiet).done == 8
    assert len(seen) > 3
