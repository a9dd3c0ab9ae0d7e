"""Runs the containers of a rendered pod as processes: with their own commands, arguments,
environment and mounted files, on ports of this machine."""

import os
import random
import re
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager, suppress

import chart

BINARY = os.environ["MARKREAD_TEST_BINARY"]
GRPCURL = os.environ["MARKREAD_TEST_GRPCURL"]


def free_port():
    """Returns a port outside the system's ephemeral range, so that no other socket takes it meanwhile."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("0.0.0.0", port))
            return port


class Pod:
    """A pod of this `spec`. `secrets` and `config_maps` are those of the cluster, by name: dicts of
    keys and bytes. `moved` maps addresses in commands and environment to addresses on this machine."""

    def __init__(self, spec, directory, secrets=None, config_maps=None, moved=None):
        self.spec, self.directory, self.moved = spec, directory, moved or {}
        self.secrets = secrets or {}
        self.volumes = {}
        directory.mkdir()
        for volume in spec.get("volumes", []):
            folder = directory / "volumes" / volume["name"]
            folder.mkdir(parents=True)
            if source := volume.get("secret"):
                self.write(folder, source["secretName"], source.get("items"))
            elif source := volume.get("projected"):
                for each in source["sources"]:
                    assert each.keys() == {"secret"}, each
                    self.write(folder, each["secret"]["name"], each["secret"]["items"])
            elif source := volume.get("configMap"):
                for key, data in (config_maps or {})[source["name"]].items():
                    (folder / key).write_bytes(data)
            else:
                assert volume.keys() <= {"name", "emptyDir"}, volume
            self.volumes[volume["name"]] = folder

    def write(self, folder, secret, items):
        """Writes keys of a Secret to a folder; all of them without items."""
        secret = self.secrets[secret]
        for item in items or [{"key": key, "path": key} for key in secret]:
            file = folder / item["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(secret[item["key"]])

    def here(self, container, text):
        """Replaces mount paths and addresses in a text by those on this machine."""
        folders = {
            each["mountPath"]: str(self.volumes[each["name"]])
            for each in container.get("volumeMounts", [])
        }
        if folders:
            places = "|".join(re.escape(place) for place in folders)
            text = re.sub(rf"(?<![^=])({places})(?=/|$)", lambda place: folders[place[1]], text)
        for there, here in self.moved.items():
            text = text.replace(there, here)
        return text

    def environment(self, container):
        env = {}
        for variable in container.get("env", []):
            match variable:
                case {"value": value}:
                    pass
                case {"valueFrom": {"secretKeyRef": ref}}:
                    value = self.secrets[ref["name"]][ref["key"]].decode()
                case {"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}:
                    value = "r-markread-0"
            value = re.sub(r"\$\((\w+)\)", lambda name: env[name[1]], value)
            env[variable["name"]] = self.here(container, value)
        return env

    def command(self, container, programs):
        program, *arguments = container["command"] + container.get("args", [])
        return [programs[program], *(self.here(container, argument) for argument in arguments)]

    def run(self, container, timeout=30):
        """Runs a container until it exits, and returns its output."""
        command = self.command(container, {"/markread": BINARY})
        done = subprocess.run(
            command,
            env=self.environment(container),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{container['name']}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def start(self, container, programs):
        """Runs a container until the `with` block ends, and yields its process."""
        log = self.directory / f"{container['name']}.log"
        command = self.command(container, programs)
        with open(log, "w") as output:
            process = subprocess.Popen(
                command,
                env=self.environment(container),
                cwd=self.directory,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        except BaseException:
            print(log.read_text())
            raise
        finally:
            process.kill()
            process.wait()


def passes(probe, ports, timeout):
    """Returns whether a probe passes, run as by the kubelet. `ports` maps the container's ports."""
    if get := probe.get("httpGet"):
        assert get.get("scheme", "HTTP") == "HTTP"
        url = f"http://127.0.0.1:{ports[get['port']]}{get['path']}"
        try:
            return 200 <= urllib.request.urlopen(url, timeout=timeout).status < 400
        except OSError:
            return False
    if grpc := probe.get("grpc"):
        request = f'{{"service": "{grpc["service"]}"}}'
        check = f"{GRPCURL} -plaintext -max-time {timeout} -d".split()
        check += [request, f"127.0.0.1:{ports[grpc['port']]}", "grpc.health.v1.Health/Check"]
        return '"SERVING"' in subprocess.run(check, capture_output=True, text=True).stdout
    try:
        address = ("127.0.0.1", ports[probe["tcpSocket"]["port"]])
        socket.create_connection(address, timeout).close()
        return True
    except OSError:
        return False


def wait_until(what, ask, seconds=20):
    end = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < end, f"{what} did not pass within {seconds} s"
        time.sleep(0.1)


@contextmanager
def serving(objects, directory, secrets, moved, keys, deployment="r-markread"):
    """Runs a Deployment's container and waits until all its probes pass. Yields the process, its
    ports by name, and the pod."""
    template = chart.one(objects, "Deployment", deployment)["spec"]["template"]
    container = chart.container(chart.one(objects, "Deployment", deployment))
    ports = {each["containerPort"]: free_port() for each in container["ports"]}
    moved = moved | {f":{there}": f":{here}" for there, here in ports.items()}
    names = {each["name"]: ports[each["containerPort"]] for each in container["ports"]}
    here = Pod(template["spec"], directory, secrets, {"roots": {"ca.crt": keys["ca.crt"]}}, moved)
    with here.start(container, {"/markread": BINARY}) as process:
        for name in ["startupProbe", "livenessProbe", "readinessProbe"]:
            probe = container[name]

            def ask(probe=probe):
                assert process.poll() is None, "the server has exited"
                return passes(probe, ports | names, probe["timeoutSeconds"])

            seconds = (
                probe["initialDelaySeconds"] + probe["failureThreshold"] * probe["periodSeconds"]
            )
            wait_until(name, ask, max(seconds, 10))
        yield process, names, here


@contextmanager
def embedded(objects, directory, secrets):
    """Runs this machine's Redis with the embedded Valkey's command and configuration. Adds its Secret to the
    others, and yields where it is."""
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
        yield {"r-markread-redis:6379": f"127.0.0.1:{port}"}
        assert any((directory / "data").glob("appendonlydir/*.aof"))
