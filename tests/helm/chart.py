"""Renders the chart with the real helm."""

import os
import subprocess
from functools import lru_cache
from pathlib import Path

import yaml

CHART = Path(__file__).parents[2] / "helm/markread"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
HELMS = os.environ["MARKREAD_TEST_HELM"].split(":")
# Another than "default", where nothing should run.
NAMESPACE = "messages"
RELEASE = "r"
OLDEST = "1.27.0"


def ci(name):
    return CHART / f"ci/{name}-values.yaml"


def helm(*arguments, binary=HELMS[0]):
    # A helm that is built from its module takes Kubernetes to be 1.20 where it is not told.
    return subprocess.run(
        [binary, *arguments, "--kube-version", OLDEST], capture_output=True, text=True, timeout=60
    )


def template(*files, chart=CHART, release=RELEASE, binary=HELMS[0], options=(), **values):
    """What helm says: values are given with dots as double underscores, and as JSON."""
    settings = [f"--set-json={name.replace('__', '.')}={value}" for name, value in values.items()]
    paths = [argument for file in files for argument in ("-f", file)]
    where = ["template", release, chart, "--namespace", NAMESPACE]
    return helm(*where, *paths, *settings, *options, binary=binary)


def render(*files, **how):
    """The objects, without those that are empty."""
    done = template(*files, **how)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@lru_cache
def rendered(file, binary=HELMS[0]):
    return render(file, binary=binary)


def one(objects, kind, name="r-markread"):
    """The only object of this kind and name."""
    found = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def container(workload):
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return container


def copy(folder, change=lambda text: text):
    """The chart at another place, with another Chart.yaml where `change` makes one of it."""
    for file in CHART.rglob("*"):
        if file.is_file():
            target = folder / file.relative_to(CHART)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    chart_yaml = folder / "Chart.yaml"
    chart_yaml.write_text(change(chart_yaml.read_text()))
    return folder


def ids(file):
    return file.name.removesuffix("-values.yaml") if isinstance(file, Path) else None
