"""The vLLM contestant: what can be told without vLLM, and a real round where LUVC_VLLM_PYTHON names an interpreter."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from luvc.bench import vllm_worker
from luvc.bench.checkpoint import save_for_vllm
from luvc.bench.setting import SETTINGS, Setting, build, videos
from luvc.families import family_of
from pipeline import children

SCRIPT = Path(vllm_worker.__file__)
#: vLLM's attention on CPUs wants heads of at least 32 channels.
TINY = Setting(
    {**SETTINGS["tiny"].vision, "num_heads": 2},
    {**SETTINGS["tiny"].text, "num_attention_heads": 2, "num_key_value_heads": 1},
    *(4, 4, 112, 4),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    folder = tmp_path_factory.mktemp("checkpoint")
    save_for_vllm(build(TINY, torch.device("cpu"), torch.float32), folder)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    path = tmp_path_factory.mktemp("clips") / "clips.npz"
    np.savez(path, clips=np.stack([clip.numpy() for clip in videos(TINY, torch.device("cpu"))]))
    return path


def config_of(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "config.json").read_text())


def test_special_words_have_the_ids_of_the_configuration(checkpoint: Path) -> None:
    config, tokenizer = config_of(checkpoint), Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    assert tokenizer.token_to_id("<|video_pad|>") == config["video_token_id"]
    assert tokenizer.token_to_id("<|image_pad|>") == config["image_token_id"]
    assert tokenizer.get_vocab_size() == config["text_config"]["vocab_size"]
    ids = vllm_worker.prompt_ids(config)
    assert tokenizer.encode(tokenizer.decode(ids, skip_special_tokens=False)).ids == ids


def test_transformers_reads_the_tokenizer_back(checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    content = [{"type": "video"}, {"type": "text", "text": "w200 w201"}]
    text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    config = config_of(checkpoint)
    marks = [config[f"{name}_token_id"] for name in ("vision_start", "video", "vision_end")]
    assert tokenizer(text.replace("><", "> <").replace(">w", "> w"))["input_ids"] == [*marks, 200, 201]


@pytest.mark.parametrize(("frames", "height", "width"), [(32, 224, 224), (4, 112, 56), (5, 56, 84)])
def test_visual_tokens_are_those_of_the_scheduler(checkpoint: Path, frames: int, height: int, width: int) -> None:
    family = family_of(config := config_of(checkpoint))
    grid = family.grid(family.shape(config), frames, height, width)
    assert vllm_worker.visual_tokens(frames, height, width) == grid.units
    assert vllm_worker.visual_tokens(frames, height, width, 0.5) == max(grid.height * grid.width, grid.units // 2)


def test_the_first_frame_is_never_pruned() -> None:
    assert vllm_worker.visual_tokens(4, 112, 112, 0.75) == 16
    assert vllm_worker.visual_tokens(32, 224, 224, 0.75) == 256


def test_the_prompt_has_as_many_text_tokens_as_the_others() -> None:
    ids = vllm_worker.prompt_ids({"vision_start_token_id": 4, "video_token_id": 3, "vision_end_token_id": 5})
    assert len(ids) == vllm_worker.TEXT_TOKENS + 1
    assert ids[ids.index(3) - 1] == 4
    assert ids[ids.index(3) + 1] == 5


def output(visual: int, new: int) -> SimpleNamespace:
    tokens = [7] * new
    return SimpleNamespace(prompt_token_ids=[1] * (40 + visual), outputs=[SimpleNamespace(token_ids=tokens)])


class FakeLLM:
    def __init__(self, outputs: list[SimpleNamespace]) -> None:
        self.outputs = outputs

    def enqueue(self, prompts: list[Any], sampling: Any, use_tqdm: bool) -> None:
        assert len(prompts) == 2

    def wait_for_completion(self, use_tqdm: bool) -> list[SimpleNamespace]:
        return self.outputs


def contestant(outputs: list[SimpleNamespace]) -> vllm_worker.Contestant:
    made = vllm_worker.Contestant.__new__(vllm_worker.Contestant)
    made.llm, made.prompts, made.sampling, made.visual, made.new_tokens = FakeLLM(outputs), [{}, {}], None, 16, 4
    return made


def test_each_line_is_one_round() -> None:
    replies: list[dict[str, Any]] = []
    vllm_worker.serve(contestant([output(16, 4)] * 2), io.StringIO("round\nround\n"), replies.append)
    assert [set(reply) for reply in replies] == [{"seconds", "submit_seconds", "peak_bytes"}] * 2
    assert all(reply["peak_bytes"] > 10 * 2**20 for reply in replies)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([output(16, 4)], "1 answers for 2 videos"),
        ([output(16, 4), output(12, 4)], "12 visual tokens; 16 were expected"),
        ([output(16, 4), output(16, 3)], "3 tokens, not 4"),
    ],
)
def test_a_round_that_did_other_work_does_not_count(outputs: list[SimpleNamespace], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        contestant(outputs).round()


def test_the_runner_is_told_once() -> None:
    worker = SimpleNamespace(model_runner=SimpleNamespace(is_multimodal_pruning_enabled=False))
    vllm_worker.tell_runner_that_it_prunes(worker)
    assert worker.model_runner.is_multimodal_pruning_enabled is True


def test_as_a_script_it_hides_no_module_of_the_standard_library() -> None:
    # -S -I would keep its folder out anyway; -E alone is how a stranger's interpreter is called.
    code = f"import runpy, sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); sys.argv = ['x', '--help']\n"
    code += f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\nexcept SystemExit: pass\n"
    code += "import types; print(types.__file__, 'luvc' in sys.modules)"
    done = children.run([sys.executable, "-c", code], check=True, cwd="/")
    assert "luvc" not in done.stdout.splitlines()[-1].partition(" ")[0]
    assert done.stdout.rstrip().endswith("False")


def real(checkpoint: Path, clips: Path, *options: str) -> Iterator[dict[str, Any]]:
    """The lines that a real worker prints for two rounds."""
    interpreter = os.environ.get("LUVC_VLLM_PYTHON")
    if not interpreter:
        pytest.skip("LUVC_VLLM_PYTHON names no interpreter that has vLLM")
    command = [interpreter, SCRIPT, "--model", checkpoint, "--clips", clips, "--new-tokens", "4", "--eager", *options]
    done = children.run(command, text="round\nround\n", timeout_s=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return (json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize(("rate", "visual"), [("0", 32), ("0.4", 19)])
def test_a_real_vllm(checkpoint: Path, clips: Path, rate: str, visual: int) -> None:
    ready, first, second = real(checkpoint, clips, "--pruning-rate", rate, "--batch", "2", "--dtype", "float32")
    assert ready["ready"] is True
    assert (ready["visual_tokens"], ready["visual_tokens_before_pruning"]) == (visual, 32)
    assert ready["prompt_tokens"] == 40 + visual
    assert min(first["seconds"], second["seconds"]) > 0
    assert second["peak_bytes"] >= first["peak_bytes"] > 0
