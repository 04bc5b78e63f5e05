"""Alerts and dashboard ask for nothing that a run does not emit, and the alerts fire when they should."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline import children
from pipeline.run.meters import METERS, RAY_LABELS

FOLDER = Path(__file__).parents[2] / "infra" / "monitoring"
PROMTOOL = shutil.which("promtool")

#: Every series in Prometheus with the labels it has.
SERIES = {
    series: {*meter.tag_keys, *RAY_LABELS, *(["le"] if series.endswith("_bucket") else [])}
    for meter in METERS
    for series in meter.exported
}
KINDS = {series: meter.kind for meter in METERS for series in meter.exported}

NAME = re.compile(r"\b(?:ray_)?luvc_\w+")
SELECTOR = re.compile(r"\b((?:ray_)?luvc_\w+)\s*(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"[^"]*"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


def rules() -> list[dict]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict]:
    return [panel for panel in json.loads((FOLDER / "dashboard.json").read_text())["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]


@pytest.mark.parametrize(("where", "expr"), list(queries()), ids=lambda value: value if len(value) < 40 else "")
def test_every_name_and_label_is_one_that_a_run_emits(where: str, expr: str) -> None:
    used = set(NAME.findall(expr))
    assert used, where
    assert used <= set(SERIES), used - set(SERIES)
    for name, inside in SELECTOR.findall(expr):
        matchers = MATCHER.findall(inside)
        assert len(matchers) == len([part for part in inside.split(",") if part.strip()]), inside
        assert set(matchers) <= SERIES[name], (name, matchers)
    known = set.union(*(SERIES[name] for name in used))
    for labels in GROUPING.findall(expr):
        assert {label.strip() for label in labels.split(",")} <= known, labels
    for opening, closing in ("()", "[]", "{}"):
        assert expr.count(opening) == expr.count(closing)


@pytest.mark.parametrize(("where", "expr"), list(queries()), ids=lambda value: value if len(value) < 40 else "")
def test_rates_are_taken_of_counters_only(where: str, expr: str) -> None:
    for name in re.findall(r"\b(?:rate|increase)\(\s*(ray_luvc_\w+)", expr):
        assert KINDS[name] in ("counter", "histogram"), (where, name)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_and_what_to_do(rule: dict) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Luvc[A-Za-z]+", rule["alert"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description"}
    # A label in the text has to survive the expression's grouping.
    for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
        groupings = GROUPING.findall(rule["expr"])
        assert not groupings or any(label in grouping for grouping in groupings)


def test_alerts_that_matter_are_there() -> None:
    assert {rule["alert"] for rule in rules()} >= {
        *("LuvcRunAborted", "LuvcNoProgress", "LuvcDriverVanished", "LuvcManyFailures", "LuvcDecodeBound"),
        *("LuvcNothingDoneLastNight", "LuvcQualityBelowThreshold"),
    }


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    board = json.loads((FOLDER / "dashboard.json").read_text())
    assert {"title", "uid", "panels", "templating", "schemaVersion", "time"} <= set(board)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["title"]
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
    names = {variable["name"] for variable in board["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(board))) <= names | {"__rate_interval", "__range", "__all"}


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in NAME.findall(target["expr"])}
    for meter in METERS:
        assert shown & set(meter.exported), f"{meter.name} is on no panel"


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed; Debian's package prometheus has it")
@pytest.mark.parametrize("command", [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]], ids=str)
def test_promtool_agrees(command: list[str]) -> None:
    assert PROMTOOL is not None
    done = children.run([PROMTOOL, *command], cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed; Debian's package prometheus has it")
def test_promtool_parses_every_query_of_the_dashboard(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    variables = {"$__rate_interval": "1m", "$__range": "6h", "$run_name": ".*"}
    found = []
    for index, (_, expr) in enumerate(queries()):
        for variable, value in variables.items():
            expr = expr.replace(variable, value)
        found.append({"record": f"luvc:query_{index}", "expr": expr})
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": found}]}))
    done = children.run([PROMTOOL, "check", "rules", str(path)])
    assert done.returncode == 0, done.stdout + done.stderr
