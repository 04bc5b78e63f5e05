"""Compaction: nothing lost or doubled, beside readers, on disk and in S3; a run is respected."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luvc.errors import LuvcError
from pipeline import cli, parts, schemas, storage
from pipeline import compact as compaction
from pipeline.compact import KINDS, compact, conform
from pipeline.errors import StorageError
from pipeline.parts import is_part
from pipeline.report import build_report
from pipeline.report.files import Output
from pipeline.run.folder import Folder
from pipeline.run.lease import FILE, Lease, OutputBusy
from tests.pipeline.compact.places import FAILED, UNITS, Place
from tests.pipeline.report import outputs


def test_small_files_become_one_for_each_folder_and_all_reads_the_same(new_place, dated):
    place = new_place(dated)
    before = {kind: place.rows(kind) for kind in KINDS}
    report = build_report(place.url, place.options).as_dict()
    done = compact(place.url, place.options)
    assert [one.kind for one in done] == ["results", "failures", "metrics"]
    assert [one.files for one in done] == [(6, 3), (1, 1), (1, 1)]
    assert str(done[1]) == "failures: 1 file, nothing to join"
    assert {url.rsplit("/", 2)[1] for url in place.files("results")} == {"results", "dt=2026-03-01", "dt=2026-03-02"}
    assert {kind: place.rows(kind) for kind in KINDS} == before
    assert place.plain_rows("results") == 2 * (UNITS - FAILED)
    assert place.done() == UNITS - FAILED
    for url in place.files("results"):
        file = pq.ParquetFile(place.open(url))
        assert file.schema_arrow.equals(schemas.RESULTS, check_metadata=False)
        assert file.read()["uri"].to_pylist() == sorted(file.read()["uri"].to_pylist())
        (run,) = json.loads(file.metadata.metadata[parts.RUNS])
        assert (run["run_id"], run["rows"]) == (outputs.RUN_ID, file.metadata.num_rows)
    assert same(build_report(place.url, place.options).as_dict(), report)

    versions = place.versions()
    assert all(one.files[0] == one.files[1] for one in compact(place.url, place.options))
    assert {url: version for url, version in place.versions().items() if "/runs/" not in url} == {
        url: version for url, version in versions.items() if "/runs/" not in url
    }
    assert FILE not in str(versions)


def same(one: Any, other: Any) -> bool:
    """Equal, but for the last digits of sums whose order changed."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return one == (pytest.approx(other) if isinstance(one, float) else other)


def test_readers_beside_it_count_each_row_once(on_disk, flat, monkeypatch):
    """Real threads: somebody reads all the while, and sees the state between each write and its deletes."""
    place = on_disk(flat)
    expected = (2 * (UNITS - FAILED), UNITS - FAILED)
    seen: list[tuple[int, int]] = []
    looked, ended = threading.Semaphore(0), threading.Event()

    def read() -> None:
        while not ended.is_set():
            seen.append((len(place.rows("results")), place.done()))
            looked.release()

    reader = threading.Thread(target=read)
    remove = storage.remove

    def after_a_look(urls: list[str], options: Any = None) -> None:
        for _ in range(2):  # the first may have begun before the write
            looked.acquire(timeout=60)
        remove(urls, options)

    monkeypatch.setattr(storage, "remove", after_a_look)
    reader.start()
    try:
        compact(place.url, part_bytes=90_000)
    finally:
        ended.set()
        reader.join()
    assert 2 <= len(place.files("results")) < 17
    assert len(seen) >= 4
    assert set(seen) == {expected}


def size_of(url: str) -> int:
    return storage.stat(url).size_bytes


def test_files_have_the_size_that_was_asked_for(on_disk, flat):
    place = on_disk(flat)
    before = place.rows("results")
    wanted = 90_000
    compact(place.url, part_bytes=wanted)
    sizes = sorted(map(size_of, place.files("results")))
    assert len(sizes) >= 2
    assert all(0.7 * wanted < size < 1.5 * wanted for size in sizes[1:])
    assert place.rows("results") == before
    versions = place.versions()
    compact(place.url, part_bytes=wanted)
    assert place.versions() == versions


def test_a_file_of_the_right_size_and_a_lonely_small_one_are_left_alone(on_disk, three):
    place = on_disk(three)
    versions = place.versions()
    compact(place.url, part_bytes=1000)
    assert place.versions() == versions
    for url in place.files("results")[1:]:
        Path(url).unlink()
    versions = place.versions()
    compact(place.url)
    assert place.versions() == versions


def test_many_rows_in_few_bytes_are_not_read_again_every_night(on_disk, flat, monkeypatch):
    for module in (parts, compaction):
        monkeypatch.setattr(module, "MOST_ARROW_BYTES", 20_000)
    place = on_disk(flat)
    compact(place.url)
    versions = place.versions()
    assert 1 < len(place.files("results")) < 17
    read, read_bytes = [], storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda url, options: read.append(url) or read_bytes(url, options))
    compact(place.url)
    assert place.versions() == versions
    assert len([url for url in read if is_part(url)]) <= 1


