"""A folder of tasks for the harness, with nothing to download: real small videos, one local task of every kind of
request, and five public benchmarks, whose own task code reads a few made-up documents.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from PIL import Image

from tests.luvc import tiny
from tests.videos import write_video

LOCAL = "luvc_local"
TOKENS = 6
#: For each public benchmark: its task file, and where it looks for videos, below HF_HOME.
PUBLIC = {
    "videomme": ("videomme/videomme.yaml", "videomme/data/{}.mp4"),
    "mvbench_action_antonym": ("mvbench/mvbench_action_antonym.yaml", "mvbench_video/ssv2_video_mp4/{}.mp4"),
    "longvideobench_val_v": ("longvideobench/longvideobench_val_v.yaml", "datasets/longvideobench/videos/{}.mp4"),
    "mlvu_dev": ("mlvu/mlvu_dev.yaml", "mlvu/{}.mp4"),
    "egoschema_subset": ("egoschema/egoschema_subset.yaml", "egoschema/videos/{}.mp4"),
}
LETTERS = "ABCD"
_UTILS = f'''
from PIL import Image


def visual(doc):
    media = [part if doc["span"] is None else {{"type": "video", "path": part, "video_start": doc["span"][0],
             "video_end": doc["span"][1]}} for part in doc["media"]]
    return [Image.open(part) if doc["opened"] else part for part in media]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"] + " " + " ".join(doc["options"]) + " Answer with a letter."


def process(doc, results):
    return {{"local_score": float(letter(results[0]) == doc["answer"])}}


def letter(text):
    """A random model names no letter; its words still stand for one, the same every time."""
    return "{LETTERS}"[sum(text.encode()) % 4]


def mean(results):
    return sum(results) / len(results)
'''


def write_tasks(folder: Path) -> Path:
    """Task files in `folder/tasks`, videos in `folder/hf`, a tiny checkpoint in `folder/model`; returns `folder`."""
    tiny.model().save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    videos = [_video(folder / "videos" / f"{name}.mp4", seed) for seed, name in enumerate("abc")]
    Image.fromarray(tiny.clip(1, 9, 40)[0]).save(folder / "still.png")
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "luvc_utils.py").write_text(_UTILS)
    _write_local(tasks, [str(video) for video in videos], str(folder / "still.png"))
    for name in PUBLIC:
        _write_public(tasks, folder / "hf", name)
    return folder


def local_documents(videos: list[str], still: str) -> list[dict[str, Any]]:
    """Two questions about each video, then a part of one, two videos, stills by path and opened, and text alone."""
    media = [[video] for video in videos for _ in range(2)] + [videos[:1], videos[1:], [still], [still], []]
    questions = ("Why?", "Which colour has the thing on the left?", "1 + 1 = ")
    documents = []
    for index, part in enumerate(media):
        documents.append(
            {
                "media": part,
                "span": [0.25, 0.75] if index == 6 else None,
                "opened": index == 9,
                "question": questions[index % 3] * (1 + index // 3),
                "options": [f"{letter}. thing {letter}" for letter in LETTERS],
                "answer": LETTERS[index % 4],
            }
        )
    return documents


def _video(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, list(tiny.smooth_clip(12, seed, 64, 96)), fps=12)


def _lines(path: Path, documents: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))


def _write_local(tasks: Path, videos: list[str], still: str) -> None:
    _lines(tasks / "local.jsonl", local_documents(videos, still))
    (tasks / "luvc_local.yaml").write_text(
        f"""task: {LOCAL}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tasks}/local.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function luvc_utils.visual
doc_to_text: !function luvc_utils.text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: {TOKENS}, temperature: 0, do_sample: false, image_aspect_ratio: original}}
process_results: !function luvc_utils.process
metric_list:
  - metric: local_score
    aggregation: !function luvc_utils.mean
    higher_is_better: true
"""
    )


def _write_public(tasks: Path, home: Path, name: str) -> None:
    """The benchmark's own task file, with documents of ours in the place of its dataset."""
    file, place = PUBLIC[name]
    package = importlib.util.find_spec("lmms_eval")
    assert package is not None
    assert package.submodule_search_locations
    original = Path(package.submodule_search_locations[0]) / "tasks" / file
    names = [f"{name}-{index}" for index in range(2)]
    for seed, video in enumerate(names):
        _video(home / place.format(video), seed + 5)
    _lines(tasks / f"{name}.jsonl", [_document(video) for video in names])
    split = {"mvbench_action_antonym": "train", "longvideobench_val_v": "validation"}.get(name, "test")
    (tasks / f"luvc_{name}.yaml").write_text(
        f"""include: {original}
task: luvc_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{{split}: {tasks}/{name}.jsonl}}}}
"""
    )


def _document(video: str) -> dict[str, Any]:
    """A document with the fields of all five."""
    options = [f"thing {letter}" for letter in "ABCDE"]
    return {
        "videoID": video, "video": f"{video}.mp4", "video_path": f"{video}.mp4", "video_name": f"{video}.mp4",
        "video_idx": video, "question": "What is seen?", "question_id": video, "id": video,
        "options": options[:4], "option": [f"{letter}. {text}" for letter, text in zip("ABCDE", options, strict=True)],
        "candidates": options[:3], "answer": "1" if video.startswith("ego") else "thing A" if "mvb" in video else "A",
        "correct_choice": 0, "duration": "short" if video.startswith("videomme") else 1.0, "domain": "Knowledge",
        "sub_category": "Astronomy", "task_type": "count" if "mlvu" in video else "Counting Problem",
        "duration_group": 15, "question_category": "S2E", **{f"option{i}": text for i, text in enumerate(options)},
    }  # fmt: skip
