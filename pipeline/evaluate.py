"""`luvc evaluate`: accuracy of compressed runs against the uncompressed one, on the same questions.

    luvc evaluate QUESTIONS.jsonl --model luvc-demo --settings paper balanced oim@0.25 resize@0.25 --out out/evaluate

Videos are files that PyAV reads, or frames in `.npy` ([frames, height, width, 3] uint8), which need no decoder: then
only torch and transformers are needed (`python -m pipeline.evaluate`, answers in `--answers answers.jsonl`). Stop
it at any time; the same command goes on. Nothing of Ray is used. For several processes, or GPUs, the same command with
`--part 1/2` and `--part 2/2`, then with `--report-only`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
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
        help="presets or METHOD@SHARE, compared with `off`; default: " + " ".join(DEFAULT_SETTINGS),
    )
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML: `settings` (names, mappings), `grid` (methods by shares), `fewer` (asked only so many `questions`)",
    )
    parser.add_argument("--frames", type=int, default=8, help="frames of each video file; default 8")
    parser.add_argument("--limit", type=int, help="so many questions, of whole videos, balanced over kinds and groups")
    parser.add_argument("--block", type=int, default=16, help="videos answered by each setting in turn; default 16")
    parser.add_argument("--text-tokens", type=int, default=40, help="longest free answer; default 40")
    parser.add_argument("--threads", type=int, help="of torch on a CPU")
    parser.add_argument("--out", type=Path, required=True, help="folder for answers, tables, curves")
    parser.add_argument("--answers", default="answers.parquet", help="file in --out; .jsonl where pyarrow is missing")
    parser.add_argument("--results", type=Path, metavar="NAME", help="also write NAME.json, NAME.md and NAME.svg")
    parser.add_argument(
        "--part", type=_part, default=(1, 1), metavar="K/N", help="only every N-th block: one of N processes, or GPUs"
    )
    parser.add_argument("--report-only", action="store_true", help="ask nothing; tables and curves again from answers")
    parser.add_argument("--no-similarity", action="store_true", help="do not compare texts by sentence embeddings")
    return parser


def _part(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r}: K/N, as in 1/2 and 2/2")
    return int(part), int(parts)


def evaluate(args: argparse.Namespace) -> int:
    """Ask what is missing, then write the report; 0 when every question has an answer, else 3."""
    from luvc.evaluation.answers import Answers, part_path, read_all_parts
    from luvc.evaluation.questions import read_questions
    from luvc.evaluation.settings import parse_settings

    values = _settings(args)
    settings = parse_settings(values)  # a wrong name is told before a model is loaded
    # Where some settings are asked fewer, the first questions must be of all kinds.
    fewer = any(setting.questions is not None for setting in settings)
    questions = read_questions(args.questions, sys.maxsize if fewer and args.limit is None else args.limit)
    for name in ("frames", "block", "text_tokens"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: at least 1")
    path = args.out / args.answers
    ids = {question.id for question in questions}
    if args.report_only:  # answered elsewhere, perhaps: what is in the files is what is told
        return write_report(args, *read_all_parts(path), ids)
    _need_videos(args.questions, questions)
    from luvc.loading import dtype_name

    identity = {
        "model": args.model,
        "revision": args.revision,
        "weights": _weights(args.model),
        "dtype": dtype_name(args.dtype, args.device),
        "device": args.device,
        "questions": hashlib.sha256(args.questions.read_bytes()).hexdigest()[:16],
        "frames": args.frames,
        "block": args.block,
        "text_tokens": args.text_tokens,
    }
    answers = Answers(part_path(path, args.part), identity)
    _ask(args, questions, values, answers)
    if args.part[1] > 1:
        answers.write(empty=True)  # a part may have no block, and is not missing then
        _say(f"{answers.path}: {len(answers.rows)} answers; when all parts are there: --report-only")
        return 3 if any(row["error"] for row in answers.rows) else 0
    return write_report(args, identity, answers.rows, ids)


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


def _weights(model: str) -> str | None:
    """Tells two trainings of one model apart, cheaply: by both ends of a folder's files; None for a hub's name."""
    from luvc import embedded

    own = model == embedded.MODEL_NAME
    folder = embedded.config_path().parent if own else Path(model)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json")):
        with path.open("rb") as stream:
            digest.update(f"{path.name} {path.stat().st_size} ".encode() + stream.read(1 << 20))
            stream.seek(max(0, path.stat().st_size - (1 << 20)))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def _settings(args: argparse.Namespace) -> list[Any]:
    from luvc.evaluation.settings import listed

    given: list[Any] = list(args.settings or ())
    if args.config:
        import yaml

        try:
            values = yaml.safe_load(args.config.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"--config: cannot read {args.config}: {error}") from error
        given += listed(values, str(args.config))
    return given or list(DEFAULT_SETTINGS)


def _ask(args: argparse.Namespace, questions: Any, values: Any, answers: Any) -> None:
    import torch

    import luvc
    from luvc.encoder import plan_clip
    from luvc.evaluation.settings import Place, parse_settings
    from luvc.evaluation.study import Limits, ask

    if args.threads:
        torch.set_num_threads(args.threads)
    engine = luvc.load(args.model, "off", revision=args.revision, dtype=args.dtype, device=args.device)
    shape = engine.model_config
    load = clip_loader(args.questions.parent, shape, args.frames)
    # Shares are solved for the first clip; models of one frame size have the same grid for all.
    first = questions[0].video
    settings = parse_settings(
        values,
        Place(shape.text.layers, plan_clip(shape, engine.compression, first, load(first)).schedule.original_grid),
    )
    ask(engine, questions, settings, load, answers, Limits(args.block, args.text_tokens, args.part), _say)


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


def write_report(args: argparse.Namespace, identity: dict[str, Any], answered: Sequence[Any], ids: set[str]) -> int:
    """Tables and charts of what was answered of these questions, in `--out`; printed, too."""
    from luvc.evaluation.charts import chart, row_chart
    from luvc.evaluation.report import kinds_table, table, texts_table
    from luvc.evaluation.rivals import compare, in_words
    from luvc.evaluation.summary import as_report, summarise

    similarity = None
    if not args.no_similarity and any(row["correct"] is None for row in answered):
        from luvc.evaluation.similarity import INSTALL_HINT, sentence_similarity

        similarity = sentence_similarity()
        if similarity is None:
            _say(f"similarity of texts: not measured ({INSTALL_HINT})")
    rows = [row for row in answered if row["question_id"] in ids]
    figures = summarise(rows, similarity)
    for name in sorted({row["setting"] for row in rows} - {item.name for item in figures}):
        _say(f"{name}: not in the tables, it has no answer to a question with choices yet")
    duels, contests = compare(figures, rows)
    surer, by_probability = compare(figures, rows, of="right_probability")
    facts = {
        "study": identity,
        "machine": _machine(args),
        "against_rivals": [asdict(duel) for duel in duels],
        "against_rivals_probability": [asdict(duel) for duel in surer],
        "against_rivals_mean": [asdict(contest) for contest in contests],
        "against_rivals_mean_probability": [asdict(contest) for contest in by_probability],
    }
    report = json.dumps(as_report(figures, facts), indent=1) + "\n"
    parts = [table(figures), kinds_table(figures), texts_table(figures), in_words(duels, contests, by_probability)]
    tables = "\n\n".join(part for part in parts if part) + "\n"
    written = {
        args.out / "evaluate.json": report,
        args.out / "tables.md": tables,
        args.out / "curves.svg": chart(figures),
        args.out / "settings.svg": row_chart(figures),
    }
    if args.results:
        written |= {
            args.results.with_name(args.results.name + ending): text
            for ending, text in ((".json", report), (".md", tables), (".svg", chart(figures)))
        }
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(tables)  # noqa: T201 - a command line speaks
    failed = sum(item.errors for item in figures)
    if failed:
        _say(f"{failed} answers are missing; column `error` of {args.out / args.answers} says why")
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
