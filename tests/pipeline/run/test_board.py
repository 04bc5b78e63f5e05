"""Blame for dead workers: the unit that kills them is given up, its neighbours are not."""

from __future__ import annotations

from pipeline.run.board import Board, Turn


def test_a_unit_that_ends_has_no_history():
    board = Board(attempts=2, engine_starts=3)
    for _ in range(5):
        assert board.begin("answer", "a") == Turn("together", 0)
        board.end("answer", "a")
    snapshot = board.snapshot()
    assert snapshot.started == snapshot.finished == {"answer": 5}
    assert snapshot.in_flight == {}


def test_a_process_with_one_unit_has_one_suspect():
    board = Board(attempts=2, engine_starts=3)
    assert board.begin("video_decode", "a", alone=True).verdict == "together"
    assert board.begin("video_decode", "a", alone=True) == Turn("alone", 1)
    assert board.begin("video_decode", "a", alone=True) == Turn("give_up", 2)


def test_neighbours_of_a_killer_survive():
    """A simulation: one process, eight units in flight, one of which kills it every time."""
    board = Board(attempts=2, engine_starts=99)
    waiting, answered, given_up, deaths = [f"u{i}" for i in range(8)], [], [], 0
    while waiting:
        turns = {unit: board.begin("answer", unit) for unit in waiting}
        given_up += [unit for unit, turn in turns.items() if turn.verdict == "give_up"]
        waiting = [unit for unit in waiting if unit not in given_up]
        together = [unit for unit in waiting if turns[unit].verdict == "together"]
        batches = ([together] if together else []) + [[unit] for unit in waiting if turns[unit].verdict == "alone"]
        for batch in batches:
            if turns[batch[0]].verdict == "alone":
                board.alone("answer", batch[0])
            if "u3" in batch:
                deaths += 1
                break
            for unit in batch:
                board.end("answer", unit)
                answered.append(unit)
                waiting.remove(unit)
    assert given_up == ["u3"]
    assert sorted(answered) == [f"u{i}" for i in range(8) if i != 3]
    assert deaths == 2


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
