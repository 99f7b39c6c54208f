# SPDX-License-Identifier: MIT
"""Alert rules and dashboard: Prometheus' own tool accepts them, and they fit the metrics."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailseal.metrics.table import LAYOUTS, STARTED, names
from tests.lab.place import REPOSITORY

DOCS = Path(REPOSITORY, "docs")
RULES = DOCS / "monitoring" / "alerts.yml"
DASHBOARD = DOCS / "monitoring" / "grafana.json"
RULE_TESTS = Path(__file__).parent / "monitoring" / "alerts_test.yml"
# Recorded by Prometheus itself for each target.
OF_PROMETHEUS = {"up"}


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def _expressions() -> list[str]:
    targets = [target["expr"] for panel in _panels() for target in panel["targets"]]
    return [*(rule["expr"] for rule in _rules()), *targets]


def _selectors(expression: str) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """Name and label matchers of each series that an expression uses."""
    found = []
    for name, labels in re.findall(r"\b(mailseal_\w+|up)\b(?:\{([^}]*)\})?", expression):
        matchers = re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', labels)
        found.append((name, {label: (kind, value) for label, kind, value in matchers}))
    return found


def _promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_rules() -> None:
    assert f"{len(_rules())} rules found" in _promtool("check", "rules", str(RULES))


def test_each_alert_fires_when_it_should() -> None:
    """`promtool test rules`; each alert has a test in which it is silent first and fires later."""
    _promtool("test", "rules", str(RULE_TESTS))
    tests = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    assert {test["name"] for test in tests} == {rule["alert"] for rule in _rules()}
    for test in tests:
        expected = [case["exp_samples"][0]["value"] for case in test["promql_expr_test"]]
        assert expected == [0, 1], test["name"]


def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    """With the values that Grafana puts in."""
    rules = []
    for number, expression in enumerate(_expressions()):
        filled = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
        rules.append({"record": f"panel:{number}", "expr": filled})
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    _promtool("check", "rules", str(path))


def test_rules_and_dashboard_use_series_that_exist() -> None:
    known = names()
    for expression in _expressions():
        selectors = _selectors(expression)
        assert selectors, expression
        for name, matchers in selectors:
            assert name in known or name in OF_PROMETHEUS, expression
            metric = known.get(name)
            if metric is None:
                continue
            series = [dict(zip(metric.labels, values, strict=True)) for values in metric.series]
            for label, (kind, value) in matchers.items():
                if label in ("instance", "job"):
                    continue
                assert label in metric.labels, expression
                if kind in ("=", "=~"):
                    assert any(re.fullmatch(value, one[label]) for one in series), expression


def test_every_metric_is_in_a_rule_or_on_the_dashboard() -> None:
    used = {name for expression in _expressions() for name, _ in _selectors(expression)}
    for layout in LAYOUTS:
        for metric in layout.metrics:
            assert any(name == metric.name or name.startswith(f"{metric.name}_") for name in used)
    assert STARTED in used


def test_every_metric_and_alert_is_described() -> None:
    page = (DOCS / "monitoring.md").read_text()
    described = set(re.findall(r"`(mailseal_\w+)(?:\{([\w,]*)\})?`", page))
    labels = {name: set(filter(None, given.split(","))) for name, given in described}
    for name, metric in names().items():
        base = re.sub("_(bucket|count|sum)$", "", name) if metric is not None else name
        assert base in labels, name
        if metric is not None:
            assert labels[base] == set(metric.labels), name
    assert set(re.findall(r"`(Mailseal\w+)`", page)) == {rule["alert"] for rule in _rules()}


def test_each_alert_leads_to_a_runbook() -> None:
    page = (DOCS / "runbooks.md").read_text()
    headings = re.findall(r"^## (.+)$", page, re.M)
    anchors = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
    for rule in _rules():
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        name, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert name == "runbooks.md"
        assert anchor in anchors, rule["alert"]
        assert f"`{rule['alert']}`" in page, rule["alert"]


@pytest.mark.parametrize("panel", _panels(), ids=lambda panel: panel["title"])
def test_a_panel_is_complete(panel: dict[str, Any]) -> None:
    """Its place is on the grid of 24 columns, and it uses the chosen data source."""
    place = panel["gridPos"]
    assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    assert panel["datasource"]["uid"] == "${datasource}"
    assert all(target["legendFormat"] for target in panel["targets"])
    for other in _panels():
        if other["id"] != panel["id"]:
            assert not _overlap(place, other["gridPos"]), other["title"]


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )
