"""Runs the rendered Deployment: the server on a Redis, with the container's own command,
environment, ports, files and probes."""

import json
import re
import signal
import subprocess
from contextlib import ExitStack

import pytest

import chart
import notes
import pod
from around import REDIS_PASSWORD, cluster, jwks, redis, sentinel, signed, tls_options
from pod import Pod, embedded, free_port, serving


def run_test_pod(objects, directory, secrets, names):
    """Runs the rendered containers of `helm test`, one after the other, and returns their output."""
    spec = chart.one(objects, "Pod", "r-markread-test")["spec"]
    moved = {f"r-markread.{chart.NAMESPACE}.svc:50051": f"127.0.0.1:{names['grpc']}"}
    here = Pod(spec, directory, secrets, moved=moved)
    return {each["name"]: here.run(each) for each in spec["initContainers"] + spec["containers"]}


WAYS = {
    "jwt-secret": ["sign", "mark", "state"],
    "public-key": ["mark", "state"],
    "jwks": ["health", "refused"],
    "oauth1": ["health", "refused"],
    "mtls": ["health", "refused"],
    "tls": ["sign", "mark", "state"],
    "redis-password": ["sign", "mark", "state"],
    "redis-tls": ["sign", "mark", "state"],
    "sentinel": ["sign", "mark", "state"],
    "cluster": ["sign", "mark", "state"],
    "embedded": ["sign", "mark", "state"],
    "everything": ["mark", "state"],
    "relay": ["sign", "mark", "state"],
    "relay-test": ["sign", "mark", "state"],
}
EMBEDDED = {"embedded", "relay-test"}
WITH_RELAY = {"everything", "relay", "relay-test"}


def test_every_ci_values_file_is_run():
    assert WAYS.keys() == {chart.ids(file) for file in chart.CI}


OF_MODES = {"sentinel", "cluster"}

# Command, Deployment, and the settings that are no values: the server's embedded store has no place in a cluster.
OF_PROCESSES = pytest.mark.parametrize(
    ("command", "deployment", "but"),
    [("serve", "r-markread", {"MARKREAD_DEV"}), ("relay", "r-markread-relay", set())],
)


@pytest.mark.parametrize("way", [way for way in WAYS if way not in OF_MODES])
def test_the_rendered_server_passes_helm_test_and_its_notes(
    way, tmp_path, keys, secrets
):
    # One of them drains with the delay that the chart sets; the others save that time.
    options, values = [], {} if way == "jwt-secret" else {"config__drainDelay": '"100ms"'}
    if way in ("redis-password", "redis-tls", "everything", "relay"):
        options += REDIS_PASSWORD
    if way in ("redis-tls", "everything"):
        options += tls_options(keys)
    if way == "everything":
        values |= {"config__replicasAck": "0", "config__fsyncAck": "false"}
    with jwks(keys) as url, redis(tmp_path, *options) as port:
        if way in ("jwks", "everything"):
            values["auth__jwt__jwks__url"] = json.dumps(url)
        values["tracing__endpoint"] = '"http://127.0.0.1:9"' if way == "everything" else '""'
        objects = chart.render(chart.ci(way), **values)
        if way in EMBEDDED:
            with embedded(objects, tmp_path, secrets) as moved:
                check(way, objects, tmp_path, secrets, moved, keys)
            return
        moved = {
            "redis.default.svc:6379": f"127.0.0.1:{port}",
            "redis.default.svc:6380": f"127.0.0.1:{port}",
            "redis.example.com:6380": f"127.0.0.1:{port}",
        }
        if way in ("public-key", "everything"):
            secrets["markread-test-token"] = {"token": signed(keys)}
        check(way, objects, tmp_path, secrets, moved, keys)


@pytest.mark.parametrize("way", sorted(OF_MODES))
def test_the_rendered_server_serves_in_each_mode_of_redis(way, tmp_path, keys, secrets):
    values = {"config__drainDelay": '"100ms"', "config__replicasAck": "0"}
    objects = chart.render(chart.ci(way), **values)
    with ExitStack() as stack:
        if way == "cluster":
            # Of two seeds one is away.
            port = stack.enter_context(cluster(tmp_path, keys))
            there = [f"redis-{n}.redis.default.svc:6380" for n in range(2)]
        else:
            options = [*REDIS_PASSWORD, *tls_options(keys)]
            master = stack.enter_context(redis(tmp_path, *options))
            port = stack.enter_context(sentinel(tmp_path, keys, master))
            there = [f"sentinel-{n}.sentinel.default.svc:26379" for n in range(3)]
        moved = {each: f"127.0.0.1:{free_port()}" for each in there}
        moved[there[-1]] = f"127.0.0.1:{port}"
        check(way, objects, tmp_path, secrets, moved, keys)


def check(way, objects, directory, secrets, moved, keys):
    with serving(objects, directory / "server", secrets, moved, keys) as (process, ports, here):
        said = run_test_pod(objects, directory / "test", secrets, ports)
        assert list(said) == WAYS[way]
        if "mark" in said:
            assert said["mark"].startswith("advanced to 1")
        said = notes.follow(way, directory / "notes", here, ports, keys)
        assert '"status": "SERVING"' in said
        assert ("subscribes to " in said) == (way in WITH_RELAY)
        # The test or the notes have marked it, except with OAuth, which is for plain HTTP only.
        assert ('"lastReadEventId": "1"' in said) == (way != "oauth1")
        process.send_signal(signal.SIGTERM)
        pod_spec = chart.one(objects, "Deployment")["spec"]["template"]["spec"]
        assert process.wait(pod_spec["terminationGracePeriodSeconds"]) == 0


def settings_of(command):
    """Returns the variables in `--help`."""
    help_of_it = [pod.BINARY, command, "--help"]
    said = subprocess.run(help_of_it, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\[env: (MARKREAD_\w+)\]", said))


def set_by_chart(deployment):
    relay = {"relay__enabled": "true", "relay__existingSecret": '"markread-webhooks"'}
    of_modes = [chart.render(chart.ci(way), **relay) for way in OF_MODES]
    return {
        variable["name"]
        for objects in [*map(chart.rendered, chart.CI), *of_modes]
        for each in objects
        if (each["kind"], each["metadata"]["name"]) == ("Deployment", deployment)
        for variable in chart.container(each)["env"]
    }


@OF_PROCESSES
def test_the_program_knows_every_variable(command, deployment, but):
    """Each variable that the chart sets is in `--help`, or is one of OpenTelemetry's."""
    names = set_by_chart(deployment)
    own = {name for name in names if name.startswith("MARKREAD_")}
    assert own - settings_of(command) == set()
    others = {"RUST_LOG", "POD_NAME", "SSL_CERT_FILE"}
    assert {name for name in names - own - others if not name.startswith("OTEL_")} == set()


@OF_PROCESSES
def test_every_setting_is_a_value(command, deployment, but):
    settings = settings_of(command)
    assert len(settings) > 20
    assert settings - set_by_chart(deployment) == but
