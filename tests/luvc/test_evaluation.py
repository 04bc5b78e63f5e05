"""`luvc.evaluation`: known statistics, strict scoring, figures, and a small study that stops and goes on."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import luvc
from luvc.errors import ConfigError
from luvc.evaluation import statistics
from luvc.evaluation.answers import Answers, read_answers
from luvc.evaluation.questions import Question, first_videos, parse_answer, read_questions
from luvc.evaluation.report import curve, kinds_table, table
from luvc.evaluation.settings import parse_setting, parse_settings
from luvc.evaluation.statistics import Pairs
from luvc.evaluation.study import Limits, ask
from luvc.evaluation.summary import as_report, summarise
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
    before = [True] * 400
    alone = statistics.clustered(before, after.tolist(), list(range(400)))
    together = statistics.clustered(before, after.tolist(), clips.tolist())
    assert together == statistics.clustered(before, after.tolist(), clips.tolist()), "seeded"
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


def test_a_limit_takes_whole_videos():
    questions = [Question(str(index), f"v{index // 3}", "?") for index in range(9)]
    assert [question.id for question in first_videos(questions, 4)] == list("012345")
    assert len(first_videos(questions, None)) == 9


def test_settings_by_name_ratio_and_mapping():
    assert parse_setting("balanced").compression.name == "balanced"
    assert parse_setting("resize@0.25").compression.resize == 0.25
    assert parse_setting("tome@0.5").compression.merge.method == "tome"
    (stage,) = parse_setting("random@0.1").compression.prune.stages
    assert (stage.depth, stage.keep) == (0.0, 0.1)
    assert [setting.name for setting in parse_settings(["fast", "off"])] == ["off", "fast"]
    named = parse_setting({"name": "late", "merge": {"keep": 0.25, "first": 0.5, "last": 0.9}})
    assert named.name == "late"
    for bad in ("oim@x", "oin@0.5", "resize@2", "nearest", {"resize": 0.5}):
        with pytest.raises(ConfigError):
            parse_setting(bad)
    with pytest.raises(ConfigError, match="twice"):
        parse_settings(["fast", "fast"])


# A study -----------------------------------------------------------------------------------------


def small_study() -> tuple[list[Question], dict[str, Clip]]:
    rng = np.random.default_rng(3)
    clips = {f"v{index}": Clip(rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)) for index in range(5)}
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


def test_a_studys_answers_are_the_engines(tmp_path):
    questions, clips = small_study()
    engine = luvc.load(tiny.model(), "off", processor=tiny.tokenizer())
    answers = Answers(tmp_path / "a.jsonl", {})
    ask(engine, questions, parse_settings([]), clips.__getitem__, answers, Limits(3, 4))
    for row in answers.rows:
        longest = 4 if row["kind"] == "caption" else len("green") + 2
        clip = [clips[row["video"]]]
        (done,) = engine.generate([luvc.Request("x", [row["prompt"]], clips=clip, max_new_tokens=longest)])
        assert row["text"] == done.answers[0].text
        assert tuple(row["token_ids"]) == done.answers[0].token_ids
        assert row["correct"] == (None if row["kind"] == "caption" else row["choice"] == "green")


# Figures -----------------------------------------------------------------------------------------


def rows_of(setting: str, right: list[bool], seconds: float, tokens: int) -> list[dict]:
    rows = []
    for index, correct in enumerate(right):
        rows.append(
            {
                "question_id": f"q{index}", "video": f"v{index // 2}", "kind": ("name", "motion")[index % 2],
                "group": "all", "setting": setting, "compression": "{}", "prompt": "?", "answer": "x",
                "references": [], "text": "x" if correct else "no", "choice": "x" if correct else None,
                "correct": correct, "finish_reason": "stop", "error": "", "token_ids": [1], "prompt_tokens": 3,
                "visual_tokens": 64, "merged_tokens": tokens, "mean_layer_tokens": tokens / 2, "encode_s": 0.1,
                "prefill_s": 0.1, "decode_s": 0.1, "block": index // 4, "block_wall_s": seconds,
            }
        )  # fmt: skip
    return rows


def test_figures_of_a_comparison():
    off = [True] * 12 + [False] * 8
    less = [True] * 10 + [False] * 9 + [True]
    figures = summarise(rows_of("off", off, 2.0, 64) + rows_of("fast", less, 0.5, 16))
    base, fast = figures
    assert (base.overall.value, fast.overall.value) == (0.6, 0.55)
    assert fast.loss == pytest.approx(0.05)
    assert fast.loss_interval[0] < 0.05 < fast.loss_interval[1]
    assert fast.p_value == 1.0  # 2 against 1
    assert fast.changed == pytest.approx(3 / 20)
    assert fast.speedup == pytest.approx(4.0)
    assert fast.keep == pytest.approx(8 / 64)
    assert fast.unparsed == pytest.approx(9 / 20)
    assert base.worst_kind[0] == "motion" or base.by_kind["name"].value < base.by_kind["motion"].value
    report = as_report(figures, {"machine": "here"})
    assert report["questions"] == 20
    assert report["uncompressed"]["overall"] == 0.6
    assert {"keep", "accuracy", "loss_points_upper95", "speedup"} <= report["presets"]["fast"].keys()
    assert report["rivals"] == {}
    json.dumps(report)
    assert "| fast | 16, 8 | 55.0% | 91.7% | +5.0 (" in table(figures)
    assert kinds_table(figures).count("\n") == 3
    for against in ("wall", "tokens"):
        drawing = curve(figures, against)
        assert drawing.startswith("<svg")
        assert drawing.count("<circle") == 2


def test_nothing_to_compare_with_is_an_error():
    with pytest.raises(ConfigError, match="uncompressed"):
        summarise(rows_of("fast", [True], 1.0, 4))


def test_statistics_and_scoring_need_no_torch():
    modules = ["statistics", "questions", "settings", "answers", "summary", "report"]
    code = "import sys\n" + "\n".join(f"import luvc.evaluation.{name}" for name in modules)
    done = children.run([sys.executable, "-c", code + "\nprint('torch' in sys.modules)"], check=True)
    assert done.stdout.strip() == "False"
