"""The event log on a disk and on a store that cannot append."""

from __future__ import annotations

import json

from pipeline.events import PUT_EVERY_S, EventLog


def lines(data: bytes) -> list[dict]:
    return [json.loads(line) for line in data.splitlines()]


def test_a_line_is_on_disk_at_once(tmp_path):
    path = tmp_path / "runs" / "r" / "events.jsonl"
    log = EventLog("r", path=path)
    log.append("run_started", planned=3)
    (event,) = lines(path.read_bytes())
    assert (event["event"], event["run_id"], event["planned"]) == ("run_started", "r", 3)
    assert event["t"].endswith("+00:00")
    log.append("run_finished")
    log.close()
    assert [event["event"] for event in lines(path.read_bytes())] == ["run_started", "run_finished"]


def test_a_store_gets_the_whole_log_now_and_then():
    puts, now = [], [0.0]
    log = EventLog("r", put=puts.append, clock=lambda: now[0])
    log.append("a")
    log.append("b")
    assert not puts
    now[0] = PUT_EVERY_S
    log.append("c")
    assert [event["event"] for event in lines(puts[-1])] == ["a", "b", "c"]
    log.append("d")
    log.close()
    assert len(puts) == 2
    assert [event["event"] for event in lines(puts[-1])] == ["a", "b", "c", "d"]
