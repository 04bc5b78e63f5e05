"""The benchmark runs on a tiny shape and writes what readers of its JSON rely on; its times are not judged."""

import json
import sys
from xml.etree import ElementTree

import pytest

from luvc.bench import command, contestants, report
from luvc.bench.process import Contestant, ContestantFailed
from luvc.bench.setting import SETTINGS, build, videos
from luvc.preprocess import Normalisation


def test_a_tiny_run_writes_the_promised_keys(tmp_path, capsys):
    out = tmp_path / "deep" / "bench.json"
    tiny = ["--shape", "tiny", "--rounds", "2", "--dtype", "float32", "--batches", "2", "--presets", "off", "paper"]
    assert command.main([*tiny, "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert {"ratio_off", "ratio_paper", "videos_per_s", "peak_bytes", "machine", "startup_seconds"} <= set(written)
    assert written["best_batch"] == 2
    rounds = written["timings"]
    assert [len(each) for each in rounds.values()] == [2, 2, 2]
    assert rounds["paper"][0]["tokens"]["merged"] < rounds["off"][0]["tokens"]["merged"]
    assert rounds["off"][0]["attention"] == "sdpa"
    shown = capsys.readouterr().out
    assert "| paper |" in shown
    assert "paper: encoder " in shown
    assert rounds["off"][0]["rates"]["decode_weight_bytes_per_s"] > 0
    assert "| transformers, batch 2 |" in shown
    ElementTree.fromstring(out.with_suffix(".svg").read_text())


def test_a_contestant_that_fails_says_so_with_its_log():
    broken = [sys.executable, "-c", "import sys; print('what went wrong', file=sys.stderr); sys.exit(3)"]
    with Contestant(broken) as contestant, pytest.raises(ContestantFailed, match="what went wrong"):
        contestant.round()


def test_ratios_are_medians_of_paired_rounds():
    def rounds(*seconds):
        return {"ready": {"startup_seconds": 1.0}, "rounds": [{"seconds": s, "peak_bytes": 5} for s in seconds]}

    timings = {"transformers": rounds(4, 8, 6), "vllm": rounds(2, 2, 2), "off": rounds(2, 2, 2)}
    summary = report.summarise(timings, SETTINGS["tiny"])
    assert summary["ratio_off"] == 3.0
    assert summary["ratios"] == {"off": {"transformers": 3.0, "vllm": 1.0}}
    assert summary["videos_per_s"]["transformers"] == SETTINGS["tiny"].videos / 6
    assert "| off | 2.000 | 3.00x | 1.00x |" in report.table({**summary, "best_batch": 4})


def test_stock_patches_are_laid_out_as_the_engine_lays_them_out():
    import torch

    import luvc
    from luvc.families import FAMILIES

    setting = SETTINGS["tiny"]
    model = build(setting, torch.device("cpu"), torch.float32)
    runtime = FAMILIES["qwen2_5_vl"].runtime(model, None, Normalisation())
    (clip, *_) = videos(setting, torch.device("cpu"))
    plan = luvc.schedule(runtime.shape, (2, 4, 4), "off")
    assert torch.equal(
        contestants.stock_patches(clip, torch.float32),
        runtime._patches(clip, plan.grid.height, plan.grid.width).flatten(0, 3),
    )
