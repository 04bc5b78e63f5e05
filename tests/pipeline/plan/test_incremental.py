"""A plan on top of the one before is the plan from nothing, and reads no header that it knows."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from luvc.errors import ConfigError
from pipeline.config import RunConfig, parse_config
from pipeline.plan import add, headers, plan
from pipeline.plan.planning import Plan
from pipeline.storage import join
from tests.videos import EXAMPLES, write_video

BY_ID = [("unit_id", "ascending")]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Four of the example clips and one file that is no video."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for path in sorted(EXAMPLES.glob("*.mp4"))[:4]:
        shutil.copy2(path, folder)
    (folder / "broken.mp4").write_text("no video" * 100)
    return folder


def config_of(path: Path | str, **sections: Any) -> RunConfig:
    values = {"inputs": [{"path": str(path)}], "output": {"path": "memory://out", "thumbnails": 2}, **sections}
    return parse_config(values)


def check(config: RunConfig, before: Plan, read: int) -> Plan:
    """Plan on top of `before`; it has to be as from nothing, after `read` headers."""
    made = plan(config, known=before.probes)
    fresh = plan(config)
    assert made.table.equals(fresh.table)
    assert (
        made.probes.sort_by("uri")
        .drop_columns("key_frames_s")
        .equals(fresh.probes.sort_by("uri").drop_columns("key_frames_s"))
    )
    assert made.summary.headers_read == read
    assert fresh.summary.headers_kept == 0
    return made


def sound(made: Plan) -> set[str]:
    ids: list[str] = made.table.filter(pc.is_null(made.table["error_class"]))["unit_id"].to_pylist()
    return set(ids)


def test_added_changed_and_removed_files(corpus: Path) -> None:
    made = plan(config_of(corpus))
    assert (made.summary.units, made.summary.failed, made.summary.headers_read) == (5, 1, 5)
    made = check(config_of(corpus), made, read=1)  # the broken one is looked at every time
    assert "headers         1 read, 4 files as they were" in str(made.summary)
    write_video(corpus / "new.mp4", 30)
    made = check(config_of(corpus), made, read=2)
    write_video(corpus / "new.mp4", 40)
    made = check(config_of(corpus), made, read=2)
    os.utime(corpus / "new.mp4", (1e9, 1e9))
    made = check(config_of(corpus), made, read=2)
    (corpus / "broken.mp4").unlink()
    next(corpus.glob("*.mp4")).unlink()
    made = check(config_of(corpus), made, read=0)
    assert len(made.probes) == made.summary.units == 4


@pytest.mark.parametrize(
    ("sections", "read"),
    [
        ({"prompts": "Other?"}, 1),
        ({"compression": "off"}, 1),
        ({"model": {"id": "luvc-demo", "revision": "2"}}, 1),
        ({"clips": {"mode": "windows", "window_s": 1.5}}, 1),
        ({"sampling": {"mode": "fps", "fps": 3}}, 1),
        # Times of key frames are in the header, and were not asked for.
        ({"sampling": {"mode": "key_frames"}}, 5),
    ],
)
def test_other_settings_need_no_header(corpus: Path, sections: dict[str, Any], read: int) -> None:
    before = plan(config_of(corpus))
    made = check(config_of(corpus, **sections), before, read)
    assert not sound(made) & sound(before)
    check(config_of(corpus, **sections), made, read=1)
    check(config_of(corpus), made, read=1)


def test_a_list_of_clips(corpus: Path, tmp_path: Path) -> None:
    """A list says nothing of a file's version, so each is asked for; a window ends between two clips of one file."""
    names = sorted(path.name for path in corpus.iterdir())
    listed = [{"uri": f"corpus/{name}", "prompt": text} for text in ("Who?", "Where?") for name in names]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, listed)))
    config = config_of(tmp_path / "list.jsonl")
    made = check(config, plan(config), read=1)
    assert made.summary.units == 10
    write_video(corpus / names[-1], 30)
    check(config, made, read=2)


