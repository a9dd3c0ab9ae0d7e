#!/usr/bin/env python3
"""Checks an SBOM in CycloneDX's JSON against the lines of `cargo tree --prefix none` on standard input.

    cargo tree … | tests/supply/check_sbom.py SBOM

Fails unless it has exactly the crates of the tree, each with a licence, and those of a registry with a
checksum.
"""

import json
import sys


def components(bom):
    """The crates of an SBOM by name and version, the described one included."""
    found = {}
    for component in [bom["metadata"]["component"], *bom["components"]]:
        found[component["name"], component["version"]] = component
    return found


def crates(lines):
    """The names and versions of `cargo tree`."""
    words = (line.split() for line in lines if line.strip())
    return {(name, version.removeprefix("v")) for name, version, *_ in words}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        bom = json.load(file)
    assert bom["bomFormat"] == "CycloneDX", bom["bomFormat"]
    found = components(bom)
    expected = crates(sys.stdin)
    problems = [f"missing: {name} {version}" for name, version in sorted(expected - found.keys())]
    problems += [f"not in cargo tree: {name} {version}" for name, version in sorted(found.keys() - expected)]
    for (name, version), component in sorted(found.items()):
        if not component.get("licenses"):
            problems.append(f"without a licence: {name} {version}")
        if "registry" in component.get("purl", "") + component.get("bom-ref", "") and not component.get("hashes"):
            problems.append(f"without a checksum: {name} {version}")
    if len(expected) < 100:
        problems.append(f"cargo tree named only {len(expected)} crates")
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"SBOM: {len(found)} crates, each with its licence, as cargo tree has them: {sys.argv[1]}")


if __name__ == "__main__":
    main()
