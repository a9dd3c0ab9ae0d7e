"""Follows the notes that helm prints after an install: runs their commands."""

import json
import os
import subprocess
import sys

import chart
import pod
from around import signed

# A kubectl that has the two commands in the notes. Any other fails.
KUBECTL = """#!{python}
import json, os, subprocess, sys
cluster = json.load(open("{folder}/cluster.json"))
match sys.argv[1:]:
    case ["--namespace", "{namespace}", "get", "secret", name, "-o", template]:
        start, key, end = template.split('"')
        assert (start, end) == ("go-template={{{{ index .data ", " | base64decode }}}}"), template
        sys.stdout.write(cluster["secrets"][name][key])
    case ["--namespace", "{namespace}", "exec", workload, "-c", "markread", "--", program, *rest]:
        assert (workload, program) == ("deployment/r-markread", "/markread")
        sys.exit(subprocess.run(["{binary}", *rest], env=cluster["env"]).returncode)
    case ["--namespace", "{namespace}", "exec", "deployment/r-markread-relay", "-c", "relay", "--", *rest]:
        assert rest[:3] == ["/markread", "webhook", "subscribe"] and rest[4:] == ["1"]
        print("subscribes to", rest[3])
    case _:
        sys.exit(f"unknown command: {{sys.argv}}")
"""


def text(way, folder):
    """Returns the notes. `helm template` leaves them out, so they are rendered into an object."""
    copy = chart.copy(folder / "chart")
    (copy / "templates/notes-of-test.yaml").write_text(
        "kind: Notes\nmetadata: {name: notes}\n"
        'text: {{ include (print .Template.BasePath "/NOTES.txt") . | toJson }}\n'
    )
    return chart.one(chart.render(chart.ci(way), chart=copy), "Notes", "notes")["text"]


def follow(way, folder, server, ports, keys):
    """Runs the indented lines of the notes except the port-forward, and returns their output."""
    folder.mkdir()
    lines = [line.strip() for line in text(way, folder).splitlines() if line.startswith("  ")]
    forward, *commands = lines
    assert forward == (
        f"kubectl --namespace {chart.NAMESPACE} port-forward service/r-markread 50051:50051"
    )
    cluster = {
        "secrets": {
            name: {key: data.decode() for key, data in secret.items()}
            for name, secret in server.secrets.items()
        },
        "env": server.environment(server.spec["containers"][0]),
    }
    (folder / "cluster.json").write_text(json.dumps(cluster))
    kubectl = folder / "kubectl"
    kubectl.write_text(
        KUBECTL.format(
            python=sys.executable, folder=folder, namespace=chart.NAMESPACE, binary=pod.BINARY
        )
    )
    kubectl.chmod(0o755)
    (folder / "grpcurl").symlink_to(pod.GRPCURL)
    for file in ["client.crt", "client.key"]:
        (folder / file).write_bytes(keys[file])
    script = "\n".join(commands).replace("localhost:50051", f"localhost:{ports['grpc']}")
    env = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "TOKEN": signed(keys).decode(),
    }
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout
