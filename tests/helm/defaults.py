"""Writes `files/defaults.yaml`, the defaults that templates fill in, when it is run."""

from pathlib import Path

import yaml

CHART = Path(__file__).parents[2] / "helm/markread"
FILE = CHART / "files/defaults.yaml"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
# Maps whose keys the user chooses. Each counts as one value, and is left out when it is null.
FREE = {
    ("podSecurityContext",),
    ("securityContext",),
    ("resources",),
    ("relay", "resources"),
    ("redis", "embedded", "resources"),
    ("metrics", "dashboard", "labels"),
}
HEAD = """\
# Written by tests/helm/defaults.py from values.yaml, which templates cannot read.
"""


def filled(values=VALUES, path=()):
    """Returns the values without the maps in FREE."""
    return {
        key: filled(value, (*path, key)) if isinstance(value, dict) else value
        for key, value in values.items()
        if (*path, key) not in FREE
    }


def text():
    return HEAD + yaml.safe_dump(filled(), sort_keys=False)


if __name__ == "__main__":
    FILE.write_text(text())
