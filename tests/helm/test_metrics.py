"""A running server and relay export every metric that the rules, the dashboard and the documents name."""

import re

import pytest

import live
import promql


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    with live.server(tmp_path_factory.mktemp("server")) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def exported(targets):
    """Returns the names of the series that server and relay export, three for each histogram."""
    pages = "\n".join(live.get(f"http://{target}/metrics") for target in targets)
    return set(re.findall(r"^(\w+)[{ ]", pages, re.MULTILINE))


@pytest.fixture(scope="module")
def ask(targets, tmp_path_factory):
    with live.prometheus(tmp_path_factory.mktemp("prometheus"), targets, promql.RULES) as ask:
        yield ask


def missing(names, exported):
    recorded = {rule["record"] for rule in promql.rules() if "record" in rule}
    return sorted(names - exported - recorded - promql.OF_PROMETHEUS)


@pytest.mark.parametrize("rule", promql.rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_the_metrics_of_a_rule_are_exported(rule, exported):
    names = promql.metric_names(rule["expr"])
    assert names
    assert not missing(names, exported)


@pytest.mark.parametrize("panel", promql.panels(), ids=lambda panel: panel["title"])
def test_the_metrics_of_a_panel_are_exported(panel, exported):
    for target in panel["targets"]:
        names = promql.metric_names(target["expr"])
        assert names
        assert not missing(names, exported)


@pytest.mark.parametrize("document", promql.DOCUMENTS, ids=lambda path: path.name)
def test_the_metrics_of_a_document_are_exported(document, exported):
    names = set(re.findall(r"\b(?:markread_\w+|rpc_server_\w+)", document.read_text(encoding="utf-8")))
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in exported}
    assert not missing(names, exported | families)


QUERIES = dict(promql.panel_queries("chat", "markread", "30s"))


@pytest.mark.parametrize("name", QUERIES)
def test_a_panel_shows_data_of_a_running_server(name, ask):
    live.wait_for(QUERIES[name], lambda: ask("query", query=QUERIES[name])["result"], seconds=10)


@pytest.mark.parametrize("variable, value", [("namespace", "chat"), ("job", "markread")])
def test_a_variable_of_the_dashboard_finds_the_install(variable, value, ask):
    definition = promql.variables()[variable]["definition"].replace("$namespace", "chat")
    series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", definition).groups()
    find = lambda: ask(f"label/{label}/values", **{"match[]": series})
    assert live.wait_for(definition, find) == [value]


@pytest.mark.parametrize("record", [rule["record"] for rule in promql.rules() if "record" in rule])
def test_a_recorded_series_names_its_install(record, ask):
    (series,) = live.wait_for(record, lambda: ask("query", query=record)["result"])
    labels = {"__name__": record, "namespace": "chat", "job": "markread"}
    assert series["metric"] == labels


def test_every_rule_is_evaluated_without_an_error(ask):
    def evaluated():
        rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
        return all(rule["health"] != "unknown" for rule in rules) and rules

    rules = live.wait_for("the rules", evaluated)
    assert len(rules) == len(promql.rules())
    assert not [rule for rule in rules if rule["health"] != "ok"]
