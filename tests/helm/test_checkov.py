"""checkov's findings on the rendered chart are those that its README lists."""

import json
import os
import re
import subprocess

import chart


def listed():
    text = (
        (chart.CHART / "README.md")
        .read_text()
        .partition("## What checkov finds")[2]
        .partition("\n## ")[0]
    )
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if "CKV" in line
    ]
    assert rows and all(len(row) == 3 and row[2] for row in rows)
    return {
        (check, kind)
        for checks, kinds, _ in rows
        for check in checks.split(", ")
        for kind in kinds.split(", ")
    }


def test_the_findings_are_those_that_the_readme_explains(tmp_path):
    manifests = chart.template(chart.ci("embedded"))
    assert manifests.returncode == 0, manifests.stderr
    (tmp_path / "rendered.yaml").write_text(manifests.stdout)
    command = [
        os.environ["MARKREAD_TEST_CHECKOV"],
        "--framework",
        "kubernetes",
        "--skip-download",
        "--quiet",
        "--output",
        "json",
        "--file",
        "rendered.yaml",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    found = json.loads(done.stdout)
    assert found["summary"]["parsing_errors"] == 0
    assert found["summary"]["passed"] > 100
    failed = found["results"]["failed_checks"]
    assert {
        (each["check_id"], re.match(r"\w+", each["resource"])[0]) for each in failed
    } == listed()
