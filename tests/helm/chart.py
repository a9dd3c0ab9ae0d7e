"""Renders the chart with helm."""

import os
import subprocess
from functools import lru_cache
from pathlib import Path

import yaml

CHART = Path(__file__).parents[2] / "helm/markread"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
HELMS = os.environ["MARKREAD_TEST_HELM"].split(":")
# Not "default": an object without a namespace would end up there unnoticed.
NAMESPACE = "messages"
RELEASE = "r"
OLDEST = "1.27.0"


def ci(name):
    return CHART / f"ci/{name}-values.yaml"


def helm(*arguments, binary=HELMS[0]):
    # A helm built from its Go module assumes Kubernetes 1.20 unless a version is given.
    return subprocess.run(
        [binary, *arguments, "--kube-version", OLDEST], capture_output=True, text=True, timeout=60
    )


def template(*files, chart=CHART, release=RELEASE, binary=HELMS[0], options=(), **values):
    """Runs `helm template`. Values are JSON, their names with double underscores for dots."""
    settings = [f"--set-json={name.replace('__', '.')}={value}" for name, value in values.items()]
    paths = [argument for file in files for argument in ("-f", file)]
    where = ["template", release, chart, "--namespace", NAMESPACE]
    return helm(*where, *paths, *settings, *options, binary=binary)


def render(*files, **how):
    """Returns the rendered objects, without empty documents."""
    done = template(*files, **how)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@lru_cache
def rendered(file, binary=HELMS[0]):
    return render(file, binary=binary)


def one(objects, kind, name="r-markread"):
    """Returns the only object of this kind and name."""
    found = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"expected one {kind} {name}, got {len(found)}"
    return found[0]


def container(workload):
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return container


def copy(folder, change=lambda text: text):
    """Copies the chart to a folder, with `change` applied to its Chart.yaml."""
    for file in CHART.rglob("*"):
        if file.is_file():
            target = folder / file.relative_to(CHART)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    chart_yaml = folder / "Chart.yaml"
    chart_yaml.write_text(change(chart_yaml.read_text()))
    return folder


def parent(folder, values):
    """Makes a chart with this one as its part, and these values."""
    copy(folder / "charts/markread")
    (folder / "Chart.yaml").write_text(
        "apiVersion: v2\nname: parent\nversion: 1.0.0\n"
        "dependencies:\n  - {name: markread, version: 0.1.0, condition: markread.enabled}\n"
    )
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    return folder


def ids(file):
    return file.name.removesuffix("-values.yaml") if isinstance(file, Path) else None