def test_a_run_is_respected(on_disk, three):
    place = on_disk(three)
    run = Lease(Folder(place.url), "a-run")
    run.acquire()
    versions = place.versions()
    with pytest.raises(OutputBusy, match=r"another run \(a-run, process"):
        compact(place.url)
    assert place.versions() == versions
    run.release()
    compact(place.url)


def test_a_lease_that_was_lost_stops_it(on_disk, three, monkeypatch):
    place = on_disk(three)
    before = place.rows("results")
    write = storage.write_atomic

    def and_another_takes_over(url, data, options=None):
        write(url, data, options)
        if "-compact-" in url:
            write(f"{place.url}/{FILE}", b'{"run_id": "b", "token": "other"}')

    monkeypatch.setattr(storage, "write_atomic", and_another_takes_over)
    with pytest.raises(OutputBusy, match="another run \\(b"):
        compact(place.url)
    assert place.plain_rows("results") > len(before)  # nothing was deleted
    assert place.rows("results") == before


def test_a_folder_that_is_no_output_stays_as_it_is(tmp_path):
    assert compact(str(tmp_path / "nothing")) == []
    assert not (tmp_path / "nothing").exists()


def test_a_file_that_cannot_be_read_is_named_and_nothing_is_lost(on_disk, three, tmp_path):
    place = on_disk(three)
    bad = tmp_path / "out" / "results" / "part-0-bad.parquet"
    bad.write_bytes(b"no parquet")
    versions = place.versions()
    with pytest.raises(StorageError, match="part-0-bad"):
        compact(place.url)
    assert place.versions() == versions


def test_a_write_that_fails_leaves_all_as_it_was(on_disk, three, monkeypatch):
    place = on_disk(three)
    versions = place.versions()

    def full(path: Path, data: bytes) -> None:
        if "-compact-" in path.name:
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(storage, "_write_local", full)
    with pytest.raises(LuvcError, match="No space left"):
        compact(place.url)
    assert place.versions() == versions


def test_a_report_after_its_metrics_were_compacted(tmp_path):
    """Rows of a run are replaced where they are, not written a second time."""
    path = outputs.nights(tmp_path / "out", count=3, units=12)
    place = Place(path, {})
    before = place.rows("metrics")
    compact(path)
    (compacted,) = place.files("metrics")
    assert place.rows("metrics") == before
    build_report(path, run_id=before[0]["run_id"])
    assert place.files("metrics") == [compacted]
    assert place.rows("metrics") == before
    runs = json.loads(pq.read_metadata(compacted).metadata[parts.RUNS])
    assert len(runs) == 3
    assert {run["model"] for run in runs} == {"luvc-demo"}


def test_a_report_that_was_written_while_its_metrics_were_compacted(tmp_path, monkeypatch):
    path = outputs.nights(tmp_path / "out", count=2, units=12)
    place = Place(path, {})
    before = place.rows("metrics")
    run_id = max(row["run_id"] for row in before)
    write, compacted = Output.write, []

    def just_then(output, data, *parts):
        if parts[0] == "metrics" and not compacted:
            compacted.extend(compact(path))
        write(output, data, *parts)

    monkeypatch.setattr(Output, "write", just_then)
    build_report(path, run_id=run_id)
    assert compacted
    assert len(place.files("metrics")) == 1
    assert place.rows("metrics") == before


def test_rows_of_other_versions_of_the_schema():
    table = pa.table({"unit_id": ["a"], "output_tokens": pa.array([7], pa.int16()), "mood": ["good"]})
    found = conform(table, pa.schema([("unit_id", pa.string()), ("text", pa.string()), ("output_tokens", pa.int32())]))
    assert found.schema.names == ["unit_id", "text", "output_tokens", "mood"]
    assert found.schema.field("output_tokens").type == pa.int32()
    assert found.to_pylist() == [{"unit_id": "a", "text": None, "output_tokens": 7, "mood": "good"}]


def test_the_command(on_disk, dated, tmp_path, capsys):
    path = on_disk(dated).url
    assert cli.main(["compact", path, "--part-bytes", "100000000"]) == 0
    assert capsys.readouterr().out.startswith("results: 6 files, 0.")
    assert cli.main(["compact", str(tmp_path / "nothing")]) == 0
    assert capsys.readouterr().out == "nothing to compact: no part files here\n"
    config = tmp_path / "run.yaml"
    config.write_text(f"inputs: [{{path: {tmp_path}}}]\noutput: {{path: {tmp_path}/other}}\n")
    assert cli.main(["compact", str(config), "--set", f"output.path={path}"]) == 0
    assert "results: 3 files, nothing to join" in capsys.readouterr().out


def test_no_ray_is_imported():
    import subprocess
    import sys

    code = "import sys, pipeline.compact; print('ray' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
