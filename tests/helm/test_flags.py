"""Every flag of `markread serve` and `markread relay` is a value of the chart, with the same default."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

import chart

VALUES = yaml.safe_load((chart.CHART / "values.yaml").read_text())
CONFIG = {"serve": VALUES["config"], "relay": VALUES["relay"]["config"]}

# Flags of the connection to Redis, whose values are elsewhere.
OF_REDIS = {
    "redis-url": "redis.url",
    "redis-username": "redis.secretKeys.username",
    "redis-password-file": "redis.existingSecret",
    "redis-ca": "redis.tls.ca",
    "redis-cert": "redis.tls.certificate",
    "redis-key": "redis.tls.certificate",
    "redis-mode": "redis.mode",
    "partitions": "redis.partitions",
    "redis-sentinel-master": "redis.sentinel.master",
    "redis-sentinel-username": "redis.sentinel.secretKeys.username",
    "redis-sentinel-password-file": "redis.sentinel.existingSecret",
    "redis-sentinel-ca": "redis.sentinel.tls.ca",
    "redis-sentinel-cert": "redis.sentinel.tls.certificate",
    "redis-sentinel-key": "redis.sentinel.tls.certificate",
}

# Flags whose value is elsewhere.
OF_SERVE = OF_REDIS | {
    "listen": "config.listenAddress",
    "ops-listen": "config.listenAddress",
    "jwt-secret-file": "auth.jwt.secret",
    "jwt-public-key-file": "auth.jwt.publicKey",
    "jwt-jwks-url": "auth.jwt.jwks.url",
    "jwt-issuer": "auth.jwt.issuer",
    "jwt-audience": "auth.jwt.audience",
    "oauth1-credentials-file": "auth.oauth1",
    "public-url": "config.publicUrls",
    "tls-cert": "tls.existingSecret",
    "tls-key": "tls.existingSecret",
    "client-ca": "tls.clientCA",
    "trusted-client": "tls.trustedClients",
    # A server without Redis and credentials has no place in a cluster.
    "dev": None,
}
OF_RELAY = OF_REDIS | {
    "webhooks": "relay.webhooks",
    "ops-listen": "config.listenAddress",
    "stream": "config.stream",
}
ELSEWHERE = {"serve": OF_SERVE, "relay": OF_RELAY}
COMMANDS = pytest.mark.parametrize("command", ["serve", "relay"])

# Defaults that differ: a pod leaves while load balancers still send calls, and nobody reads its log on
# a terminal.
DEFAULTS = {"drainDelay": "5s", "logFormat": "json"}


def flags(command):
    """Returns the flags in `--help` with their defaults, None where there is none."""
    help_of_it = [os.environ["MARKREAD_TEST_BINARY"], command, "--help"]
    text = subprocess.run(help_of_it, capture_output=True, text=True, timeout=60, check=True).stdout
    options = re.split(r"^ {2,6}(?:-\w, )?--(?=[a-z])", text, flags=re.MULTILINE)[1:]
    for option in options:
        name = re.match(r"[a-z0-9-]+", option)[0]
        if name not in ("help", "version"):
            default = re.search(r"\[default:\s+([^\]]+)\]", option)
            yield name, default and " ".join(default[1].split())


def camel_case(name):
    first, *rest = name.split("-")
    return first + "".join(word.capitalize() for word in rest)


@COMMANDS
def test_every_flag_is_a_value_with_the_same_default(command):
    found = dict(flags(command))
    assert len(found) > 20, found
    for name, default in found.items():
        if name in ELSEWHERE[command]:
            continue
        value = CONFIG[command][camel_case(name)]
        if camel_case(name) in DEFAULTS:
            assert value == DEFAULTS[camel_case(name)]
        elif value == "":
            # Left to the program, whose default is none or in words.
            assert default is None or " " in default or default == "none", name
        elif value is False:
            # A switch, which has no default that it could say.
            assert default is None, name
        else:
            assert str(value) == default, name


@COMMANDS
def test_no_flag_is_excused_that_does_not_exist(command):
    assert ELSEWHERE[command].keys() <= dict(flags(command)).keys()


def test_behind_a_proxy_one_peer_may_have_all_connections():
    for behind_proxy, bound in [("false", "2500"), ("true", "10000")]:
        objects = chart.render(chart.ci("jwt-secret"), config__behindProxy=behind_proxy)
        env = {
            each["name"]: each.get("value")
            for each in chart.container(chart.one(objects, "Deployment"))["env"]
        }
        assert env["MARKREAD_MAX_CONNECTIONS_PER_PEER"] == bound


@pytest.mark.parametrize("binary", chart.HELMS, ids=lambda binary: Path(binary).name)
def test_a_pod_has_as_many_worker_threads_as_its_limit_of_cpus(binary):
    def threads(**values):
        objects = chart.render(chart.ci("jwt-secret"), binary=binary, **values)
        env = chart.container(chart.one(objects, "Deployment"))["env"]
        (value,) = [each["value"] for each in env if each["name"] == "MARKREAD_WORKER_THREADS"]
        return value

    for cpu, expected in [
        ('"500m"', "1"),
        ("0.5", "1"),
        ("2", "2"),
        ('"2"', "2"),
        ("1.5", "1"),
        ('"3.9"', "3"),
        ('"2000m"', "2"),
        ('"2999m"', "2"),
        ("16", "16"),
        ('"64"', "16"),
        ('"64000m"', "16"),
        ('"3000000u"', "3"),
        ('"3900000u"', "3"),
        ('"500000u"', "1"),
        ('"64000000u"', "16"),
        ('"3000000000n"', "3"),
        ('"3900000000n"', "3"),
        ('"500000000n"', "1"),
        ('"64000000000n"', "16"),
    ]:
        assert threads(resources__limits__cpu=cpu) == expected, cpu
    for resources in ["null", "{}", '{"limits": null}', '{"requests": {"cpu": "4"}}']:
        assert threads(resources=resources) == "1", resources
    # What is set counts, and not the limit.
    assert threads(config__workerThreads="3", resources__limits__cpu='"8"') == "3"
