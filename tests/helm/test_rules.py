"""The alerts and the dashboard, without a server: promtool parses them, each alert fires only
when it should, and has an entry in the runbook."""

import re
import subprocess

import pytest
import yaml

import promql


def promtool(*arguments):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "expr, names",
    [
        ('sum by (a, b) (rate(x_total{a="y_total", b=~"z{"}[5m])) > 0.1', {"x_total"}),
        ("avg_over_time(n:x:rate5m[1h]) / on (a) group_left () (max(y) > 0)", {"n:x:rate5m", "y"}),
        ("0.5 * (up offset 15m > 100) unless on (b) absent_over_time(z[1h])", {"up", "z"}),
    ],
)
def test_the_metrics_of_an_expression_are_found(expr, names):
    assert promql.metric_names(expr) == names


def test_promtool_finds_no_problem_in_the_rules():
    promtool("check", "rules", "--lint=all", "--lint-fatal", promql.RULES)


def test_each_alert_fires_only_when_it_should():
    promtool("test", "rules", promql.RULES_TEST)


def test_each_alert_is_tested_firing_and_silent():
    tests = yaml.safe_load(promql.RULES_TEST.read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    firing = {case["alertname"] for case in cases if case["exp_alerts"]}
    silent = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert firing == set(promql.alerts())
    assert silent == set(promql.alerts())


def test_several_installs_do_not_mix():
    for rule in promql.rules():
        for labels in re.findall(r"\bby \(([^)]*)\)", rule["expr"]):
            assert labels.startswith("namespace, job"), rule
        for labels in re.findall(r"\bon \(([^)]*)\)", rule["expr"]):
            assert labels == "namespace, job", rule


@pytest.mark.parametrize("name", promql.alerts())
def test_an_alert_has_a_severity_and_a_link_to_the_runbook(name):
    alert = promql.alerts()[name]
    assert alert["labels"] == {"severity": alert["labels"]["severity"]}
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"


def test_the_runbook_has_one_entry_for_each_alert():
    _, *entries = re.split(r"^### ", promql.RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    entries = dict(entry.split("\n", 1) for entry in entries)
    assert list(entries) == list(promql.alerts())
    for name, entry in entries.items():
        severity = promql.alerts()[name]["labels"]["severity"]
        assert entry.lstrip().startswith(f"`{severity}`"), name
        for part in ("**Look at**", "**Do**"):
            assert entry.count(part) == 1, (name, part)


@pytest.mark.parametrize("document", promql.DOCUMENTS, ids=lambda path: path.name)
def test_every_link_of_a_document_has_a_target(document):
    links = re.findall(r"\]\((?!https:)([^)#]*)(?:#([^)]*))?\)", document.read_text(encoding="utf-8"))
    assert links
    for path, anchor in links:
        linked = document.parent / path if path else document
        assert linked.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}


def slug(heading):
    """The anchor that GitHub gives a heading: without punctuation, and with hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_promtool_parses_the_query_of_every_panel(tmp_path):
    queries = list(promql.panel_queries("chat", "markread", "5m"))
    rules = [{"record": f"panel:{n}", "expr": expr} for n, (_, expr) in enumerate(queries)]
    assert not [expr for _, expr in queries if "$" in expr], "an expression has an unknown variable"
    parsed = tmp_path / "panels.yaml"
    parsed.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", "--lint=none", parsed)


def test_the_dashboard_is_complete_and_has_unique_titles():
    dashboard = promql.dashboard()
    assert dashboard["schemaVersion"] >= 39
    assert list(promql.variables()) == ["datasource", "namespace", "job"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(titles) == len(set(titles))
    for panel in promql.panels():
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for source in (panel, *panel["targets"]):
            assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_no_panel_covers_another():
    taken = {}
    for panel in promql.dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
