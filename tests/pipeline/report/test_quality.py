"""The quality slice from its files: figures with intervals, thresholds, cost without compression, words."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from pipeline import schemas
from pipeline.report import build_report, complaint, measure_quality, newest_run
from pipeline.report.quality import measured
from tests.pipeline.report import outputs
from tests.pipeline.report.pages import Page

PLAN = outputs.manifest(40, {"caption": "Describe this video."})
IDS = PLAN["unit_id"].to_pylist()


def table(units: int = 12, failed: int = 0, alike: bool = True) -> pa.Table:
    return outputs.quality(PLAN, np.arange(units), failed=failed, alike=alike)


def test_means_and_intervals() -> None:
    found = measured(table(), IDS[:12], {})
    assert found is not None
    quality = found.quality
    assert (quality.sample, quality.units, quality.failed, quality.answers) == (12, 12, 0, 12)
    # Every third answer was cut in half; one of those was empty before.
    assert quality.same == pytest.approx(9 / 12)
    assert quality.agreement == pytest.approx(8 / 12 + 0.6 * 4 / 12)
    for value, interval in (
        (quality.same, quality.same_interval),
        (quality.agreement, quality.agreement_interval),
        (quality.similarity, quality.similarity_interval),
    ):
        assert interval is not None
        assert interval[0] < value < interval[1]
    assert quality.below == ()
    assert list(complaint(quality)) == []
    assert [pair.agreement for pair in quality.worst] == [0.6, 0.6, 0.6]
    assert all(pair.text != pair.reference_text for pair in quality.worst)
    assert (quality.engine_s, quality.reference_engine_s) == (pytest.approx(4.8), pytest.approx(9.6))


def test_a_few_clips_have_no_interval_and_none_has_no_mean() -> None:
    few = measured(table(3), IDS[:3], {})
    assert few is not None
    assert few.quality.agreement_interval is None
    none = measured(schemas.QUALITY.empty_table(), IDS[:3], {})
    assert none is not None
    assert (none.quality.sample, none.quality.units, none.quality.agreement, none.quality.below) == (3, 0, None, ())
    assert none.stretched({"encode": 1.0}) is None
    assert measured(table(), [], {}) is None, "a run without a slice"


def test_rows_of_other_units_and_earlier_tries_do_not_count() -> None:
    twice = pa.concat_tables([table(6), table(6, failed=6)])
    later = pc.add(twice["finished_at"], pa.array([timedelta(seconds=i >= 6) for i in range(12)]))
    at = twice.schema.names.index("finished_at")
    twice = twice.set_column(at, twice.schema.field(at), later.cast(twice.schema.field(at).type))
    found = measured(twice, IDS[:4], {})
    assert found is not None
    assert (found.quality.units, found.quality.failed) == (0, 4)


@pytest.mark.parametrize(
    ("rows", "thresholds", "said"),
    [
        (table(), {"min_agreement": 0.9}, ["agreement 0.867 is below quality.min_agreement: 0.9 (12 clips, 95 % int"]),
        (table(), {"min_agreement": 0.8, "min_similarity": 0.8}, []),
        (table(), {"min_similarity": 0.95}, ["similarity 0.933 is below quality.min_similarity: 0.95"]),
        (table(alike=False), {"min_similarity": 0.5}, ["similarity was not measured, quality.min_similarity: 0.5"]),
        (
            table(failed=12),
            {"min_agreement": 0.1, "min_similarity": 0.1},
            ["agreement could not be measured, quality.min_agreement: 0.1 (no room", "similarity could not be measur"],
        ),
        (schemas.QUALITY.empty_table(), {"min_agreement": 0.1}, ["(no clip of the slice was answered)"]),
    ],
)
def test_thresholds(rows: pa.Table, thresholds: dict, said: list[str]) -> None:
    found = measured(rows, IDS[:12], thresholds)
    assert found is not None
    assert len(found.quality.below) == len(said)
    for sentence, part in zip(found.quality.below, said, strict=True):
        assert part in sentence


def test_the_message_names_the_worst_pairs_in_plain_lines() -> None:
    rows = table(12)
    at = rows.schema.names.index("text")
    hostile = ["\x1b[31mred\nnext", *rows["text"].to_pylist()[1:]]
    rows = rows.set_column(at, rows.schema.field(at), pa.array(hostile))
    found = measured(rows, IDS[:12], {"min_agreement": 1.0})
    assert found is not None
    lines = list(complaint(found.quality))
    assert lines[0].startswith("quality: agreement 0.867 is below")
    assert lines[1].startswith("  s3://corpus/2026/03/clip-000000.mp4 caption: agreement 0.60, similarity 0.80")
    assert lines[2] == "    with compression:    ' [31mred next'"
    assert len(lines) == 1 + 3 * 3
    assert all(line.isprintable() for line in lines)


def test_engine_seconds_without_compression_stage_by_stage() -> None:
    found = measured(table(), IDS[:12], {})
    assert found is not None
    full = found.stretched({"encode": 100.0, "prefill": 50.0, "decode": 10.0})
    assert full is not None
    assert (full.units, full.engine_s) == (12, pytest.approx(100 * 1.5 + 50 * 4 + 10))
    assert full.interval == (pytest.approx(360), pytest.approx(360))
    part = measured(table(12, failed=10), IDS[:12], {})
    assert part is not None
    few = part.stretched({"encode": 100.0})
    assert few is not None
    assert (few.units, few.engine_s, few.interval) == (2, pytest.approx(150), None)


def test_a_run_below_its_threshold_says_so_on_its_page(tmp_path: Path) -> None:
    plan = outputs.manifest(40, {"caption": "Describe this video."})
    config = outputs.CONFIG | {"quality": {"units": 12, "min_agreement": 0.9, "min_similarity": None}}
    log = outputs.events(40, 40, 0, sample=IDS[:12])
    folder = outputs.write(tmp_path, plan, outputs.results(plan, np.arange(40)), None, log, config)
    outputs.write_quality(tmp_path, outputs.quality(plan, np.arange(12), failed=1, alike=False))
    metrics = build_report(folder)
    assert metrics.outcome.endswith("Quality is below the threshold.")
    assert metrics.uncompressed is not None
    assert (metrics.uncompressed.method, metrics.uncompressed.slice_units) == ("slice", 11)
    assert build_report(folder) == metrics
    page = Page.of((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.problems == []
    for said in (
        "Quality: agreement 0.855 is below quality.min_agreement: 0.9 (11 clips",
        "1 clip of the quality slice could not be answered without compression: no room <b>without</b> compression.",
        "11 clips of 12 chosen",
        "at least 90 % asked for",
        "not measured",
        "The answers that differ most",
        outputs.CAPTIONS[3].split("\u202e")[0][:40],
        "2.00×",
    ):
        assert said in page.text, said
    assert ("span", {"class": "dot bad"}) in page.tags
    again = measure_quality(folder, None, None, {"min_agreement": 0.5})
    assert again is not None
    assert again.below == (), "thresholds are those of the configuration at hand"
    last = newest_run(folder)
    assert last is not None
    assert last.sample == tuple(IDS[:12])
    assert yaml.safe_load((tmp_path / "runs" / outputs.RUN_ID / "config.yaml").read_text())["quality"]["units"] == 12