def test_files_of_one_hash_are_not_taken_for_each_other(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = plan(config_of(corpus))
    monkeypatch.setattr(headers, "_hashes", lambda texts: np.zeros(len(texts), np.int64))
    made = plan(config_of(corpus), known=fresh.probes)
    assert made.table.equals(fresh.table)
    assert made.probes.sort_by("uri").equals(fresh.probes.sort_by("uri"))
    assert (made.summary.headers_kept, made.summary.headers_read) == (1, 4)


def test_windows_of_items(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(corpus, inputs=[{"path": str(corpus)}, {"path": f"{corpus}/*.mp4"}])
    whole = plan(config)
    monkeypatch.setattr("pipeline.plan.planning.WINDOW_ITEMS", 2)
    monkeypatch.setattr("pipeline.plan.planning.SAVE_EVERY_S", 0.0)
    saved: list[pa.Table] = []
    seen: list[tuple[int, int]] = []
    made = plan(config, progress=lambda done, of: seen.append((done, of)), save=saved.append)
    assert made.table.equals(whole.table)
    assert (made.summary.headers_read, made.summary.duplicates) == (5, 5)
    assert seen == sorted(seen)
    assert [len(table) for table in saved] == [2, 3, 4, 4, 4]
    # Whoever was interrupted after the second window goes on there.
    assert plan(config, known=saved[1]).summary.headers_read == 2


def test_what_is_not_looked_at_yet_is_not_forgotten(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan(config_of(corpus))
    monkeypatch.setattr("pipeline.plan.planning.WINDOW_ITEMS", 1)
    monkeypatch.setattr("pipeline.plan.planning.SAVE_EVERY_S", 0.0)
    saved: list[pa.Table] = []
    plan(config_of(corpus), known=before.probes, save=saved.append)
    assert all(len(table) == 4 for table in saved)


def test_facts_are_kept_in_a_file(corpus: Path) -> None:
    made = plan(config_of(corpus))
    assert headers.read_probes("memory://kept") is None
    headers.write_probes(made.probes, "memory://kept")
    known = headers.read_probes("memory://kept")
    assert known is not None
    assert known.equals(made.probes)
    assert plan(config_of(corpus), known=known).summary.headers_read == 1


def test_headers_read_by_other_rules_are_read_again(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers.write_probes(plan(config_of(corpus)).probes, "memory://older")
    monkeypatch.setattr(headers, "PROBE_VERSION", "next")
    assert headers.read_probes("memory://older") is None


class TestAdd:
    """Named files join the manifest; nothing else is looked at."""

    def test_new_files(self, corpus: Path, tmp_path: Path) -> None:
        before = plan(config_of(corpus))
        path = write_video(corpus / "new.mp4", 30)
        made = add(config_of(corpus), [str(path)], before.table, known=before.probes)
        assert made.summary.headers_read == 1
        fresh = plan(config_of(corpus))
        assert made.table.sort_by(BY_ID).equals(fresh.table.sort_by(BY_ID))
        assert made.probes.sort_by("uri").equals(fresh.probes.sort_by("uri"))
        check(config_of(corpus), made, read=1)
        # Again, in a list: nothing to read, nothing new.
        (tmp_path / "list.csv").write_text(f"uri\n{path}\n")
        again = add(config_of(corpus), [str(tmp_path / "list.csv")], made.table, known=made.probes)
        assert again.table.equals(made.table)
        assert (again.summary.headers_read, again.summary.duplicates) == (0, 1)

    def test_a_new_version_replaces_the_old(self, corpus: Path) -> None:
        config = config_of(corpus, clips={"mode": "windows", "window_s": 1.0})
        before = plan(config)
        changed = write_video(sorted(corpus.glob("*.mp4"))[-1], 60)
        repaired = write_video(corpus / "broken.mp4", 30)
        made = add(config, [str(changed), str(repaired)], before.table, known=before.probes)
        assert made.table.sort_by(BY_ID).equals(plan(config).table.sort_by(BY_ID))
        assert made.summary.failed == 0

    def test_a_file_that_is_gone_is_an_error_now(self, corpus: Path, tmp_path: Path) -> None:
        before = plan(config_of(corpus))
        gone = sorted(corpus.glob("*.mp4"))[-1]
        gone.unlink()
        (tmp_path / "list.csv").write_text(f"uri\n{gone}\n")
        made = add(config_of(corpus), [str(tmp_path / "list.csv")], before.table, known=before.probes)
        assert made.table.filter(pc.equal(made.table["uri"], str(gone)))["error_class"].to_pylist() == ["SourceMissing"]

    def test_only_with_the_settings_of_the_manifest(self, corpus: Path) -> None:
        before = plan(config_of(corpus))
        with pytest.raises(ConfigError, match="planned with other prompts, model or settings") as caught:
            add(config_of(corpus, prompts="Other?"), [str(corpus)], before.table)
        assert "without --add" in caught.value.hint
        with pytest.raises(ConfigError, match="does not say"):
            add(config_of(corpus), [str(corpus)], before.table.replace_schema_metadata(None))
        with pytest.raises(ConfigError, match="--add: /nowhere: no such file"):
            add(config_of(corpus), ["/nowhere"], before.table)

    def test_with_the_options_of_the_input(self, s3: dict[str, Any], corpus: Path) -> None:
        config = config_of(s3["url"], inputs=[{"path": s3["url"], "storage": s3["storage"]}])
        first, second = sorted(corpus.glob("*.mp4"))[1:3]
        s3["client"].upload_file(str(first), s3["bucket"], "a.mp4")
        before = plan(config)
        s3["client"].upload_file(str(second), s3["bucket"], "b.mp4")
        made = add(config, [join(s3["url"], "b.mp4")], before.table, known=before.probes)
        assert (made.summary.units, made.summary.headers_read, made.summary.failed) == (2, 1, 0)
        check(config, made, read=0)
