"""The queries of the rules and of the dashboard."""

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "helm/markread/files/rules.yaml"
DASHBOARD = ROOT / "helm/markread/files/dashboard.json"
RULES_TEST = ROOT / "tests/helm/rules_test.yaml"
RUNBOOK = ROOT / "docs/runbook.md"
PRODUCTION = ROOT / "docs/production.md"
OBSERVABILITY = ROOT / "docs/observability.md"
DOCUMENTS = [RUNBOOK, PRODUCTION, OBSERVABILITY]

# Series that Prometheus itself adds for each target.
OF_PROMETHEUS = {"up"}


def rules():
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts():
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def dashboard():
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def variables():
    return {v["name"]: v for v in dashboard()["templating"]["list"]}


def panel_queries(namespace, job, window):
    """Yields the name and the expression of each query of a panel, as Grafana sends it."""
    filled = {"$namespace": namespace, "$job": job, "$__rate_interval": window}
    for panel in panels():
        for target in panel["targets"]:
            expr = target["expr"]
            for variable, value in filled.items():
                expr = expr.replace(variable, value)
            yield f'{panel["title"]} {target["refId"]}', expr


def metric_names(expr):
    """Returns the metrics that an expression selects: the words that are left without strings,
    labels, durations, functions and operators."""
    expr = re.sub(r'"(\\.|[^"\\])*"', "", expr)
    expr = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", expr)
    expr = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", expr)
    expr = re.sub(r"\boffset\s+\w+", " ", expr)
    words = re.findall(r"(?<![\w.])([a-zA-Z_:][\w:]*)\s*(\(?)", expr)
    operators = {"and", "or", "unless", "bool"}
    return {word for word, call in words if not call and word not in operators}
