"""The version is set in Cargo.toml, and repeated where other tools read it."""

import re
import tomllib
from pathlib import Path

import yaml

import chart

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]


def test_the_version_is_semantic():
    assert re.fullmatch(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", VERSION)


def test_the_chart_runs_this_version():
    assert yaml.safe_load((chart.CHART / "Chart.yaml").read_text())["appVersion"] == VERSION


def test_the_image_is_labelled_with_this_version():
    label = r'^ *(?:LABEL )?org\.opencontainers\.image\.version="(.*?)"'
    assert re.findall(label, (ROOT / "Dockerfile").read_text(), re.MULTILINE) == [VERSION]
