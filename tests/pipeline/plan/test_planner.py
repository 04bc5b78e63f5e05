"""A whole plan: rows, figures, failures as rows, ids that change when and only when the answer could."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from luvc import embedded
from luvc.errors import ConfigError, ModelError
from luvc.scheduling import schedule
from pipeline import children
from pipeline.config import RunConfig, parse_config
from pipeline.decode.protocol import DecodeSettings
from pipeline.decode.pyav import decode
from pipeline.plan import plan
from pipeline.plan.item import Item
from pipeline.plan.manifest import build_table, format_summary, read_manifest, summarise, write_manifest
from pipeline.plan.planner import Planner
from pipeline.plan.probe import Probe
from pipeline.plan.show import compression_table
from pipeline.schemas import MANIFEST
from pipeline.storage import FileInfo, write_atomic
from tests.videos import EXAMPLES, truncate, write_audio, write_video

ROOT = Path(__file__).parents[3]


def config_of(folder: Path | str, **sections: Any) -> RunConfig:
    values = {"inputs": [{"path": str(folder)}], "output": {"path": "memory://out"}, **sections}
    return parse_config(values)


def rows(config: RunConfig) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = plan(config).table.to_pylist()
    return found


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "a.mp4", 100)
    write_video(folder / "b.mkv", 50)
    return folder


def test_the_example_clips() -> None:
    made = plan(config_of(EXAMPLES, compression="fast"))
    assert made.table.schema.equals(MANIFEST)
    assert MANIFEST.metadata.items() <= made.table.schema.metadata.items()
    assert made.summary.failed == 0
    assert made.summary.units == len(list(EXAMPLES.glob("*.mp4")))
    by_name = {Path(row["uri"]).name: row for row in made.table.to_pylist()}
    assert by_name["bikes.mp4"]["width_px"] == 640
    assert by_name["carphone_pristine.mp4"]["width_px"] == 193
    assert made.summary.merged_tokens == made.summary.visual_tokens * 49 / 64
    text = str(made.summary)
    for part in (f"{made.summary.units} from", "visual tokens", "behind the encoder (77%)"):
        assert part in text


def test_planned_frames_and_tokens_are_what_decoding_gives(clips: Path) -> None:
    config = config_of(clips, clips={"mode": "windows", "window_s": 1.5}, sampling={"mode": "fps", "fps": 3})
    planner = Planner.of(config)
    for row in rows(config):
        clip = decode(row, DecodeSettings())
        assert clip.frames.shape == (row["frames"], row["frame_height_px"], row["frame_width_px"], 3)
        shape = planner._sizer.shape
        grid = planner._sizer.family.grid(shape, *clip.frames.shape[:3])
        planned = schedule(shape, grid, config.compression)
        assert row["merged_tokens"] == planned.merged_tokens
        assert row["visual_tokens"] == planned.visual_tokens
        assert row["patches"] == planned.patches
        low, high = row["start_s"], row["end_s"]
        assert all(low <= time_s < high for time_s in row["timestamps_s"])
        assert all(low - 0.05 <= time_s < high for time_s in clip.timestamps_s)


def test_bad_videos_are_rows_not_errors(tmp_path: Path) -> None:
    good = write_video(tmp_path / "good.mp4", 50)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video" * 100)
    truncate(good, tmp_path / "cut.mp4", 0.5)
    write_audio(tmp_path / "sound.mp4")
    listed = [{"uri": path.name} for path in sorted(tmp_path.iterdir())]
    listed += [{"uri": "none.mp4", "id": "lost"}, {"uri": "good.mp4", "start_s": 90, "end_s": 95}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, listed)))
    config = config_of(tmp_path / "list.jsonl")
    made = plan(config)
    by_error = {row["error_class"]: row for row in made.table.to_pylist()}
    assert set(by_error) == {
        None,
        "EmptyFile",
        "NotAVideo",
        "Truncated",
        "NoVideoStream",
        "SourceMissing",
        "SpanUnreadable",
    }
    assert made.summary.units == 7
    assert made.summary.failed == 6
    assert "6 (" in format_summary(made.summary)
    assert by_error["SourceMissing"]["item_id"] == "lost"
    span = by_error["SpanUnreadable"]
    assert (span["start_s"], span["end_s"], span["width_px"]) == (90.0, 95.0, 160)
    assert "90 s to 95 s" in span["error_message"]
    assert by_error["NoVideoStream"]["error_hint"]
    assert by_error[None]["sample"] is True
    assert not any(row["sample"] for name, row in by_error.items() if name)
    assert plan(config).table.equals(made.table)


def test_a_name_that_is_not_utf8_costs_its_own_row_only(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "good.mp4").write_bytes((clips / "a.mp4").read_bytes())
    odd = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    odd.write_bytes((clips / "a.mp4").read_bytes())
    config = config_of(tmp_path)
    made = plan(config)
    bad, good = made.table.to_pylist()
    assert (bad["uri"], bad["error_class"]) == (f"{tmp_path}/caf\\xe9.mp4", "NameNotUtf8")
    assert bad["size_bytes"] == odd.stat().st_size
    assert "rename it" in bad["error_hint"]
    assert good["error_class"] is None
    assert made.probes.num_rows == 1
    write_manifest(made.table, "memory://odd-names")
    assert plan(config, known=made.probes).table.equals(made.table)
    odd.rename(tmp_path / "caf\u00e9.mp4")
    assert plan(config).summary.failed == 0


def test_a_lone_surrogate_in_the_configuration_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="UTF-8"):
        config_of(EXAMPLES, prompts="Who? \ud83d")


ODD_LENGTHS = {"whole": {"mode": "whole"}, "windows": {"mode": "windows", "window_s": 1}}


@pytest.mark.parametrize("mode", ODD_LENGTHS)
@pytest.mark.parametrize("said", [b"00:00:inf", b"00:00:nan", b"9999999999:00:00"])
def test_a_length_that_cannot_be(clips: Path, tmp_path: Path, said: bytes, mode: str) -> None:
    data = (clips / "b.mkv").read_bytes()
    length = b"00:00:02.000000000"
    assert data.count(length) == 1
    (tmp_path / "odd.mkv").write_bytes(data.replace(length, said.ljust(len(length), b"\0")))
    (tmp_path / "good.mkv").write_bytes(data)
    good, *odd = rows(config_of(tmp_path, clips=ODD_LENGTHS[mode]))[:: 1 if mode == "whole" else 2]
    assert good["error_class"] is None
    if b"99" not in said:  # not known then: the file's own length, or its packets, tell it
        assert odd[0]["error_class"] is None
        assert odd[0]["duration_s"] == pytest.approx(good["duration_s"], abs=0.05)
    elif mode == "windows":
        assert odd[0]["error_class"] == "SpanUnreadable"
        assert "more than 250,000 clips" in odd[0]["error_message"]


@pytest.mark.parametrize("mode", ODD_LENGTHS)
@pytest.mark.parametrize("odd", [{"duration_s": float("inf")}, {"duration_s": float("nan")}, {"fps": "fast"}])
def test_whatever_is_wrong_with_one_video_is_its_row(mode: str, odd: dict[str, Any]) -> None:
    facts = {"duration_s": 2.0, "width_px": 160, "height_px": 96, "rotation_deg": 0, "fps": 25.0, "codec": "h264"}
    config = config_of("x", clips=ODD_LENGTHS[mode])
    found = list(Planner.of(config).rows(Item("/v/a.mp4"), Probe(FileInfo("/v/a.mp4", 10, "v"), **{**facts, **odd})))
    assert found
    kinds = {row["error_class"] for row in found}
    assert kinds == ({"InputError"} if "fps" in odd else {"SpanUnreadable"})
    if "fps" in odd:
        assert "/v/a.mp4: TypeError: " in found[0]["error_message"]
        assert [row["start_s"] for row in found] == ([0.0, 1.0] if mode == "windows" else [None])
        build_table([{**row, "fps": None} for row in found])


def test_a_fault_in_cutting_is_a_row_too(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("nobody thought of it \udce9")

    monkeypatch.setattr("pipeline.plan.planner.cut", fail)
    for row in rows(config_of(clips)):
        assert row["error_class"] == "InputError"
        assert row["error_message"].endswith("ZeroDivisionError: nobody thought of it \\xe9")


def test_too_many_frames_for_the_model(clips: Path) -> None:
    found = rows(config_of(clips, sampling={"frames": 100}, generation={"max_new_tokens": 5000}))
    row = next(row for row in found if row["uri"].endswith("a.mp4"))
    assert row["error_class"] == "PromptTooLong"
    for part in ("100 frames", "6400 visual tokens", "5000 new tokens", "8192 positions"):
        assert part in row["error_message"]
    assert row["frames"] == 100


def test_nothing_to_plan(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        plan(config_of(tmp_path))
    with pytest.raises(ConfigError, match=r"inputs\.1\.path"):
        plan(config_of(EXAMPLES, inputs=[{"path": str(EXAMPLES)}, {"path": str(tmp_path / "none")}]))


def test_a_model_that_is_not_supported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="'bert' is not supported"):
        plan(config_of(EXAMPLES, model={"id": str(tmp_path)}))


def test_asked_for_twice_planned_once(clips: Path) -> None:
    config = config_of(clips, inputs=[{"path": str(clips)}, {"path": f"{clips}/*.mp4"}, {"path": f"{clips}/b.mkv"}])
    made = plan(config)
    assert (made.summary.units, made.summary.duplicates) == (2, 2)
    assert "2 asked for more than once" in str(made.summary)


def test_prompts_of_an_input_manifest(clips: Path, tmp_path: Path) -> None:
    listed = [{"uri": str(clips / "a.mp4"), "prompt": "Who?"}, {"uri": str(clips / "a.mp4")}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, listed)))
    first, second = rows(config_of(tmp_path / "list.jsonl", prompts={"x": "X?", "y": "Y?"}))
    assert first["prompts"] == [{"prompt_id": "prompt", "text": "Who?"}]
    assert [prompt["prompt_id"] for prompt in second["prompts"]] == ["x", "y"]
    assert first["unit_id"] != second["unit_id"]
    assert second["text_flops"] > first["text_flops"]


CHANGES = {
    "prompt": {"prompts": "Other?"},
    "model": {"model": {"id": "luvc-demo", "revision": "2"}},
    "new tokens": {"generation": {"max_new_tokens": 5}},
    "compression": {"compression": "off"},
    "frames": {"sampling": {"frames": 7}},
    "window": {"clips": {"mode": "windows", "window_s": 60}},
}
NO_CHANGES = {
    "actors": {"run": {"actors": 3}},
    "output": {"output": {"path": "memory://elsewhere"}},
    "prices": {"prices": {"gpu_hour_usd": 3.0}},
    "name": {"name": "other"},
    "deadline": {"decode": {"deadline_s": 5}},
}


@pytest.mark.parametrize("change", [*CHANGES, *NO_CHANGES])
def test_ids_change_when_the_answer_could(clips: Path, change: str) -> None:
    before = {row["unit_id"] for row in rows(config_of(clips))}
    after = {row["unit_id"] for row in rows(config_of(clips, **CHANGES.get(change, NO_CHANGES.get(change))))}
    assert all(len(unit_id) == 32 and int(unit_id, 16) >= 0 for unit_id in before)
    if change in CHANGES:
        assert not before & after
    else:
        assert before == after


def test_weights_trained_anew_are_another_model(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(embedded.config_path().read_bytes())
    ids = []
    for weights in (b"one", b"two", b"one"):
        (tmp_path / "model.safetensors").write_bytes(weights)
        ids.append(rows(config_of(clips, model={"id": str(tmp_path)}))[0]["unit_id"])
    assert ids[0] == ids[2] != ids[1]


def test_a_changed_file_is_new_work(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 10)
    before = rows(config_of(tmp_path))[0]["unit_id"]
    write_video(tmp_path / "a.mp4", 11)
    assert rows(config_of(tmp_path))[0]["unit_id"] != before


def test_samples_are_the_smallest_ids(clips: Path) -> None:
    config = config_of(clips, clips={"mode": "windows", "window_s": 1}, output={"path": "memory://o", "thumbnails": 3})
    table = plan(config).table
    assert sorted(table.filter(table["sample"])["unit_id"].to_pylist()) == sorted(table["unit_id"].to_pylist())[:3]
    assert table["uri"].to_pylist() == sorted(table["uri"].to_pylist())


@pytest.mark.parametrize("store", ["memory", "s3"])
def test_remote_inputs(clips: Path, store: str, request: pytest.FixtureRequest) -> None:
    root, options = "memory://planned", {}
    if store == "s3":
        server = request.getfixturevalue("s3")
        root, options = server["url"] + "/planned", server["storage"]
    for path in clips.iterdir():
        write_atomic(f"{root}/{path.name}", path.read_bytes(), options)
    found = rows(config_of(root, inputs=[{"path": root, "storage": options}]))
    assert [row["uri"] for row in found] == [f"{root}/a.mp4", f"{root}/b.mkv"]
    assert [row["error_class"] for row in found] == [None, None]
    clip = decode(found[0], DecodeSettings(), options)
    assert clip.frames_decoded == 8


def test_the_manifest_file_reads_back(clips: Path) -> None:
    made = plan(config_of(clips))
    url = write_manifest(made.table, "memory://planned-out")
    assert url == "memory://planned-out/manifest/manifest.parquet"
    again = read_manifest("memory://planned-out")
    assert again.equals(made.table)
    assert again.schema.equals(MANIFEST)
    assert b"description" in again.schema.field("uri").metadata


def test_secrets_are_not_in_the_manifest(clips: Path) -> None:
    write_atomic("memory://secretive/a.mp4", (clips / "a.mp4").read_bytes())
    config = config_of("x", inputs=[{"path": "memory://secretive", "storage": {"secret": "SECRET"}}])
    assert "SECRET" not in str(rows(config))


def test_compression_table(clips: Path) -> None:
    config = config_of(clips)
    text = compression_table(config, plan(config).table)
    assert "a.mp4" in text
    assert "balanced" in text
    assert "layer 29" in text


def test_planning_imports_neither_torch_nor_ray(clips: Path) -> None:
    code = (
        "import sys; from pipeline.config import parse_config; from pipeline.plan import plan;"
        "made = plan(parse_config({'inputs': [{'path': sys.argv[1]}], 'output': {'path': 'o'}}));"
        "print(made.summary.units, [m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    done = children.run([sys.executable, "-c", code, str(clips)], cwd=ROOT)
    assert done.stdout.strip() == "2 []", done.stderr


def test_a_large_corpus() -> None:
    """Everything but reading headers, for 4,000 videos cut into five clips each."""
    config = config_of("x", clips={"mode": "windows", "window_s": 6}, sampling={"frames": 16})
    planner = Planner.of(config)
    found = []
    for index in range(4_000):
        uri = f"s3://bucket/{index:06}.mp4"
        probed = Probe(FileInfo(uri, 10**6 + index, f"etag{index}"), 30.0, 1280, 720 + index % 40, 0, 25.0, "h264")
        found += planner.rows(Item(uri), probed)
    table = build_table(found, 24)
    summary = summarise(table)
    assert summary.units == 20_000
    assert pc.count_distinct(table["unit_id"]).as_py() == 20_000


def test_a_model_of_unknown_family_is_planned_for_vllm(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "a_new_one"}')
    sections = {"model": {"id": str(tmp_path)}, "compression": "off", "run": {"engine": "vllm"}}
    made = plan(config_of(clips, **sections))
    assert made.summary.failed == 0
    assert "visual tokens   not known before the run" in str(made.summary)
    for row in made.table.to_pylist():
        assert row["frame_height_px"] > 0
        assert row["visual_tokens"] is None
    with pytest.raises(ModelError, match="a_new_one"):
        plan(config_of(clips, model={"id": str(tmp_path)}))


def test_options_of_vllm_make_new_units(clips: Path) -> None:
    def ids(**run: Any) -> set[str]:
        return {row["unit_id"] for row in rows(config_of(clips, compression="off", run=run))}

    ours, theirs = ids(), ids(engine="vllm")
    pruned = ids(engine="vllm", engine_options={"video_pruning_rate": 0.5})
    assert not ours & theirs
    assert not theirs & pruned
