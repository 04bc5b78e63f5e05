"""Blame for dead workers: the unit that kills them is given up, its neighbours are not."""

from __future__ import annotations

import pytest

from pipeline.run.board import Board, Turn


def test_a_unit_that_ends_has_no_history():
    board = Board(attempts=2, engine_starts=3)
    for _ in range(5):
        assert board.begin("answer", "a", "w") == Turn("together", 0)
        board.end("answer", "a")
    snapshot = board.snapshot()
    assert snapshot.started == snapshot.finished == {"answer": 5}
    assert snapshot.in_flight == {}


def test_a_process_with_one_unit_has_one_suspect():
    board = Board(attempts=2, engine_starts=3)
    assert board.begin("video_decode", "a", "w1", alone=True).verdict == "together"
    assert board.begin("video_decode", "a", "w2", alone=True) == Turn("alone", 1)
    assert board.begin("video_decode", "a", "w3", alone=True) == Turn("give_up", 2)


@pytest.mark.parametrize("attempts", [1, 2, 3])
@pytest.mark.parametrize("killers", [[3], [0], [7], [2, 5], [0, 1, 6, 7]])
def test_neighbours_of_killers_survive(attempts, killers):
    """A simulation: processes with eight units in flight, some of which kill theirs every time."""
    board = Board(attempts, engine_starts=99)
    waiting, answered, given_up, process = [f"u{i}" for i in range(8)], [], [], 0
    killers = {f"u{i}" for i in killers}
    while waiting:
        process += 1
        turns = {unit: board.begin("answer", unit, f"process {process}") for unit in waiting}
        given_up += [unit for unit, turn in turns.items() if turn.verdict == "give_up"]
        waiting = [unit for unit in waiting if unit not in given_up]
        together = [unit for unit in waiting if turns[unit].verdict == "together"]
        batches = ([together] if together else []) + [[unit] for unit in waiting if turns[unit].verdict == "alone"]
        for batch in batches:
            if turns[batch[0]].verdict == "alone":
                board.alone("answer", batch[0])
            if killers & set(batch):
                break
            for unit in batch:
                board.end("answer", unit)
                answered.append(unit)
                waiting.remove(unit)
    assert set(given_up) == killers
    assert sorted(answered) == sorted({f"u{i}" for i in range(8)} - killers)
    assert process <= 2 + len(killers) * attempts


def test_an_engine_that_never_works_ends_the_run():
    board = Board(attempts=2, engine_starts=3)
    for _ in range(3):
        board.engine_starts()
    assert board.snapshot().abort is None
    board.end("answer", "a")
    for _ in range(4):
        board.engine_starts()
    message, hint = board.snapshot().abort
    assert "3 times in a row" in message
    assert hint


def test_the_first_reason_to_abort_counts():
    board = Board(attempts=1, engine_starts=1)
    board.abort("first", "a")
    board.abort("second", "b")
    assert board.snapshot().abort == ("first", "a")


def test_a_death_after_a_suspect_survived_is_not_its_fault():
    """Its end is noted a little later than another unit begins: the process that dies meanwhile dies of the other."""
    board = Board(attempts=2, engine_starts=3)
    board.begin("answer", "suspect", "w1")
    assert board.begin("answer", "suspect", "w2") == Turn("alone", 1)
    board.alone("answer", "suspect")
    board.alone_no_more("answer", "suspect")
    board.begin("answer", "killer", "w2")
    assert board.begin("answer", "suspect", "w3").verdict == "alone", "not given up"
    assert board.begin("answer", "killer", "w3") == Turn("alone", 1)
    board.alone("answer", "killer")
    board.alone_no_more("answer", "suspect")
    assert board.begin("answer", "killer", "w4") == Turn("give_up", 2), "a note about another changes nothing"
