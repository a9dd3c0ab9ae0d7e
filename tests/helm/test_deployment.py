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
from pod import Pod, free_port, passes, serving, wait_until


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
}


def test_every_ci_values_file_is_run():
    assert WAYS.keys() == {chart.ids(file) for file in chart.CI}


OF_MODES = {"sentinel", "cluster"}


@pytest.mark.parametrize("way", [way for way in WAYS if way not in OF_MODES])
def test_the_rendered_server_passes_helm_test_and_its_notes(
    way, tmp_path, keys, secrets
):
    # One of them drains with the delay that the chart sets; the others save that time.
    options, values = [], {} if way == "jwt-secret" else {"config__drainDelay": '"100ms"'}
    if way in ("redis-password", "redis-tls", "everything"):
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
        if way == "embedded":
            serve_embedded(objects, tmp_path, secrets, keys)
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
        # The test or the notes have marked it, except with OAuth, which is for plain HTTP only.
        assert ('"lastReadEventId": "1"' in said) == (way != "oauth1")
        process.send_signal(signal.SIGTERM)
        pod_spec = chart.one(objects, "Deployment")["spec"]["template"]["spec"]
        assert process.wait(pod_spec["terminationGracePeriodSeconds"]) == 0


def serve_embedded(objects, directory, secrets, keys):
    """Runs this machine's Redis with the embedded Valkey's command and configuration, and the
    server on it."""
    workload = chart.one(objects, "StatefulSet", "r-markread-redis")
    spec, container = workload["spec"]["template"]["spec"], chart.container(workload)
    generated = chart.one(objects, "Secret", "r-markread-redis")["stringData"]
    port = free_port()
    (directory / "data").mkdir()
    config = (
        generated["valkey.conf"]
        .replace("port 6379", f"port {port}")
        .replace("dir /data", f"dir {directory}/data")
    )
    assert str(port) in config and str(directory) in config
    secrets["r-markread-redis"] = {
        "valkey.conf": config.encode(),
        "password": generated["password"].encode(),
    }
    here = Pod(
        spec | {"volumes": [*spec["volumes"], {"name": "data", "emptyDir": {}}]},
        directory / "redis",
        secrets,
    )
    with here.start(container, {"valkey-server": "/usr/bin/redis-server"}):
        ports = {each["name"]: port for each in container["ports"]}
        for name in ["readinessProbe", "livenessProbe"]:
            wait_until(name, lambda name=name: passes(container[name], ports, 1))
        moved = {"r-markread-redis:6379": f"127.0.0.1:{port}"}
        check("embedded", objects, directory, secrets, moved, keys)
        assert any((directory / "data").glob("appendonlydir/*.aof"))


def test_the_server_knows_every_variable():
    """Each variable that the chart sets is in `serve --help`, or is one of OpenTelemetry's."""
    said = subprocess.run(
        [pod.BINARY, "serve", "--help"], capture_output=True, text=True, check=True
    ).stdout
    names = {
        variable["name"]
        for file in chart.CI
        for variable in chart.container(chart.one(chart.rendered(file), "Deployment"))["env"]
    }
    own = {name for name in names if name.startswith("MARKREAD_")}
    assert {name for name in own if f"[env: {name}]" not in said} == set()
    others = {"RUST_LOG", "POD_NAME", "SSL_CERT_FILE"}
    assert {name for name in names - own - others if not name.startswith("OTEL_")} == set()


def test_every_setting_of_the_server_is_a_value():
    """The chart can set every setting except --dev."""
    said = subprocess.run(
        [pod.BINARY, "serve", "--help"], capture_output=True, text=True, check=True
    ).stdout
    settings = set(re.findall(r"\[env: (MARKREAD_\w+)\]", said))
    set_by_chart = {
        variable["name"]
        for file in chart.CI
        for variable in chart.container(chart.one(chart.rendered(file), "Deployment"))["env"]
    }
    assert settings - set_by_chart == {"MARKREAD_DEV"}
