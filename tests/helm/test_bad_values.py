"""A wrong value stops helm with a message that names it."""

from pathlib import Path

import pytest

import chart

BASE = chart.ci("jwt-secret")
every_helm = pytest.mark.parametrize("binary", chart.HELMS, ids=lambda binary: Path(binary).name)


def refusal(*files, **how):
    done = chart.template(*files, **how)
    assert done.returncode != 0, "helm accepted it"
    assert done.stdout == ""
    return done.stderr


@every_helm
def test_an_install_without_values_says_what_to_set(binary):
    message = refusal(binary=binary)
    for value in [
        "auth.jwt.secret.existingSecret",
        "auth.jwt.publicKey.existingSecret",
        "auth.jwt.jwks.url",
        "auth.oauth1.existingSecret",
        "tls.trustedClients",
        "redis.url",
        "redis.embedded.enabled",
    ]:
        assert value in message


MALFORMED = [
    ("replicaCount", '"two"'),
    ("replicaCount", "-1"),
    ("replicas", "2"),
    ("image.pullPolicy", '"Sometimes"'),
    ("image.digest", '"latest"'),
    ("image.name", '"markread"'),
    ("service.port", "70000"),
    ("service.type", '"ExternalName"'),
    ("podLabels.part", "1"),
    ("readinessProbe.periodSeconds", '"5s"'),
    ("livenessProbe.grpc", "{}"),
    ("podDisruptionBudget.minAvailable", '"half"'),
    ("networkPolicy.ingress.callers", '[{"pods": {}}]'),
    ("extraEnv", '[{"value": "x"}]'),
    ("config.rateLimit", "0"),
    ("config.rateWindow", '"15 minutes"'),
    ("config.rateWindow", '"0s"'),
    ("config.callTimeout", '"0m0s"'),
    ("config.drain", "20"),
    ("config.drainDelay", '"5"'),
    ("config.streamMaxlen", "-1"),
    ("config.stream", '""'),
    ("config.logFormat", '"xml"'),
    ("config.reflection", "true"),
    ("config.readerConcurrency", "-1"),
    ("config.maxConnectionsPerPeer", "1000001"),
    ("config.userObjectMaxBytes", "63"),
    ("config.memoryLimit", '"lots"'),
    ("config.workerThreads", "0"),
    ("config.workerThreads", "17"),
    ("config.workerThreads", '"2"'),
    ("config.streamMaxBytes", '"-1"'),
    ("config.idleTimeout", '"5 minutes"'),
    ("config.httpIdleTimeout", "75"),
    ("config.listenAddress", '"127.0.0.1"'),
    ("image.repository", '"markread:0.1.0"'),
    ("commonLabels.team", '"direct messages"'),
    ("config.publicUrls", '["https://api.example.com/1.1"]'),
    ("auth.jwt.jwks.url", '"login.example.com"'),
    ("auth.jwt.secret.existingSecret", '"Not A Name"'),
    ("auth.jwt.secret.secretKeys.secret", '""'),
    ("tls.trustedClients", '["a,b"]'),
    ("redis.url", '"redis.example.com:6379"'),
    ("redis.url", '"redis+cluster://redis:6379"'),
    ("redis.url", '"redis://redis:6379,redis-2:6379"'),
    ("redis.url", '"redis://redis:6379/cursors"'),
    ("redis.url", '"rediss://redis:6379/#insecure"'),
    ("redis.embedded.maxmemory", '"lots"'),
    ("redis.embedded.persistence.size", '"big"'),
    ("tracing.endpoint", '"collector:4317"'),
    ("tracing.sampler", '"sometimes"'),
    ("tracing.samplerArg", '"2"'),
    ("global", '"x"'),
]


@every_helm
@pytest.mark.parametrize(("name", "value"), MALFORMED)
def test_a_malformed_value_is_named(name, value, binary):
    message = refusal(BASE, binary=binary, options=[f"--set-json={name}={value}"])
    path, _, last = name.rpartition(".")
    # The error for an unknown key is at its parent and quotes the key.
    named = [f"/{name.replace('.', '/')}", f"'{last}'"]
    assert any(each in message for each in named), message


