"""The benchmark runs on a tiny shape and writes what readers of its JSON rely on; its times are not judged."""

import json

from luvc import bench


def test_a_tiny_run_writes_the_promised_keys(tmp_path, capsys):
    out = tmp_path / "deep" / "bench.json"
    assert bench.main(["--shape", "tiny", "--rounds", "1", "--dtype", "float32", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert {"ratio_off", "ratio_balanced", "videos_per_s", "peak_bytes", "machine"} <= set(report)
    assert report["videos_per_s"]["balanced"] > 0
    assert report["timings"]["balanced"]["tokens"]["merged"] < report["timings"]["off"]["tokens"]["merged"]
    table = capsys.readouterr().out
    assert "| balanced |" in table
    assert "| transformers, batch" in table


def test_stock_patches_are_laid_out_as_the_engine_lays_them_out():
    import torch

    import luvc
    from luvc.families import FAMILIES

    setting = bench.SETTINGS["tiny"]
    model = bench.build(setting, torch.device("cpu"), torch.float32)
    runtime = FAMILIES["qwen2_5_vl"].runtime(model, None, bench.Normalisation())
    (clip, *_) = bench.videos(setting, torch.device("cpu"))
    plan = luvc.schedule(runtime.shape, (2, 4, 4), "off")
    assert torch.equal(
        bench._patches(clip, torch.float32), runtime._patches(clip, plan.grid.height, plan.grid.width).flatten(0, 3)
    )
