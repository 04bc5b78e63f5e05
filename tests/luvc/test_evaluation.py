"""`luvc.evaluation`: known statistics, strict scoring, figures, and a small study that stops and goes on."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import luvc
from luvc.errors import ConfigError
from luvc.evaluation import statistics
from luvc.evaluation.answers import COLUMNS, Answers, read_answers
from luvc.evaluation.questions import Question, balanced_videos, parse_answer, read_questions
from luvc.evaluation.settings import Place, listed, parse_setting, parse_settings
from luvc.evaluation.statistics import Pairs
from luvc.evaluation.study import Limits, ask, encoder_part, with_setting
from luvc.evaluation.summary import summarise
from luvc.shapes import Grid
from luvc.types import Clip
from pipeline import children
from tests.luvc import tiny

# Statistics --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [  # Newcombe 1998 (Statistics in Medicine 17:2635), table III, method 10
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((18, 12, 2, 18), 0.0562, 0.3290),
        ((53, 0, 0, 1), -0.0729, 0.0729),
    ],
)
def test_newcombes_interval_gives_the_papers_values(table, low, high):
    assert statistics.newcombe(Pairs(*table)) == pytest.approx((low, high), abs=1.5e-4)


def test_wilsons_interval_gives_published_values():
    # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3
    assert statistics.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert statistics.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert statistics.wilson(0, 0) == (0.0, 1.0)


def test_mcnemar_is_the_binomial_test_on_discordant_pairs():
    # Bentur et al. 2009 as in Fagerland et al. 2013 (BMC Med Res Methodol 13:91): exact conditional p = 0.0703
    assert statistics.mcnemar(Pairs(1, 1, 7, 12)) == pytest.approx(0.0703, abs=1e-4)
    assert statistics.mcnemar(Pairs(5, 0, 0, 5)) == 1.0
    assert statistics.mcnemar(Pairs(0, 3000, 2000, 0)) < 1e-40


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(600):
        counts = rng.multinomial(120, [0.6, 0.15, 0.05, 0.2])
        low, high = statistics.newcombe(Pairs(*map(int, counts)))
        inside += low <= 0.10 <= high
    assert 0.92 <= inside / 600 <= 0.985


def test_the_bootstrap_draws_clips_not_questions():
    """Ten questions that always fail together carry the information of one."""
    rng = np.random.default_rng(1)
    clips = np.repeat(np.arange(40), 10)
    after = np.repeat(rng.random(40) < 0.6, 10)
    lost = (1 - after).tolist()
    alone = statistics.clustered(lost, list(range(400)))
    together = statistics.clustered(lost, clips.tolist())
    assert together == statistics.clustered(lost, clips.tolist()), "seeded"
    assert (together[1] - together[0]) > 2.5 * (alone[1] - alone[0])
    assert together[0] < 1 - after.mean() < together[1]


def test_agreement_of_token_sequences():
    assert statistics.agreement([], []) == 1.0
    assert statistics.agreement([1, 2, 3], [1, 2, 3]) == 1.0
    assert statistics.agreement([1, 2, 3, 4], [1, 3]) == pytest.approx(2 * 2 / 6)
    assert statistics.agreement([1, 2], [3]) == 0.0


# Questions and settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("left", "left"), ("Left.", "left"), (" the left ", "left"), ("B", "right"), ("(b)", "right"), ("b.", "right"),
        ("B. right", "right"), ("c) up", "up"), ("a. right", None), ("to the left", None), ("left or right", None),
        ("", None), ("e", None), ("leftover", None), ("It moves left.", None),
    ],
)  # fmt: skip
def test_answers_are_parsed_strictly(text, choice):
    assert parse_answer(text, ("left", "right", "up", "down")) == choice


def test_choices_that_are_letters_or_numbers_are_themselves():
    assert parse_answer("b", ("b", "a")) == "b"
    assert parse_answer("3", ("1", "2", "3")) == "3"
    assert parse_answer("an apple", ("apple", "pear")) == "apple"


GOOD = {"id": "a", "video": "v", "prompt": "?", "choices": ["x", "y"], "answer": "x"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{id: b}", "not JSON"), ("[1, 2]", r"not a question but '\[1, 2\]'"), ("null", "not a question"),
        ({"answer": "z"}, "the answer 'z' is not one of the choices .choices: x, y"), ({"answer": None}, "no answer"),
        ({"answer": ""}, "no answer"), ({"answer": ["x", "y"]}, "not one of the choices"),
        ({"answer": 3}, "'answer' is 3"),
        ({"answer": {"x": 1}}, "'answer' is {'x': 1} .a list of texts"), ({"choices": "xy"}, "'choices' is 'xy'"),
        ({"choices": ["x", 2]}, "'choices' is"), ({"choices": ["x", "X."]}, "two of the choices"),
        ({"chioces": []}, "unknown field 'chioces'"), ({"prompt": " "}, "'prompt' is ' '"), ({"id": 7}, "'id' is 7"),
        ({"video": None}, "'video' is None"), ({"kind": ["x"]}, "'kind' is"), ({"id": "a"}, "stands there twice"),
        (json.dumps({"id": "b", "video": "v"}), "not a question: no 'prompt'"),
    ],
)  # fmt: skip
def test_a_bad_line_of_a_question_file_says_which_and_why(tmp_path, line, why):
    path = tmp_path / "q.jsonl"
    text = line if isinstance(line, str) else json.dumps({**GOOD, "id": "b", **line})
    path.write_text(f"{json.dumps(GOOD)}\n\n{text}\n")
    with pytest.raises(ConfigError, match=rf"q\.jsonl, line 3: .*{why}"):
        read_questions(path)


def test_a_question_file_that_is_none(tmp_path):
    (tmp_path / "q.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no question"):
        read_questions(tmp_path / "q.jsonl")
    with pytest.raises(ConfigError, match="cannot read"):
        read_questions(tmp_path / "absent")
    (tmp_path / "q.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        read_questions(tmp_path / "q.jsonl")


def test_a_limit_takes_whole_videos_equally_of_each_kind_and_group():
    questions = []
    for index in range(60):  # most clips are of one sort, the rare ones stand last
        group, kinds = ("seen", ("name", "count")) if index < 45 else ("held_out", ("name", "read", "count"))
        questions += [Question(f"{index}-{kind}", f"v{index}", "?", kind=kind, group=group) for kind in kinds]
    part = balanced_videos(questions, 40)
    assert 40 <= len(part) < 43
    counts = Counter((question.group, question.kind) for question in part)
    assert max(counts.values()) - min(counts.values()) <= 1
    asked = {question.video for question in part}
    assert sorted(part, key=questions.index) == [question for question in questions if question.video in asked]
    more = balanced_videos(questions, 80)
    assert more[: len(part)] == part, "a larger limit goes on where a smaller one ended"
    assert balanced_videos(questions, None) == questions
    everything = balanced_videos(questions, 1000)
    assert everything[: len(more)] == more
    assert sorted(everything, key=questions.index) == questions


def test_settings_by_name_share_and_mapping():
    assert parse_setting("balanced").compression.name == "balanced"
    assert parse_setting("resize@0.25").compression.resize == 0.25
    assert parse_setting("tome@0.5").compression.merge.method == "tome"
    assert [setting.name for setting in parse_settings(["fast", "off"])] == ["off", "fast"]
    named = parse_setting({"name": "late", "merge": {"keep": 0.25, "first": 0.5, "last": 0.9}})
    assert named.name == "late"
    for bad in ("oim@x", "oin@0.5", "resize@2", "luvc@0", "nearest", {"resize": 0.5}):
        with pytest.raises(ConfigError):
            parse_setting(bad)
    with pytest.raises(ConfigError, match="twice"):
        parse_settings(["fast", "fast"])
    assert parse_setting("fast").questions is None
    assert parse_setting({"setting": "tome@0.5", "questions": 9}) == replace(parse_setting("tome@0.5"), questions=9)
    for bad in ({"setting": "fast"}, {"setting": "fast", "questions": 0}, {"setting": "fst", "questions": 9}):
        with pytest.raises(ConfigError):
            parse_setting(bad)


def test_a_file_of_settings_lists_and_multiplies():
    values = {"settings": ["paper"], "grid": {"methods": ["oim", "luvc"], "shares": [0.5, 0.1]}}
    assert listed(values, "x.yaml") == ["paper", "oim@0.5", "oim@0.1", "luvc@0.5", "luvc@0.1"]
    few = {"settings": ["paper"], "fewer": {"questions": 30, "settings": ["oim@0.5"]}}
    assert listed(few, "x.yaml") == ["paper", {"setting": "oim@0.5", "questions": 30}]
    wrong = [{"grid": ["oim"]}, {"grid": {"methods": [], "keeps": []}}, {"fewer": 3}, {"fewer": {"settings": "paper"}}]
    for bad in ([], {"setings": []}, {"settings": "paper"}, *wrong):
        with pytest.raises(ConfigError, match=r"x\.yaml"):
            listed(bad, "x.yaml")


@pytest.mark.parametrize("name", ["grid", "ablations"])
def test_the_studys_settings_can_be_read_and_differ(name):
    text = (Path(__file__).parents[2] / "benchmarks" / "settings" / f"{name}.yaml").read_text(encoding="utf-8")
    settings = parse_settings(listed(yaml.safe_load(text), name), Place(30, Grid(8, 8, 8)))
    found = [replace(setting.compression, name="") for setting in settings]
    assert all(found.count(compression) == 1 for compression in found)
    assert len(found) > 35


# A study -----------------------------------------------------------------------------------------


def small_study(videos: int = 5) -> tuple[list[Question], dict[str, Clip]]:
    rng = np.random.default_rng(3)
    clips = {f"v{index}": Clip(rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)) for index in range(videos)}
    questions = []
    for video in clips:
        for number, kind in enumerate(("colour", "motion")):
            choices = ("red", "green", "blue")
            questions.append(Question(f"{video}-{number}", video, f"Which {kind}?", "green", choices, kind))
        questions.append(Question(f"{video}-text", video, "Describe.", references=("A dog.",), kind="caption"))
    return questions, clips


@pytest.fixture(params=["answers.parquet", "answers.jsonl"])
def file(request, tmp_path):
    return tmp_path / request.param


def test_a_study_stops_goes_on_and_repeats_nothing(file):
    questions, clips = small_study()
    engine = luvc.load(tiny.model(), "off", processor=tiny.tokenizer())
    settings = parse_settings(["balanced", "resize@0.25"])
    loaded: list[str] = []

    def load(video: str) -> Clip:
        loaded.append(video)
        if stop_at and len(loaded) == stop_at:
            raise KeyboardInterrupt
        return clips[video]

    limits = Limits(block_videos=2, text_tokens=4)
    stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        ask(engine, questions, settings, load, Answers(file, {"model": "tiny"}), limits)
    kept = Answers(file, {"model": "tiny"}).rows
    assert len(kept) == 6 * 3, "the first block, all settings"

    stop_at, loaded = 0, []
    answers = Answers(file, {"model": "tiny"})
    ask(engine, questions, settings, load, answers, limits)
    assert loaded == ["v2", "v3", "v4"], "decoded once, and the first block not again"
    assert answers.rows[: len(kept)] == kept
    assert len(answers.rows) == 15 * 3
    assert read_answers(file)[1] == answers.rows

    loaded = []
    ask(engine, questions, settings, load, Answers(file, {"model": "tiny"}), limits)
    assert not loaded
    with pytest.raises(ConfigError, match="another study: model"):
        Answers(file, {"model": "other"})
    again = parse_settings([{"name": "balanced", "resize": 0.5}])
    with pytest.raises(ConfigError, match="another compression"):
        ask(engine, questions, again, load, Answers(file, {"model": "tiny"}), limits)


def test_a_setting_that_is_asked_fewer_gets_the_first_videos_and_may_get_more_later(tmp_path):
    questions, clips = small_study()
    engine = luvc.load(tiny.model(), "off", processor=tiny.tokenizer())
    asked = Answers(tmp_path / "answers.jsonl", {})
    few = parse_settings(["balanced", {"setting": "resize@0.25", "questions": 4}])
    limits = Limits(block_videos=2, text_tokens=4)
    ask(engine, questions, few, clips.__getitem__, asked, limits)
    assert len(asked.done("balanced")) == 15
    assert {row["video"] for row in asked.rows if row["setting"] == "resize@0.25"} == {"v0", "v1"}, "whole videos"
    ask(engine, questions, parse_settings(["balanced", "resize@0.25"]), clips.__getitem__, asked, limits)
    assert len(asked.rows) == 15 * 3
    figures = summarise(asked.rows)
    assert [item.overall.total for item in figures] == [10, 10, 10]


def test_any_text_can_be_kept_and_asked(file, tmp_path):
    """A few characters end a line for `str.splitlines` and not for JSON."""
    said = "a\u2028b\u0085c\nd\re"
    row = dict.fromkeys(COLUMNS) | {"text": said, "token_ids": [1], "references": [said]}
    answers = Answers(file, {})
    answers.add([row])
    answers.write()
    assert Answers(file, {}).rows[0]["text"] == said
    question = {"id": "a", "video": "v", "prompt": said, "answer": [said]}
    (tmp_path / "q.jsonl").write_text(json.dumps(question, ensure_ascii=False) + "\r\n\n", encoding="utf-8")
    (asked,) = read_questions(tmp_path / "q.jsonl")
    assert asked.prompt == said


#: Every method, and what shares an encoding with what: a name twice where only the language model differs.
SHARED = [
    *("balanced", "fast", "oim@0.25", "tome@0.25", "resize@0.25", "luvc@0.25", "spu-ramp@0.5", "spu-stages@0.25"),
    *("random@0.25", "uniform-ramp@0.25", "key_norm@0.5", "adjacent_frames@0.25"),
    {"name": "compact", "preset": "fast", "merge": {"positions": "compact"}},
    {"name": "other pruner", "preset": "fast", "prune": {"method": "random"}},
]


def test_shared_work_gives_the_answers_of_runs_of_their_own(tmp_path):
    questions, clips = small_study(3)
    engine = luvc.load(tiny.model(), "off", processor=tiny.tokenizer())
    settings = parse_settings(SHARED, Place(4, Grid(2, 4, 4)))
    encoded: list[int] = []
    through = engine.runtime.encode
    engine.runtime.encode = lambda frames, plans, tokens: encoded.append(len(frames)) or through(frames, plans, tokens)
    answers = Answers(tmp_path / "a.jsonl", {})
    ask(engine, questions, settings, clips.__getitem__, answers, Limits(2, 4))
    groups = {encoder_part(setting.compression) for setting in settings}
    assert len(groups) == len(settings) - 8, "off, balanced and six pruners; fast and the one with another pruner"
    assert sum(encoded) == len(clips) * len(groups) + 1, "each clip once for each group, and once to warm up"

    engine.runtime.encode = through
    rows = {(row["setting"], row["question_id"]): row for row in answers.rows}
    assert len(rows) == len(questions) * len(settings)
    for setting in settings:
        alone = with_setting(engine, setting)
        requests = [
            luvc.Request(
                question.id,
                [question.prompt],
                clips=[clips[question.video]],
                max_new_tokens=len("green") + 2 if question.scored else 4,
                scored_tokens=[tiny.tokenizer()("g")["input_ids"] if question.scored else []],
            )
            for question in questions
        ]
        for done in alone.generate(requests):
            row = rows[setting.name, done.id]
            assert tuple(row["token_ids"]) == done.answers[0].token_ids, (setting.name, done.id)
            assert (row["merged_tokens"], row["mean_layer_tokens"]) == (done.tokens.merged, done.tokens.mean_by_layer)
            assert row["correct"] == (row["choice"] == "green" if row["answer"] else None)
            (right,) = map(math.exp, done.answers[0].scored_logprobs or (math.nan,))
            assert row["right_probability"] == (pytest.approx(right, rel=1e-4) if row["answer"] else None)


def test_every_setting_is_charged_its_encoder(tmp_path):
    questions, clips = small_study()
    engine = luvc.load(tiny.model(), "off", processor=tiny.tokenizer())
    through = engine.runtime.encode

    def slow(*args):
        time.sleep(0.02)
        return through(*args)

    engine.runtime.encode = slow
    answers = Answers(tmp_path / "a.jsonl", {})
    ask(engine, questions, parse_settings(["spu@0.5", "random@0.5"]), clips.__getitem__, answers, Limits(5, 4))
    totals = {}
    for row in answers.rows:
        totals[row["setting"]] = totals.get(row["setting"], 0.0) + row["encode_s"]
        assert row["block_wall_s"] >= 0.02
    assert totals["off"] >= 0.02
    assert totals["spu@0.5"] == pytest.approx(totals["off"])
    assert totals["random@0.5"] == pytest.approx(totals["off"])
    for name, total in totals.items():
        (wall_s,) = {row["block_wall_s"] for row in answers.rows if row["setting"] == name}
        mine = [row for row in answers.rows if row["setting"] == name]
        assert wall_s >= total + sum(row["prefill_s"] + row["decode_s"] for row in mine)


def test_a_clip_that_cannot_be_encoded_costs_only_its_questions(tmp_path):
    questions, clips = small_study()
    clips["v1"] = Clip(np.zeros((2, 32, 32), np.uint8))
    engine = luvc.load(tiny.model(), "off", processor=tiny.tokenizer())
    answers = Answers(tmp_path / "a.jsonl", {})
    ask(engine, questions, parse_settings(["spu@0.5"]), clips.__getitem__, answers, Limits(5, 4))
    assert {row["video"] for row in answers.rows if row["error"]} == {"v1"}
    assert sum(bool(row["error"]) for row in answers.rows) == 2 * 3


def test_statistics_and_scoring_need_no_torch():
    modules = (
        "statistics",
        "questions",
        "settings",
        "levels",
        "answers",
        "summary",
        "report",
        "rivals",
        "charts",
        "choice",
    )
    code = "import sys\n" + "\n".join(f"import luvc.evaluation.{name}" for name in modules)
    done = children.run([sys.executable, "-c", code + "\nprint('torch' in sys.modules)"], check=True)
    assert done.stdout.strip() == "False"