CONFLICTS = {
    "no way to authenticate": (
        "redis-only",
        {},
        ["auth.jwt.secret.existingSecret", "tls.trustedClients"],
    ),
    "no Redis": ("jwt-secret", {"redis__url": '""'}, ["redis.url", "redis.embedded.enabled"]),
    "two keys": (
        "public-key",
        {"auth__jwt__secret__existingSecret": '"s"'},
        ["auth.jwt.secret.existingSecret", "auth.jwt.publicKey.existingSecret"],
    ),
    "a URL beside a secret": (
        "jwks",
        {"auth__jwt__publicKey__existingSecret": '"s"'},
        ["auth.jwt.publicKey.existingSecret", "auth.jwt.jwks.url"],
    ),
    "an issuer without a key": ("oauth1", {"auth__jwt__issuer": '"x"'}, ["auth.jwt.issuer"]),
    "an audience without a key": ("oauth1", {"auth__jwt__audience": '"x"'}, ["auth.jwt.audience"]),
    "public URLs without OAuth": (
        "jwt-secret",
        {"config__publicUrls": '["https://a"]'},
        ["config.publicUrls", "auth.oauth1.existingSecret"],
    ),
    "trusted clients without a CA": (
        "tls",
        {"tls__trustedClients": '["a"]'},
        ["tls.trustedClients", "tls.clientCA.existingSecret"],
    ),
    "a client CA without TLS": (
        "jwt-secret",
        {"tls__clientCA__existingSecret": '"s"'},
        ["tls.clientCA.existingSecret", "tls.existingSecret"],
    ),
    "two Redis": (
        "embedded",
        {"redis__url": '"redis://r:6379"'},
        ["redis.url", "redis.embedded.enabled"],
    ),
    "a password in the URL beside a secret": (
        "redis-password",
        {"redis__url": '"redis://:secret@redis:6379"'},
        ["redis.url", "redis.existingSecret"],
    ),
    "a password in the query of the URL": (
        "jwt-secret",
        {"redis__url": '"unix:///run/redis.sock?pass=secret"'},
        ["redis.url", "redis.existingSecret"],
    ),
    "a user in the URL": (
        "jwt-secret",
        {"redis__url": '"redis://user@redis:6379"'},
        ["redis.url", "redis.existingSecret"],
    ),
    "a Secret for the embedded Valkey": (
        "embedded",
        {"redis__existingSecret": '"s"'},
        ["redis.existingSecret", "redis.embedded.enabled"],
    ),
    "a CA without TLS": (
        "redis-password",
        {"redis__tls__ca__existingSecret": '"s"'},
        ["redis.tls.ca.existingSecret", "redis.url"],
    ),
    "a certificate without TLS": (
        "embedded",
        {"redis__tls__certificate__existingSecret": '"s"'},
        ["redis.tls.certificate.existingSecret"],
    ),
    "a duration of more than a year": ("jwt-secret", {"config__drain": '"9999h"'}, ["config.drain"]),
    "a wait for replicas as long as a call": (
        "jwt-secret",
        {"config__replicasAck": "1", "config__replicasAckTimeout": '"2s"'},
        ["config.replicasAckTimeout", "config.callTimeout"],
    ),
    "both budgets": (
        "jwt-secret",
        {"podDisruptionBudget__minAvailable": "1", "podDisruptionBudget__maxUnavailable": "1"},
        ["podDisruptionBudget.minAvailable", "podDisruptionBudget.maxUnavailable"],
    ),
    "a minimum above the maximum": (
        "jwt-secret",
        {"autoscaling__enabled": "true", "autoscaling__minReplicas": "20"},
        ["autoscaling.minReplicas", "autoscaling.maxReplicas"],
    ),
    "nothing to scale on": (
        "jwt-secret",
        {"autoscaling__enabled": "true", "autoscaling__targetCPUUtilizationPercentage": "0"},
        ["autoscaling.targetCPUUtilizationPercentage", "autoscaling.calls.enabled"],
    ),
    "a share of the CPU without a CPU request": (
        "jwt-secret",
        {"autoscaling__enabled": "true", "resources": "null"},
        ["resources.requests.cpu"],
    ),
    "a route without a gateway": (
        "jwt-secret",
        {"grpcRoute__enabled": "true"},
        ["grpcRoute.parentRefs"],
    ),
    "a variable that the chart sets": (
        "jwt-secret",
        {"extraEnv": '[{"name": "MARKREAD_DRAIN", "value": "1s"}]'},
        ["extraEnv", "MARKREAD_DRAIN"],
    ),
}


@every_helm
@pytest.mark.parametrize("case", CONFLICTS)
def test_conflicting_values_are_named(case, binary, tmp_path):
    base, values, names = CONFLICTS[case]
    file = chart.ci(base)
    if base == "redis-only":
        file = tmp_path / "values.yaml"
        file.write_text("redis: {url: 'redis://redis:6379'}\n")
    message = refusal(file, binary=binary, **values)
    for name in names:
        assert name in message


def test_a_password_is_not_repeated():
    assert "hunter2" not in refusal(BASE, redis__url='"redis://:hunter2@redis:6379"')


def test_an_older_kubernetes_is_refused():
    done = chart.helm("template", "r", chart.CHART, "-f", BASE, "--kube-version", "1.26.0")
    # Without the --kube-version that `chart.helm` appends, since the last one counts.
    done = chart.subprocess.run(done.args[:-2], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and ">=1.27.0" in done.stderr
