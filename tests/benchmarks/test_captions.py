"""What captions say rightly, told from the exact ones."""

from __future__ import annotations

import pytest

from benchmarks.exact.captions import KINDS, by_setting, facts, main, says, table
from benchmarks.exact.compose import caption, compose
from luvc.evaluation.answers import COLUMNS, Answers


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("A yellow elephant moves to the left.", {"object", "colour", "motion", "object and motion"}),
        ("An orange moves up.", {"object", "motion", "object and motion"}),
        ("A green book is to the right of an orange onion.", {"object", "colour", "relation"}),
        ("A duck, then a bottle, then an owl.", {"object", "order"}),
        ("A watermelon and 2 shells.", {"object", "count"}),
    ],
)
def test_a_reference_says_these_kinds_of_fact(reference, expected):
    found = facts(reference)
    assert {kind for kind, _ in found} == expected
    assert all(says(reference, phrases) for _, phrases in found)
    assert not any(says("Nothing is here.", phrases) for _, phrases in found)


def test_what_is_said_is_found_as_whole_words_in_order():
    assert dict(facts("An orange moves up."))["object"] == ["orange"]
    assert says("An owl, then a duck.", ["owl", "duck"])
    assert not says("A duck, then an owl.", ["owl", "duck"])
    assert not says("A cathedral.", ["cat"])
    (relation,) = (phrases for kind, phrases in facts("A red cat is above a blue dog.") if kind == "relation")
    assert says("A cat is above a green dog.", relation)
    assert not says("A dog is above a cat.", relation)


def test_every_composed_scene_has_facts_that_its_own_caption_says(material):
    palette = material.palette("train")
    for seed in range(60):
        text = caption(compose(seed, palette))
        found = facts(text)
        assert found
        assert {kind for kind, _ in found} <= set(KINDS)
        assert all(says(text, phrases) for _, phrases in found), text


def test_the_table_of_a_study(tmp_path, capsys):
    row = dict.fromkeys(COLUMNS) | {"question_id": "1", "references": ["A cat moves up."], "block": 0}
    asked = {"correct": True, "question_id": "2", "references": []}
    answers = Answers(tmp_path / "answers.jsonl", {})
    answers.add([row | {"setting": "off", "text": "A cat moves up."}, row | {"setting": "off", **asked}])
    answers.add([row | {"setting": "fast", "text": "A cat moves down."}])
    answers.write()
    assert by_setting(answers.rows)["fast"]["motion"] == (0, 1)
    assert main([str(tmp_path / "answers.jsonl")]) == 0
    shown = capsys.readouterr().out
    assert "| setting | object (1) | motion (1) | object and motion (1) |" in shown
    assert "| fast | 100% | 0% | 0% |" in shown
    assert table({}).startswith("| setting")
