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
    ("redis.mode", '"replicated"'),
    ("redis.urls", '"redis://redis-0:6379"'),
    ("redis.urls", '["redis-0:6379"]'),
    ("redis.urls", '["redis://redis-0:6379,redis://redis-1:6379"]'),
    ("redis.urls", '["unix:///run/redis.sock"]'),
    ("redis.urls", '["redis://redis-0:6379", "redis://redis-0:6379"]'),
    ("redis.partitions", "0"),
    ("redis.partitions", "1025"),
    ("redis.partitions", '"64"'),
    ("redis.sentinel.master", '"my master"'),
    ("redis.sentinel.existingSecret", '"Not A Name"'),
    ("networkPolicy.egress.redisPorts", "[0]"),
    ("networkPolicy.egress.redisPorts", "6379"),
    ("networkPolicy.egress.sentinels", '[{"pods": {}}]'),
    ("redis.embedded.maxmemory", '"lots"'),
    ("redis.embedded.persistence.size", '"big"'),
    ("tracing.endpoint", '"collector:4317"'),
    ("tracing.sampler", '"sometimes"'),
    ("tracing.samplerArg", '"2"'),
    ("relay.replicas", "2"),
    ("relay.webhooks", '{"name": "chat"}'),
    ("relay.webhooks", '[{"name": "chat", "url": "https://a"}]'),
    ("relay.webhooks", '[{"name": "a b", "url": "https://a", "existingSecret": "s"}]'),
    ("relay.webhooks", '[{"name": "..", "url": "https://a", "existingSecret": "s"}]'),
    ("relay.webhooks", '[{"name": "chat", "url": "ftp://a", "existingSecret": "s"}]'),
    ("relay.webhooks", '[{"name": "chat", "url": "https://a/\\u0007", "existingSecret": "s"}]'),
    ("relay.webhooks", '[{"name": "chat", "url": "https://user:p@a", "existingSecret": "s"}]'),
    ("relay.webhooks", '[{"name": "chat", "url": "https://a", "existingSecret": "s", "secret_file": "x"}]'),
    ("relay.webhooks", '[{"name": "chat", "url": "https://a/#b", "existingSecret": "s"}]'),
    (
        "relay.webhooks",
        '[{"name": "chat", "url": "https://a", "existingSecret": "s", "proxy": "socks5://a"}]',
    ),
    (
        "relay.webhooks",
        '[{"name": "chat", "url": "https://a", "existingSecret": "s", "users": "some"}]',
    ),
    ("relay.existingSecret", '"Not A Name"'),
    ("relay.secretKeys.webhooks", '"a/b"'),
    ("relay.config.allowHttp", '"true"'),
    ("relay.config.checkGrace", '"4 hours"'),
    ("relay.config.maxAttempts", "0"),
    ("relay.config.maxAttempts", "1001"),
    ("relay.config.maxAge", '"0s"'),
    ("relay.config.deadLettersMaxlen", "-1"),
    ("relay.config.concurrency", "1025"),
    ("relay.config.drain", "20"),
    ("relay.networkPolicy.egress.receiverPorts", "[0]"),
    ("relay.networkPolicy.egress.receivers", '[{"pods": {}}]'),
    ("relay.networkPolicy.ingress", "{}"),
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


