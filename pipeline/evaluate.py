"""`luvc evaluate`: accuracy of compressed runs against the uncompressed one, on the same questions.

    luvc evaluate QUESTIONS.jsonl --model luvc-demo --settings paper balanced oim@0.25 resize@0.25 --out out/evaluate

Videos are files that PyAV reads, or frames in `.npy` ([frames, height, width, 3] uint8), which need no decoder: then
only torch and transformers are needed (`python -m pipeline.evaluate`, answers in `--answers answers.jsonl`). Stop
it at any time; the same command goes on. Nothing of Ray is used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from luvc.errors import ConfigError
from luvc.types import Clip

DEFAULT_SETTINGS = ("paper", "balanced", "fast", "oim@0.25", "resize@0.25", "random@0.25")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    args = _parser().parse_args(argv)
    return evaluate(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="luvc evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("questions", type=Path, metavar="QUESTIONS", help="JSON lines: id, video, prompt, ...")
    parser.add_argument("--model", default="luvc-demo", help="checkpoint folder, hub name or luvc-demo")
    parser.add_argument("--revision", help="of a hub checkpoint")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--settings",
        nargs="+",
        default=None,
        metavar="SETTING",
        help="presets or METHOD@KEEP, compared with `off`; default: " + " ".join(DEFAULT_SETTINGS),
    )
    parser.add_argument("--config", type=Path, help="YAML with a list `settings`: names, or mappings with a name")
    parser.add_argument("--frames", type=int, default=8, help="frames of each video file; default 8")
    parser.add_argument("--limit", type=int, help="stop at the first whole videos with so many questions")
    parser.add_argument("--block", type=int, default=16, help="videos answered by each setting in turn; default 16")
    parser.add_argument("--text-tokens", type=int, default=40, help="longest free answer; default 40")
    parser.add_argument("--threads", type=int, help="of torch on a CPU")
    parser.add_argument("--out", type=Path, required=True, help="folder for answers, tables, curves")
    parser.add_argument("--answers", default="answers.parquet", help="file in --out; .jsonl where pyarrow is missing")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--report-only", action="store_true", help="ask nothing; tables and curves again from answers")
    parser.add_argument("--no-similarity", action="store_true", help="do not compare texts by sentence embeddings")
    return parser


def evaluate(args: argparse.Namespace) -> int:
    """Ask what is missing, then write the report; 0 when every question has an answer, else 3."""
    from luvc.evaluation.answers import Answers
    from luvc.evaluation.questions import read_questions
    from luvc.evaluation.settings import parse_settings

    settings = parse_settings(_settings(args))
    questions = read_questions(args.questions, args.limit)
    for name in ("frames", "block", "text_tokens"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: at least 1")
    if not args.report_only:
        _need_videos(args.questions, questions)
    identity = {
        "model": args.model,
        "revision": args.revision,
        "dtype": args.dtype,
        "device": args.device,
        "questions": hashlib.sha256(args.questions.read_bytes()).hexdigest()[:16],
        "frames": args.frames,
        "block": args.block,
        "text_tokens": args.text_tokens,
    }
    answers = Answers(args.out / args.answers, identity)
    if not args.report_only:
        _ask(args, questions, settings, answers)
    return write_report(args, answers, {question.id for question in questions})


def _need_videos(path: Path, questions: Any) -> None:
    """Raise ConfigError at once for videos that are not there, instead of after the answers about those before them."""
    first = {question.video: question.id for question in reversed(questions)}
    absent = [video for video in first if not (path.parent / video).is_file()]
    if absent:
        video = absent[-1]  # the first in the file
        raise ConfigError(
            f"{path}: question {first[video]!r}: no video {video!r} ({len(absent)} of {len(first)} videos are missing)",
            f"paths start at {path.parent}",
        )


def _settings(args: argparse.Namespace) -> list[Any]:
    given: list[Any] = list(args.settings or ())
    if args.config:
        import yaml

        try:
            values = yaml.safe_load(args.config.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"--config: cannot read {args.config}: {error}") from error
        if not isinstance(values, dict) or not isinstance(values.get("settings"), list) or len(values) > 1:
            raise ConfigError(f"{args.config}: expected one key, `settings`, with a list")
        given += values["settings"]
    return given or list(DEFAULT_SETTINGS)


def _ask(args: argparse.Namespace, questions: Any, settings: Any, answers: Any) -> None:
    import torch

    import luvc
    from luvc.evaluation.study import Limits, ask

    if args.threads:
        torch.set_num_threads(args.threads)
    engine = luvc.load(args.model, "off", revision=args.revision, dtype=args.dtype, device=args.device)
    load = clip_loader(args.questions.parent, engine.model_config, args.frames)
    ask(engine, questions, settings, load, answers, Limits(args.block, args.text_tokens), _say)


def clip_loader(folder: Path, shape: Any, frames: int) -> Any:
    """A function from a question's `video` to its frames, at the size the model takes.

    Args:
        folder: where relative names start.
        shape: the model, `luvc.shapes.ModelShape`.
        frames: evenly spread over a video file; an array is taken as it is.

    Raises (when called):
        ConfigError: no such file, or an array of another shape.
    """

    def load(video: str) -> Clip:
        path = folder / video
        if path.suffix == ".npy":
            return Clip(_array(path))
        from luvc.errors import LuvcError
        from pipeline.frames import read_clip
        from pipeline.plan.sampling import Sampling

        try:
            return read_clip(str(path), shape, Sampling(frames=frames))
        except LuvcError as error:
            raise ConfigError(f"video {video!r}: {error.message}", error.hint) from error

    return load


def _array(path: Path) -> np.ndarray:
    try:
        frames = np.load(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"video {path}: not an array of frames: {error}") from error
    if frames.ndim != 4 or frames.dtype != np.uint8 or frames.shape[-1] != 3:
        raise ConfigError(f"video {path}: shape {frames.shape}, {frames.dtype}; expected [frames, h, w, 3] uint8")
    return frames


def write_report(args: argparse.Namespace, answers: Any, ids: set[str]) -> int:
    """Tables and curves of what was answered of these questions, in `--out`; printed, too."""
    from luvc.evaluation.report import curve, kinds_table, table
    from luvc.evaluation.summary import as_report, summarise

    similarity = None
    if not args.no_similarity and any(row["correct"] is None for row in answers.rows):
        from luvc.evaluation.similarity import INSTALL_HINT, sentence_similarity

        similarity = sentence_similarity()
        if similarity is None:
            _say(f"similarity of texts: not measured ({INSTALL_HINT})")
    figures = summarise([row for row in answers.rows if row["question_id"] in ids], similarity)
    facts = {"study": answers.identity, "machine": _machine(args)}
    report = json.dumps(as_report(figures, facts), indent=1) + "\n"
    tables = f"{table(figures)}\n\n{kinds_table(figures)}\n"
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("evaluate.json", report),
        ("tables.md", tables),
        ("accuracy_wall_clock.svg", curve(figures, "wall")),
        ("accuracy_tokens.svg", curve(figures, "tokens")),
    ):
        (args.out / name).write_text(text, encoding="utf-8")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(report, encoding="utf-8")
    print(tables)  # noqa: T201 - a command line speaks
    failed = sum(item.errors for item in figures)
    if failed:
        _say(f"{failed} answers are missing; column `error` of {answers.path} says why")
    return 3 if failed else 0


def _machine(args: argparse.Namespace) -> dict[str, Any]:
    """Where the report was made; with --report-only that may be another machine than the one that answered."""
    import torch
    import transformers

    on_gpu = args.device != "cpu" and torch.cuda.is_available()
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "threads": args.threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
