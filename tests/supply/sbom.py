#!/usr/bin/env python3
"""Leaves in an SBOM (CycloneDX, JSON) what `cargo tree --prefix none` on standard input has, and checks it.

    cargo tree … | tests/supply/sbom.py SBOM

cargo-cyclonedx has all that cargo resolves for the workspace, also what only the features of tests would
compile, and names the directory, in place of which is /src. Fails unless every crate of the tree is there, each with a licence, and those of a registry with a
checksum.
"""

import json
import os
import sys


def crates(lines):
    """The names and versions of `cargo tree`."""
    words = (line.split() for line in lines if line.strip())
    return {(name, version.removeprefix("v")) for name, version, *_ in words}


def pruned(bom, expected):
    """The SBOM without the crates that are not expected, and their names."""
    is_there = lambda component: (component["name"], component["version"]) in expected
    others = [component for component in bom["components"] if not is_there(component)]
    refs = {component["bom-ref"] for component in others}
    bom["components"] = [component for component in bom["components"] if is_there(component)]
    bom["dependencies"] = [
        {
            **dependency,
            "dependsOn": [ref for ref in dependency.get("dependsOn", []) if ref not in refs],
        }
        for dependency in bom["dependencies"]
        if dependency["ref"] not in refs
    ]
    return bom, sorted(f"{component['name']} {component['version']}" for component in others)


def problems(bom, expected):
    """What is wrong with an SBOM, a line each."""
    components = [bom["metadata"]["component"], *bom["components"]]
    found = {(component["name"], component["version"]) for component in components}
    for name, version in sorted(expected - found):
        yield f"missing: {name} {version}"
    for component in components:
        crate = f"{component['name']} {component['version']}"
        if not component.get("licenses"):
            yield f"without a licence: {crate}"
        if component["bom-ref"].startswith("registry+") and not component.get("hashes"):
            yield f"without a checksum: {crate}"
    if bom["bomFormat"] != "CycloneDX" or len(expected) < 100:
        yield f"{bom['bomFormat']}, and {len(expected)} crates in the tree"


def main():
    path = sys.argv[1]
    expected = crates(sys.stdin)
    with open(path, encoding="utf-8") as file:
        text = file.read().replace(f"file://{os.getcwd()}", "file:///src")
    bom, left_out = pruned(json.loads(text), expected)
    found = list(problems(bom, expected))
    for problem in found:
        print(problem, file=sys.stderr)
    if found:
        sys.exit(1)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(bom, file, indent=2)
        file.write("\n")
    print(f"SBOM: {len(expected)} crates, each with its licence, as in cargo tree: {path}")
    print(f"not compiled for the binary, and left out: {', '.join(left_out) or 'nothing'}")


if __name__ == "__main__":
    main()
