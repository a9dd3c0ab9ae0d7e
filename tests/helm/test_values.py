"""values.yaml, its schema, its README and the templates agree."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import yaml

import chart
import defaults
from defaults import FREE, VALUES

SCHEMA = json.loads((chart.CHART / "values.schema.json").read_text())


def leaves(values, path=()):
    for key, value in values.items():
        if isinstance(value, dict) and value and (*path, key) not in FREE:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def test_the_table_in_the_readme_is_generated_from_the_values(tmp_path):
    command = [
        os.environ["MARKREAD_TEST_HELM_DOCS"],
        "--chart-search-root",
        chart.CHART,
        "--sort-values-order",
        "file",
        "--dry-run",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (chart.CHART / "README.md").read_text().strip() == done.stdout.strip()


def test_every_value_is_described():
    rows = {}
    for line in (chart.CHART / "README.md").read_text().partition("## Values")[2].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) >= 4:
            rows[cells[0]] = cells[3]
    for path, _ in leaves(VALUES):
        assert rows[".".join(path)], path


def test_the_schema_has_exactly_the_values():
    def described(schema, path=()):
        if "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
        if schema.get("properties") and path not in FREE:
            assert schema["additionalProperties"] is False, path
            for key, value in schema["properties"].items():
                yield from described(value, (*path, key))
        else:
            yield path

    assert set(described(SCHEMA)) - {("global",), ("enabled",)} == {
        path for path, _ in leaves(VALUES)
    }


# New values where `other` cannot make up a valid one.
OTHERS = {
    "image.digest": "sha256:" + "1" * 64,
    "image.pullPolicy": "Always",
    "service.type": "NodePort",
    "autoscaling.minReplicas": 3,
    "autoscaling.calls.type": "External",
    "autoscaling.calls.averageValue": "1",
    "podDisruptionBudget.minAvailable": 1,
    "podDisruptionBudget.maxUnavailable": "10%",
    "podDisruptionBudget.unhealthyPodEvictionPolicy": "IfHealthyBudget",
    "resources": {"requests": {"cpu": "1"}},
    **{
        f"relay.{name}": value
        for name, value in {
            "webhooks": [{"name": "other", "url": "https://other", "existingSecret": "other"}],
            "config.maxAge": "1h",
            "config.logFormat": "text",
            "config.logLevel": "debug",
            "resources": {"requests": {"cpu": "1"}},
            "podDisruptionBudget.minAvailable": 1,
            "podDisruptionBudget.maxUnavailable": "10%",
            "podDisruptionBudget.unhealthyPodEvictionPolicy": "IfHealthyBudget",
            "networkPolicy.egress.receivers": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
            "networkPolicy.egress.proxies": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
            "networkPolicy.egress.receiverPorts": [8444],
            "networkPolicy.egress.extra": [{"ports": [{"port": 1}]}],
            "topologySpreadConstraints": [{"maxSkew": 2}],
            "tolerations": [{"key": "other"}],
            "extraEnv": [{"name": "OTHER", "value": "x"}],
            "extraVolumes": [{"name": "other"}],
            "extraVolumeMounts": [{"name": "other"}],
        }.items()
    },
    "redis.embedded.resources": {"requests": {"cpu": "1"}},
    "imagePullSecrets": [{"name": "other"}],
    "networkPolicy.egress.redisPorts": [6399],
    "networkPolicy.egress.extra": [{"ports": [{"port": 1}]}],
    "topologySpreadConstraints": [{"maxSkew": 2}],
    "tolerations": [{"key": "other"}],
    "extraEnv": [{"name": "OTHER", "value": "x"}],
    "extraVolumes": [{"name": "other"}],
    "extraVolumeMounts": [{"name": "other"}],
    "extraObjects": [{"kind": "Other"}],
    "config.listenAddress": "[::]",
    "config.publicUrls": ["https://other.example.com"],
    "config.streamMaxBytes": "2GiB",
    "config.memoryLimit": "256MiB",
    "config.workerThreads": 7,
    "config.reflection": "off",
    "config.logFormat": "text",
    "config.logLevel": "debug",
    "auth.jwt.jwks.url": "https://other.example.com/jwks",
    "redis.mode": "cluster",
    "redis.url": "rediss://other:6381",
    "redis.urls": ["rediss://other:26379"],
    "redis.embedded.image.digest": "sha256:" + "1" * 64,
    "redis.embedded.image.pullPolicy": "Always",
    "redis.embedded.maxmemory": "1gb",
    "redis.embedded.persistence.size": "2Gi",
    "redis.embedded.persistence.accessModes": ["ReadWriteOncePod"],
    "tracing.endpoint": "http://other:4317",
    "tracing.sampler": "always_on",
    "tracing.samplerArg": "0.5",
    "metrics.serviceMonitor.interval": "1m",
    "metrics.serviceMonitor.scrapeTimeout": "5s",
    "metrics.serviceMonitor.relabelings": [{"regex": "other"}],
    "metrics.serviceMonitor.metricRelabelings": [{"regex": "other"}],
    "grpcRoute.parentRefs": [{"name": "other"}],
    "grpcRoute.filters": [{"type": "Other"}],
    **{
        f"networkPolicy.{way}": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
        for way in [
            "ingress.callers",
            "ingress.monitoring",
            "egress.redis",
            "egress.sentinels",
            "egress.dns",
            "egress.otlp",
            "egress.jwks",
        ]
    },
}


# Options that must change together with a value.
WITH = {
    "relay.test.enabled": [
        "--set=relay.config.allowHttp=true",
        "--set=relay.config.allowPrivate=true",
        "--set=auth.jwt.secret.existingSecret=other",
    ],
    "redis.embedded.enabled": ["--set=redis.url="],
    "redis.mode": ["--set=redis.url=", '--set-json=redis.urls=["rediss://other:6381"]'],
}


def other(name, value):
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, list):
        return [*value, "other"]
    if isinstance(value, dict):
        return value | {"other": "other"}
    if value[:-1].isdigit() or value[:-2].isdigit():  # a duration
        return "1" + value
    return value + "other"


def test_every_value_changes_the_rendered_objects():
    bases = ["everything", "embedded", "public-key", "tls", "sentinel", "cluster", "relay", "relay-test"]

    def output(base, options=()):
        done = chart.template(chart.ci(base), options=options)
        if done.returncode != 0:
            return None
        # The embedded Valkey's password is random.
        return [
            line
            for line in done.stdout.splitlines()
            if not any(word in line for word in PASSWORD_LINES)
        ]

    plain = {base: output(base) for base in bases}
    given = {base: yaml.safe_load(chart.ci(base).read_text()) for base in bases}

    def of(values, path):
        for key in path:
            values = values.get(key) if isinstance(values, dict) else None
        return values

    def unused(path, default):
        name = ".".join(path)
        for base in bases:
            value = of(given[base], path)
            changed = other(name, default if value is None else value)
            done = output(base, [f"--set-json={name}={json.dumps(changed)}", *WITH.get(name, [])])
            if done and done != plain[base]:
                return None
        return name

    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda leaf: unused(*leaf), leaves(VALUES))
    assert [name for name in found if name] == []


PASSWORD_LINES = ["password:", "requirepass", "user markread", "helm-test:", "checksum/"]
