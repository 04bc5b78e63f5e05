"""Answers -> figures, tables, charts, the comparison with rivals, and the choice of presets."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from benchmarks.choose_presets import main as choose_presets
from luvc.errors import ConfigError
from luvc.evaluation.charts import chart, row_chart
from luvc.evaluation.choice import choose, in_words, is_ours, settings_of
from luvc.evaluation.report import kinds_table, table, texts_table
from luvc.evaluation.rivals import compare
from luvc.evaluation.rivals import in_words as duels_in_words
from luvc.evaluation.settings import Place, parse_setting
from luvc.evaluation.summary import as_report, summarise
from luvc.shapes import Grid


def rows_of(setting: str, right: list[bool], seconds: float, tokens: int) -> list[dict]:
    rows = []
    compression = "off" if setting == "off" else setting
    mapping = parse_setting(compression, Place(30, Grid(1, 8, 8))).compression.as_mapping()
    for index, correct in enumerate(right):
        rows.append(
            {
                "question_id": f"q{index}", "video": f"v{index // 2}", "kind": ("name", "motion")[index % 2],
                "group": ("seen", "held_out")[index // 2 % 2], "setting": setting, "compression": json.dumps(mapping),
                "prompt": "?", "answer": "x", "references": [], "text": "x" if correct else "no",
                "choice": "x" if correct else None, "correct": correct, "finish_reason": "stop", "error": "",
                "token_ids": [1], "prompt_tokens": 3, "visual_tokens": 64, "merged_tokens": tokens,
                "mean_layer_tokens": tokens / 2, "encode_s": 0.1, "prefill_s": 0.1, "decode_s": 0.1,
                "block": index // 4, "block_wall_s": seconds, "right_probability": None,
            }
        )  # fmt: skip
    return rows


def text_rows(setting: str, ids: list[int]) -> list[dict]:
    (row,) = rows_of(setting, [True], 1.0, 4)
    free = {"question_id": "free", "kind": "caption", "correct": None, "choice": None, "answer": ""}
    return [{**row, **free, "references": ["a dog"], "text": " ".join(map(str, ids)), "token_ids": ids, "block": 99}]


def share_of(right: int, total: int = 40) -> list[bool]:
    return [index < right for index in range(total)]


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
    assert {"worst_kind", "by_kind", "by_group"} <= report["uncompressed"].keys()
    assert {"keep", "accuracy", "loss_points_upper95", "speedup"} <= report["presets"]["fast"].keys()
    assert report["rivals"] == {}
    json.dumps(report)
    assert "| fast | 16, 8 | 12.5% | 55.0% | 91.7% | +5.0 (" in table(figures)
    assert kinds_table(figures).count("\n") == 3
    assert texts_table(figures) == ""


def test_lost_probability_is_told_where_the_right_choice_had_one():
    off, fast = (rows_of(name, [True] * 8, 1.0, 64) for name in ("off", "fast"))
    for one, other in zip(off[:6], fast[:6], strict=True):
        one["right_probability"], other["right_probability"] = 0.75, 0.5
    off[6]["right_probability"] = 0.9  # of the other run there is none
    rows = off + fast
    figures = summarise(rows)
    assert figures[1].probability_loss == (0.25, (0.25, 0.25))
    assert figures[1].probability == 0.5
    entry = as_report(figures, {})["presets"]["fast"]
    assert (entry["right_probability"], entry["probability_points_lost_upper95"]) == (0.5, 25.0)
    assert entry["probability_points_moved"] == 25.0
    assert "| +25.0 (+25.0 to +25.0) | 25.0 |" in table(figures)
    for row in rows:
        row["right_probability"] = None
    figures = summarise(rows)
    assert figures[1].probability_loss is None
    assert "right_probability" not in as_report(figures, {})["presets"]["fast"]
    assert "lost probability" not in table(figures)


def test_texts_stand_in_a_table_of_their_own():
    rows = rows_of("off", [True] * 4, 1.0, 64) + text_rows("off", [1, 2, 3, 4])
    rows += rows_of("fast", [True] * 4, 1.0, 64) + text_rows("fast", [1, 3])
    figures = summarise(rows, lambda pairs: [0.5] * len(pairs))
    assert texts_table(figures).splitlines()[0].startswith("| setting (1 texts) | tokens a text |")
    assert "| fast | 2 | 0.67 | 0.50 | 0.50 |" in texts_table(figures)
    assert "0.67" not in table(figures)
    assert as_report(figures, {})["texts"] == 1


def test_a_setting_that_was_asked_less_says_so():
    off = [True] * 4 + [False] * 4
    figures = summarise(rows_of("off", off, 2.0, 64) + rows_of("fast", [True] * 3 + [False], 0.5, 16))
    assert "| fast (4 of 8 questions) | 16, 8 | 12.5% | 75.0% | 75.0% |" in table(figures), "of the same four"
    assert "| off | " in table(figures)
    report = as_report(figures, {})
    assert (report["questions"], report["presets"]["fast"]["questions"]) == (8, 4)
    assert report["presets"]["fast"]["relative_accuracy"] == 0.75


def test_a_setting_with_texts_alone_stays_out_of_the_tables():
    rows = rows_of("off", [True] * 4, 1.0, 64) + text_rows("off", [1, 2]) + text_rows("fast", [1, 3])
    assert [item.name for item in summarise(rows)] == ["off"]


def test_nothing_to_compare_with_is_an_error():
    with pytest.raises(ConfigError, match="uncompressed"):
        summarise(rows_of("fast", [True], 1.0, 4))


def study() -> list[dict]:
    """LUVC beside a rival that is better at a quarter, and one that is worse and slower everywhere."""
    rows = rows_of("off", share_of(36), 10.0, 128)
    for share, ours, better, worse in ((0.5, 36, 34, 30), (0.25, 30, 33, 20), (0.1, 28, 20, 10), (0.05, 10, 30, 5)):
        tokens = int(128 * share)
        rows += rows_of(f"luvc@{share}", share_of(ours), 2 + 8 * share, tokens)
        rows += rows_of(f"resize@{share}", share_of(better), 2.2 + 7 * share, tokens)
        rows += rows_of(f"random@{share}", share_of(worse), 6 + 8 * share, tokens)
    return rows


def test_where_a_rival_is_above_is_said_in_words():
    rows = study()
    figures = summarise(rows)
    duels, contests = compare(figures, rows)
    found = {(duel.rival, duel.share): duel for duel in duels}
    assert set(found) == {(rival, share) for rival in ("resize", "random") for share in (0.5, 0.25, 0.1)}
    quarter = found["resize", 0.25]
    assert quarter.points == pytest.approx(7.5)
    assert quarter.interval[0] < 7.5 < quarter.interval[1]
    assert quarter.times_as_fast == pytest.approx(4 / 3.95)
    # 4.0 s lies between resize's 3.95 s (33 right) and 5.7 s (34 right).
    assert quarter.points_at_time == pytest.approx(100 * (33 + 0.05 / 1.75 - 30) / 40)
    assert quarter.interval_at_time is not None
    assert quarter.interval_at_time[0] < quarter.points_at_time < quarter.interval_at_time[1]
    assert (found["random", 0.25].points_at_time, found["random", 0.25].interval_at_time) == (None, None), "too slow"
    text = duels_in_words(duels, contests)
    assert "at 25%: resize is +7.6 (+" in text
    assert "at equal tokens +7.5 (" in text
    assert "not above LUVC where it was measured (50%, 25%, 10%): random" in text
    assert duels_in_words([], []) == ""


def test_the_mean_over_shares_is_told_of_each_rival():
    rows = study()
    duels, contests = compare(summarise(rows), rows)
    resize, random = contests
    assert (resize.rival, resize.shares) == ("resize", (0.5, 0.25, 0.1))
    mine = [duel for duel in duels if duel.rival == "resize"]
    assert resize.points == pytest.approx(sum(duel.points for duel in mine) / 3)
    assert resize.points_at_time == pytest.approx(sum(duel.points_at_time for duel in mine) / 3)
    assert resize.interval[0] < resize.points < resize.interval[1]
    assert resize.times_as_fast == pytest.approx((6 / 5.7 * 4 / 3.95 * 2.8 / 2.9) ** (1 / 3))
    assert (random.shares_at_time, random.points_at_time, random.interval_at_time) == ((), None, None)
    assert "| random | 50%, 25%, 10% | " in duels_in_words(duels, contests)


def test_rivals_are_compared_by_probability_where_both_told_one():
    rows = study()
    assert compare(summarise(rows), rows, of="right_probability") == ([], [])
    for row in rows:
        method, _, share = row["setting"].partition("@")
        row["right_probability"] = {"luvc": 0.8, "resize": 0.7}.get(method, 0.9) if share != "0.1" else None
    figures = summarise(rows)
    duels, contests = compare(figures, rows, of="right_probability")
    assert {(duel.rival, duel.share) for duel in duels} == {
        (name, at) for name in ("resize", "random") for at in (0.5, 0.25)
    }
    assert contests[0].shares == (0.5, 0.25)
    assert contests[0].points == pytest.approx(-10.0)
    text = duels_in_words(duels, contests, contests)
    assert text.count("| resize | 50%, 25% | -10.0 (-10.0 to -10.0) |") == 2
    assert "points of the right choice's probability" in text
    for row in rows:
        if row["setting"] == "off":  # answered before it was recorded: nothing to interpolate with up to there
            row["right_probability"] = None
    duels, _ = compare(summarise(rows), rows, of="right_probability")
    assert {duel.rival for duel in duels} == {"resize", "random"}
    assert all(duel.points_at_time is None for duel in duels if duel.share == 0.5)


def test_charts_are_whole_svg_and_name_everything():
    figures = summarise(study() + rows_of("balanced", share_of(31), 3.0, 40))
    drawing = chart(figures)
    root = ElementTree.fromstring(drawing)
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"luvc", "resize", "random", "off", "balanced", "presets"} <= set(texts)
    assert drawing.count("<polyline") == 2 * 3, "a line for each method in both panels"
    assert "prefers-color-scheme:dark" in drawing
    rows = row_chart(figures)
    names = [node.text for node in ElementTree.fromstring(rows).iter("{http://www.w3.org/2000/svg}text")]
    assert {item.name for item in figures[1:]} <= set(names)
    one_each = summarise(rows_of("off", share_of(36), 1.0, 128) + rows_of("fast", share_of(30), 0.5, 20))
    assert chart(one_each) == row_chart(one_each), "no curves of single settings"


def entry(upper: float, speedup: float, setting: str) -> dict:
    compression = parse_setting(setting).compression.as_mapping()
    return {
        "loss_points": upper - 1, "loss_points_upper95": upper, "speedup": speedup, "keep": 0.2,
        "compression": compression,
    }  # fmt: skip


def test_a_preset_is_the_fastest_setting_within_its_limit():
    settings = {
        "slow": entry(0.2, 1.2, "spu@0.5"),
        "good": entry(0.9, 1.9, "oim@0.5"),
        "far": entry(2.9, 3.0, "luvc@0.25"),
        "rival": entry(0.5, 4.0, "resize@0.25"),
    }
    assert choose(settings, 1.0).name == "rival"
    ours = {name: each for name, each in settings.items() if is_ours(each)}
    assert list(ours) == ["slow", "good", "far"]
    assert choose(ours, 1.0).name == "good"
    assert choose(ours, 3.0).name == "far"
    none = choose(ours, 0.1)
    assert (none.name, none.nearest) == (None, "slow")
    line = in_words("balanced", none, ours)
    assert line.startswith(
        "balanced, at most 0.1 points of accuracy lost: none qualifies; nearest is slow (lost -0.8 points"
    )
    assert choose({"idle": entry(0.0, 0.9, "spu@0.5")}, 1.0).name is None, "slower than no compression at all"
    assert choose({}, 1.0).nearest is None
    surely = settings["far"] | {"probability_points_lost": 0.3, "probability_points_lost_upper95": 0.7}
    assert choose(settings | {"far": surely}, 1.0, "probability").name == "far", "the others were not measured so"


def test_presets_are_chosen_from_a_report(tmp_path, capsys):
    report = as_report(summarise(study()), {})
    assert "luvc@0.5" in settings_of(report)
    path = tmp_path / "study.json"
    path.write_text(json.dumps(report))
    assert choose_presets([str(path)]) == 0
    printed = capsys.readouterr().out
    assert "40 questions, uncompressed 90.0%, 12 settings" in printed
    assert (
        "of OIM and SPU: balanced, at most 1 points of accuracy lost: none qualifies; nearest is luvc@0.5 (" in printed
    )
    assert "of all methods: fast, at most 3 points of probability lost: none qualifies; nothing was measured" in printed
