"""The plug-in inside the installed lmms-eval: its command line, its tasks, its scores. Nothing is downloaded."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import luvc
from luvc.errors import ConfigError, LuvcError
from luvc.types import Clip
from pipeline.decode.protocol import DecodeSettings
from pipeline.lmms_eval.media import read_medium
from pipeline.lmms_eval.questions import Medium, Unsupported
from pipeline.plan.sampling import Sampling
from tests.pipeline.lmms_eval.tasks import LETTERS, LOCAL, PUBLIC, TOKENS, write_tasks

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None,
    reason="lmms-eval is not installed here; `make lmms-eval-test` makes it an environment and runs these there",
)
FRAMES = 4
ROOT = Path(__file__).parents[3]
Asked = tuple[list[Medium], str]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("lmms_eval"))


@pytest.fixture(scope="module", autouse=True)
def _offline():
    """Before the harness, or what it imports, reads them."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setenv(name, "1")
        yield


@pytest.fixture(scope="module")
def tasks(world):
    """The local tasks alone: reading all of the harness's own takes longer than the test."""
    from lmms_eval.tasks import TaskManager

    return TaskManager("WARNING", include_path=str(world / "tasks"), include_defaults=False)


def command_line(world: Path, out: Path, tasks: list[str], launcher: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run the harness's own command; its results, and the logged samples of each task."""
    args = f"model={world}/model,compression=off,frames={FRAMES},dtype=float32,decode_workers=2"
    argv = [
        sys.executable, *launcher, "-m", "lmms_eval", "--model", "luvc", "--model_args", args,
        "--tasks", ",".join(tasks), "--include_path", str(world / "tasks"), "--output_path", str(out),
        "--log_samples",
    ]  # fmt: skip
    env = {
        **os.environ,
        "HF_HOME": str(world / "hf"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=800, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (results,) = out.rglob("*_results.json")
    found = json.loads(results.read_text())
    samples = {
        task: sorted(map(json.loads, next(out.rglob(f"*_samples_{task}.jsonl")).open()), key=lambda row: row["doc_id"])
        for task in tasks
    }
    return {"scores": found["results"], "samples": samples, "printed": done.stdout + done.stderr}


def evaluate(world: Path, tasks: Any, **args: Any) -> tuple[float, list[str], list[dict], dict]:
    """Score, texts, token counts and throughput of the local task, in this process."""
    from lmms_eval.evaluator import simple_evaluate

    given = {"model": str(world / "model"), "frames": FRAMES, "dtype": "float32", "decode_workers": 2, **args}
    found = simple_evaluate(
        model="luvc",
        model_args=",".join(f"{name}={value}" for name, value in given.items()),
        tasks=[LOCAL],
        task_manager=tasks,
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"][LOCAL], key=lambda row: row["doc_id"])
    texts = [sample["filtered_resps"][0] for sample in samples]
    counts = [sample["token_counts"][0] for sample in samples]
    return found["results"][LOCAL]["local_score,none"], texts, counts, found["throughput"]


def direct(
    world: Path, compression: str, asked: list[tuple[list[Medium], str]], new_tokens: int
) -> list[luvc.Completion]:
    """Each question alone, straight from the engine, on transformers' attention."""
    engine = luvc.load(world / "model", compression, dtype="float32")
    completions = []
    for media, prompt in asked:
        clips: list[Clip] = [
            read_medium(medium, engine.model_config, Sampling(frames=FRAMES), DecodeSettings()) for medium in media
        ]
        completions += engine.generate([luvc.Request("x", [prompt], clips=clips, max_new_tokens=new_tokens)])
    return completions


def local_questions(world: Path) -> list[Asked]:
    asked = []
    for line in (world / "tasks" / "local.jsonl").open():
        document = json.loads(line)
        span = document["span"] or (None, None)
        media = [Medium(path, path.endswith(".png"), *span) for path in document["media"]]
        asked.append((media, f"{document['question']} {' '.join(document['options'])} Answer with a letter."))
    return asked


def score(world: Path, texts: list[str]) -> float:
    right = [json.loads(line)["answer"] for line in (world / "tasks" / "local.jsonl").open()]
    letters = [LETTERS[sum(text.encode()) % 4] for text in texts]
    return sum(map(str.__eq__, letters, right)) / len(right)


def test_the_harness_finds_the_model():
    from lmms_eval.models import get_model, get_model_manifest

    assert get_model_manifest("luvc").chat_class_path == "pipeline.lmms_eval.model.Luvc"
    assert get_model("luvc").is_simple is False


def test_the_command_line_scores_what_the_engine_answers(world, tmp_path):
    """The local task and five public benchmarks, whose own code asks and scores."""
    names = [LOCAL, *(f"luvc_{name}" for name in PUBLIC)]
    found = command_line(world, tmp_path, names)
    texts = [row["filtered_resps"] for row in found["samples"][LOCAL]]
    alone = direct(world, "off", local_questions(world), TOKENS)
    assert texts == [done.answers[0].text for done in alone]
    assert len(set(texts)) >= 5, "answers differ, so order matters"
    assert found["scores"][LOCAL]["local_score,none"] == pytest.approx(score(world, texts))
    for row, done in zip(found["samples"][LOCAL], alone, strict=True):
        (answer,) = done.answers
        counts = {"input_tokens": answer.prompt_tokens + done.tokens.merged, "output_tokens": len(answer.token_ids)}
        assert row["token_counts"] == [counts]
    for name, (_, place) in PUBLIC.items():
        rows = found["samples"][f"luvc_{name}"]
        asked = [
            ([Medium(str(world / "hf" / place.format(f"{name}-{index}")))], row["input"])
            for index, row in enumerate(rows)
        ]
        new_tokens = 32 if name == "longvideobench_val_v" else 16
        expected = [done.answers[0].text for done in direct(world, "off", asked, new_tokens)]
        assert [row["filtered_resps"] for row in rows] == expected, name
    assert "21 questions in " in found["printed"]
    assert "visual tokens" in found["printed"]
    assert "0 failed" in found["printed"]


def test_compression_changes_tokens_and_two_runs_agree(world, tasks):
    value, texts, counts, throughput = evaluate(world, tasks, compression="fast")
    again = evaluate(world, tasks, compression="fast", prefill_tokens=200)
    assert again[:3] == (value, texts, counts), "whatever the batches"
    alone = direct(world, "fast", local_questions(world), TOKENS)
    assert texts == [done.answers[0].text for done in alone]
    assert value == pytest.approx(score(world, texts))
    off = evaluate(world, tasks, compression="off")
    assert off[1] != texts
    assert off[3]["avg_merged_tokens_per_request"] == off[3]["avg_visual_tokens_per_request"]
    assert throughput["avg_visual_tokens_per_request"] == off[3]["avg_visual_tokens_per_request"]
    assert throughput["avg_merged_tokens_per_request"] == throughput["avg_visual_tokens_per_request"] / 4
    assert throughput["avg_mean_layer_tokens_per_request"] < throughput["avg_merged_tokens_per_request"]
    assert throughput["avg_encode_s_per_request"] > 0


def test_two_processes_share_the_requests(world, tmp_path):
    """torchrun starts one a GPU; here both are on the CPU. One has fewer requests and is given a copy of its last."""
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    found = command_line(world, tmp_path, [LOCAL], launcher=launcher)
    expected = [done.answers[0].text for done in direct(world, "off", local_questions(world), TOKENS)]
    assert [row["filtered_resps"] for row in found["samples"][LOCAL]] == expected
    assert found["scores"][LOCAL]["local_score,none"] == pytest.approx(score(world, expected))


def test_a_bad_video_is_an_empty_answer_with_a_warning(world, tasks, monkeypatch):
    video = world / "videos" / "b.mp4"
    kept = video.read_bytes()
    told: list[str] = []
    # The harness removes other handlers of its logger at moments of its own.
    recorder = SimpleNamespace(info=lambda line: None, warning=told.append, error=told.append)
    monkeypatch.setattr("pipeline.lmms_eval.model.logger", recorder)
    whole = evaluate(world, tasks)
    try:
        video.write_text("not a video")
        _, texts, counts, _ = evaluate(world, tasks)
        with pytest.raises(LuvcError, match=r"b\.mp4: not a video"):
            evaluate(world, tasks, on_error="raise")
    finally:
        video.write_bytes(kept)
    bad = [
        index
        for index, (media, _) in enumerate(local_questions(world))
        if any(one.source == str(video) for one in media)
    ]
    assert bad == [2, 3, 7]
    assert [texts[index] for index in bad] == [""] * 3
    assert [text for index, text in enumerate(texts) if index not in bad] == [
        text for index, text in enumerate(whole[1]) if index not in bad
    ]
    assert counts[2] is None
    warned = [line for line in told if "no answer" in line]
    assert len(warned) == 3
    assert f"{LOCAL} test 2" in warned[0]
    assert any("3 of 11 answers are missing" in line for line in told)


def test_what_cannot_be_done_says_so(world, tasks):
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import get_model

    model = get_model("luvc")(model=str(world / "model"), dtype="float32", batch_size=1)
    with pytest.raises(NotImplementedError, match="generate_until"):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError, match="single questions"):
        model.generate_until_multi_round([])
    assert model.generate_until([]) == []
    first = model.engine
    model.clean()
    assert model.engine is not first
    with pytest.raises(ConfigError, match="unknown key 'frmes'"):
        evaluate(world, tasks, frmes=3)
    with pytest.raises(Unsupported, match="num_beams"):
        simple_evaluate(model=model, tasks=[LOCAL], task_manager=tasks, gen_kwargs="num_beams=3", bootstrap_iters=0)