WEBHOOK = '{"name": "chat", "url": "https://a", "existingSecret": "s"}'

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
    "a wait for the disk as long as a call": (
        "jwt-secret",
        {"config__fsyncAck": "true", "config__replicasAckTimeout": '"2s"'},
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
    "a variable that the chart sets for the relay": (
        "relay",
        {"relay__extraEnv": '[{"name": "MARKREAD_DRAIN", "value": "1s"}]'},
        ["relay.extraEnv", "MARKREAD_DRAIN"],
    ),
    "a relay without webhooks": (
        "jwt-secret",
        {"relay__enabled": "true"},
        ["relay.enabled", "relay.webhooks", "relay.existingSecret"],
    ),
    "two lists of webhooks": (
        "relay",
        {"relay__existingSecret": '"s"'},
        ["relay.existingSecret", "relay.webhooks"],
    ),
    "two webhooks of a name": (
        "relay",
        {"relay__webhooks": f"[{WEBHOOK}, {WEBHOOK}]"},
        ["relay.webhooks has two webhooks named chat"],
    ),
    "plain HTTP": (
        "relay",
        {"relay__webhooks": f"[{WEBHOOK}]".replace("https", "http")},
        ["relay.webhooks", "the url of chat", "relay.config.allowHttp"],
    ),
    "a certificate without a key": (
        "relay",
        {"relay__webhooks": "[%s]" % WEBHOOK.replace("}", ', "secretKeys": {"certificate": "c"}}')},
        ["secretKeys.certificate and secretKeys.key of chat"],
    ),
    "a duration of the relay of more than a year": (
        "relay",
        {"relay__config__maxAge": '"9999h"'},
        ["relay.config.maxAge"],
    ),
    "both budgets of the relay": (
        "relay",
        {
            "relay__podDisruptionBudget__minAvailable": "1",
            "relay__podDisruptionBudget__maxUnavailable": "1",
        },
        ["relay.podDisruptionBudget.minAvailable and relay.podDisruptionBudget.maxUnavailable"],
    ),
    "a user of the relay beside the embedded Valkey": (
        "relay-test",
        {"relay__redis__existingSecret": '"s"'},
        ["relay.redis.existingSecret", "redis.embedded.enabled"],
    ),
    "a test without a relay": (
        "jwt-secret",
        {"relay__test__enabled": "true"},
        ["relay.test.enabled needs relay.enabled"],
    ),
    "a test that nobody allowed": (
        "relay",
        {"relay__test__enabled": "true"},
        ["relay.config.allowHttp forbids", "relay.config.allowPrivate forbids"],
    ),
    "a test with a file of the user": (
        "relay-test",
        {"relay__existingSecret": '"s"'},
        ["relay.test.enabled", "relay.existingSecret"],
    ),
    "a webhook with the name of the test's": (
        "relay-test",
        {"relay__webhooks": f"[{WEBHOOK}]".replace("chat", "helm-test")},
        ["relay.webhooks has a webhook named helm-test", "relay.test.enabled"],
    ),
    "a test without a secret to sign with": (
        "relay-test",
        {
            "auth__jwt__secret__existingSecret": '""',
            "auth__jwt__publicKey__existingSecret": '"s"',
        },
        ["relay.test.enabled needs auth.jwt.secret.existingSecret"],
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


SENTINELS, NODES = '["redis://sentinel-0:26379"]', '["redis://redis-0:6379"]'
AS_SENTINEL = {"redis__mode": '"sentinel"', "redis__url": '""', "redis__urls": SENTINELS}
AS_SENTINEL |= {"redis__sentinel__master": '"messages"'}
AS_CLUSTER = {"redis__mode": '"cluster"', "redis__url": '""', "redis__urls": NODES}
TLS_NODES = '["rediss://redis-0:6380", "rediss://redis-1:6380"]'
AN_URL = {"redis__url": '"redis://redis:6379"'}

# What is refused, the words of the message, and what is accepted instead.
OF_MODES = {
    "a list of URLs for one Redis": (
        {"redis__urls": NODES},
        ["redis.urls", "redis.mode", "redis.url"],
        AN_URL,
    ),
    "one URL for Sentinels": (
        AS_SENTINEL | AN_URL,
        ["redis.url names", "redis.mode is sentinel", "redis.urls, the Sentinels"],
        AS_SENTINEL,
    ),
    "one URL for a cluster": (
        AS_CLUSTER | AN_URL,
        ["redis.url names", "redis.mode is cluster", "redis.urls, some nodes"],
        AS_CLUSTER,
    ),
    "no Sentinels": (
        AS_SENTINEL | {"redis__urls": "[]"},
        ["redis.mode sentinel needs redis.urls"],
        AS_SENTINEL | {"redis__urls": '["redis://sentinel-0:26379", "redis://sentinel-1:26379/0"]'},
    ),
    "no nodes": (
        AS_CLUSTER | {"redis__urls": "[]"},
        ["redis.mode cluster needs redis.urls"],
        AS_CLUSTER | {"redis__urls": '["redis://redis-0", "redis://redis-1:6379/0"]'},
    ),
    "the embedded Valkey as a cluster": (
        {"redis__mode": '"cluster"', "redis__url": '""', "redis__embedded__enabled": "true"},
        ["redis.embedded.enabled", "redis.mode is cluster"],
        {"redis__url": '""', "redis__embedded__enabled": "true"},
    ),
    "replicas of the embedded Valkey": (
        {"redis__url": '""', "redis__embedded__enabled": "true", "config__replicasAck": "1"},
        ["config.replicasAck waits for a replica", "redis.embedded.enabled"],
        {"config__replicasAck": "1"},
    ),
    "no name of the master": (
        AS_SENTINEL | {"redis__sentinel__master": '""'},
        ["redis.mode sentinel needs redis.sentinel.master"],
        AS_SENTINEL | {"redis__sentinel__master": '"my.master-1_a"'},
    ),
    "a master without Sentinels": (
        AS_CLUSTER | {"redis__sentinel__master": '"messages"'},
        ["redis.sentinel.master needs redis.mode sentinel, which is cluster"],
        AS_SENTINEL,
    ),
    "a password for Sentinels without them": (
        {"redis__sentinel__existingSecret": '"s"'},
        ["redis.sentinel.existingSecret needs redis.mode sentinel, which is standalone"],
        AS_SENTINEL | {"redis__sentinel__existingSecret": '"s"'},
    ),
    "a CA for Sentinels without them": (
        AS_CLUSTER | {"redis__sentinel__tls__ca__existingSecret": '"s"'},
        ["redis.sentinel.tls.ca.existingSecret needs redis.mode sentinel"],
        AS_CLUSTER | {"redis__urls": TLS_NODES, "redis__tls__ca__existingSecret": '"s"'},
    ),
    "a CA for Sentinels without TLS": (
        AS_SENTINEL | {"redis__sentinel__tls__ca__existingSecret": '"s"'},
        ["redis.sentinel.tls.ca.existingSecret needs TLS", "redis.urls"],
        AS_SENTINEL
        | {
            "redis__urls": '["rediss://sentinel-0:26379"]',
            "redis__sentinel__tls__ca__existingSecret": '"s"',
        },
    ),
    "a certificate for a cluster without TLS": (
        AS_CLUSTER | {"redis__tls__certificate__existingSecret": '"s"'},
        ["redis.tls.certificate.existingSecret needs TLS", "redis.urls"],
        AS_CLUSTER | {"redis__urls": TLS_NODES, "redis__tls__certificate__existingSecret": '"s"'},
    ),
    "TLS without a certificate, and Sentinels without TLS": (
        AS_SENTINEL | {"redis__sentinel__tls__certificate__existingSecret": '"s"'},
        ["redis.sentinel.tls.certificate.existingSecret needs TLS"],
        # The master has TLS here, and they have not.
        AS_SENTINEL | {"redis__tls__ca__existingSecret": '"s"'},
    ),
    "partitions of one Redis": (
        {"redis__partitions": "64"},
        ["redis.partitions needs redis.mode cluster, which is standalone"],
        AS_CLUSTER | {"redis__partitions": "1024"},
    ),
    "nodes with and without TLS": (
        AS_CLUSTER | {"redis__urls": '["redis://redis-0:6379", "rediss://redis-1:6380"]'},
        ["redis.urls has two schemes"],
        AS_CLUSTER | {"redis__urls": TLS_NODES},
    ),
    "a database of a cluster": (
        AS_CLUSTER | {"redis__urls": '["redis://redis-0:6379/1"]'},
        ["redis.urls has a database"],
        AS_CLUSTER | {"redis__urls": '["redis://redis-0:6379/"]'},
    ),
    "two databases": (
        AS_SENTINEL | {"redis__urls": '["redis://a:26379/1", "redis://b:26379/2"]'},
        ["redis.urls has several databases"],
        AS_SENTINEL | {"redis__urls": '["redis://a:26379/1", "redis://b:26379/1"]'},
    ),
    "a Sentinel without a port": (
        AS_SENTINEL | {"redis__urls": '["redis://sentinel-0"]'},
        ["redis.urls", "without a port", ":26379"],
        AS_SENTINEL | {"redis__urls": '["redis://[2001:db8::1]:26379"]'},
    ),
    "a password in a Sentinel's URL": (
        AS_SENTINEL | {"redis__urls": '["redis://a:26379", "redis://:hunter2@b:26379"]'},
        ["redis.urls contains", "redis.sentinel.existingSecret"],
        AS_SENTINEL | {"redis__sentinel__existingSecret": '"s"', "redis__existingSecret": '"r"'},
    ),
    "a password in a node's URL": (
        AS_CLUSTER | {"redis__urls": '["redis://redis-0:6379?pass=hunter2"]'},
        ["redis.urls contains", "redis.existingSecret"],
        AS_CLUSTER | {"redis__existingSecret": '"s"'},
    ),
}


@every_helm
@pytest.mark.parametrize("case", OF_MODES)
def test_what_does_not_fit_the_mode_is_named_and_its_twin_accepted(case, binary):
    values, words, twin = OF_MODES[case]
    message = refusal(BASE, binary=binary, **values)
    for word in words:
        assert word in message
    assert len([line for line in message.splitlines() if line.startswith(("redis.", "config."))]) == 1
    assert "hunter2" not in message
    assert chart.render(BASE, binary=binary, **twin)


def test_a_password_is_not_repeated():
    assert "hunter2" not in refusal(BASE, redis__url='"redis://:hunter2@redis:6379"')


def test_an_older_kubernetes_is_refused():
    done = chart.helm("template", "r", chart.CHART, "-f", BASE, "--kube-version", "1.26.0")
    # Without the --kube-version that `chart.helm` appends, since the last one counts.
    done = chart.subprocess.run(done.args[:-2], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and ">=1.27.0" in done.stderr
