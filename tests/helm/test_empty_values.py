"""A value that is left empty in a values file (`service:`) is as if it were not there."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
import yaml

import chart
import defaults
from defaults import FREE, VALUES

every_helm = pytest.mark.parametrize("binary", chart.HELMS, ids=lambda binary: Path(binary).name)
# Together they turn on every part of the chart.
every_base = pytest.mark.parametrize("base", ["everything", "embedded", "sentinel", "relay"])


def paths(values=VALUES, path=()):
    """Yields the path of everything in values.yaml, with whether it is a section."""
    for key, value in values.items():
        section = isinstance(value, dict) and bool(value) and (*path, key) not in FREE
        yield (*path, key), section
        if section:
            yield from paths(value, (*path, key))


SECTIONS = [path for path, section in paths() if section]
SINGLE = [path for path, section in paths() if not section and path not in FREE]


def given(base):
    return yaml.safe_load(chart.ci(base).read_text())


def without(values, path):
    """Returns values without what is at a path."""
    key, *rest = path
    if key not in values:
        return values
    if rest:
        return values | {key: without(values[key], rest)}
    return {each: values[each] for each in values if each != key}


def with_null(values, path):
    """Returns values with null at a path."""
    key, *rest = path
    return values | {key: with_null(values.get(key, {}), rest) if rest else None}


@lru_cache
def output(text, **how):
    """Returns what helm makes of values, without lines with Valkey's random password."""
    with NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        done = chart.template(file.name, **how)
    random = ["password:", "requirepass", "user markread on", "checksum/"]
    lines = [each for each in done.stdout.splitlines() if not any(word in each for word in random)]
    return done.returncode, lines, done.stderr


def same(values, others, **how):
    return output(yaml.safe_dump(values), **how) == output(yaml.safe_dump(others), **how)


@every_helm
@every_base
def test_each_section_may_be_empty(base, binary):
    values = given(base)

    def is_as_absent(path):
        return same(without(values, path), with_null(values, path), binary=binary)

    assert len(SECTIONS) > 50
    with ThreadPoolExecutor(2) as pool:
        results = zip(SECTIONS, pool.map(is_as_absent, SECTIONS), strict=True)
    assert [".".join(path) for path, right in results if not right] == []


@every_helm
@every_base
def test_all_values_that_are_not_set_may_be_empty(base, binary):
    values = empty = given(base)
    for path in SINGLE:
        if without(values, path) == values:
            empty = with_null(empty, path)
    assert same(values, empty, binary=binary)
    assert output(yaml.safe_dump(values), binary=binary)[0] == 0


@every_helm
@every_base
def test_values_of_an_older_release_are_completed(base, binary, tmp_path):
    """`helm upgrade --reuse-values` gives a new chart the values of the old one only."""
    newer = chart.copy(tmp_path / "newer")
    values = VALUES
    for path in SECTIONS + SINGLE:
        if not any(free[: len(path)] == path for free in FREE):
            values = without(values, path)
    (newer / "values.yaml").write_text(yaml.safe_dump(values))
    text = yaml.safe_dump(given(base))
    assert output(text, binary=binary) == output(text, binary=binary, chart=newer)


@every_helm
def test_a_section_may_be_empty_in_a_parent_chart(tmp_path, binary):
    own = given("jwt-secret")
    parent = chart.parent(tmp_path / "parent", {"markread": with_null(own, ["service"])})
    objects = chart.render(chart=parent, binary=binary)
    assert chart.one(objects, "Service")["spec"]["ports"][0]["port"] == 50051


@every_helm
def test_the_values_themselves_are_left_as_they_are(tmp_path, binary):
    """A parent chart's templates, which come last, see what helm may store."""
    parent = chart.parent(tmp_path / "parent", {"markread": given("jwt-secret")})
    (parent / "templates").mkdir()
    keys = "kind: Values\nkeys: {{ keys .Values.markread | toJson }}\n"
    (parent / "templates/values.yaml").write_text(keys)
    options = ["--set-json=markread.service=null"]
    objects = chart.render(chart=parent, binary=binary, options=options)
    (seen,) = [each["keys"] for each in objects if each["kind"] == "Values"]
    assert "image" in seen and "service" not in seen
    assert [each for each in objects if each["kind"] == "Service"]


def test_maps_of_the_user_are_left_out_when_they_are_empty():
    objects = chart.render(chart.ci("jwt-secret"), resources="null", securityContext="null")
    container = chart.container(chart.one(objects, "Deployment"))
    assert not {"resources", "securityContext"} & container.keys()


def test_the_defaults_of_the_templates_are_those_of_the_values():
    assert defaults.FILE.read_text() == defaults.text(), "run `python tests/helm/defaults.py`"
